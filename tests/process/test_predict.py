"""predict.py on a network of digits as photos: the classes of evaluate.py, and a table that holds whatever lies in a folder."""

import csv
import io
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from digit_runs import make_run
from helpers import run_script
from PIL import Image

import evaluate
import predict
from common.analysis import figures, predicting
from common.base.errors import UserError
from common.config import EvaluateConfig, PredictSettings
from common.data.batches import normalize
from common.data.load import load_dataset
from common.data.photos import find_photos
from common.data.pixels import read_photo
from common.data.stream import Found
from common.model.load import load_model

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def home(tmp_path_factory, small_networks) -> Path:
    """photos/ with digits in folders, and runs/ with an evaluated network for them."""
    home = tmp_path_factory.mktemp("home")
    for split, count in (("train", 400), ("test", 90)):
        data = load_dataset("digits", None, split, 24)
        for i in range(count):
            folder = home / "photos" / split / f"d{int(data.labels[i])}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[i].permute(1, 2, 0).numpy()).resize((40, 32)).save(folder / f"{i:03}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(home / "cache"))
        patch.setattr(figures, "of_report", lambda *_: {})  # which take most of the time
        patch.chdir(home)
        make_run(home / "runs", "run", dataset="folder", data_dir="photos", validation_fraction=0.4)
        evaluate.main(EvaluateConfig("run"))
    return home


@pytest.fixture(autouse=True)
def here(home, tmp_path, monkeypatch) -> Path:
    """A folder of its own, beside the run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(home / "photos")
    (tmp_path / "runs").symlink_to(home / "runs")
    return tmp_path


def predicted(*photos: str, status: int = 0, **flags: object) -> list[dict[str, str]]:
    settings = PredictSettings(photos, **flags)
    assert predict.main(settings) == status
    return rows_in(Path(settings.output))


def rows_in(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode()
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    return [json.loads(line) for line in text.splitlines()]


def test_classes_and_calibrated_confidences_are_evaluate_pys_photo_by_photo(home):
    rows = predicted("photos/test")
    saved = np.load(home / "runs" / "run" / "evaluation" / "predictions.npz")
    report = json.loads((home / "runs" / "run" / "evaluation" / "report.json").read_text())
    names = find_photos(home / "photos" / "test", report["classes"]).names
    assert [row["file"] for row in rows] == [f"photos/test/{name}" for name in names]
    assert [row["class"] for row in rows] == [report["classes"][label] for label in saved["logits"].argmax(axis=1)]
    scaled = saved["logits"].astype(float) / report["calibration"]["temperature"]
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    entropies = -(probabilities * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], probabilities.max(axis=1), atol=1e-4)
    np.testing.assert_allclose([float(row["entropy"]) for row in rows], entropies, atol=1e-3)
    for row, values in zip(rows, probabilities, strict=True):
        order = np.argsort(-values)[:3]
        assert [row["class"], row["class_2"], row["class_3"]] == [report["classes"][label] for label in order]
    energies = -np.log(np.exp(saved["logits"].astype(float)).sum(axis=1))
    clear = abs(energies - report["answers"]["energy_limit"]) > 1e-3
    unlike = energies > report["answers"]["energy_limit"]
    assert all(
        row["unlike"] == ("yes" if high else "no") for row, high, sure in zip(rows, unlike, clear, strict=True) if sure
    )


def test_what_cannot_be_read_is_a_row_with_the_reason_and_the_status_1(here, capsys):
    source = here / "photos" / "test" / "d1"
    good = sorted(source.iterdir())[0].read_bytes()
    (here / "mixed" / "in it").mkdir(parents=True)
    odd = ["mixed/in it/two\nlines.png", 'mixed/"quoted", too.png', os.fsdecode(b"mixed/caf\xe9.png")]
    for name in odd:
        Path(name).write_bytes(good)
    Path("mixed/broken.png").write_bytes(good[:100])
    Path("mixed/text.jpg").write_text("no photo")
    Path("mixed/notes.txt").write_text("no photo")
    os.mkfifo("mixed/pipe.png")
    Path("mixed/gone.png").symlink_to("nowhere")
    for output in ("table.csv", "table.jsonl"):
        rows = predicted("mixed", "mixed/notes.txt", status=1, output=output, top=1)
        by_name = {row["file"]: row for row in rows}
        assert len(rows) == len(by_name) == 8
        for name in odd:
            row = by_name[name.encode("utf-8", "backslashreplace").decode()]
            assert row["class"].startswith("d") and not row["problem"]
        for name in ("broken.png", "text.jpg", "notes.txt", "pipe.png", "gone.png"):
            row = by_name[f"mixed/{name}"]
            assert row["problem"] and not row["class"] and not row["confidence"]
        assert set(rows[0]) == {"file", "class", "confidence", "unlike", "entropy", "problem"}
        said = capsys.readouterr().out
        assert "5 could not be read" in said and "1 .txt" in said and f"8 rows in {output}" in said


def test_as_a_process_it_reads_a_list_and_ends_with_its_status(here):
    Path("bad.png").write_text("no photo")
    done = run_script("predict.py", "photos/test/d1", "bad.png", "--output", "out.jsonl", cwd=here, status=1)
    assert (
        "1 could not be read" in done.stdout and "visualize.py --checkpoint run --images photos/test/d1" in done.stdout
    )
    assert len(rows_in(here / "out.jsonl")) == 1 + len(list((here / "photos" / "test" / "d1").iterdir()))
    done = run_script("predict.py", "photos/test/d1", "--output", "out.jsonl", cwd=here, status=2)
    assert "--output out.jsonl exists" in done.stderr and "--resume True" in done.stderr


def test_a_list_on_stdin_stands_for_its_photos(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"photos/test/d1\ngone.png\n")))
    rows = predicted("-", status=1)
    assert rows[-1]["file"] == "gone.png" and "No such file" in rows[-1]["problem"] and len(rows) > 1


@pytest.mark.parametrize("output", ["table.csv", "table.jsonl"])
def test_ctrl_c_leaves_whole_rows_and_the_printed_command_goes_on(output, monkeypatch, capsys):
    monkeypatch.setattr("common.data.workers.CHUNK_BYTES", 3 * 24 * 24 * 5)
    Path("bad.png").write_text("no photo")
    words, flags = ("bad.png", "photos/test"), {"batch_size": 16, "output": output}
    predicted(*words, status=1, **flags)
    whole = Path(output).read_bytes()
    real, calls = predicting.predict, []

    def second(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "predict", second)
        part = predicted(*words, status=130, overwrite=True, **flags)
    assert 16 < len(part) < 91 and whole.startswith(Path(output).read_bytes())
    said = capsys.readouterr().out
    assert "python predict.py bad.png photos/test --checkpoint run" in said and "--resume True" in said
    Path(output).write_bytes(Path(output).read_bytes()[:-7])  # torn, as by a crash
    again = predicted(*words, status=1, resume=True, **flags)
    assert [row["file"] for row in again] == [row["file"] for row in rows_in(Path(output))] and len(again) == 91
    assert sorted(row["class"] or "" for row in again) == sorted(
        row["class"] or "" for row in predicted(*words, status=1, overwrite=True, **flags)
    )
    before = Path(output).read_bytes()
    monkeypatch.setattr(predicting, "predict", None)  # nothing is left to do
    predicted(*words, status=1, resume=True, **flags)
    assert Path(output).read_bytes() == before


def test_many_photos_are_decoded_by_workers_with_the_same_result(monkeypatch):
    alone = predicted("photos/test", output="a.csv")
    monkeypatch.setattr(predicting, "workers_for", lambda files: 2)
    monkeypatch.setattr("common.data.workers.CHUNK_BYTES", 3 * 24 * 24 * 20)
    rows = predicted("photos/test", output="b.csv")
    assert [(row["file"], row["class"]) for row in rows] == [(row["file"], row["class"]) for row in alone]


def test_a_stream_without_end_is_predicted_as_it_comes(monkeypatch):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield Found(f"{number}.png", "gone" if number % 3 else "")

    monkeypatch.setattr(predicting, "workers_for", lambda files: 1)
    rows = predict.load(PredictSettings(("photos",))).rows(endless())
    for _ in range(20):
        first = next(rows)
    assert all(row["problem"] for row in first) and len(taken) < 500 + 22 * 128


def test_below_the_threshold_of_the_report_the_answer_is_unsure(home, capsys):
    report = json.loads((home / "runs" / "run" / "evaluation" / "report.json").read_text())
    rows = predicted("photos/test", min_accuracy=0.5)
    said = capsys.readouterr().out
    least = min(p["confidence"] for p in report["answers"]["fitted"] if wilson_low(p["correct"], p["count"]) >= 0.5)
    assert f"answering from confidence {least:.4f} on" in said
    for row in rows:
        if abs(float(row["confidence"]) - least) > 1e-5:
            assert row["answer"] == (row["class"] if float(row["confidence"]) >= least else "unsure")
    rows = predicted("photos/test", min_accuracy=0.9999, overwrite=True)
    assert {row["answer"] for row in rows} == {"unsure"} and "no confidence is enough" in capsys.readouterr().out


def wilson_low(correct: int, count: int) -> float:
    from scipy.stats import binomtest

    return binomtest(correct, count).proportion_ci(0.95, "wilson").low


def test_without_a_report_of_these_very_weights_confidences_are_plain_and_a_line_says_what_to_run(home, here, capsys):
    path = home / "runs" / "run" / "evaluation" / "report.json"
    kept = path.read_bytes()
    report = json.loads(kept)
    other = {**report, "checkpoint": {**report["checkpoint"], "sha256": "0" * 64}}
    earlier = {key: value for key, value in report.items() if key != "answers"}
    try:
        for change in (None, other, {"version": 1}, {**report, "tta": "flip"}):
            path.unlink(missing_ok=True)
            if change is not None:
                path.write_text(json.dumps(change))
            rows = predicted("photos/test/d1", overwrite=True)
            said = capsys.readouterr().out
            assert (
                "not calibrated" in said and "python evaluate.py --checkpoint run" in said and "unlike" not in rows[0]
            )
            with pytest.raises(UserError, match="--min_accuracy is 0.9, but .*evaluate.py --checkpoint run"):
                predicted("photos/test/d1", overwrite=True, min_accuracy=0.9)
        path.write_text(json.dumps(earlier))
        predicted("photos/test/d1", overwrite=True)
        said = capsys.readouterr().out
        assert "not calibrated" not in said and "before there were thresholds" in said
    finally:
        path.write_bytes(kept)


def test_nothing_to_predict_is_a_line_and_writes_nothing(here):
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    for words in ((), ("empty",), ("gone.png",), ("*.nothing",)):
        with pytest.raises(
            UserError, match="nothing to predict|no photo to predict.*1 .txt|does not exist|matches no file"
        ):
            predict.main(PredictSettings(words, output="new.csv"))
    assert not Path("new.csv").exists()


def test_a_table_that_is_there_is_refused_replaced_or_gone_on_with_as_it_was_begun():
    predicted("photos/test/d1", top=2)
    before = Path("predictions.csv").read_bytes()
    with pytest.raises(UserError, match="exists"):
        predict.main(PredictSettings(("photos/test/d1",)))
    with pytest.raises(UserError, match="has other columns"):
        predict.main(PredictSettings(("photos/test/d2",), resume=True, top=3))
    assert Path("predictions.csv").read_bytes() == before
    both = predicted("photos/test/d1", "photos/test/d2", resume=True, top=2)
    assert Path("predictions.csv").read_bytes().startswith(before) and len(both) > before.count(b"\n") - 1


def test_flip_is_the_mean_of_the_logits_of_a_photo_and_its_mirror_image(capsys):
    rows = predicted("photos/test/d1", tta="flip")
    assert "made with --tta none" in capsys.readouterr().out  # so that its temperature is another's
    model = load_model("run", "runs", torch.device("cpu")).model
    images = normalize(torch.from_numpy(np.stack([read_photo(Path(row["file"]), 24) for row in rows])))
    with torch.no_grad():
        expected = ((model(images) + model(images.flip(3))) / 2).softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], expected, atol=1e-4)

"""evaluate.py on run folders of the digits: the files it leaves, and the numbers in them."""

import contextlib
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_runs import make_run
from helpers import run_script
from sklearn import metrics as sk

import evaluate
from common.analysis import figures
from common.analysis.metrics import negative_log_likelihood
from common.analysis.predictions import saved_predictions
from common.base.errors import UserError
from common.config import EvaluateConfig
from common.data.batches import normalize, resized
from common.data.load import LOADERS, load_dataset
from common.model.build import ARCHITECTURES
from common.model.weights import load_weights
from common.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_networks):
    """Two evaluated runs, of which `second` was compared with `first`; printed.txt has what was printed."""
    runs_dir = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("first", "second")):
        make_run(runs_dir, name, seed=seed)
    evaluate.main(EvaluateConfig("first", runs_dir=str(runs_dir)))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.main(EvaluateConfig("second", compare="first", runs_dir=str(runs_dir)))
    (runs_dir / "printed.txt").write_text(printed.getvalue())
    return runs_dir


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of something else: drawing takes most of the time."""
    monkeypatch.setattr(figures, "of_report", lambda *_: {})


@pytest.fixture(scope="module")
def report(runs):
    return json.loads((runs / "second" / "evaluation" / "report.json").read_text())


def test_the_logits_are_the_plain_networks_on_the_test_images_in_order(runs):
    saved = np.load(runs / "first" / "evaluation" / "predictions.npz")
    data = load_dataset("digits", None, "test", 24)
    state, _ = load_weights(runs / "first" / "checkpoints" / "best.safetensors")
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(state)
    with torch.no_grad():
        expected = model.eval()(normalize(resized(data.images, 24)))
    np.testing.assert_allclose(saved["logits"], expected, rtol=1e-3, atol=1e-4)
    assert saved["logits"].dtype == np.float32
    np.testing.assert_array_equal(saved["labels"], data.labels)
    np.testing.assert_array_equal(saved["indices"], np.arange(len(data.labels)))


def test_the_report_has_exactly_the_promised_keys(report):
    assert set(report) == {
        *("version", "run_id", "job_id", "wandb_url", "created", "tta", "checkpoint", "split", "dataset", "classes"),
        *("superclasses", "superclass_of", "metrics", "accuracy_interval", "per_class", "confusion"),
        *("superclass_confusion", "errors", "confused", "confused_symmetric", "calibration", "label_issues"),
        *("overlapping_classes", "answers", "duplicates", "comparison", "thumbnails", "figures", "tables"),
    }
    assert set(report["checkpoint"]) == {"path", "sha256", "model", "epoch", "artifact"}
    assert set(report["dataset"]) == {"name", "data_dir", "size", "digest", "labels_digest", "unused", "skipped"}
    assert (report["run_id"], report["split"], report["dataset"]["size"]) == ("second", "test", 359)


def test_every_file_that_the_report_names_is_there_and_no_other(runs, report):
    folder = runs / "second" / "evaluation"
    named = {
        "report.json",
        "report.txt",
        "predictions.npz",
        "label_issues.csv",
        report["thumbnails"]["file"],
        *report["figures"].values(),
    }
    named |= {f"tables/{table}.json" for table in report["tables"]}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == named
    assert {"confusion", "reliability", "confused", "comparison"} <= set(report["figures"])


def test_what_is_printed_is_kept_with_scikit_learns_report(runs):
    printed = (runs / "printed.txt").read_text()
    text = (runs / "second" / "evaluation" / "report.txt").read_text()
    saved = np.load(runs / "second" / "evaluation" / "predictions.npz")
    expected = sk.classification_report(saved["labels"], saved["logits"].argmax(axis=1), digits=3, zero_division=0)
    assert text.startswith(expected)
    assert text.strip() in printed
    for word in (
        "most confused",
        "95 % interval",
        "against first",
        "visualize.py --checkpoint second --which errors",
        "dashboard.py",
    ):
        assert word in printed


def test_the_commands_that_are_printed_work_as_they_stand(tmp_path):
    make_run(tmp_path / "my runs", "first")
    done = run_script("evaluate.py", "--runs_dir", "my runs", "--split", "validation", cwd=tmp_path)
    commands = [line[9:] for line in done.stdout.splitlines() if line[9:].startswith("python ")]
    assert len(commands) == 2 and "first --which errors --split validation --runs_dir 'my runs'" in commands[0]
    for command in commands:
        _, script, *words = shlex.split(command)
        run_script(script, *words, cwd=tmp_path)
    assert (tmp_path / "my runs" / "first" / "visualization" / "errors.png").exists()
    assert '"id":"first"' in (tmp_path / "dashboard.html").read_text()


def test_the_next_command_is_about_the_same_weights_and_images():
    folder = RunFolder(Path("runs/first"))
    assert evaluate.next_command(EvaluateConfig(), folder, 1) == "python visualize.py --checkpoint first --which errors"
    without_mistakes = evaluate.next_command(EvaluateConfig(), folder, 0)
    assert without_mistakes == "python visualize.py --checkpoint first"
    given = EvaluateConfig("a b.safetensors", dataset="folder", data_dir="my photos")
    assert evaluate.next_command(given, folder, 9) == (
        "python visualize.py --checkpoint 'a b.safetensors' --which errors --dataset folder --data_dir 'my photos'"
    )


def test_the_temperature_is_fitted_on_the_validation_part_alone(runs, report):
    calibration = report["calibration"]
    assert calibration["note"] == "fitted on 144 validation images"
    train = load_dataset("digits", None, "train", 24)
    validation = json.loads((runs / "second" / "split.json").read_text())["validation"]
    state, _ = load_weights(runs / "second" / "checkpoints" / "best.safetensors")
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model.eval()(normalize(resized(train.images[validation], 24))).numpy()
    labels = train.labels[validation].numpy()
    losses = {t: negative_log_likelihood(logits / (t * calibration["temperature"]), labels) for t in (0.8, 1, 1.25)}
    assert min(losses, key=losses.get) == 1


def test_with_a_flip_test_and_validation_images_are_both_seen_with_their_mirror_images(
    runs, tmp_path, monkeypatch, no_figures
):
    read = LOADERS["digits"]
    monkeypatch.setitem(LOADERS, "digits", lambda *given: replace(read(*given), flip=True))
    folder = make_run(tmp_path, "flipped")
    evaluate.main(EvaluateConfig("flipped", runs_dir=str(tmp_path)))
    evaluate.main(EvaluateConfig("flipped", runs_dir=str(tmp_path), tta="flip", compare="flipped"))
    state, _ = load_weights(folder.best)
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(state)

    @torch.no_grad()
    def expected(images):
        images = normalize(resized(images, 24))
        return (model.eval()(images) + model(images.flip(3))) / 2

    saved, report = np.load(folder.evaluated().predictions), json.loads(folder.evaluated().report.read_text())
    test, train = (load_dataset("digits", None, split, 24) for split in ("test", "train"))
    np.testing.assert_allclose(saved["logits"], expected(test.images), rtol=1e-3, atol=1e-4)
    validation = folder.read_split().validation
    logits, labels = expected(train.images[validation]).numpy(), train.labels[validation].numpy()
    temperature = report["calibration"]["temperature"]
    losses = {t: negative_log_likelihood(logits / (t * temperature), labels) for t in (0.8, 1, 1.25)}
    assert min(losses, key=losses.get) == 1
    assert report["tta"] == "flip" and report["comparison"]["other_tta"] == "none"
    text = folder.evaluated().text.read_text()
    assert "--tta flip" in text and "against flipped (there --tta none)" in text
    # visualize.py, which has no such flag, shows what the network says by itself.
    of_these = report["checkpoint"]["sha256"], report["dataset"]["digest"]
    assert saved_predictions(folder.evaluated(), *of_these) is None


def test_digits_are_not_mirrored(runs):
    before = sorted(runs.rglob("*"))
    with pytest.raises(UserError, match="--tta is flip"):
        evaluate.main(EvaluateConfig("first", runs_dir=str(runs), tta="flip"))
    assert sorted(runs.rglob("*")) == before


def test_weights_without_their_run_folder_know_their_validation_part(runs, tmp_path, no_figures):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((runs / "second" / "checkpoints" / "best.safetensors").read_bytes())
    evaluate.main(EvaluateConfig(str(weights), runs_dir=str(tmp_path / "elsewhere")))
    alone = json.loads((tmp_path / "elsewhere" / "second" / "evaluation" / "report.json").read_text())
    whole = json.loads((runs / "second" / "evaluation" / "report.json").read_text())
    assert alone["calibration"] == whole["calibration"]


def test_a_comparison_is_of_the_same_images(runs, report, tmp_path):
    first, second = (np.load(runs / name / "evaluation" / "predictions.npz") for name in ("first", "second"))
    right = [(run["logits"].argmax(axis=1) == run["labels"]) for run in (second, first)]
    assert report["comparison"]["with"] == "first"
    assert report["comparison"]["only_this"] == (right[0] & ~right[1]).sum()
    make_run(runs, "third")
    with pytest.raises(UserError, match="holds no evaluation"):
        evaluate.main(EvaluateConfig("first", compare="third", runs_dir=str(runs)))
    assert not (runs / "third" / "evaluation").exists()


def test_the_validation_part_is_evaluated_beside_the_test_set(runs, no_figures):
    before = (runs / "first" / "evaluation" / "report.json").read_bytes()
    evaluate.main(EvaluateConfig("first", split="validation", runs_dir=str(runs)))
    inner = json.loads((runs / "first" / "evaluation" / "validation" / "report.json").read_text())
    split = json.loads((runs / "first" / "split.json").read_text())
    saved = np.load(runs / "first" / "evaluation" / "validation" / "predictions.npz")
    assert saved["indices"].tolist() == split["validation"]
    assert "validation/accuracy" in inner["metrics"] and inner["calibration"]["temperature"] is None
    assert (runs / "first" / "evaluation" / "report.json").read_bytes() == before


def test_without_a_validation_part_there_is_none_to_evaluate(tmp_path):
    make_run(tmp_path, "all", validation_fraction=0.0)
    with pytest.raises(UserError, match="--validation_fraction 0"):
        evaluate.main(EvaluateConfig("all", split="validation", runs_dir=str(tmp_path)))
    assert not (tmp_path / "all" / "evaluation").exists()


def test_changed_training_images_give_no_temperature(tmp_path, no_figures):
    folder = make_run(tmp_path, "changed")
    folder.split.write_text(json.dumps(json.loads(folder.split.read_text()) | {"digest": "of other images"}))
    evaluate.main(EvaluateConfig("changed", runs_dir=str(tmp_path)))
    calibration = json.loads((folder.evaluation / "report.json").read_text())["calibration"]
    assert calibration["temperature"] is None and "not those of run changed" in calibration["note"]


def test_data_of_other_classes_is_refused_before_anything_is_written(runs, tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for name in ("left", "right"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / part / name / "a.png")
    before = sorted(runs.rglob("*"))
    with pytest.raises(UserError, match="10 classes .* --dataset folder has 2 classes"):
        evaluate.main(EvaluateConfig("first", dataset="folder", data_dir=str(tmp_path), runs_dir=str(runs)))
    assert sorted(runs.rglob("*")) == before


def test_weights_that_are_not_numbers_are_named(tmp_path):
    from common.model.weights import save_weights

    folder = make_run(tmp_path, "broken")
    state, about = load_weights(folder.best)
    state["fc.bias"][3] = float("nan")
    save_weights(folder.best, state, about)
    with pytest.raises(UserError, match="not finite"):
        evaluate.main(EvaluateConfig("broken", runs_dir=str(tmp_path)))
    assert not folder.evaluation.exists()


def test_an_evaluation_that_stops_half_way_leaves_no_report(tmp_path, monkeypatch):
    folder = make_run(tmp_path, "stopped")
    folder.evaluation.mkdir()
    (folder.evaluation / "report.json").write_text("{}")  # an earlier one
    monkeypatch.setattr(figures, "of_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.main(EvaluateConfig("stopped", runs_dir=str(tmp_path)))
    assert not (folder.evaluation / "report.json").exists()

"""soup.py on run folders of the digits: the run it makes, what it refuses, and what an interruption leaves."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from digit_runs import fit_head, make_run
from helpers import ROOT, run_script, script_environment
from torch.optim.swa_utils import update_bn
from wandb_backend import Backend

import evaluate
import soup
from common.base.errors import RunError, UserError
from common.cli import parse_train
from common.config import EvaluateConfig
from common.data.batches import Batches, normalize, resized
from common.data.load import LOADERS, load_dataset
from common.model.build import ARCHITECTURES
from common.model.soup import Tried
from common.model.weights import load_weights, read_metadata, save_weights
from common.runs.find import list_runs
from common.runs.folder import RunFolder, load_config, run_state
from common.training import soup as making

pytestmark = pytest.mark.usefixtures("small_networks")


def with_noise(folder: RunFolder, scale: float, seed: int) -> RunFolder:
    """The run with all its weights shaken, as if it had been trained otherwise."""
    state, about = load_weights(folder.best)
    generator = torch.Generator().manual_seed(seed)
    for tensor in state.values():
        if tensor.ndim > 1:
            tensor += scale * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_weights(folder.best, state, about)
    return folder


def make_runs(runs_dir: Path) -> None:
    """Four runs of one split, of which the mean of some is better than each, and `broken`, which knows nothing any more."""
    for seed, (name, noise) in enumerate({"a": 0.2, "b": 0.25, "c": 0.3, "d": 0.35, "broken": 30.0}.items()):
        with_noise(make_run(runs_dir, name, lr=0.1 + seed / 100, group="g"), noise, seed)


def with_statistics_of_its_own(folder: RunFolder, seed: int) -> RunFolder:
    """As a run has them whose backbone was trained, here from 600 images, and a head that is used to them, then shaken."""
    state, about = load_weights(folder.best)
    data, model = load_dataset("digits", None, "train", 24), ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(state)
    generator = torch.Generator().manual_seed(seed)
    training = training_images(folder)
    seen = training[torch.randperm(len(training), generator=generator)[:600]]
    update_bn(Batches(data.images, data.labels, seen, 64, 24, torch.device("cpu")).epoch(0), model)
    fit_head(model, data, 24)
    with torch.no_grad():
        head = model.fc.weight
        head += 0.2 * head.std() * torch.randn(head.shape, generator=generator)
    save_weights(folder.best, model.state_dict(), about)
    return folder


def training_images(folder: RunFolder) -> torch.Tensor:
    validation = set(folder.read_split().validation)
    return torch.tensor([index for index in range(1438) if index not in validation])


def make_soup(runs_dir: Path, *runs: str, **settings) -> str:
    """→ what is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        soup.main(soup.SoupConfig(runs, runs_dir=str(runs_dir), device="cpu", **settings))
    return printed.getvalue()


def validation_accuracy(state: dict[str, torch.Tensor], folder: RunFolder) -> float:
    data, indices = load_dataset("digits", None, "train", 24), folder.read_split().validation
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(state)
    with torch.no_grad():
        answers = model.eval()(normalize(resized(data.images[indices], 24))).argmax(dim=1)
    return (answers == data.labels[indices]).double().mean().item()


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_networks):
    runs_dir = tmp_path_factory.mktemp("runs")
    make_runs(runs_dir)
    before = contents(runs_dir)
    (runs_dir.parent / f"{runs_dir.name}.txt").write_text(
        make_soup(runs_dir, "d", "broken", "a", "c", "b", run_id="soup")
    )
    assert {path: data for path, data in contents(runs_dir).items() if path in before} == before
    return runs_dir


@pytest.fixture(scope="module")
def printed(runs):
    return (runs.parent / f"{runs.name}.txt").read_text()


def test_the_soup_is_the_mean_of_the_runs_it_names_and_better_than_the_best(runs, printed):
    folder = RunFolder(runs / "soup")
    state, about = load_weights(folder.best)
    averaged, summary = about["averaged"], folder.read_summary()
    states = {name: load_weights(RunFolder(runs / name).best)[0] for name in ("a", "b", "c", "d", "broken")}
    alone = {name: validation_accuracy(state, folder) for name, state in states.items()}
    assert 2 <= len(averaged) < 5 and "broken" not in averaged and averaged[0] == max(sorted(alone), key=alone.get)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            plain = sum(states[run][name].double() for run in averaged) / len(averaged)
            torch.testing.assert_close(tensor.double(), plain, rtol=1e-5, atol=1e-6)
    accuracy = validation_accuracy(state, folder)
    assert summary.best_validation_accuracy == about["metrics"]["validation/accuracy"] == pytest.approx(accuracy)
    assert accuracy > max(alone.values())
    assert summary.averaged == averaged
    lines = printed.splitlines()
    assert lines[0] == "5 runs, 144 validation images of digits, on " + lines[0].rpartition(" on ")[2]
    order = sorted(alone, key=lambda name: (-alone[name], name))
    assert [line.partition(":")[0] for line in lines[1:6]] == order
    for line in lines[2:6]:
        name = line.partition(":")[0]
        assert f"{alone[name]:.4f} alone" in line and line.endswith("taken" if name in averaged else "left out")
    assert f"the mean of {len(averaged)} of 5 runs has validation accuracy {accuracy:.4f}" in printed
    assert f"{order[0]} alone has {alone[order[0]]:.4f}" in printed


def test_the_soup_is_a_whole_run_of_the_best_runs_settings(runs):
    folder = RunFolder(runs / "soup")
    assert {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()} == {
        *("config.yaml", "metrics.jsonl", "summary.json", "split.json", "tracking.json", ".tracking.lock"),
        "checkpoints/best.safetensors",
    }
    about, summary, config = read_metadata(folder.best), folder.read_summary(), load_config(folder)
    best = RunFolder(runs / about["averaged"][0])
    assert folder.split.read_bytes() == best.split.read_bytes()
    assert config == load_config(best).replace(run_id="soup", runs_dir=str(runs), group=None)
    own = {"run_id": "soup", "epoch": None, "step": None}
    others = {key: value for key, value in read_metadata(best.best).items() if key not in (*own, "metrics")}
    assert about == others | own | {"metrics": about["metrics"], "averaged": about["averaged"]}
    assert (summary.job_type, run_state(folder), summary.error) == ("soup", "finished", None)
    assert (summary.train_size, summary.validation_size, summary.classes) == (1294, 144, 10)
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    accuracies = [row["validation/accuracy"] for row in rows]
    assert accuracies == sorted(accuracies) and accuracies[-1] == summary.best_validation_accuracy
    assert list_runs(runs)[-1].id == "soup"


def test_the_order_in_which_runs_are_named_changes_nothing(runs):
    make_soup(runs, "a", "b", "c", "broken", "d", run_id="again")
    one, other = (RunFolder(runs / name) for name in ("soup", "again"))
    assert read_metadata(one.best)["averaged"] == read_metadata(other.best)["averaged"]
    weights, same = load_weights(one.best)[0], load_weights(other.best)[0]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_statistics_are_measured_anew_on_the_training_images(tmp_path):
    for seed, name in enumerate("abc"):
        with_statistics_of_its_own(make_run(tmp_path, name), seed)
    printed = make_soup(tmp_path, "a", "b", "c", run_id="soup")
    folder = RunFolder(tmp_path / "soup")
    state, about = load_weights(folder.best)
    best = about["averaged"][0]
    first = load_weights(RunFolder(tmp_path / best).best)[0]
    data, training = load_dataset("digits", None, "train", 24), training_images(folder)
    convolved = torch.nn.functional.conv2d(
        normalize(resized(data.images[training], 24)), state["conv1.weight"], stride=2, padding=3
    )
    torch.testing.assert_close(state["bn1.running_mean"], convolved.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(state["bn1.running_mean"], first["bn1.running_mean"], rtol=1e-3, atol=1e-3)
    accuracy = validation_accuracy(state, folder)
    assert folder.read_summary().best_validation_accuracy == pytest.approx(accuracy)
    # What the statistics alone bring the best run is said, and is not the others' merit.
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{best}: ")]
    assert f"{validation_accuracy(first, folder):.4f} alone, the best; " in line
    settled = {name: tensor.clone() for name, tensor in first.items()}
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(settled)
    shuffled = Batches(data.images, data.labels, training, 64, 24, torch.device("cpu"), training=True)
    update_bn(shuffled.epoch(0), model)
    assert f"; {validation_accuracy(model.state_dict(), folder):.4f} with BatchNorm's statistics measured anew" in line


@pytest.mark.slow
def test_a_soup_is_evaluated_shown_and_put_on_the_dashboard_like_a_run(runs, tmp_path):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.main(EvaluateConfig("soup", split="validation", runs_dir=str(runs)))
    assert "soup" in printed.getvalue()
    report = json.loads(RunFolder(runs / "soup").evaluated("validation").report.read_text())
    accuracy = RunFolder(runs / "soup").read_summary().best_validation_accuracy
    assert report["metrics"]["validation/accuracy"] == pytest.approx(accuracy)
    assert report["checkpoint"]["epoch"] is None and report["calibration"]["temperature"] is None
    evaluate.main(EvaluateConfig("soup", runs_dir=str(runs)))
    run_script("visualize.py", "--runs_dir", runs, "--checkpoint", "soup", cwd=tmp_path)
    run_script("dashboard.py", "--runs_dir", runs, cwd=tmp_path)
    page = (tmp_path / "dashboard.html").read_text()
    assert '"id":"soup"' in page and "after epoch 0" not in page


def test_a_soup_is_not_gone_on_with(runs):
    with pytest.raises(UserError, match="--resume soup: a soup was not trained"):
        parse_train(["--resume", "soup", "--runs_dir", str(runs)])


def test_where_no_other_run_helps_it_says_so_and_writes_nothing(runs):
    before = contents(runs)
    said = make_soup(runs, "broken", "a", run_id="nothing")
    assert "broken:" in said and "left out" in said
    assert "no other run helps: a is the best by itself, and nothing was written" in said
    assert f"next: python evaluate.py --checkpoint a --runs_dir {runs}" in said
    assert contents(runs) == before


def change_header(**changes):
    def change(folder: RunFolder) -> None:
        state, about = load_weights(folder.best)
        save_weights(folder.best, state, about | changes)

    return change


REFUSED = {
    "other classes": (change_header(classes=list("abcdefghij")), "differ in classes"),
    "another image size": (change_header(image_size=32), "differ in image_size"),
    "another architecture": (change_header(model="resnet50"), "differ in model"),
    "another mean": (change_header(mean=[0.5, 0.5, 0.5]), "differ in mean"),
    "another std and size": (change_header(std=[1, 1, 1], image_size=32), "differ in image_size, std"),
    "no weights": (lambda folder: folder.best.unlink(), "best.safetensors does not exist"),
    "damaged weights": (lambda folder: folder.best.write_bytes(b"damaged"), "best.safetensors can't be read"),
    "no split": (lambda folder: folder.split.unlink(), "split.json can't be read"),
    "no config": (lambda folder: folder.config.unlink(), "config.yaml can't be read"),
    "numbers that are none": (
        lambda folder: with_noise(folder, float("nan"), 0),
        "other gives numbers that are not finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_that_do_not_fit_are_refused_and_nothing_is_written(case, tmp_path):
    change, said = REFUSED[case]
    make_run(tmp_path, "one")
    change(make_run(tmp_path, "other"))
    before = contents(tmp_path)
    for order in (("one", "other"), ("other", "one")):
        with pytest.raises(UserError, match=said):
            make_soup(tmp_path, *order)
    assert contents(tmp_path) == before


def test_runs_of_other_validation_images_are_refused(tmp_path, monkeypatch):
    make_run(tmp_path, "one")
    make_run(tmp_path, "other", seed=1)
    make_run(tmp_path, "none", validation_fraction=0.0)
    folder = make_run(tmp_path, "changed")
    folder.split.write_text(json.dumps(json.loads(folder.split.read_text()) | {"digest": "of other images"}))
    before = contents(tmp_path)
    for runs, said in {
        ("one", "other"): "run other can't be averaged with one: they differ in the validation images",
        ("none", "one"): "run none has --validation_fraction 0",
        ("one", "changed"): "they differ in the training images",
    }.items():
        with pytest.raises(UserError, match=said):
            make_soup(tmp_path, *runs)
    make_run(tmp_path, "two")
    read, before = LOADERS["digits"], contents(tmp_path)
    monkeypatch.setitem(LOADERS, "digits", lambda folder, split, size: read(folder, "test", size))
    with pytest.raises(UserError, match="the training images are not those of run one: .*--data_dir"):
        make_soup(tmp_path, "one", "two")
    assert contents(tmp_path) == before


def test_one_run_by_two_names_is_one_run(tmp_path, monkeypatch):
    make_run(tmp_path / "runs", "one")
    monkeypatch.chdir(tmp_path)
    for runs in (("one", "one"), ("one", "runs/one"), ("one", str(tmp_path / "runs" / "one"))):
        with pytest.raises(UserError, match="given twice"):
            make_soup(Path("runs"), *runs)


@pytest.mark.parametrize(
    "error, raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), RunError)]
)
@pytest.mark.parametrize("name", ["save_weights", "append_line", "create_run"])
def test_what_ends_it_while_it_writes_leaves_nothing(tmp_path, monkeypatch, name, error, raised):
    for seed, run in enumerate(("a", "b")):
        with_noise(make_run(tmp_path, run), 0.01, seed)
    before, write = contents(tmp_path), getattr(making, name)

    def ends(*given, **named):
        write(*given, **named)
        raise error

    monkeypatch.setattr(making, name, ends)
    monkeypatch.setattr(making, "greedy_soup", all_taken)
    with pytest.raises(raised):
        make_soup(tmp_path, "a", "b")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("left", ["config.yaml", "notes.txt"])
def test_an_id_that_is_taken_meanwhile_is_said_and_what_took_it_stays(tmp_path, monkeypatch, left):
    for seed, run in enumerate(("a", "b")):
        with_noise(make_run(tmp_path, run), 0.01, seed)
    monkeypatch.setattr(making, "greedy_soup", all_taken)
    save, kept = making.save_weights, tmp_path / "soup" / left

    def meanwhile(*given):
        kept.parent.mkdir()
        kept.write_text("another's")
        save(*given)

    monkeypatch.setattr(making, "save_weights", meanwhile)
    for _ in range(2):  # the second finds it at once
        with pytest.raises(UserError, match="--run_id soup is taken"):
            make_soup(tmp_path, "a", "b", run_id="soup")
        assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "soup"}
        assert list(kept.parent.iterdir()) == [kept] and kept.read_text() == "another's"


def all_taken(first, accuracy, others, settled, measure):
    for count, state in enumerate(others, 2):
        yield Tried(state, count, accuracy, accuracy, True)


def test_ctrl_c_while_it_measures_leaves_nothing(runs, tmp_path):
    before = contents(runs)
    command = [sys.executable, "-u", str(ROOT / "soup.py"), *"abcd", "--runs_dir", str(runs), "--batch_size", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=script_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "validation images" in process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert contents(runs) == before


@pytest.mark.slow
def test_offline_it_says_what_to_send_and_the_record_has_the_weights(runs, tmp_path):
    env = script_environment(tmp_path, WANDB_MODE="offline")
    done = run_script("soup.py", *"abcd", "--runs_dir", runs, "--run_id", "offline", cwd=tmp_path, env=env)
    tracking = RunFolder(runs / "offline").read_tracking()
    (run,) = tracking.runs
    assert (run.id, run.job_type, run.mode, run.exit_code) == ("offline", "soup", "offline", 0)
    assert [(artifact.type, artifact.aliases) for artifact in tracking.artifacts] == [
        ("dataset", []),
        ("model", ["best", "latest"]),
    ]
    assert f"python sync.py offline --runs_dir {runs}" in done.stdout
    assert os.listdir(runs / "offline" / "wandb")


@pytest.mark.slow
def test_online_lineage_reads_models_soup_model(tmp_path):
    small = ("--preset", "digits", "--device", "cpu", "--image_size", 16, "--batch_size", 400, "--epochs", 1)
    with Backend() as backend:
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        for run, lr in {"one": 0.1, "two": 0.1001}.items():
            run_script("train.py", *small, "--run_id", run, "--lr", lr, "--project", "lab", cwd=tmp_path, env=env)
        done = run_script("soup.py", "one", "two", "--run_id", "soup", cwd=tmp_path, env=env)
        assert not backend.unknown
    assert "the mean of 2 of 2 runs" in done.stdout, done.stdout
    run, weights = backend.runs["soup"], (tmp_path / "runs" / "soup" / "checkpoints" / "best.safetensors").read_bytes()
    assert (run.project, run.job_type, run.state, run.exit_code) == ("lab", "soup", "finished", 0)
    assert run.config["averaged"] == run.summary["averaged"] and sorted(run.config["averaged"]) == ["one", "two"]
    assert [row["validation/accuracy"] for row in run.rows] and run.summary["best/validation_accuracy"] > 0
    model = backend.artifact("resnext50_32x4d-digits:best")
    assert (model.created_by, model.files) == ("soup", {"best.safetensors": weights})
    used = [artifact for artifact in backend.artifacts if artifact.type == "model" and "soup" in artifact.used_by]
    assert sorted(artifact.created_by for artifact in used) == ["one", "two"]

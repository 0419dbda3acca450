"""Whole runs on a real GPU: no step of the loop waits, a resumed run is the run it would have been, memory that runs out and processes
that share a GPU end in a line. What is possible runs on the CPU as well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from devices import DEVICES, exact_float32, wait_is_an_error
from helpers import ROOT, script_environment

# ruff: noqa: E402
# On a bare machine the other GPU tests still run.
for package in ("wandb", "tyro", "pydantic", "annotated_types", "sklearn", "scipy", "matplotlib", "yaml"):
    pytest.importorskip(package)

import train
from common.base.errors import RunError
from common.cli import parse_train
from common.config import PRESETS, TrainConfig
from common.model.load import load_model
from common.model.predict import predict
from common.runs.folder import RunFolder, read_metrics
from common.training.prepare import open_run
from common.training.run import Run
from common.training.state import load_training_state


def digits(device: str, folder: Path, **changes) -> TrainConfig:
    return PRESETS["digits"].replace(device=device, runs_dir=str(folder / "runs"), run_id="run", **changes)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch, small_networks):
    """Small networks; a figure costs more than these epochs."""
    monkeypatch.setattr("common.base.drawing.save", lambda figure, path: path.touch())


# Steps


RECIPES = {
    "plain": {"amp": "none"},
    "everything": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "ema_decay": 0.9, "amp": "bf16"},
    "scaled": {"amp": "fp16", "finetune": "partial", "loss": "focal"},
    "features": {"finetune": "head", "feature_views": 2, "amp": "none"},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_of_the_loop_waits_unless_it_logs(recipe, device, tmp_path, monkeypatch):
    looked, after_step = [], Run.after_step

    def watched(run: Run, *args) -> None:
        after_step(run, *args)
        if run.state.step in (3, 8):  # first cuDNN is opened, momenta and the scale are made
            looked.append(run.state.step)
            wait_is_an_error(device, run.state.step == 3)

    monkeypatch.setattr(Run, "after_step", watched)
    try:
        with open_run(digits(device, tmp_path, max_steps=10, log_every=1000, **RECIPES[recipe])) as run:
            train.train_epoch(run)
    finally:
        wait_is_an_error(device, False)
    assert looked == [3, 8] and run.state.step == 10


# Going on, and evaluating


@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_run_is_within_rounding_of_one_that_was_never_interrupted(device, tmp_path):
    recipe = {
        "amp": "none",
        "image_size": 16,
        "batch_size": 64,
        "lr": 0.02,
        "mixup_alpha": 0.2,
        "ema_decay": 0.9,
        "epochs": 2,
    }
    states, losses = [], []
    with exact_float32():
        for name, stops in (("whole", [12]), ("resumed", [5, 12])):
            folder = RunFolder(tmp_path / name / "runs" / "run")
            assert train.main(digits(device, tmp_path / name, max_steps=stops[0], log_every=1, **recipe)) == 0
            first = load_training_state(folder.last)["model"] if len(stops) > 1 else {}
            for stop in stops[1:]:
                resume = ["--resume", "run", "--runs_dir", str(folder.path.parent), "--max_steps", str(stop)]
                assert train.main(parse_train(resume)) == 0
            states.append(load_training_state(folder.last))
            losses.append({row["step"]: row["train/batch_loss"] for row in read_metrics(folder)})
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"] == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    for part in ("model", "average"):
        for name, expected in states[0][part].items():
            found = states[1][part][name].double()
            learned = (expected.double() - first.get(name.removeprefix("module."), expected).double()).norm()
            assert (found - expected.double()).norm() <= 0.02 * learned + 1e-5 * expected.double().norm(), (
                f"{part} {name}"
            )


@pytest.mark.parametrize("device", DEVICES)
def test_a_checkpoint_is_as_accurate_as_on_the_cpu(device, tmp_path):
    from digit_runs import make_run

    from common.data.batches import Batches
    from common.data.load import load_dataset

    folder = make_run(tmp_path / "runs", "run")
    data = load_dataset("digits", None, "test", 24)

    def accuracy(place: str, amp: torch.dtype | None) -> float:
        loaded = load_model("run", str(tmp_path / "runs"), torch.device(place))
        batches = Batches(data.images, data.labels, torch.arange(len(data.labels)), 64, 24, torch.device(place))
        logits, labels = predict(loaded.model, batches.epoch(0), torch.device(place), amp)
        return (logits.argmax(dim=1) == labels).double().mean().item()

    expected = accuracy("cpu", None)
    assert folder.best.exists() and 0.3 < expected
    with exact_float32():
        assert accuracy(device, None) == pytest.approx(expected, abs=0.005)
    assert accuracy(device, None) == pytest.approx(expected, abs=0.01)  # TF32, as evaluate.py has it
    assert accuracy(device, torch.bfloat16) == pytest.approx(expected, abs=0.03)


# Memory


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_names_the_batch_size_to_try(tmp_path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(0) + (300 << 20)  # the first convolution alone gives 1.2 GiB
    torch.cuda.set_per_process_memory_fraction(allowed / total, 0)
    try:
        with pytest.raises(RunError, match="out of memory on cuda:0 at --batch_size 400; try --batch_size 200"):
            train.main(digits("cuda", tmp_path, image_size=224, batch_size=400, amp="none"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    summary = RunFolder(tmp_path / "runs" / "run").read_summary()
    assert summary.status == "failed" and "--batch_size 200" in summary.error


# Processes


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "auto"])
def test_two_processes_on_one_gpu_end_in_a_line_and_leave_no_run(device, tmp_path):
    """`auto` gives each process its own GPU, so one process more than there are is refused; `cuda:0` would give all the same."""
    count = 2 if device == "cuda:0" else torch.cuda.device_count() + 1
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    flags = ["--preset", "digits", "--device", device, "--run_id", "run", "--max_steps", "1"]
    done = subprocess.run(
        [*launcher, str(ROOT / "train.py"), *flags],
        cwd=tmp_path,
        env=script_environment(tmp_path, CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert (
        f"error: --device is {device}" in done.stderr
        or f"error: --device {device} is one GPU for several" in done.stderr
    )
    assert not (tmp_path / "runs").exists()

"""A run that was stopped goes on as if it had not been: the same weights, the same rows, the same W&B history."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers import ROOT, run_script, script_environment

# 26 steps an epoch, with all that has a state: momentum, schedule, warm-up, average, augmentation, mixup, and sums of the epoch.
STEPS = 26
FLAGS = (
    *("--preset", "digits", "--device", "cpu", "--epochs", 2, "--batch_size", 50, "--image_size", 16, "--log_every", 3),
    *("--checkpoint_every", 4, "--ema_decay", 0.9, "--mixup_alpha", 0.2, "--nesterov", True),
)  # fmt: skip
PATIENCE = 240  # seconds that a busy machine may take for what takes a second


def start(*flags: object, cwd: Path, env: dict[str, str]) -> subprocess.Popen:
    """`python train.py flags…`, whose output goes to files, so that it never waits for a reader."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
    with open(cwd / "stdout.txt", "w") as out, open(cwd / "stderr.txt", "w") as err:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, text=True)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns when `holds()`, or when the process has ended."""
    until = time.monotonic() + PATIENCE
    while not holds() and process.poll() is None:
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lines_of(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0


def without_times(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("time", "throughput/images_per_second")}


def state_of(run: Path) -> dict:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for times in (state["progress"], state["progress"]["latest"]):
        times.pop("seconds", None), times.pop("throughput/images_per_second", None)
    return state


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equal to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{number}")
    else:
        assert one == other, where


def assert_same_run(run: Path, whole: Path) -> None:
    rows = rows_of(run)
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert_same([without_times(row) for row in rows], [without_times(row) for row in rows_of(whole)], "metrics.jsonl")
    assert_same(state_of(run), state_of(whole), "last.pt")
    weights = "checkpoints/best.safetensors"
    assert_same(load_file(run / weights), load_file(whole / weights), "best.safetensors")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, whole)]
    for key in ("status", "error", "step", "epoch", "best/epoch", "best/validation_accuracy"):
        assert summaries[0][key] == summaries[1][key], key
    assert not list(run.rglob("*.tmp*"))


def history_of(run: Path) -> list[dict]:
    """The rows that W&B's own offline logs hold, those of all segments, one after the other."""
    (job,) = json.loads((run / "tracking.json").read_text())["runs"]
    rows = []
    for directory in job["dirs"]:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run / directory)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        records = [json.loads(line) for line in shown.splitlines() if '"type":"history"' in line]
        rows += [record["history"]["item"] for record in records]
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_script("train.py", *FLAGS, "--run_id", "run", cwd=folder)
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run, tracked offline, that SIGTERM ended in mid-epoch and that was resumed; what the two processes printed."""
    folder = tmp_path_factory.mktemp("interrupted")
    env, run = script_environment(folder, WANDB_MODE="offline"), folder / "runs" / "run"
    process = start(*FLAGS, "--run_id", "run", cwd=folder, env=env)
    wait_until(lambda: lines_of(run) >= 2, process)
    process.send_signal(signal.SIGTERM)
    status = process.wait(PATIENCE)
    printed = (folder / "stdout.txt").read_text() + (folder / "stderr.txt").read_text()
    summary = json.loads((run / "summary.json").read_text())
    step = state_of(run)["progress"]["step"]
    second = run_script("train.py", "--resume", "run", cwd=folder, env=env)
    return run, {"status": status, "printed": printed, "summary": summary, "step": step, "second": second}


def test_sigterm_saves_and_says_how_to_go_on(interrupted):
    run, first = interrupted
    assert first["status"] == 143, first["printed"]
    assert "go on with: python train.py --resume run\n" in first["printed"]
    assert "Traceback" not in first["printed"]
    assert first["summary"]["status"] == "interrupted" and first["summary"]["step"] == first["step"]
    assert 6 <= first["step"] < 2 * STEPS


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(interrupted, whole):
    assert_same_run(interrupted[0], whole)
    assert "finished after step 52" in interrupted[1]["second"].stdout


def test_the_offline_history_has_every_step_once(interrupted):
    run, _ = interrupted
    history = [{k: v for k, v in row.items() if not k.startswith("_") or k == "_step"} for row in history_of(run)]
    assert [row.pop("_step") for row in history] == [row["step"] for row in rows_of(run)]
    for sent, kept in zip(history, rows_of(run), strict=True):
        sent.pop("loss", None)  # the figure
        assert sent == {key: value for key, value in kept.items() if key not in ("step", "time")}


def kill_and_resume(folder: Path, moments: int, seed: int) -> tuple[Path, int]:
    """A run that SIGKILL ends at so many seeded moments and that is resumed after each → its folder, and how often it was
    hit while it ran. A moment is so many rows after the start of the process, and up to a row's time later."""
    chance, env, run, hits = random.Random(seed), script_environment(folder), folder / "runs" / "run", 0
    for number in range(moments):
        resumable = (run / "checkpoints" / "last.pt").exists()
        begun = lines_of(run) if resumable else 0
        if not resumable and run.exists():  # killed before there was a state to go on from: it begins again
            run.rename(folder / f"lost-{number}")
        process = start(*(("--resume", "run") if resumable else (*FLAGS, "--run_id", "run")), cwd=folder, env=env)
        rows, later = chance.choice((1, 1, 2)), chance.uniform(0, 0.15)
        if number % 4 == 3:  # while Python starts, the state is read, or the first steps run
            began, rows, later = time.monotonic(), 0, chance.uniform(0, 8)
            wait_until(lambda began=began, later=later: time.monotonic() > began + later, process)
        else:
            running = summary_pid(run, process)
            wait_until(lambda: running() and lines_of(run) >= begun_rows(run, begun) + rows, process)
            moment = time.monotonic() + later
            wait_until(lambda moment=moment: time.monotonic() > moment, process)
        process.kill()
        hits += process.wait(PATIENCE) == -signal.SIGKILL
    if (run / "checkpoints" / "last.pt").exists():
        run_script("train.py", "--resume", "run", cwd=folder, env=env)
    else:
        run_script("train.py", *FLAGS, "--run_id", "run", cwd=folder, env=env)
    return run, hits

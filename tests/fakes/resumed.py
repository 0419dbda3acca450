"""A run to interrupt, and whether two runs are the same to the last bit."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import warm
from helpers import ROOT, script_environment
from safetensors.torch import load_file

# 26 steps an epoch, with all that has a state: momentum, schedule, warm-up, average, augmentation, mixup, sums of the epoch.
FLAGS = (
    *("--preset", "digits", "--device", "cpu", "--epochs", 2, "--batch_size", 50, "--image_size", 16, "--log_every", 2),
    *("--max_steps", 32, "--checkpoint_every", 4, "--ema_decay", 0.9, "--mixup_alpha", 0.2, "--nesterov", True),
)  # fmt: skip
PATIENCE = 600  # seconds that a busy machine may take for what takes a second


Process = subprocess.Popen | warm.Started


def start(*flags: object, cwd: Path, env: dict[str, str], new_session: bool = False) -> Process:
    """`python train.py flags…`, whose output goes to files, so that it never waits for a reader."""
    command, outputs = [str(ROOT / "train.py"), *map(str, flags)], [cwd / "stdout.txt", cwd / "stderr.txt"]
    if warm.fits(env, script_environment(cwd)):
        return warm.start(command, cwd, env, outputs, new_session)
    with open(outputs[0], "w") as out, open(outputs[1], "w") as err:
        return subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=env, stdout=out, stderr=err, start_new_session=new_session
        )


def wait_until(holds: Callable[[], bool], process: Process) -> None:
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
    return {key: value for key, value in row.items() if key != "time" and not key.startswith("throughput/")}


def state_of(run: Path) -> dict:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for times in (state["progress"], state["progress"]["latest"]):
        times.pop("seconds", None)
        for speed in ("images", "features"):
            times.pop(f"throughput/{speed}_per_second", None)
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

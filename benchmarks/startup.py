"""How long until the first training step, and where that time goes.

    python -m benchmarks.startup

Goals: `train.py --help` in less than 0.5 s; the first step of `--preset digits` begins less than 8 s after the command, with
nothing of Python's packages in the system's file cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import ROOT, in_child, report_result, seconds_of, spread, table, verdict
from common.cli import parse, parse_train

STAGES = ("Python, flags", "imports", "data", "network", "run folder, W&B", "first batch", "first step")


@dataclass(frozen=True)
class StartupConfig:
    rounds: int = 5
    """Starts with files in the cache; one more is cold."""
    child_since: float | None = None
    """Used by the benchmark itself: the time at which this process was started."""


def child(since: float) -> None:
    """train.py's first step, with the time at which each part of the start has ended."""
    marks: dict[str, float] = {}

    def mark(stage: str) -> None:
        marks.setdefault(stage, time.time() - since)

    def marking(stage_before: str | None, function: Callable, stage: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if stage_before:
                mark(stage_before)
            result = function(*args, **kwargs)
            mark(stage)
            return result

        return call

    import train

    with tempfile.TemporaryDirectory() as folder:
        config = parse_train(["--preset", "digits", "--max_steps", "1", "--runs_dir", folder])
        mark(STAGES[0])
        from common.training import prepare, step

        mark(STAGES[1])
        prepare.load_dataset = marking(None, prepare.load_dataset, STAGES[2])
        prepare.first_state = marking(None, prepare.first_state, STAGES[3])
        prepare.start = marking(None, prepare.start, STAGES[4])
        step.train_step = marking(STAGES[5], step.train_step, STAGES[6])
        train.main(config)
    report_result(marks)


def start() -> dict[str, float]:
    """Seconds of each stage of a start."""
    ends = in_child(["-m", "benchmarks.startup", "--child_since", repr(time.time())], WANDB_MODE="offline")
    moments = [0.0, *(ends[stage] for stage in STAGES)]
    return {stage: moments[i + 1] - moments[i] for i, stage in enumerate(STAGES)}


def forget_files() -> None:
    """Asks the system to drop Python's packages from its file cache, which needs no rights. Linux only."""
    import torch

    for path in Path(torch.__file__).parent.parent.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def main(config: StartupConfig) -> None:
    cold = None
    if hasattr(os, "posix_fadvise"):
        # In a process of its own: what this one has mapped, the system keeps.
        subprocess.run(
            [sys.executable, "-c", "from benchmarks.startup import forget_files as f; f()"], cwd=ROOT, check=True
        )
        cold = start()
    warm = [start() for _ in range(config.rounds)]
    command = [sys.executable, "train.py", "--help"]
    helps = [
        seconds_of(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True))
        for _ in range(config.rounds)
    ]

    def until_step(stages: dict[str, float]) -> float:
        return sum(stages.values()) - stages[STAGES[-1]]

    print("### startup\n")
    print(table(["", "seconds", "goal"], [
        ["`train.py --help`", spread(helps), verdict(statistics.median(helps), 0.5, at_least=False)],
        ["command to first step, files cached", spread([until_step(stages) for stages in warm]), ""],
        *([["command to first step, cold", f"{until_step(cold):.2f}", verdict(until_step(cold), 8, False)]] if cold else []),
    ]))  # fmt: skip
    print("\nOf these seconds:\n")
    print(
        table(
            ["", *STAGES],
            [
                ["files cached", *(f"{statistics.median(stages[name] for stages in warm):.2f}" for name in STAGES)],
                *([["cold", *(f"{cold[name]:.2f}" for name in STAGES)]] if cold else []),
            ],
        )
    )


if __name__ == "__main__":
    config = parse(StartupConfig, description=__doc__)
    child(config.child_since) if config.child_since else main(config)

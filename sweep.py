"""The sweep of a W&B sweep file on this machine: no server, no account.

    python sweep.py sweep.yaml --count 20               # prints the sweep's id, and at the end the best flags
    python sweep.py sweep.yaml --count 20 --sweep_id ID # goes on after Ctrl-C or a crash, or helps a sweep that runs

Optuna chooses the parameters and ends poor trials early. Each trial is an ordinary run, started with the command line
that W&B's agent would give it; the sweep's id is its W&B group. Exit status: 0 when a trial completed, 1 when none did,
2 for bad input, 130 after Ctrl-C.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Interval

from common.base.checked import Checked, PathText
from common.base.errors import report_errors
from common.cli import parse
from common.config import RUNS_DIR


@dataclass(frozen=True)
class SweepConfig(Checked):
    file: tyro.conf.Positional[PathText] = "sweep.yaml"
    """The sweep, as `wandb sweep` takes it."""
    count: Annotated[int, Ge(1)] | None = None
    """Trials in all, those of an earlier call included. None: the whole grid, or the file's run_cap."""
    workers: Annotated[int, Ge(1)] = 1
    """Trials at the same time. They share the device; for another GPU, start another sweep.py with the same --sweep_id."""
    seeds: Annotated[int, Interval(ge=1, le=1000)] | None = None
    """Runs a trial, one a seed: their mean is its value, which luck moves less. Poor trials end in their first. None: 1, or as it was begun."""
    sweep_id: str | None = None
    """Name of the sweep's folder in runs_dir/sweeps and of its W&B group. None: date, time and four letters."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""


def main(config: SweepConfig) -> int:
    from common.sweeps.run import run_sweep

    file, runs_dir = Path(config.file), Path(config.runs_dir)
    return run_sweep(file, runs_dir, config.sweep_id, config.count, config.workers, config.seeds)


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse(SweepConfig, description=__doc__)))

"""The sweep of a W&B sweep file on this machine: no server, no account.

    python sweep.py sweep.yaml --count 20               # prints the sweep's id, and at the end the best flags
    python sweep.py sweep.yaml --count 20 --sweep_id ID # goes on after Ctrl-C or a crash, or helps a sweep that runs

Optuna chooses the parameters and ends poor trials early. Each trial is an ordinary run, started with the command line
that W&B's agent would give it; the sweep's id is its W&B group. Exit status: 0 when a trial completed, 1 when none did,
2 for bad input, 130 after Ctrl-C.
"""

import contextlib
import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from common.base.errors import UserError, report_errors

if TYPE_CHECKING:
    from common.sweeps.trials import LocalSweep, LocalTrial

POLL_SECONDS = 0.5  # between two looks at the running trials


@dataclass(frozen=True)
class SweepConfig:
    file: tyro.conf.Positional[str] = "sweep.yaml"
    """The sweep, as `wandb sweep` takes it."""
    count: int | None = None
    """Trials in all, those of an earlier call included. None: the whole grid, or the file's run_cap."""
    workers: int = 1
    """Trials at the same time. They share the device; for another GPU, start another sweep.py with the same --sweep_id."""
    sweep_id: str | None = None
    """Name of the sweep's folder in runs_dir/sweeps and of its W&B group. None: date, time and four letters."""
    runs_dir: str = "runs"
    """Folder of the run folders."""

    def __post_init__(self) -> None:
        for name in ("count", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}, but must be 1 or more")


def main(config: SweepConfig) -> int:
    import optuna

    from common.base.files import safe_name
    from common.runs.folder import check_writable, new_run_id
    from common.sweeps.file import read_sweep
    from common.sweeps.trials import LocalSweep

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sweep = read_sweep(Path(config.file))
    if config.count is None and sweep.size() == math.inf:
        raise UserError(f"--count is missing: {config.file} has method {sweep.method} and no run_cap, so it has no end")
    sweep_id = safe_name(config.sweep_id or new_run_id(), "--sweep_id")
    check_writable(Path(config.runs_dir), "--runs_dir")

    local = LocalSweep(sweep, Path(config.runs_dir), sweep_id)
    print(f"Sweep {sweep_id}: {sweep.method}, {sweep.goal} {sweep.metric}. Logs in {local.folder}", flush=True)
    stopped_by = run_trials(local, config.count or math.inf, config.workers)
    print(f"\n{local.table()}\n")
    best = local.best_record()
    if best:
        print(f"Best: trial {best['number']}, run {best['run_id']}\n{local.best_command(best)}")
    else:
        print("No trial has completed.")
    if stopped_by:
        again = ["python", *sys.argv, *([] if config.sweep_id else ["--sweep_id", sweep_id])]
        print(f"Stopped. To go on:\n{shlex.join(again)}")
        return 128 + stopped_by
    return 0 if best else 1


def run_trials(local: "LocalSweep", count: float, workers: int) -> int:
    """Runs trials until the sweep has `count` and the last has ended. Returns the signal that ended it early, or 0."""
    running: list[LocalTrial] = []
    waiting = False
    with caught_signals() as signals:
        while True:
            while not signals and len(running) < workers and (trial := local.begin_trial(count)):
                running.append(trial)
                local.save_records()
                tell(trial, f"run {trial.run.path}  {local.searched(trial.values)}")
            if not running:
                if signals or not local.busy_elsewhere():
                    local.save_records()
                    return signals[0] if signals else 0
                if not waiting:
                    print("Waiting for the trials of other processes", flush=True)
                waiting = True
            for trial in list(running):
                ended = trial.process.poll() is not None  # asked first: all that it logged is then there to be read
                for step, value in local.look_at(trial):
                    tell(trial, f"{local.sweep.metric} {value:.4f} at {step}")
                if ended:
                    state = local.settle(trial)
                    local.save_records()
                    running.remove(trial)
                    tell(trial, state)
                elif trial.stops < len(signals):
                    trial.stop()
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Within the block, SIGINT and SIGTERM are only noted."""
    signals: list[int] = []
    before = {n: signal.signal(n, lambda n, _: signals.append(n)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(trial: "LocalTrial", text: str) -> None:
    print(f"trial {trial.number}: {text}", flush=True)


if __name__ == "__main__":
    with report_errors():
        from common.cli import parse

        sys.exit(main(parse(SweepConfig, description=__doc__)))

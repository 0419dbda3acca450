"""What `sweep.py` does: runs the trials, several at a time, and says which was best."""

import math
import sys
import time
from pathlib import Path

import optuna

from common.base.errors import UserError
from common.base.files import direct, safe_name
from common.base.signals import Interrupt, interruptible
from common.base.text import command_line
from common.runs.folder import check_writable, new_run_id
from common.sweeps.file import read_sweep
from common.sweeps.trials import LocalSweep, LocalTrial

POLL_SECONDS = 0.5  # between two looks at the running trials


def run_sweep(
    file: Path, runs_dir: Path, sweep_id: str | None, count: int | None, workers: int, seeds: int | None = None
) -> int:
    """Begins a sweep, or goes on with it, until it has `count` trials → exit status. seeds: runs a trial; None: as it was begun, or one.

    Errors: `UserError` for a file, an id or a folder that does not fit."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sweep = read_sweep(file)
    if count is None and sweep.size() == math.inf:
        raise UserError(f"--count is missing: {file} has method {sweep.method} and no run_cap, so it has no end")
    chosen = safe_name(sweep_id or new_run_id(), "--sweep_id")
    check_writable(runs_dir, "--runs_dir")

    local = LocalSweep(sweep, direct(runs_dir), chosen, seeds)
    print(f"Sweep {chosen}: {sweep.method}, {sweep.goal} {sweep.metric}. Logs in {local.folder.path}", flush=True)
    if sweep.note:
        print(sweep.note, flush=True)
    with interruptible("stopping the trials, which save; once more stops them without saving", None) as interrupt:
        run_trials(local, count or math.inf, workers, interrupt)
    print(f"\n{local.table()}\n")
    best = local.best_record()
    if best:
        print(f"Best: trial {best.number}, run {best.run_id}\n{local.best_command(best)}")
    else:
        print("No trial has completed.")
    if interrupt.signal is not None:
        again = ["python", *sys.argv, *([] if sweep_id else ["--sweep_id", chosen])]
        print(f"Stopped. To go on:\n{command_line(again)}")
        return interrupt.exit_status
    return 0 if best else 1


def run_trials(local: LocalSweep, count: float, workers: int, interrupt: Interrupt) -> None:
    """Runs trials until the sweep has `count` and the last has ended. Each signal stops those that run, once more."""
    running: list[LocalTrial] = []
    waiting = False
    while True:
        while interrupt.signal is None and len(running) < workers and (trial := local.begin_trial(count)):
            running.append(trial)
            local.save_records()
            tell(trial, f"run {trial.run.path}  {local.searched(trial.values)}")
        if not running:
            if interrupt.signal is not None or not local.busy_elsewhere():
                local.save_records()
                return
            if not waiting:
                print("Waiting for the trials of other processes", flush=True)
            waiting = True
        for trial in list(running):
            ended = trial.process.poll() is not None  # asked first: all that it logged is then there to be read
            for step, value in local.look_at(trial):
                tell(trial, f"{local.sweep.metric} {value:.4f}, number {step} of it")
            if ended:
                state = local.settle(trial)
                local.save_records()
                running.remove(trial)
                tell(trial, state)
            elif trial.stops < interrupt.count:
                trial.stop()
        time.sleep(POLL_SECONDS)


def tell(trial: LocalTrial, text: str) -> None:
    print(f"trial {trial.number}: {text}", flush=True)

"""One recipe, several seeds: ordinary runs, one after the other, in one group. Imports no torch."""

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.base.errors import UserError
from common.base.files import safe_name
from common.base.signals import interruptible
from common.base.text import command_line, mean_and_sd
from common.config import TrainConfig
from common.runs.find import is_run
from common.runs.folder import RunFolder, new_run_id, plan_run, run_state
from common.runs.groups import differing, groups, in_words, recipe_settings

Planned = tuple[RunFolder, TrainConfig]


def train_seeds(config: TrainConfig, train: Callable[[TrainConfig], int]) -> int:
    """Trains the runs of `config` that have not finished, each by `train` → exit status: 0, or that of the run that a signal or
    --max_minutes, which all of them have together, ended.

    Errors: `UserError` before anything is written, and whatever `train` ends with.
    """
    check_alone(config)
    name = config.identity.run_id or os.environ.get("WANDB_RUN_ID") or config.run.group or new_run_id()
    group = config.run.group or os.environ.get("WANDB_RUN_GROUP") or name
    runs = plan(config, name, group)
    named = config.identity.run_id or config.run.group
    again = command_line(["python", *sys.argv, *([] if named else ["--run_id", name])])
    print(f"{len(runs)} seeds, one after the other, in group {group}. To go on, should it stop:\n{again}")
    seconds = 60 * (config.run.max_minutes or math.inf)
    first, second = "stopping before the next seed; once more stops at once", "stopped at once"
    with interruptible(first, second, seconds) as interrupt:
        for number, (folder, one) in enumerate(runs, start=1):
            print(f"\nseed {one.compute.seed} ({number} of {len(runs)}): {folder.path}", flush=True)
            if run_state(folder) == "finished":
                print("has finished already")
                continue
            status = 0 if interrupt.stopped() else train(within(one, interrupt.deadline))
            if status or interrupt.exit_status:
                print(f"or go on with all seeds: {again}", flush=True)
                return status or interrupt.exit_status
    print("\n".join(["", *ending([folder for folder, _ in runs], group)]), flush=True)
    return 0


def within(config: TrainConfig, deadline: float) -> TrainConfig:
    """`config` with what is left of --max_minutes. deadline: by `time.monotonic`."""
    if config.run.max_minutes is None:
        return config
    return config.replace(max_minutes=max(deadline - time.monotonic(), 1e-6) / 60)


def check_alone(config: TrainConfig) -> None:
    """Errors: `UserError` where one run alone can be trained."""
    given = f"--seeds is {config.identity.seeds}, but"
    if config.run.resume:
        raise UserError(
            f"{given} --resume goes on with one run; leave --seeds out, or repeat the command that began them"
        )
    if "RANK" in os.environ:
        raise UserError(f"{given} torchrun trains one run; start it once a seed, with --seed and one --group for all")
    if os.environ.get("WANDB_SWEEP_ID"):
        raise UserError(f"{given} a sweep's trial is one run; make seed a parameter of the sweep")


def plan(config: TrainConfig, name: str, group: str) -> list[Planned]:
    """A run a seed: the group's own where it has one, to go on with, else a new one, `<name>-seed<seed>`; not made yet.

    Errors: `UserError` when the group has runs of another recipe, or an id is taken or can't be a folder's name.
    """
    runs_dir, first = config.run.runs_dir, config.compute.seed
    flag = "--run_id" if config.identity.run_id or not config.run.group else "--group"
    safe_name(name, flag)
    if is_run(Path(runs_dir) / group):
        raise UserError(f"{flag} {group}: a run of that name is in {runs_dir}, and its group must not be taken for it")
    there: dict[int, RunFolder] = {}
    for folder, earlier in groups(runs_dir).get(group, []):
        if apart := differing(recipe_settings(earlier), recipe_settings(config)):
            words = in_words(apart, "was", "now")
            raise UserError(f"{flag} {group}: {folder.id} in this group has other settings: {words}; choose another")
        there[earlier.compute.seed] = folder
    runs = []
    for seed in range(first, first + config.identity.seeds):
        one = config.replace(seed=seed, seeds=1, run_id=f"{name}-seed{seed}", group=group)
        if seed in there:
            runs.append((there[seed], one.replace(run_id=there[seed].id, resume=there[seed].id)))
        else:
            runs.append((plan_run(runs_dir, one.identity.run_id), one))
    return runs


def ending(runs: list[RunFolder], group: str) -> list[str]:
    """What is printed at the end: how good each seed is, how good all are, what to do next."""
    best = [folder.read_summary().best_validation_accuracy for folder in runs]
    known = [value for value in best if value is not None]  # without a validation there is none
    lines = [f"{folder.id}  best validation accuracy {value:.4f}" for folder, value in zip(runs, known, strict=False)]
    if known:
        lines.append(f"best validation accuracy {mean_and_sd(known)} (mean ± sd of {len(known)} seeds)")
    return [*lines, *runs[0].read_split().advice, f"next: {runs[0].evaluate_command(group)}"]

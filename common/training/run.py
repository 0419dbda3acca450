"""A run that is open."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from common.base.errors import UserError
from common.base.files import disk_errors
from common.base.processes import Team
from common.config import TrainConfig, as_dict
from common.runs.folder import create_run, mark_running, save_config
from common.tracking.run import start
from common.training.log import Recorder

if TYPE_CHECKING:
    from common.training.prepare import Task


def has_ended(task: Task, team: Team) -> bool:
    """Whether a run to go on with has nothing left to do, and then says so. Errors: `UserError` when it is further than asked for."""
    folder, progress = task.folder, task.trainer.progress
    if progress.step > task.total_steps:
        raise UserError(
            f"--resume {folder.id}: the run is at step {progress.step} already, and with these --epochs and --max_steps would "
            f"end after {task.total_steps}; leave them out, or make them larger"
        )
    ended = progress.measured == task.total_steps and folder.read_summary().status == "finished"
    if ended and team.main:
        print(
            f"nothing is left to train: {folder.id} has finished all its {task.total_steps} steps; to train longer, add --epochs "
            "with more than before, or --max_steps where that was the end"
        )
    return ended


@contextlib.contextmanager
def recorded(config: TrainConfig, task: Task, team: Team) -> Iterator[Recorder]:
    """Around the training: makes the run's folder and W&B run, or takes them up again. What ends the block with an error is
    in summary.json and in W&B."""
    folder = task.folder
    if not team.main:
        yield Recorder(folder, None, team, config.log_weights)
        return
    with disk_errors(folder.path):
        if config.resume is None:
            task.trainer.save(folder.last, task.trainer.sums)  # first, so that whatever can be seen can be resumed
            create_run(folder, config, task.split)
        else:
            save_config(folder, config)
            mark_running(folder)
        folder.update_summary(**task.facts)
    run = start(
        folder,
        "train",
        as_dict(replace(config, resume=None)),  # the command line, so that its flags repeat the run
        run_id=folder.id,
        project=config.project,
        entity=config.entity,
        group=config.group,
        tags=config.tags,
    )
    try:
        run.set_summary(task.facts)
        with disk_errors(folder.summary):
            folder.update_summary(wandb_url=run.url)
        run.use_dataset(f"{config.dataset}-split", folder.split)
        recorder = Recorder(folder, run, team, config.log_weights)
        recorder.rewind(task.trainer.progress)
        yield recorder
    except BaseException as error:
        with contextlib.suppress(OSError):
            folder.update_summary(status="failed", error=" ".join(str(error).split())[:500] or type(error).__name__)
        run.finish(1)
        print("\n".join(run.hint()), file=sys.stderr)
        raise

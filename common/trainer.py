"""What a run carries from step to step: all of it is in `last.pt`, so that a resumed run is the run it would have been."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from common import tracking
from common.checkpoint import load_into, load_training_state, read_metadata, save_training_state
from common.config import TrainConfig, as_dict
from common.distributed import Team
from common.errors import RunError, UserError
from common.files import append_line, disk_errors, write_atomic
from common.runs import RunFolder, create_run, mark_running, read_metrics, save_config
from common.runtime import Interrupt

if TYPE_CHECKING:
    from common.task import Task


@dataclass
class Progress:
    """Where a run is. Plain numbers."""

    epoch: int = 0
    """whole epochs done"""
    step: int = 0
    """optimizer steps done"""
    measured: int = 0
    """the step of the last epoch row, which follows the step by a validation"""
    best_epoch: int | None = None
    best_accuracy: float | None = None
    """validation accuracy of the best epoch"""
    seconds: float = 0.0
    """time spent, by all the processes that went on with the run, one after the other"""
    latest: dict[str, float] = field(default_factory=dict)
    """the newest step's lr and loss"""


@dataclass
class Trainer:
    """The parts that change in training. `network` is what is trained: the model, or its head alone on cached features."""

    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    sums: Tensor
    """float (3,) on the device: this epoch's summed loss, images that were right, images"""
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)

    def evaluated(self) -> nn.Module:
        """The network that is validated: the averaged one where there is an average."""
        return self.average.module if self.average is not None else self.network

    def weights(self) -> dict[str, Tensor]:
        """The whole model's state with the weights that were validated."""
        state = self.model.state_dict()
        prefix = "" if self.network is self.model else "fc."
        return {**state, **{prefix + name: tensor for name, tensor in self.evaluated().state_dict().items()}}

    def seconds(self) -> float:
        return self.progress.seconds + time.monotonic() - self.started

    def save(self, path: Path, sums: Tensor) -> None:
        """Writes `last.pt`. Errors: `RunError` when it can't be written, or the weights are not finite, which can be a step before
        the loss is not; the earlier one is kept."""
        weights = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        norm, lr = nn.utils.get_total_norm(weights).item(), self.optimizer.param_groups[0]["lr"]
        require_finite("the norm of the weights", norm, self.progress.step, lr)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "progress": {**asdict(self.progress), "seconds": self.seconds()},
            "sums": sums,
        }
        save_training_state(path, state)

    def load(self, path: Path, device: torch.device, team: Team) -> None:
        """Goes on from `path`. Errors: `UserError` when the file is damaged or of another run."""
        state = load_training_state(path)
        try:
            load_into(self.model, state["model"], path)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                load_into(self.average, state["average"], path)
            vars(self.progress).update(asdict(Progress(**state["progress"])))
            # One process has the sums of all, however many they were.
            self.sums.copy_(state["sums"] if team.main else torch.zeros(3))
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} does not fit this run ({error}); its best weights may be whole") from None

    def add(self, sums: Tensor) -> None:
        """After every step: its sums to the epoch's, and the new weights to their average."""
        self.sums += sums
        if self.average is not None:
            self.average.update_parameters(self.network)

    def running(self) -> dict[str, str]:
        """This epoch's means so far, for the progress bar; of this process. Waits for the device."""
        loss, right, images = self.sums.tolist()
        return {"loss": f"{loss / images:.4f}", "accuracy": f"{right / images:.4f}"}

    def epoch_means(self, team: Team) -> dict[str, float]:
        """Loss and accuracy over the images of the epoch, those of all processes."""
        loss, right, images = team.sum(self.sums).tolist()
        return {"train/loss": loss / images, "train/accuracy": right / images}


class Recorder:
    """The run's rows: metrics.jsonl is the truth, and W&B gets the same. Of several processes, the main one writes."""

    def __init__(self, folder: RunFolder, run: tracking.Run | None, team: Team, log_weights: bool) -> None:
        self.folder, self.run, self.team, self.log_weights = folder, run, team, log_weights
        self._steps: list[tuple[int, float]] = []
        self._sums: list[Tensor] = []
        self._images = 0
        self._last_read = time.monotonic()

    def start_clock(self) -> None:
        """Leaves out of the speed what is not training."""
        self._last_read, self._images = time.monotonic(), 0

    def add_step(self, step: int, lr: float, sums: Tensor, images: int) -> None:
        """Keeps what `train_step` gave on the device until the next read, since reading waits for the device."""
        self._steps.append((step, lr))
        self._sums.append(sums)
        self._images += images

    def read(self) -> dict[str, float]:
        """The newest step's lr and loss, and the speed since the last read; empty when there was no step.

        Errors: `RunError` when a loss was not finite, with its step and lr, before anything of it is saved.
        """
        if not self._steps:
            return {}
        losses = [loss / images for loss, _, images in self.team.sum(torch.stack(self._sums)).tolist()]
        for (step, lr), loss in zip(self._steps, losses, strict=True):
            require_finite("train/batch_loss", loss, step, lr)
        speed = self._images / max(time.monotonic() - self._last_read, 1e-9)
        row = {"lr": self._steps[-1][1], "train/batch_loss": losses[-1], "throughput/images_per_second": speed}
        self._steps.clear()
        self._sums.clear()
        self.start_clock()
        return row

    def write(self, row: dict[str, float], step: int) -> None:
        """One row: on disk when this returns, then in W&B, with the loss figure when an epoch has ended."""
        if self.run is None:
            return
        with disk_errors(self.folder.metrics):
            append_line(self.folder.metrics, json.dumps({"step": step, "time": time.time(), **row}))
        figures = {}
        if "train/loss" in row:
            from common import plots  # half a second of matplotlib, which no first step should wait for

            rows = [row for row in read_metrics(self.folder) if "train/loss" in row]
            best = max(rows, key=lambda row: row.get("validation/accuracy", row["step"]))  # the last without validation
            with disk_errors(self.folder.loss_figure):
                plots.save(plots.curves(rows, best["epoch"]), self.folder.loss_figure)
            figures["loss"] = self.folder.loss_figure
        self.run.log(row, step, figures)

    def rewind(self, progress: Progress) -> None:
        """Cuts metrics.jsonl back to what is saved, and sends W&B the rows that it lacks."""
        if self.run is None:
            return

        def is_saved(row: dict[str, Any]) -> bool:
            return row["step"] <= (progress.measured if "train/loss" in row else progress.step)

        rows = [row for row in read_metrics(self.folder) if is_saved(row)]
        with disk_errors(self.folder.metrics):
            write_atomic(self.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            self.run.log({key: value for key, value in row.items() if key not in ("step", "time")}, row["step"])

    def end(self, trainer: Trainer, interrupt: Interrupt) -> int:
        """Ends the run: its summary, its weights as an artifact, its W&B run → exit status. Says where everything is."""
        if self.run is None:
            return interrupt.exit_status
        progress, folder = trainer.progress, self.folder
        best = {"best/epoch": progress.best_epoch, "best/validation_accuracy": progress.best_accuracy}
        best = {key: value for key, value in best.items() if value is not None}
        stopped = interrupt.signal is not None
        status = {"status": "interrupted" if stopped else "finished", "seconds": trainer.seconds()}
        self.run.set_summary({**best, "status": status["status"]})
        if self.log_weights and folder.best.exists():
            about = read_metadata(folder.best)
            name = f"{about['model']}-{about['dataset']}"
            self.run.log_artifact(name, "model", [folder.best], ["best", "latest"], about)
        self.run.finish(interrupt.exit_status)
        with disk_errors(
            folder.summary
        ):  # last: a run that was killed before this has not ended, and --resume does it again
            folder.update_summary(**status, **best, epoch=progress.epoch, step=progress.step)
        print("\n".join([*ending(folder, progress, status["seconds"], stopped), *self.run.hint()]), flush=True)
        return interrupt.exit_status


def ending(folder: RunFolder, progress: Progress, seconds: float, stopped: bool) -> list[str]:
    """What is printed at the end: how it went, where everything is, what to do next."""
    minutes = f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    place = "" if folder.path.parent == Path("runs") else f" --runs_dir {shlex.quote(str(folder.path.parent))}"
    lines = [f"{'interrupted' if stopped else 'finished'} after step {progress.step} and {minutes} of training"]
    if progress.best_accuracy is not None:
        lines.append(f"best validation accuracy {progress.best_accuracy:.4f} in epoch {progress.best_epoch:g}")
    lines.append(f"everything is in {folder.path}")
    if stopped:
        return [*lines, f"go on with: python train.py --resume {folder.id}{place}"]
    return [*lines, f"next: python evaluate.py --checkpoint {folder.id}{place}"]


def has_ended(task: Task, team: Team) -> bool:
    """Whether a run to go on with has nothing left to do, and then says so. Errors: `UserError` when it is further than asked for."""
    folder, progress = task.folder, task.trainer.progress
    if progress.step > task.total_steps:
        raise UserError(
            f"--resume {folder.id}: the run is at step {progress.step} already, and with these --epochs and --max_steps would "
            f"end after {task.total_steps}; leave them out, or make them larger"
        )
    ended = progress.measured == task.total_steps and folder.read_summary().get("status") == "finished"
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
    run = tracking.start(
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


def require_finite(metric: str, value: float, step: int, lr: float) -> None:
    """Errors: `RunError` that names the metric, the step and the lr."""
    if not math.isfinite(value):
        raise RunError(
            f"{metric} is {value} at step {step} with lr {lr:g}: training has diverged; the last good checkpoint is kept. "
            "Begin again with a lower --lr, or with --warmup_epochs"
        )


@contextlib.contextmanager
def memory_errors(batch_size: int, device: torch.device) -> Iterator[None]:
    """Out of memory becomes a `RunError` that names the batch size to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not out_of_memory:
            raise
        raise RunError(
            f"out of memory on {device} at --batch_size {batch_size}; try --batch_size {max(2, batch_size // 2)}, "
            "or a smaller --image_size"
        ) from error


def progress_bar(epoch: int, epochs: int, batches: Any, first: int, hidden: bool) -> tqdm:
    """Counts images from batch `first` on: shows images/s and the time left."""
    images, done = (sum(batches.size(step) for step in range(last)) for last in (len(batches), first))
    title = f"epoch {epoch + 1}/{epochs}"
    return tqdm(total=images, initial=done, desc=title, unit=" images", dynamic_ncols=True, disable=hidden)

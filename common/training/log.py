"""The run's rows: metrics.jsonl is the truth, and W&B gets the same."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.base.files import append_line, disk_errors, write_atomic
from common.base.processes import Team
from common.base.signals import Interrupt
from common.model.weights import read_metadata
from common.runs.folder import RunFolder, read_metrics
from common.tracking import run
from common.training.state import Progress, Trainer, require_finite

if TYPE_CHECKING:
    pass


class Recorder:
    """The run's rows: metrics.jsonl is the truth, and W&B gets the same. Of several processes, the main one writes."""

    def __init__(self, folder: RunFolder, run: run.Run | None, team: Team, log_weights: bool) -> None:
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
            from common.base import drawing
            from common.training import curves

            rows = [row for row in read_metrics(self.folder) if "train/loss" in row]
            best = max(rows, key=lambda row: row.get("validation/accuracy", row["step"]))  # the last without validation
            with disk_errors(self.folder.loss_figure):
                drawing.save(curves.curves(rows, best["epoch"]), self.folder.loss_figure)
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
    lines = [f"{'interrupted' if stopped else 'finished'} after step {progress.step} and {minutes} of training"]
    if progress.best_accuracy is not None:
        lines.append(f"best validation accuracy {progress.best_accuracy:.4f} in epoch {progress.best_epoch:g}")
    lines.append(f"everything is in {folder.path}")
    if stopped:
        return [*lines, f"go on with: {folder.command('train.py', '--resume', folder.id)}"]
    return [*lines, f"next: {folder.command('evaluate.py', '--checkpoint', folder.id)}"]


def progress_bar(epoch: int, epochs: int, batches: Any, first: int, hidden: bool) -> tqdm:
    """Counts images from batch `first` on: shows images/s and the time left."""
    images, done = (sum(batches.size(step) for step in range(last)) for last in (len(batches), first))
    title = f"epoch {epoch + 1}/{epochs}"
    return tqdm(total=images, initial=done, desc=title, unit=" images", dynamic_ncols=True, disable=hidden)

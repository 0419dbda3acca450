"""The run's rows: metrics.jsonl is the truth, W&B gets the same, and a person a line an epoch. Of several processes, the main one writes."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.base.files import append_line, disk_errors, write_atomic
from common.base.processes import Processes
from common.base.text import duration
from common.runs.folder import RunFolder, read_metrics
from common.tracking.run import WandbRun
from common.training.state import TrainState, require_finite

SPEEDS = {what: f"throughput/{what}_per_second" for what in ("images", "features")}
SECONDS_BETWEEN_FIGURES = 10.0  # one takes half a second


def epoch_line(title: str, row: Mapping[str, float], is_best: bool, seconds_left: float | None) -> str:
    """What a person reads of an epoch. row: as `Log.write` has it; seconds_left: None where nobody knows."""
    parts = [title, f"train loss {row['train/loss']:.3f} accuracy {row['train/accuracy']:.3f}"]
    if "validation/loss" in row:
        parts.append(f"validation loss {row['validation/loss']:.3f} accuracy {row['validation/accuracy']:.3f}")
    parts += [f"lr {row['lr']:.2g}", *_speed(row)]
    parts += [f"{duration(seconds_left)} left"] if seconds_left else []
    parts += ["best"] if is_best else []
    return "  ".join(parts)


def _speed(row: Mapping[str, float]) -> list[str]:
    """Of images, or of features of them that were kept, which takes no time that is comparable."""
    return [f"{row[key]:,.0f} {what}/s" for what, key in SPEEDS.items() if key in row]


def saved_rows(folder: RunFolder, state: TrainState) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that are no further than the state."""

    def is_saved(row: dict[str, Any]) -> bool:
        return row["step"] <= (state.measured if "train/loss" in row else state.step)

    return [row for row in read_metrics(folder) if is_saved(row)]


class Log:
    """What is measured from step to step, and the rows that are written of it."""

    def __init__(self, folder: RunFolder, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.tracked: WandbRun | None = None  # none: nothing is written
        self._steps: list[tuple[int, float]] = []
        self._sums: list[Tensor] = []
        self._drawn = -math.inf
        self.start_row()

    def start_row(self) -> None:
        """What is trained from here on counts for the speed of the next row."""
        self._images, self._since = 0, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the block is no training, and its time does not count for the speed."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def add_step(self, step: int, lr: float, sums: Tensor, images: int) -> None:
        """Keeps what `train_step` gave on the device until the next `read`, since that waits for the device."""
        self._steps.append((step, lr))
        self._sums.append(sums)
        self._images += images

    def read(self, of: str = "images") -> dict[str, float]:
        """The newest step's lr and loss, and the speed since the row began; empty when no step came since the last time. of: what is
        trained on, a key of `SPEEDS`.

        Errors: `RunError` when a loss was not finite, with its step and lr, before anything of it is saved.
        """
        if not self._steps:
            return {}
        losses = [loss / images for loss, _, images in self.processes.sum(torch.stack(self._sums)).tolist()]
        for (step, lr), loss in zip(self._steps, losses, strict=True):
            require_finite("train/batch_loss", loss, step, lr)
        speed = self._images / max(time.monotonic() - self._since, 1e-9)
        row = {"lr": self._steps[-1][1], "train/batch_loss": losses[-1], SPEEDS[of]: speed}
        self._steps.clear()
        self._sums.clear()
        return row

    def write(self, row: dict[str, float], step: int, best_epoch: float | None = None, last: bool = False) -> None:
        """One row: on disk when this returns, then in W&B, with the loss figure when an epoch has ended. The next row begins.

        An epoch on cached features takes less time than the figure, which is then drawn now and then, and with the last row.
        """
        if self.tracked is not None:
            with disk_errors(self.folder.metrics):
                append_line(self.folder.metrics, json.dumps({"step": step, "time": time.time(), **row}))
            due = last or time.monotonic() - self._drawn > SECONDS_BETWEEN_FIGURES
            figures = {"loss": self._draw_curves(best_epoch)} if "train/loss" in row and due else {}
            self.tracked.log(row, step, figures)
        self.start_row()

    def _draw_curves(self, best_epoch: float | None) -> Path:
        from common.base import drawing  # half a second of matplotlib, which no first step should wait for
        from common.training.curves import curves

        with disk_errors(self.folder.loss_figure):
            drawing.save(curves(read_metrics(self.folder), best_epoch), self.folder.loss_figure)
        self._drawn = time.monotonic()
        return self.folder.loss_figure

    def rewind(self, state: TrainState) -> None:
        """Cuts metrics.jsonl back to what is saved, and sends W&B the rows that it lacks."""
        if self.tracked is None:
            return

        rows = saved_rows(self.folder, state)
        with disk_errors(self.folder.metrics):
            write_atomic(self.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            self.tracked.log({key: value for key, value in row.items() if key not in ("step", "time")}, row["step"])

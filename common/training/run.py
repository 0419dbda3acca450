"""A run that is open: what is fixed while it trains, its state, and the log of it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.base.processes import Processes
from common.base.signals import Interrupt, Interrupted, watched
from common.base.terminal import progress_bar
from common.config import TrainConfig
from common.data.batches import Batches
from common.data.fixes import NONE, LabelFixes
from common.data.photos import Photos
from common.model.weights import save_weights
from common.runs.folder import RunFolder
from common.runs.records import Split
from common.training.features import FeatureBatches, cached_features
from common.training.log import Log, epoch_line
from common.training.optim import balanced_weights, build_loss, lr_factor, set_lr
from common.training.state import TrainState, require_finite


@dataclass
class Run:
    config: TrainConfig
    folder: RunFolder
    device: torch.device
    processes: Processes
    interrupt: Interrupt
    amp: torch.dtype | None
    batches: Batches
    """of the training images"""
    validation: Batches
    state: TrainState
    log: Log
    facts: dict[str, Any]
    """what the config does not say: device, parameters, sizes"""
    split: Split
    """what split.json holds"""
    about: dict[str, Any]
    """what best.safetensors says of itself, aside from its metrics"""
    photos: Photos | None = None
    """what the images were read from, when that is one's own photos"""
    notes: tuple[str, ...] = ()
    """what a person should know of the data, a line each"""
    fixes: LabelFixes = NONE
    """of labels of train"""
    stopped_with: int = 0
    """exit status of the process that was to stop, whichever of them it was; 0: none"""
    began: tuple[float, int] = (0.0, 0)
    """when this epoch's training began or went on, and at which step"""

    @property
    def total_steps(self) -> int:
        """Optimizer steps after which the run ends."""
        steps = self.epochs * len(self.batches)
        return min(steps, self.config.duration.max_steps or steps)

    @property
    def epochs(self) -> int:
        """Those of the head alone, and those that follow."""
        return self.config.model.head_epochs + self.config.duration.epochs

    @property
    def phase(self) -> range:
        """The steps of the head alone, or those that follow: each has a schedule of its own."""
        head_steps = min(self.config.model.head_epochs * len(self.batches), self.total_steps)
        return range(head_steps) if self.state.step < head_steps else range(head_steps, self.total_steps)

    @property
    def title(self) -> str:
        """Of the epoch that is trained."""
        number = f"{self.state.epoch + 1:>{len(str(self.epochs))}}"
        return f"epoch {number}/{self.epochs}" + " (head)" * (self.state.epoch < self.config.model.head_epochs)

    @property
    def seconds_left(self) -> float | None:
        """Until the run's end, if it goes on as in this epoch; None in the head's own epochs, which say nothing of those that follow."""
        began, step = self.began
        if self.phase.stop < self.total_steps or self.state.step == step:
            return None
        return (time.monotonic() - began) / (self.state.step - step) * (self.total_steps - self.state.step)

    @property
    def ended(self) -> bool:
        """Whether the last step was made and measured, or patience is over: a run ends with an epoch's row."""
        return self.state.measured >= self.total_steps or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Whether --patience ends the run after this epoch."""
        patience = self.config.duration.patience
        return patience is not None and self.state.epochs_without_better >= patience

    @property
    def stopped_early(self) -> bool:
        """Whether --patience has ended the run before its last step."""
        return self.out_of_patience and self.state.measured < self.total_steps

    @property
    def exit_status(self) -> int:
        """0, or why it ended early, as `Interrupt.exit_status`."""
        return self.stopped_with or self.interrupt.exit_status

    def stopped(self) -> bool:
        """Whether a signal came, or time is up, in any of the processes."""
        self.interrupt.stopped()
        self.stopped_with = self.processes.largest(self.interrupt.exit_status)
        return self.stopped_with > 0

    @contextlib.contextmanager
    def saved_when_interrupted(self) -> Iterator[None]:
        """A signal, or the limit in time, leaves the block early: in mid-epoch, or in a validation, which is then done anew."""
        try:
            yield
        except Interrupted:
            self.save()

    @cached_property
    def network(self) -> nn.Module:
        """What a step trains: gradients and statistics are those of all processes."""
        network = self.processes.wrap(self.state.network, self.device)
        return torch.compile(network) if self.config.compute.compile else network  # type: ignore[return-value]

    @cached_property
    def loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        recipe = self.config.recipe
        weights = balanced_weights(self.class_counts).to(self.device) if recipe.balance == "loss" else None
        return build_loss(recipe.loss, recipe.label_smoothing, recipe.focal_gamma, weights)

    @cached_property
    def validation_loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same without label smoothing and class weights, so that runs with and without them can be compared."""
        return build_loss(self.config.recipe.loss, focal_gamma=self.config.recipe.focal_gamma)

    @cached_property
    def class_counts(self) -> Tensor:
        """int64 (classes,) on the CPU: images of each class that are trained on."""
        return self._counts(self.batches)

    @property
    def validation_counts(self) -> Tensor:
        """int64 (classes,) on the CPU: images of each class that are validated on."""
        return self._counts(self.validation)

    def _counts(self, batches: Batches) -> Tensor:
        labels = batches.labels[batches.indices.to(batches.labels.device)]
        return torch.bincount(labels, minlength=len(self.about["classes"])).cpu()

    @property
    def step_of_epoch(self) -> int:
        return self.state.step - self.state.epoch * len(self.batches)

    @cached_property
    def features(self) -> tuple[FeatureBatches, FeatureBatches]:
        """Training and validation batches as the frozen backbone's features of them, computed once. Raises: `Interrupted`."""
        views, in_file = self.config.model.feature_views, self.config.place.feature_cache == "file"
        digest = self.split.digest if in_file else None

        def features(batches: Batches, views: int, name: str) -> FeatureBatches:
            model, processes = self.state.model, self.processes
            return cached_features(model, batches, views, self.amp, processes, self.stopped, name, digest)

        return features(self.batches, views, "training"), features(self.validation, 1, "validation")

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of this process. Raises: `Interrupted`."""
        batches = self.features[1] if self.state.on_features else self.validation
        return watched(batches.epoch(0), self.stopped)

    def rest_of_epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches that are still to come, with a bar: images and labels of this process. Raises: `Interrupted`."""
        state = self.state
        batches = self.features[0] if state.on_features else self.batches
        left = islice(batches.epoch(state.epoch, self.step_of_epoch), self.total_steps - state.step)
        sizes = [self.batches.size(step) for step in range(len(self.batches))]
        done = sum(sizes[: self.step_of_epoch])
        hidden = not self.processes.main
        self.log.start_row()
        self.began = (time.monotonic(), state.step)
        with progress_bar(
            total=sum(sizes), initial=done, desc=self.title, unit=" images", leave=False, disable=hidden
        ) as self.bar:
            for batch in watched(left, self.stopped):
                yield batch
                self.bar.update(len(batch[0]) * self.processes.world)

    def set_lr(self) -> float:
        """Sets the step's learning rate, by the schedule → the head's."""
        recipe, phase = self.config.recipe, self.phase
        warmup_steps = round(recipe.warmup_epochs * len(self.batches))
        factor = lr_factor(self.state.step - phase.start, len(phase), warmup_steps, recipe.schedule)
        return set_lr(self.state.optimizer, factor)

    def share(self, images: Tensor) -> float:
        """What the loss's gradient counts here: this process's share of the batch, times the number of processes."""
        return len(images) * self.processes.world / self.batches.size(self.step_of_epoch)

    @property
    def parts(self) -> list[int]:
        """How many of the step's images each part of its gradient is computed of, those of this process. A part has the same images
        however many the processes are, and two of each, which BatchNorm needs."""
        size, rank, world = self.batches.size(self.step_of_epoch), self.processes.rank, self.processes.world
        parts = max(1, min(self.config.compute.accumulate, size // (2 * world)))
        return [
            len(range((rank - part[0]) % world, len(part), world)) for part in np.array_split(np.arange(size), parts)
        ]

    def after_step(self, sums: Tensor, lr: float, images: int) -> None:
        """Counts the step; logs and saves where the config says so. images: those of this process."""
        state, tracking = self.state, self.config.tracking
        state.add(sums)
        self.log.add_step(state.step, lr, sums, images * self.processes.world)
        at_the_end = state.step % len(self.batches) == 0 or state.step == self.total_steps
        if state.step % tracking.log_every == 0 and not at_the_end:  # at the end, the epoch's row has it
            self.read_log()
            self.write_row({"epoch": state.step / len(self.batches), **state.latest})
            loss, accuracy = state.means()
            self.bar.set_postfix_str(f"loss={loss:.3f}, accuracy={accuracy:.3f}", refresh=False)
        if tracking.checkpoint_every and state.step % tracking.checkpoint_every == 0:
            self.save()

    def read_log(self) -> None:
        """What was measured since the last time, if anything was; the speed of an earlier phase goes with the rest."""
        self.state.latest = self.log.read("features" if self.state.on_features else "images") or self.state.latest

    def epoch_row(self) -> dict[str, float]:
        """What the epoch has come to on the training images; of all processes."""
        state = self.state
        self.read_log()
        loss, accuracy = state.means(self.processes)
        epoch = state.step / len(self.batches)
        return {"epoch": epoch, **state.latest, "train/loss": loss, "train/accuracy": accuracy}

    def keep_if_best(self, row: dict[str, float]) -> None:
        """best.safetensors holds the weights of the epoch that is best by --best_by; without a validation, the newest.

        Errors: `RunError` when the validation loss is not finite."""
        state = self.state
        require_finite("validation/loss", row.get("validation/loss", 0.0), state.step, row["lr"])
        if state.is_best(row):
            self.keep(row)
            state.epochs_without_better = 0
        elif state.step % len(self.batches) == 0 and state.epoch >= self.config.model.head_epochs:
            state.epochs_without_better += (
                1  # not an epoch that max_steps cut short, which comes again when the run goes on
            )

    def keep(self, row: dict[str, float]) -> None:
        """The weights, which `row` is about, are the best from here on."""
        state = self.state
        state.best_epoch, state.best_accuracy = row["epoch"], row.get("validation/accuracy")
        state.best_score, state.best_loss = state.score_of(row), row.get("validation/loss")
        if self.processes.main:
            metrics = {key: value for key, value in row.items() if key.startswith(("train/", "validation/"))}
            about = {**self.about, "epoch": row["epoch"], "step": state.step, "metrics": metrics}
            save_weights(self.folder.best, state.weights(), about)

    def write_row(self, row: dict[str, float], last: bool = False) -> None:
        state = self.state
        self.log.write(row, state.step, state.best_epoch if "train/loss" in row else None, last)
        state.rows = (state.rows or 0) + 1

    def end_epoch(self, row: dict[str, float]) -> None:
        """Writes the row; a whole epoch is then done, if it was not cut short by max_steps."""
        state = self.state
        self.write_row(row, last=state.step == self.total_steps or self.out_of_patience)
        if self.log.tracked is not None and state.best_epoch == row["epoch"]:
            self.log.tracked.set_summary(state.best)  # at once: a run that is killed shows its best, too
        if self.processes.main:
            print(epoch_line(self.title, row, state.best_epoch == row["epoch"], self.seconds_left), flush=True)
        state.measured = state.step
        if state.step % len(self.batches) == 0:
            state.epoch += 1
            state.sums.zero_()
            if state.epoch == self.config.model.head_epochs:
                self.train_everything()

    def train_everything(self) -> None:
        """The head's own epochs are over."""
        self.state.begin_phase()
        del self.network, self.features  # cached while the head was trained

    def save(self) -> None:
        """Writes last.pt. Errors: `RunError` when the loss or the weights are not finite: such a state is not saved."""
        self.read_log()
        with self.log.paused():
            sums = self.processes.sum(self.state.sums)
            if self.processes.main:
                self.state.save(self.folder.last, sums)

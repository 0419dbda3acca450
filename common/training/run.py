"""A run that is open: what is fixed while it trains, its state, and the log of it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.base.processes import Processes
from common.base.signals import Interrupt, Interrupted, watched
from common.config import TrainConfig
from common.data.batches import Batches
from common.model.weights import save_weights
from common.runs.folder import RunFolder
from common.runs.records import Split
from common.training.features import FeatureBatches, cached_features
from common.training.log import Log
from common.training.optim import build_loss, lr_factor, set_lr
from common.training.state import TrainState, require_finite


@dataclass
class Run:
    config: TrainConfig
    folder: RunFolder
    device: torch.device
    processes: Processes
    interrupt: Interrupt
    amp: torch.dtype | None
    batches: Batches | FeatureBatches
    """of the training images"""
    validation: Batches | FeatureBatches
    state: TrainState
    log: Log
    facts: dict[str, Any]
    """what the config does not say: device, parameters, sizes"""
    split: Split
    """what split.json holds"""
    about: dict[str, Any]
    """what best.safetensors says of itself, aside from its metrics"""

    @property
    def total_steps(self) -> int:
        """Optimizer steps after which the run ends."""
        duration, steps = self.config.duration, self.config.duration.epochs * len(self.batches)
        return min(steps, duration.max_steps or steps)

    @property
    def ended(self) -> bool:
        """Whether the last step was made and measured: a run ends with its last epoch row."""
        return self.state.measured >= self.total_steps

    @property
    def exit_status(self) -> int:
        return self.interrupt.exit_status

    def stopped(self) -> bool:
        """Whether a signal came, in any of the processes."""
        return self.processes.any(self.interrupt.signal is not None)

    @contextlib.contextmanager
    def saved_when_interrupted(self) -> Iterator[None]:
        """A signal leaves the block early: in mid-epoch, or in a validation, which is then done anew."""
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
        return build_loss(recipe.loss, recipe.label_smoothing, recipe.focal_gamma)

    @cached_property
    def validation_loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same without label smoothing."""
        return build_loss(self.config.recipe.loss, focal_gamma=self.config.recipe.focal_gamma)

    @property
    def step_of_epoch(self) -> int:
        return self.state.step - self.state.epoch * len(self.batches)

    @property
    def trains_on_features(self) -> bool:
        """Whether the head alone is trained, on features of the frozen backbone that are computed once."""
        return self.state.network is not self.state.model

    def compute_features(self) -> None:
        """From here on the batches are the frozen backbone's features of them. Raises: `Interrupted`."""
        views, in_file = self.config.model.feature_views, self.config.place.feature_cache == "file"
        digest = self.split.digest if in_file else None

        def features(batches: Batches | FeatureBatches, views: int, name: str) -> FeatureBatches:
            assert isinstance(batches, Batches)
            model, processes = self.state.model, self.processes
            return cached_features(model, batches, views, self.amp, processes, self.stopped, name, digest)

        self.batches, self.validation = (
            features(self.batches, views, "training"),
            features(self.validation, 1, "validation"),
        )

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of this process. Raises: `Interrupted`."""
        return watched(self.validation.epoch(0), self.stopped)

    def rest_of_epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches that are still to come, with a bar: images and labels of this process. Raises: `Interrupted`."""
        epoch = self.state.epoch
        left = islice(self.batches.epoch(epoch, self.step_of_epoch), self.total_steps - self.state.step)
        sizes = [self.batches.size(step) for step in range(len(self.batches))]
        done, title = sum(sizes[: self.step_of_epoch]), f"epoch {epoch + 1}/{self.config.duration.epochs}"
        hidden = not self.processes.main
        self.log.start_row()
        with tqdm(
            total=sum(sizes), initial=done, desc=title, unit=" images", dynamic_ncols=True, disable=hidden
        ) as self.bar:
            for batch in watched(left, self.stopped):
                yield batch
                self.bar.update(len(batch[0]) * self.processes.world)

    def set_lr(self) -> float:
        """Sets the step's learning rate, by the schedule → the head's."""
        recipe = self.config.recipe
        warmup_steps = round(recipe.warmup_epochs * len(self.batches))
        factor = lr_factor(self.state.step, self.total_steps, warmup_steps, recipe.schedule)
        return set_lr(self.state.optimizer, factor)

    def share(self, images: Tensor) -> float:
        """What the loss's gradient counts here: this process's share of the batch, times the number of processes."""
        return len(images) * self.processes.world / self.batches.size(self.step_of_epoch)

    def after_step(self, sums: Tensor, lr: float, images: int) -> None:
        """Counts the step; logs and saves where the config says so. images: those of this process."""
        state, tracking = self.state, self.config.tracking
        state.add(sums)
        self.log.add_step(state.step, lr, sums, images * self.processes.world)
        at_the_end = state.step % len(self.batches) == 0 or state.step == self.total_steps
        if state.step % tracking.log_every == 0 and not at_the_end:  # at the end, the epoch's row has it
            state.latest.update(self.log.read())
            self.log.write({"epoch": state.step / len(self.batches), **state.latest}, state.step)
            loss, accuracy = state.means()
            self.bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.4f}")
        if tracking.checkpoint_every and state.step % tracking.checkpoint_every == 0:
            self.save()

    def epoch_row(self) -> dict[str, float]:
        """What the epoch has come to on the training images; of all processes."""
        state = self.state
        state.latest.update(self.log.read())
        loss, accuracy = state.means(self.processes)
        epoch = state.step / len(self.batches)
        return {"epoch": epoch, **state.latest, "train/loss": loss, "train/accuracy": accuracy}

    def keep_if_best(self, row: dict[str, float]) -> None:
        """best.safetensors holds the weights of the best validation accuracy; without a validation, the newest.

        Errors: `RunError` when the validation loss is not finite."""
        state, accuracy = self.state, row.get("validation/accuracy")
        require_finite("validation/loss", row.get("validation/loss", 0.0), state.step, row["lr"])
        if accuracy is None or state.best_accuracy is None or accuracy > state.best_accuracy:
            state.best_epoch, state.best_accuracy = row["epoch"], accuracy
            if self.processes.main:
                metrics = {key: value for key, value in row.items() if key.startswith(("train/", "validation/"))}
                about = {**self.about, "epoch": row["epoch"], "step": state.step, "metrics": metrics}
                save_weights(self.folder.best, state.weights(), about)

    def end_epoch(self, row: dict[str, float]) -> None:
        """Writes the row; a whole epoch is then done, if it was not cut short by max_steps."""
        state = self.state
        self.log.write(row, state.step, state.best_epoch)
        state.measured = state.step
        if state.step % len(self.batches) == 0:
            state.epoch += 1
            state.sums.zero_()

    def save(self) -> None:
        """Writes last.pt. Errors: `RunError` when the loss or the weights are not finite: such a state is not saved."""
        self.state.latest.update(self.log.read())
        with self.log.paused():
            sums = self.processes.sum(self.state.sums)
            if self.processes.main:
                self.state.save(self.folder.last, sums)

"""All that changes while a run trains: `last.pt` holds it, so that a resumed run is the run it would have been."""

import math
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import ResNet

from common.base.errors import RunError, UserError, first_line
from common.base.files import atomic_path, disk_errors, is_no_file
from common.base.processes import Processes
from common.config import Recipe
from common.model.weights import FORMAT, as_os_error, load_into
from common.runs.records import best_in_summary
from common.training.optim import Average, build_scaler, build_sgd, parameter_groups

# The plain numbers among a state's fields, as `last.pt` has them under "progress".
PROGRESS = (
    *("epoch", "step", "measured", "best_epoch", "best_accuracy", "best_score", "best_loss"),
    *("epochs_without_better", "latest"),
)


@dataclass
class TrainState:
    """`network` is what is trained: the head alone, on cached features, in the first `head_epochs`; then the model."""

    model: ResNet
    recipe: Recipe
    head_epochs: float
    """infinity: the head alone is all that is ever trained"""
    amp: torch.dtype | None
    sums: Tensor
    """float (3,) on the device: this epoch's summed loss, images that were right, images"""
    epoch: int = 0
    """whole epochs done"""
    step: int = 0
    """optimizer steps done"""
    measured: int = 0
    """the step of the last epoch row, which follows the step by a validation"""
    rows: int | None = 0
    """of metrics.jsonl; None: of a version that did not count them"""
    best_epoch: float | None = None
    best_accuracy: float | None = None
    """validation accuracy of the best epoch"""
    best_score: float | None = None
    """what `recipe.best_by` names, of the best epoch"""
    best_loss: float | None = None
    """its validation loss, which decides between equal scores; None: of a version that did not keep it"""
    epochs_without_better: int = 0
    """whole epochs validated since the best one, not counting those of head_epochs"""
    latest: dict[str, float] = field(default_factory=dict)
    """the newest step's lr and loss, and the speed"""
    earlier_seconds: float = 0.0
    """time spent by the processes that went on with the run before this one"""
    started: float = field(default_factory=time.monotonic)
    network: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    average: AveragedModel | None = field(init=False)

    def __post_init__(self) -> None:
        self.begin_phase()

    def begin_phase(self) -> None:
        """What is trained from this epoch on: by a new optimizer, and with a new average."""
        recipe, device = self.recipe, self.sums.device
        self.network = self.model.fc if self.on_features else self.model
        groups = parameter_groups(
            self.network, recipe.lr, recipe.weight_decay, recipe.backbone_lr_scale, recipe.layer_decay
        )
        self.optimizer = build_sgd(groups, recipe.lr, recipe.momentum, recipe.nesterov, device)
        self.scaler = build_scaler(self.optimizer, self.amp, device)
        self.average = Average(self.network, recipe.ema_decay) if recipe.ema_decay else None

    @property
    def on_features(self) -> bool:
        """Whether the head alone is trained in this epoch, on features of the frozen backbone."""
        return self.epoch < self.head_epochs

    @property
    def seconds(self) -> float:
        """Time spent, by all the processes that went on with the run, one after the other."""
        return self.earlier_seconds + time.monotonic() - self.started

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated: the averaged one where there is an average."""
        return self.average.module if self.average is not None else self.network

    def score_of(self, row: Mapping[str, Any]) -> float | None:
        """The number of an epoch's row by which the best is chosen; None without a validation."""
        return row.get(f"validation/{self.recipe.best_by}")

    @property
    def best(self) -> dict[str, Any]:
        """Of the best epoch, by the summary's keys."""
        chosen_by = None if self.best_score is None else self.recipe.best_by
        return best_in_summary(self.best_epoch, self.best_accuracy, chosen_by, self.best_score)

    def is_best(self, row: Mapping[str, Any]) -> bool:
        """Whether an epoch with this row is better than the best so far; of equal ones the lower loss is, since few images have few
        accuracies, and a head may reach the highest in its first steps. Without a validation the newest is."""
        score = self.score_of(row)
        if score is None or self.best_score is None:
            return True
        if score == self.best_score:
            return self.best_loss is not None and row["validation/loss"] < self.best_loss
        return score < self.best_score if self.recipe.best_by == "loss" else score > self.best_score

    def weights(self) -> dict[str, Tensor]:
        """The whole model's state with the weights that were validated."""
        state = self.model.state_dict()
        prefix = "" if self.network is self.model else "fc."
        return {**state, **{prefix + name: tensor for name, tensor in self.evaluated.state_dict().items()}}

    def add(self, sums: Tensor) -> None:
        """After every step: its sums to the epoch's, and the new weights to their average."""
        self.sums += sums
        self.step += 1
        if self.average is not None:
            self.average.update_parameters(self.network)

    def means(self, processes: Processes | None = None) -> tuple[float, float]:
        """Loss and accuracy over the epoch's images so far, those of all processes or of this one. Waits for the device."""
        loss, right, images = (self.sums if processes is None else processes.sum(self.sums)).tolist()
        return loss / images, right / images

    def save(self, path: Path, sums: Tensor) -> None:
        """Writes `last.pt`; `sums` are those of all processes. Errors: `RunError` when it can't be written, or the weights are not
        finite, which can be a step before the loss is not; the earlier one is kept."""
        weights = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        norm, lr = nn.utils.get_total_norm(weights).item(), self.optimizer.param_groups[0]["lr"]
        require_finite("the norm of the weights", norm, self.step, lr)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "progress": {
                **{name: getattr(self, name) for name in PROGRESS},
                "rows": self.rows,
                "seconds": self.seconds,
            },
            "sums": sums,
        }
        save_training_state(path, state)

    def load(self, path: Path, processes: Processes) -> None:
        """Goes on from `path`. Errors: `UserError` when the file is damaged or of another run."""
        state = load_training_state(path)
        try:
            # Earlier versions chose by the accuracy alone, and did not count.
            progress = {
                "best_score": state["progress"]["best_accuracy"],
                "best_loss": None,
                "epochs_without_better": 0,
                **state["progress"],
            }
            for name in PROGRESS:
                value = progress[name]
                numbers = value.values() if name == "latest" else [value]
                if not all(type(number) in (int, float, type(None)) for number in numbers):
                    raise TypeError(f"{name} is no number")
                setattr(self, name, value)
            self.begin_phase()  # the optimizer and the average that were saved are those of this epoch's phase
            load_into(self.model, state["model"], path)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                load_into(self.average, state["average"], path)
            self.rows = state["progress"].get("rows")
            self.earlier_seconds = state["progress"]["seconds"]
            # One process has the sums of all, however many they were.
            self.sums.copy_(state["sums"] if processes.main else torch.zeros(3))
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise UserError(f"{path} does not fit this run ({error}); its best weights may be whole") from None


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Everything needed to go on, of plain types and tensors only. Errors: `RunError` when the disk is full."""
    with disk_errors(path), atomic_path(path) as temporary, as_os_error():
        torch.save({"format": FORMAT, **state}, temporary)


def load_training_state(path: Path) -> dict[str, Any]:
    """What `save_training_state` saved, on the CPU; every record's checksum is verified, since a flipped bit in a weight
    would otherwise pass. Errors: `UserError` naming the file."""
    try:
        if is_no_file(path):
            raise ValueError("it is no file")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: this run has no saved state to go on from; begin a new run") from None
    except Exception as error:  # zipfile and torch raise many kinds for a damaged file
        raise UserError(
            f"{path} can't be read: truncated, damaged, or not a training state ({first_line(error)}); "
            "the weights in best.safetensors may be whole"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a training state of train.py")
    return state


class Diverged(RunError):
    """Of a loss, or of weights, that are no numbers any more."""


def require_finite(metric: str, value: float, step: int, lr: float) -> None:
    """Errors: `Diverged` that names the metric, the step and the lr."""
    if not math.isfinite(value):
        raise Diverged(
            f"{metric} is {value} at step {step} with lr {lr:g}: training has diverged; the last good checkpoint is kept. "
            "Begin again with a lower --lr, or with --warmup_epochs"
        )

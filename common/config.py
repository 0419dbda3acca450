"""The configuration, written once: these fields are the flags, the W&B config and the sweep's keys.

A default stands here and nowhere else. Derived facts (device name, parameter counts, set sizes) belong to the run's
summary, so that a run's config, given back as flags, repeats the run. Imports no torch: `--help` answers at once.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from common.base.errors import UserError

DATASETS = Literal["cifar100", "cifar10", "digits", "folder"]
MODELS = Literal["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnet50"]
PRESET_NAMES = Literal["lab", "best", "laptop", "digits"]


def _check(config: Any, field: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"--{field} is {getattr(config, field)}, but must be {allowed}")


@dataclass(frozen=True)
class TrainConfig:
    # Where to begin
    preset: PRESET_NAMES = "lab"
    """Defaults that the other flags override: `lab` = CIFAR-100 as the lab is written; `best` = the strongest recipe in
    10 epochs; `laptop` = frozen backbone with cached features at 128 px; `digits` = scikit-learn's handwritten digits,
    minutes on a CPU, no download."""

    # Data
    dataset: DATASETS = "cifar100"
    """`folder` reads your own photos from data_dir/train/<class>/ and data_dir/test/<class>/."""
    data_dir: str | None = None
    """Where the data lies or is downloaded to. None: ./data (digits come with scikit-learn)."""
    validation_fraction: float = 0.1
    """Share of train kept for validation, the same share of every class. 0, as in the lab: none, the last epoch is the best."""
    image_size: int = 224
    """Side in pixels that images are resized to."""
    batch_size: int = 32
    """Largest number of images a step; an epoch is cut into equal batches. With several processes: of all together."""
    augment: Literal["none", "basic", "randaugment"] = "none"
    """`basic` = padded random crop and, where the data allows it, horizontal flip; `randaugment` adds torchvision's."""
    mixup_alpha: float = 0.0
    """Beta parameter of mixup. 0: off."""
    cutmix_alpha: float = 0.0
    """Beta parameter of cutmix; with mixup as well, each batch takes one of the two. 0: off."""

    # Model
    model: MODELS = "resnext50_32x4d"
    """Architecture from torchvision; ResNeXt-50 (32x4d) has cardinality 32 and width 4 a group."""
    weights: str = "IMAGENET1K_V2"
    """IMAGENET1K_V2, IMAGENET1K_V1, none (random), or a path to a .pth or .safetensors file."""
    finetune: Literal["full", "partial", "head"] = "full"
    """What is trained: everything, the last two stages and the head, or the head alone (feature extraction)."""
    feature_views: int = 1
    """With finetune=head the frozen backbone's features are computed once for this many augmented views of each image
    and kept. 0: compute them anew in every epoch."""
    feature_cache: Literal["memory", "file"] = "memory"
    """Where they are kept. `file`: in the cache folder (FINETUNE_CACHE) as well, so that the next run with the same backbone,
    images and views, such as another trial of a sweep, begins at once."""

    # Training
    epochs: int = 5
    """Passes over the training images."""
    max_steps: int | None = None
    """End after this many optimizer steps in all."""
    lr: float = 0.001
    """Learning rate of SGD."""
    backbone_lr_scale: float = 1.0
    """The pretrained layers' learning rate as a share of the head's."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: float = 0.0
    """L2 penalty on weights; never on BatchNorm and biases."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` weighs images that are already right less."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes; for cross_entropy."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run, after the warm-up."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    ema_decay: float = 0.0
    """Decay a step of an exponential moving average of the weights, which is then what is validated and kept. 0: off."""
    progressive_from: int | None = None
    """Side in pixels to begin with; grows linearly to image_size over the first half of the epochs."""
    seed: int = 0
    """Of the split, the order, the augmentation and the new head."""

    # Device
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Mixed precision. auto: bf16 where the device computes in it, else fp16 on a GPU, else none."""
    compile: bool = False
    """torch.compile the model."""

    # The run
    runs_dir: str = "runs"
    """Folder of the run folders."""
    run_id: str | None = None
    """Name of the run folder and the W&B run. None: WANDB_RUN_ID, or date, time and four letters."""
    resume: str | None = None
    """Run id or folder to go on with, exactly where it stopped."""
    checkpoint_every: int = 0
    """Save the training state every so many steps as well as after every epoch. 0: epochs only."""
    log_every: int = 50
    """Log the batch loss every so many steps."""

    # W&B
    project: str | None = None
    """W&B project. None: WANDB_PROJECT, or resnext-finetuning."""
    entity: str | None = None
    """W&B user or team. None: WANDB_ENTITY, or your own."""
    group: str | None = None
    """W&B group. None: WANDB_RUN_GROUP."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    log_weights: bool = True
    """Log the best weights as a W&B artifact when the run ends."""

    def __post_init__(self) -> None:
        _check(self, "validation_fraction", 0 <= self.validation_fraction < 1, "at least 0 and below 1")
        _check(self, "image_size", 16 <= self.image_size <= 1024, "from 16 to 1024")
        _check(self, "batch_size", self.batch_size >= 2, "2 or more")
        _check(self, "epochs", self.epochs >= 1, "1 or more")
        _check(self, "max_steps", self.max_steps is None or self.max_steps >= 1, "1 or more, or None")
        _check(self, "lr", math.isfinite(self.lr) and self.lr > 0, "above 0")
        _check(self, "backbone_lr_scale", 0 < self.backbone_lr_scale <= 1, "above 0 and at most 1")
        _check(self, "momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        _check(self, "nesterov", not self.nesterov or self.momentum > 0, "True only with momentum above 0")
        _check(self, "weight_decay", math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or more")
        _check(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        _check(
            self,
            "label_smoothing",
            not self.label_smoothing or self.loss == "cross_entropy",
            "0 unless loss is cross_entropy",
        )
        _check(self, "focal_gamma", math.isfinite(self.focal_gamma) and self.focal_gamma >= 0, "0 or more")
        _check(self, "warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"from 0 to epochs ({self.epochs})")
        _check(self, "mixup_alpha", math.isfinite(self.mixup_alpha) and self.mixup_alpha >= 0, "0 or more")
        _check(self, "cutmix_alpha", math.isfinite(self.cutmix_alpha) and self.cutmix_alpha >= 0, "0 or more")
        _check(self, "ema_decay", 0 <= self.ema_decay < 1, "at least 0 and below 1")
        _check(self, "feature_views", 0 <= self.feature_views <= 100, "from 0 to 100")
        _check(
            self,
            "progressive_from",
            self.progressive_from is None or 16 <= self.progressive_from <= self.image_size,
            f"from 16 to image_size ({self.image_size}), or None",
        )
        _check(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")
        _check(self, "checkpoint_every", self.checkpoint_every >= 0, "0 or more")
        _check(self, "log_every", self.log_every >= 1, "1 or more")
        _check(
            self, "data_dir", self.dataset != "folder" or self.data_dir is not None, "a folder when dataset is folder"
        )


PRESETS: dict[str, TrainConfig] = {
    "lab": TrainConfig(),
    "best": TrainConfig(
        preset="best",
        epochs=10,
        batch_size=64,
        lr=0.02,
        backbone_lr_scale=0.25,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
        schedule="cosine",
        warmup_epochs=1,
        augment="basic",
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        ema_decay=0.998,
        progressive_from=128,
    ),
    "laptop": TrainConfig(
        preset="laptop",
        image_size=128,
        batch_size=64,
        finetune="head",
        lr=0.1,
        schedule="cosine",
        epochs=20,
        augment="basic",
        feature_views=2,
    ),
    "digits": TrainConfig(
        preset="digits",
        dataset="digits",
        weights="none",
        image_size=24,
        batch_size=32,
        epochs=6,
        lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        schedule="cosine",
        warmup_epochs=1,
        augment="basic",
        log_every=10,
    ),
}
MAY_CHANGE_ON_RESUME = frozenset(
    ["epochs", "max_steps", "device", "resume", "run_id", "runs_dir", "data_dir", "checkpoint_every", "log_every",
     "project", "entity", "group", "tags", "log_weights", "feature_cache"]
)  # fmt: skip


@dataclass(frozen=True)
class EvaluateConfig:
    checkpoint: str | None = None
    """A file, a run id or folder, or an artifact such as resnext50_32x4d-cifar100:best. None: the newest run's best."""
    split: Literal["test", "validation"] = "test"
    """What to evaluate on."""
    compare: str | None = None
    """Another run whose evaluation is set beside this one."""
    dataset: DATASETS | None = None
    """None: what the checkpoint was trained on."""
    data_dir: str | None = None
    """None: where the checkpoint's data was."""
    batch_size: int = 64
    """Images at a time."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "none"
    """Mixed precision; none gives the same numbers everywhere."""
    runs_dir: str = "runs"
    """Folder of the run folders."""
    project: str | None = None
    """W&B project. None: the run's."""
    entity: str | None = None
    """W&B user or team. None: the run's."""

    def __post_init__(self) -> None:
        _check(self, "batch_size", self.batch_size >= 1, "1 or more")


@dataclass(frozen=True)
class VisualizeConfig:
    checkpoint: str | None = None
    """A file, a run id or folder, or an artifact such as resnext50_32x4d-cifar100:best. None: the newest run's best."""
    which: Literal["random", "errors", "class"] = "random"
    """`random` = one batch, as in the lab; `errors` = the most confident mistakes; `class` = one row a class."""
    count: int = 16
    """Number of images; with which=class, images a class."""
    images: tuple[str, ...] = ()
    """Your own photos to predict instead."""
    explain: bool = False
    """Overlay Grad-CAM: where the model looked."""
    split: Literal["test", "validation"] = "test"
    """Which images to show."""
    dataset: DATASETS | None = None
    """None: what the checkpoint was trained on."""
    data_dir: str | None = None
    """None: where the checkpoint's data was."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    seed: int = 0
    """Of the random choice."""
    runs_dir: str = "runs"
    """Folder of the run folders."""
    project: str | None = None
    """W&B project. None: the run's."""
    entity: str | None = None
    """W&B user or team. None: the run's."""

    def __post_init__(self) -> None:
        _check(self, "count", 1 <= self.count <= 100, "from 1 to 100")
        _check(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")


def as_dict(config: Any) -> dict[str, Any]:
    """Field name → plain value (tuples as lists), for W&B and YAML."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }

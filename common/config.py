"""The configuration, written once: these fields are the flags, the W&B config and the sweep's keys.

A default stands here and nowhere else, and so does the range of a value, in its annotation: it holds for the command line, for
a run's config.yaml and for a sweep alike. Fields stand in groups; flags, config.yaml, W&B and sweeps are flat. A field's group
alone says whether it may change on resume, whether it sets two runs apart, and whether a sweep may set it.

Derived facts (device name, parameter counts, set sizes) belong to the run's summary, so that a run's config, given back as
flags, repeats the run. Imports no torch: `--help` answers at once.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

from common.base.checked import Checked, PathText, PhotoPath, hints_of, in_words
from common.base.errors import UserError

DATASETS = Literal["cifar100", "cifar10", "digits", "folder"]
MODELS = Literal["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnet50"]
PRESET_NAMES = Literal["lab", "best", "laptop", "photos", "digits"]
FITS = Literal["crop", "pad"]
UNREADABLE = Literal["stop", "skip"]
PRECISIONS = Literal["auto", "none", "bf16", "fp16"]
TTA = Literal["none", "flip"]
BEST_BY = Literal["accuracy", "macro_f1", "balanced_accuracy", "loss"]
RUNS_DIR = "runs"

Share = Annotated[float, Interval(ge=0, lt=1)]
NotNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Side = Annotated[int, Interval(ge=16, le=1024)]
Seed = Annotated[int, Interval(ge=0, le=2**31 - 1)]


class Group(Checked):
    """Flags of one kind."""

    may_change_on_resume: ClassVar[bool] = False
    sets_apart: ClassVar[bool] = True
    """whether two runs that differ in it have learned in different ways"""
    in_sweeps: ClassVar[bool] = True


@dataclass(frozen=True)
class Start(Group):
    """The defaults that all others override."""

    preset: PRESET_NAMES = "lab"
    """`lab` = CIFAR-100 as the lab is written; `best` = the strongest recipe in 3 epochs; `laptop` = the same for two CPU cores: images of
    96 px, the last stages, 2 epochs; `photos` = one's own, in --data_dir; `digits` = handwritten digits, minutes on a CPU, no download."""


@dataclass(frozen=True)
class Data(Group):
    """What is learned, what share of train is validation, what becomes of photos that can't be read, and which labels are put right."""

    dataset: DATASETS = "cifar100"
    """`folder` reads your own photos from data_dir: from train/<class>/, val/<class>/ and test/<class>/, of which the last two may be
    missing, or from <class>/, of which a fifth becomes the test set."""
    validation_fraction: Share = 0.1
    """Share of train kept for validation, the same share of every class. 0, as in the lab: none, the last epoch is the best. Not used
    where photos have a val folder."""
    unreadable: UNREADABLE = "stop"
    """Photos that can't be read: `stop` = name all of them and begin nothing; `skip` = go on without them, and keep their names."""
    label_fixes: PathText | None = None
    """A CSV that puts labels of train right: evaluate.py's label_issues.csv with its column `fix` filled in, by a class or by `drop`."""


@dataclass(frozen=True)
class Images(Group):
    """How they become batches."""

    image_size: Side = 224
    """Side in pixels that images are resized to."""
    fit: FITS = "crop"
    """Your own photos become squares: `crop` = their centre; `pad` = all of them, with grey beside."""
    decode_size: Side | None = None
    """Side in pixels that your own photos are decoded to and kept at, so that random crops lose no sharpness. None: image_size."""
    progressive_from: Side | None = None
    """Side in pixels to begin with; grows linearly to image_size over the first half of the epochs."""
    batch_size: Annotated[int, Ge(2)] = 32
    """Largest number of images a step; an epoch is cut into equal batches. With several processes: of all together."""
    augment: Literal["none", "basic", "randaugment", "trivialaugment", "photos"] = "none"
    """`basic` = padded random crop and, where the data allows it, horizontal flip; `randaugment` and `trivialaugment` add torchvision's.
    `photos` = torchvision's random resized crop, flip, colour jitter and random erasing."""
    mixup_alpha: NotNegative = 0.0
    """Beta parameter of mixup. 0: off."""
    cutmix_alpha: NotNegative = 0.0
    """Beta parameter of cutmix; with mixup as well, each batch takes one of the two. 0: off."""

    @property
    def decoded_size(self) -> int:
        """Side in pixels of photos once they are decoded."""
        return self.decode_size or self.image_size


@dataclass(frozen=True)
class Model(Group):
    """The network, what it starts from, how much of it is trained."""

    model: MODELS = "resnext50_32x4d"
    """Architecture from torchvision; ResNeXt-50 (32x4d) has cardinality 32 and width 4 a group."""
    weights: PathText = "IMAGENET1K_V2"
    """IMAGENET1K_V2, IMAGENET1K_V1, none (random), or a path to a .pth or .safetensors file."""
    finetune: Literal["full", "partial", "head"] = "full"
    """What is trained: everything, the last two stages and the head, or the head alone (feature extraction)."""
    head_epochs: Annotated[int, Ge(0)] = 0
    """Epochs before the others in which the head alone is trained, on features of the frozen backbone: seconds each."""
    feature_views: Annotated[int, Interval(ge=0, le=100)] = 1
    """While the head alone is trained, the frozen backbone's features are computed once for this many augmented views of each image
    and kept. 0, with finetune=head: compute them anew in every epoch."""


@dataclass(frozen=True)
class Recipe(Group):
    """The loss, what unequal classes count, SGD, its learning rate over the run, weight averaging, and which epoch is kept."""

    lr: Positive = 0.001
    """Learning rate of SGD."""
    backbone_lr_scale: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """The pretrained layers' learning rate as a share of the head's."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Multiplies the learning rate once more for each stage towards the image: layer4 by it, layer3 by its square, …"""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: NotNegative = 0.0
    """L2 penalty on weights; never on BatchNorm and biases."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run, after the warm-up."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` weighs images that are already right less."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes; for cross_entropy."""
    focal_gamma: NotNegative = 2.0
    """Exponent of the focal loss."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """Unequal classes count alike: `loss` = each image weighs as much in the loss as its class is rare (scikit-learn's `balanced`);
    `sampling` = as many images of each class are drawn, those of rare ones several times. The validation stays as it is."""
    ema_decay: Share = 0.0
    """Decay a step of an exponential moving average of the weights, which is then what is validated and kept. 0: off."""
    best_by: BEST_BY = "accuracy"
    """The number of the validation by which the best epoch is chosen; of equal ones, by the loss. With unequal classes: macro_f1 or
    balanced_accuracy."""


@dataclass(frozen=True)
class Compute(Group):
    """In which precision and how many parts it computes, and what randomness starts from."""

    amp: PRECISIONS = "auto"
    """Mixed precision. auto: bf16 where the device computes in it, else fp16 on a GPU, else none."""
    compile: bool = False
    """torch.compile the model."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Computes each step's gradient in so many parts, one after the other, for a batch that does not fit in memory. batch_size stays
    the images of a step, unlike timm's and Hugging Face's, so that nothing else changes; BatchNorm's statistics are a part's."""
    seed: Seed = 0
    """Of the split, the order, the augmentation and the new head."""


@dataclass(frozen=True)
class Duration(Group):
    """When it ends."""

    may_change_on_resume = True

    epochs: Annotated[int, Ge(1)] = 5
    """Passes over the training images, after those of head_epochs."""
    max_steps: Annotated[int, Ge(1)] | None = None
    """End after this many optimizer steps in all."""
    patience: Annotated[int, Ge(1)] | None = None
    """End after this many epochs in a row, not counting those of head_epochs, without a better one by best_by."""


@dataclass(frozen=True)
class Place(Group):
    """Where it computes, and where the data and what is computed from it lie."""

    may_change_on_resume = True
    sets_apart = False

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    data_dir: PathText | None = None
    """Where the data lies or is downloaded to. None: ./data (digits come with scikit-learn)."""
    feature_cache: Literal["memory", "file"] = "memory"
    """Where features are kept. `file`: in the cache folder (FINETUNE_CACHE) as well, so that the next run with the same backbone,
    images and views, such as another trial of a sweep, begins at once."""


@dataclass(frozen=True)
class TrackingSettings(Group):
    """What is saved and logged when, and where W&B shows it."""

    may_change_on_resume = True
    sets_apart = False

    checkpoint_every: Annotated[int, Ge(0)] = 0
    """Save the training state every so many steps as well as after every epoch. 0: epochs only."""
    log_every: Annotated[int, Ge(1)] = 50
    """Log the batch loss every so many steps."""
    log_weights: bool = True
    """Log the best weights as a W&B artifact when the run ends."""
    project: str | None = None
    """W&B project. None: WANDB_PROJECT, or resnext-finetuning."""
    entity: str | None = None
    """W&B user or team. None: WANDB_ENTITY, or your own."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    register: str | None = None
    """Link the best weights, once they are logged at a run's end, into W&B's Registry: NAME in its registry `model`, or REGISTRY/NAME."""
    alert: bool = False
    """Have W&B tell you when the run ends. Of training that diverges it tells you always."""


@dataclass(frozen=True)
class Identity(Group):
    """What the run is called, and how many of its kind are trained."""

    sets_apart = False
    in_sweeps = False

    run_id: str | None = None
    """Name of the run folder and the W&B run. None: WANDB_RUN_ID, or date, time and four letters."""
    seeds: Annotated[int, Interval(ge=1, le=1000)] = 1
    """Train so many times, with seeds seed, seed + 1, …: runs of their own, one after the other, in one group. The same
    command again trains what is missing."""


@dataclass(frozen=True)
class RunSettings(Group):
    """Where its folder lies, the run to go on with, how long this process may take, and those it belongs together with."""

    may_change_on_resume = True
    sets_apart = False
    in_sweeps = False  # a sweep sets them: they keep its trials apart, and together

    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""
    resume: PathText | None = None
    """Run id or folder to go on with, exactly where it stopped."""
    max_minutes: Positive | None = None
    """Stop after so many minutes, saved as by Ctrl-C, with exit status 124; --resume then goes on. For a scheduler's limit in time."""
    group: str | None = None
    """W&B group. None: WANDB_RUN_GROUP, or with several seeds the runs' common name."""


@dataclass(frozen=True)
class TrainConfig:
    """All of a run's settings. `TrainConfig.of(lr=0.1)` and `config.replace(lr=0.1)` take fields by their own names."""

    start: Start = Start()
    data: Data = Data()
    images: Images = Images()
    model: Model = Model()
    recipe: Recipe = Recipe()
    duration: Duration = Duration()
    compute: Compute = Compute()
    place: Place = Place()
    tracking: TrackingSettings = TrackingSettings()
    identity: Identity = Identity()
    run: RunSettings = RunSettings()

    @classmethod
    def of(cls, **values: Any) -> "TrainConfig":
        """Errors: `UserError` naming the field that is none, or whose value is not allowed."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> "TrainConfig":
        unknown = sorted(values.keys() - GROUP_OF.keys())
        if unknown:
            raise UserError(f"unknown settings {', '.join(map(str, unknown))}")
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            changes.setdefault(GROUP_OF[name], {})[name] = value
        groups = {group: dataclasses.replace(getattr(self, group), **given) for group, given in changes.items()}
        return dataclasses.replace(self, **groups)

    def __post_init__(self) -> None:
        """What one field allows another."""
        recipe, images, epochs = self.recipe, self.images, self.duration.epochs
        _check(
            "nesterov", recipe.nesterov, not recipe.nesterov or recipe.momentum > 0, "True only with momentum above 0"
        )
        smoothed = recipe.label_smoothing
        plain = not smoothed or recipe.loss == "cross_entropy"
        _check("label_smoothing", smoothed, plain, "0 unless loss is cross_entropy")
        warmup = recipe.warmup_epochs
        _check("warmup_epochs", warmup, warmup <= epochs, f"from 0 to epochs ({epochs})")
        start, size = images.progressive_from, images.image_size
        _check("progressive_from", start, start is None or start <= size, f"from 16 to image_size ({size}), or None")
        kept = images.decode_size
        _check("decode_size", kept, images.decoded_size >= size, f"from image_size ({size}) to 1024, or None")
        model, first = self.model, self.model.head_epochs
        _check(
            "head_epochs",
            first,
            not first or model.finetune != "head",
            "0 with finetune head, which trains no more than that",
        )
        _check(
            "head_epochs",
            first,
            not first or model.weights != "none",
            "0 with weights none, where there is nothing to freeze",
        )
        _check("head_epochs", first, not first or model.feature_views > 0, "0 with feature_views 0")
        name = self.tracking.register
        good = name is None or re.fullmatch(r"([A-Za-z0-9][\w.-]{0,59}/)?[A-Za-z0-9][\w.-]{0,119}", name, re.ASCII)
        _check("register", name, bool(good), "NAME or REGISTRY/NAME, of letters, digits, '.', '_' and '-'")
        parts, most = self.compute.accumulate, images.batch_size // 2
        _check(
            "accumulate",
            parts,
            parts <= most,
            f"from 1 to {most}: a part of batch_size ({images.batch_size}) has two images",
        )
        where = self.place.data_dir
        given = self.data.dataset != "folder" or where is not None
        _check("data_dir", where, given, "a folder when dataset is folder")


def _check(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"--{name} is {value}, but must be {allowed}")


GROUPS: dict[str, Any] = typing.get_type_hints(TrainConfig)
GROUP_OF = {field.name: group for group, cls in GROUPS.items() for field in dataclasses.fields(cls)}
MAY_CHANGE_ON_RESUME = frozenset(name for name, group in GROUP_OF.items() if GROUPS[group].may_change_on_resume)
SETS_APART = frozenset(name for name, group in GROUP_OF.items() if GROUPS[group].sets_apart)
IN_SWEEPS = frozenset(name for name, group in GROUP_OF.items() if GROUPS[group].in_sweeps)


# What the presets share that fine-tune: docs/performance.md says what each part is worth.
FINE_TUNING: dict[str, Any] = {
    "layer_decay": 0.7,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
}
PRESETS: dict[str, TrainConfig] = {
    "lab": TrainConfig(),
    "best": TrainConfig.of(
        preset="best",
        epochs=3,
        batch_size=64,
        lr=0.2,
        **FINE_TUNING,
    ),
    "laptop": TrainConfig.of(
        preset="laptop",
        image_size=96,
        finetune="partial",
        epochs=2,
        batch_size=64,
        lr=0.2,
        **FINE_TUNING,
    ),
    "photos": TrainConfig.of(
        preset="photos",
        dataset="folder",
        data_dir="photos",
        lr=0.05,
        head_epochs=20,
        **FINE_TUNING,
    ),
    "digits": TrainConfig.of(
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


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """Which weights, and which images to look at with them."""

    checkpoint: PathText | None = None
    """A file, a run id or folder, or an artifact such as resnext50_32x4d-cifar100:best; evaluate.py takes a group as well.
    None: the newest run's best."""
    split: Literal["test", "validation"] = "test"
    """Which images."""
    dataset: DATASETS | None = None
    """None: what the checkpoint was trained on."""
    data_dir: PathText | None = None
    """None: where the checkpoint's data was."""
    unreadable: UNREADABLE | None = None
    """Photos that can't be read: stop, or skip them. None: as the checkpoint was trained."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""
    project: str | None = None
    """W&B project. None: the run's."""
    entity: str | None = None
    """W&B user or team. None: the run's."""

    def images_and_project(self) -> list[str]:
        """The flags that were given for them, as words of a command."""
        split = self.split if self.split != "test" else None
        given = {"--dataset": self.dataset, "--data_dir": self.data_dir, "--split": split}
        given |= {"--unreadable": self.unreadable, "--project": self.project, "--entity": self.entity}
        return [word for flag, value in given.items() if value for word in (flag, value)]


@dataclass(frozen=True)
class EvaluateConfig(CheckpointConfig):
    compare: PathText | None = None
    """Another run whose evaluation is set beside this one."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Images at a time."""
    amp: PRECISIONS = "none"
    """Mixed precision; none gives the same numbers everywhere."""
    tta: TTA = "none"
    """Augmentation at test time. `flip` = the mean of the logits of each image and its mirror image, in twice the time."""


@dataclass(frozen=True)
class VisualizeConfig(CheckpointConfig):
    which: Literal["random", "errors", "class"] = "random"
    """`random` = one batch, as in the lab; `errors` = the most confident mistakes; `class` = one row a class."""
    count: Annotated[int, Interval(ge=1, le=100)] = 16
    """Number of images; with which=class, images a class."""
    images: tuple[PathText, ...] = ()
    """Your own photos to predict instead."""
    explain: bool = False
    """Overlay Grad-CAM: where the model looked."""
    seed: Seed = 0
    """Of the random choice."""


@dataclass(frozen=True)
class PredictSettings(Checked):
    """Which photos are predicted with which weights, and what is said of each."""

    photos: tuple[PhotoPath, ...] = ()
    """Files, folders (with those within), patterns such as "a/*.jpg", or - for a list of paths on stdin, one a line."""
    checkpoint: PathText | None = None
    """A file, a run id or folder, or an artifact such as resnext50_32x4d-cifar100:best. None: the newest run's best."""
    output: PathText = "predictions.csv"
    """The table: .csv, or .jsonl for JSON lines."""
    top: Annotated[int, Interval(ge=1, le=1000)] = 3
    """So many classes a photo, the likeliest first, with their confidences."""
    min_accuracy: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Answer only where it is right on this share, by the validation images of evaluate.py; the column `answer` is `unsure` elsewhere."""
    tta: TTA = "none"
    """Augmentation at test time. `flip` = the mean of the logits of each photo and its mirror image, in twice the time."""
    overwrite: bool = False
    """Replace a table that is there."""
    resume: bool = False
    """Go on with a table that is there: photos that have a row are skipped."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Photos at a time."""
    amp: PRECISIONS = "none"
    """Mixed precision; none gives the same numbers everywhere."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""
    project: str | None = None
    """W&B project that an artifact is of. None: WANDB_PROJECT, or resnext-finetuning."""
    entity: str | None = None
    """W&B user or team that an artifact is of. None: WANDB_ENTITY, or your own."""

    def goes_on(self, checkpoint: str) -> list[str]:
        """Words of the command that goes on with its table. checkpoint: the weights that are used."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "photos"}
        given |= {
            "checkpoint": checkpoint,
            "overwrite": False,
            "resume": True,
            "runs_dir": RUNS_DIR,
        }  # whose place it says itself
        changed = {name: value for name, value in given.items() if value != getattr(PredictSettings(), name)}
        return [*self.photos, *(word for name, value in changed.items() for word in (f"--{name}", str(value)))]


@dataclass(frozen=True)
class SoupSettings(Checked):
    """How runs are averaged into one."""

    runs: tuple[PathText, ...] = ()
    """Ids or folders of the runs: two or more, of one architecture, image size, data and split."""
    data_dir: PathText | None = None
    """None: where the best run's data was."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Images at a time."""
    amp: PRECISIONS = "none"
    """Mixed precision; none gives the same numbers everywhere."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    run_id: str | None = None
    """Name of the run folder and the W&B run. None: soup, date, time and four letters."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""


@dataclass(frozen=True)
class ExportSettings(Checked):
    """What becomes of a run's weights, and on which images that is compared with the run."""

    run: PathText | None = None
    """A run's id or folder, a file, or an artifact. None: the newest run's best."""
    format: Literal["onnx", "hub"] = "onnx"
    """`onnx` = one file for ONNX Runtime; `hub` = a folder in the layout of the Hugging Face Hub, for timm and torchvision."""
    output: PathText | None = None
    """The file or folder to write. None: the run's id with .onnx or -hub, here."""
    overwrite: bool = False
    """Replace an earlier export in that place."""
    preprocessing: bool = False
    """ONNX: uint8 images go in and calibrated probabilities come out, instead of normalized images and logits."""
    temperature: Positive | None = None
    """What the logits are divided by for probabilities. None: as evaluate.py fitted it."""
    tolerance: Positive = 1e-4
    """Largest difference from the run that is allowed: a share of its largest logit, or of a probability."""
    dataset: DATASETS | None = None
    """Of the images to compare on. None: what the run was trained on."""
    data_dir: PathText | None = None
    """None: where the run's data was."""
    unreadable: UNREADABLE | None = None
    """Photos that can't be read: stop, or skip them. None: as the run was trained."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Images at a time."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""
    project: str | None = None
    """W&B project of an artifact. None: the usual one."""
    entity: str | None = None
    """W&B user or team."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            "preprocessing",
            self.preprocessing,
            not self.preprocessing or self.format == "onnx",
            "False with format hub",
        )


def as_dict(config: Any) -> dict[str, Any]:
    """Field name → plain value (tuples as lists), flat, for W&B and YAML."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, Group):
            flat |= as_dict(value)
        else:
            flat[entry.name] = list(value) if isinstance(value, tuple) else value
    return flat


def allowed(name: str) -> str:
    """What the flag `name` takes, in words."""
    return in_words(hints_of(GROUPS[GROUP_OF[name]])[name])

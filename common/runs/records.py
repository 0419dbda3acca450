"""What a run's JSON files hold, as types. What has a default may be missing, as in files of earlier versions."""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, Len

from common.base.errors import UserError
from common.base.files import safe_name
from common.base.records import parse_record

LONGEST_NAME = 1000  # characters; a folder's has at most 255

# --- split.json -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which images of which data are validated on. As an artifact it is the data set, so that its bytes must not change."""

    dataset: str = "?"
    data_dir: str | None = None
    classes: tuple[str, ...] = ()
    superclasses: tuple[str, ...] | None = None
    superclass_of: tuple[int, ...] | None = None
    seed: int = 0
    validation_fraction: float = 0.0
    digest: str
    """of all training images, those of the validation included"""
    train_size: int = 0
    """images that are trained on"""
    validation: list[Annotated[int, Ge(0)]]
    """indices of the others"""
    validation_folder: str | None = field(default=None, metadata={"may_be_absent": True})
    """photos: the folder that is the validation set, whose images come last; None: they were drawn from train"""
    test_files: tuple[str, ...] | None = field(default=None, metadata={"may_be_absent": True})
    """photos: those that were drawn for the test set, relative to data_dir; () where there is none, None where the data has its own"""

    @property
    def evaluated(self) -> tuple[str, ...]:
        """What evaluate.py is told to evaluate: nothing where there is a test set, else the validation images if there are any."""
        return ("--split", "validation") if self.test_files == () and self.validation else ()

    @property
    def advice(self) -> list[str]:
        """A line where there is nothing to evaluate yet."""
        nothing = self.test_files == () and not self.validation
        return [f"there is neither a test set nor a validation set: add {self.data_dir}/test/<class>/ first"] * nothing

    def validation_of(self, images: int, source: Path) -> list[int]:
        """`validation`, which are some of so many images. Errors: `UserError` naming `source` when they are not."""
        if len(set(self.validation)) < len(self.validation) or max(self.validation, default=0) >= images:
            raise UserError(f"{source} can't be used: its validation images are not among the {images} of train")
        return self.validation


# --- the header of best.safetensors -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a `best.safetensors` says of itself, as far as its readers need it. It may be a stranger's: no value leads anywhere, and
    each can be printed."""

    model: str
    classes: Annotated[list[str], Len(1, 100_000)]
    dataset: str
    data_dir: str | None = None
    """where the run's own images lie"""
    image_size: Annotated[int, Interval(ge=16, le=1024)]
    decode_size: Annotated[int, Interval(ge=16, le=1024)] | None = None
    fit: Literal["crop", "pad"] = "crop"
    """how photos became squares, as `unreadable` is what happened to those that can't be read: the flags of train.py"""
    unreadable: Literal["stop", "skip"] = "stop"
    run_id: str
    """the name of a folder"""
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    validation_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    project: str | None = None
    entity: str | None = None
    epoch: float | None = None

    @classmethod
    def of(cls, header: dict[str, Any], path: Path) -> "Metadata":
        """From what `load_weights` or `read_metadata` gave for `path`. Errors: `UserError` naming the file and the first field that is
        missing, or that no run would write."""
        for own in fields(cls):
            if own.default is MISSING and own.name not in header:
                raise UserError(f"{path} can't be used: its header lacks {own.name!r}")
        known = {own.name: header[own.name] for own in fields(cls) if own.name in header}
        return parse_record(json.dumps(known).encode(), cls, path)

    @property
    def decoded_size(self) -> int:
        """Side in pixels of photos once they are decoded; those of a run's network have `image_size`."""
        return self.decode_size or self.image_size

    def __post_init__(self) -> None:
        """Errors: `ValueError`."""
        safe_name(self.run_id, "run_id")
        for name in (self.model, self.dataset, self.project, self.entity, *self.classes):
            if name is not None and not (name.isprintable() and len(name) <= LONGEST_NAME):
                raise ValueError(f"{name[:LONGEST_NAME]!r} can't be a name")


# --- summary.json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """How a run stands. A part that is not known yet is None, and not in the file."""

    run_id: str | None = None
    job_type: str | None = None
    status: str = "unknown"
    """running, finished, interrupted or failed"""
    error: str | None = None
    started: float | None = None
    """seconds since 1970, as is `updated`"""
    updated: float | None = None
    seconds: float | None = None
    """of training, by all the processes that went on with it, one after the other"""
    pid: int | None = None
    host: str | None = None
    wandb_url: str | None = None

    epoch: int | None = None
    """whole epochs done"""
    step: int | None = None
    """optimizer steps done"""
    best_epoch: float | None = field(default=None, metadata={"alias": "best/epoch"})
    best_validation_accuracy: float | None = field(default=None, metadata={"alias": "best/validation_accuracy"})
    best_by: str | None = field(default=None, metadata={"alias": "best/by"})
    """what of the validation the best epoch was chosen by"""
    best_score: float | None = field(default=None, metadata={"alias": "best/score"})
    """that number"""
    stopped_early: bool | None = None
    """whether --patience ended it"""

    # Facts that the config does not say.
    averaged: list[str] | None = None
    """the runs whose weights a soup is the mean of, the best first"""
    device: str | None = None
    amp: str | None = None
    model: str | None = None
    cardinality: int | None = None
    width_per_group: int | None = None
    parameters_total: int | None = None
    parameters_trainable: int | None = None
    gflops_per_image: float | None = None
    train_size: int | None = None
    validation_size: int | None = None
    classes: int | None = None
    """how many"""
    class_counts: list[Annotated[int, Ge(0)]] | None = None
    """training images of each class, in the order of split.json's"""
    unused: dict[str, int] | None = None
    """why → how many files beside one's own photos are not taken for photos"""
    skipped: list[str] | None = None
    """the photos of train that could not be read, and are not among its images"""
    processes: int | None = None
    version: str | None = None
    """of the code: its commit"""


def best_in_summary(
    epoch: float | None, accuracy: float | None, chosen_by: str | None = None, score: float | None = None
) -> dict[str, Any]:
    """The best epoch by the summary's keys, there and in W&B; what is not known is left out."""
    best = {"best/epoch": epoch, "best/validation_accuracy": accuracy, "best/by": chosen_by, "best/score": score}
    return {key: value for key, value in best.items() if value is not None}


SUMMARY_KEYS = frozenset(part.metadata.get("alias", part.name) for part in fields(Summary))


# --- tracking.json ----------------------------------------------------------------------------------------------------


@dataclass
class TrackedRun:
    """A W&B run about this run: its training, an evaluation or a visualization."""

    id: str
    job_type: str
    project: str
    entity: str | None
    mode: str
    """online, offline or disabled"""
    started: float
    """seconds since 1970"""
    dirs: list[str] = field(default_factory=list)
    """folders of its logs, relative to the run folder: one for each process that went on with it"""
    exit_code: int | None = None
    """None: it has not ended, or was killed"""
    rows: int = 0
    """of history that have no step of their own, as those of an evaluation; where W&B's process was killed, no log has them"""
    group: str | None = field(default=None, metadata={"may_be_absent": True})
    """in W&B; that of a training is its evaluations', too"""


@dataclass(frozen=True)
class LoggedArtifact:
    """Files that W&B was told of."""

    name: str
    type: str
    aliases: list[str]
    digest: str
    """hex SHA-256 over the files' bytes"""
    files: list[str]
    """relative to the run folder"""
    time: float
    """seconds since 1970"""
    run_id: str
    """of the W&B run"""
    metadata: dict[str, Any] = field(default_factory=dict)
    used: bool = False
    """whether the run was told to use it, and not to have made it"""
    description: str | None = field(default=None, metadata={"may_be_absent": True})
    """Markdown: of weights, their model card"""
    register: str | None = field(default=None, metadata={"may_be_absent": True})
    """the collection of W&B's Registry that it is to be linked into"""
    registered: bool | None = field(default=None, metadata={"may_be_absent": True})
    """whether it was"""

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes it the same artifact when it is logged again, as after a resume."""
        return self.name, self.aliases, self.digest, self.run_id, self.register


@dataclass(frozen=True)
class LoggedTable:
    """A W&B Table."""

    key: str
    run_id: str
    """of the W&B run"""
    file: str
    """the same as JSON, relative to the run folder"""
    time: float
    """seconds since 1970"""


@dataclass
class Tracking:
    """What W&B was told of a run, oldest first."""

    runs: list[TrackedRun] = field(default_factory=list)
    artifacts: list[LoggedArtifact] = field(default_factory=list)
    tables: list[LoggedTable] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """what is said of each entry that can't be read, and is in none of the lists"""


@dataclass(frozen=True)
class TrackingFile:
    """tracking.json, before its entries are looked at."""

    runs: list[Any] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)


# --- visualization/predictions.json -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShownImage:
    """An image of the newest grid."""

    true: str | None
    predicted: str
    confidence: float
    index: int | None = None
    """in the data set; None for one's own photo"""
    file: str | None = None
    """of one's own photo; of one in the data set relative to data_dir"""


@dataclass(frozen=True)
class Shown:
    predictions: list[ShownImage]


# --- trials.json of an offline sweep ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has begun."""

    number: int
    run_id: str
    state: str
    """Optuna's: running, complete, pruned or fail"""
    value: float | None
    """the best that it logged, not the last: it is what best.safetensors holds; of several seeds their mean"""
    parameters: dict[str, Any]
    """flags of train.py"""
    error: str | None
    sd: float | None = field(default=None, metadata={"may_be_absent": True})
    """of the seeds' values, where there are several"""
    runs: list[str] | None = field(default=None, metadata={"may_be_absent": True})
    """ids of the seeds' runs, where there are several; `run_id` is the first"""

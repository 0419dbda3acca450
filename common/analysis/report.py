"""What an evaluation says: `Report` ↔ report.json. evaluate.py writes it; figures, tables, text, dashboard read it.

Labels are indices into `classes`, image indices those of the dataset. Intervals are 95 %. A field that has a default
may be missing from a file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from common.base.errors import UserError
from common.base.records import parse_record, read_whole, write_record
from common.runs.find import find_run
from common.runs.folder import RUNS_DIR

VERSION = 1
Count = Annotated[int, Ge(0)]
Label = Count
Matrix = list[list[Count]]
FAILS = 0.5
"""a class of whose images a smaller share is found fails"""
TEMPERATURES = (0.01, 100.0)
"""between which one is looked for; at an end none was found, as where the images it is fitted on have no mistake"""


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassScores:
    name: str = field(metadata={"alias": "class"})
    superclass: str | None
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    f1: float
    f1_low: float
    f1_high: float
    support: Count
    """images of this class"""
    predicted: Count
    """images that were taken for it"""


@dataclass(frozen=True)
class Errors:
    total: Count
    inside_superclass: Count | None = None
    across_superclasses: Count | None = None


@dataclass(frozen=True)
class ConfusedPair:
    true: Label
    predicted: Label
    count: Count
    share: float
    """of the true class's images"""
    images: list[Count]
    """some of them, the most confident first"""


@dataclass(frozen=True)
class SymmetricPair:
    """Two classes that are taken for each other."""

    a: Label
    b: Label
    a_as_b: Count
    b_as_a: Count
    count: Count
    share: float
    """of the images of both classes"""


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label looks wrong."""

    index: Count
    given: Label
    suggested: Label
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class OverlappingPair:
    """Two classes that seem to share images."""

    a: Label
    b: Label
    count: Count
    share: float
    """of all images"""


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in (low, high]."""

    low: float
    high: float
    count: Count
    confidence: float | None
    """their mean; None without images"""
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How far the confidence can be trusted, before and after the temperature."""

    ece: float
    """expected calibration error"""
    nll: float
    """negative log-likelihood, in nats"""
    bins: list[Bin]
    temperature: float | None = None
    ece_after: float | None = None
    nll_after: float | None = None
    bins_after: list[Bin] | None = None
    note: str = ""
    """what the temperature was fitted on, or why there is none"""

    @property
    def found(self) -> bool:
        """Whether there is a temperature: at an end of the search the images it was to be fitted on have none, such as 0.01."""
        low, high = TEMPERATURES
        return self.temperature is not None and 1.01 * low < self.temperature < high / 1.01

    @property
    def improved(self) -> bool:
        """Whether the temperature makes the confidence more trustworthy, on images that it was not fitted on."""
        if not self.found or self.ece_after is None or self.nll_after is None:
            return False
        return self.ece_after < self.ece and self.nll_after <= self.nll


@dataclass(frozen=True)
class Point:
    """The images that a network is at least so sure of."""

    confidence: float
    count: Annotated[int, Ge(1)]
    correct: Count

    def __post_init__(self) -> None:
        if self.correct > self.count:
            raise ValueError(f"{self.correct} of {self.count} images can't be right")


@dataclass(frozen=True)
class Threshold:
    """Answering only from a confidence on."""

    target: float
    """the accuracy that is wanted of what is answered"""
    confidence: float | None = None
    """None: no confidence is enough, and so are the others"""
    coverage: float | None = None
    """share of the evaluated images that is answered"""
    accuracy: float | None = None
    """of these; None where there are none"""
    accuracy_low: float | None = None
    accuracy_high: float | None = None


@dataclass(frozen=True)
class Answers:
    """When it should rather not answer. Confidences are calibrated with the temperature of `Calibration`, where there is one."""

    aurc: float
    """area under the risk–coverage curve: the mean error of the k surest images, over all k"""
    excess_aurc: float
    """by how much it is more than that of the best order"""
    curve: list[Point]
    """of the evaluated images, from the surest to all"""
    fitted: list[Point] = field(default_factory=list)
    """of the images that thresholds are read from, such as the validation images; empty where there are none"""
    thresholds: list[Threshold] = field(default_factory=list)
    energy_limit: float | None = None
    """photos whose energy is above it are unlike anything seen"""
    unlike: float | None = None
    """share of the evaluated images that is above it"""
    note: str = ""
    """what thresholds and limit were fitted on, or why there are none"""


@dataclass(frozen=True)
class DuplicatePair:
    """An evaluated image, and one that the training had seen."""

    index: Count
    seen: Count
    """index in train"""
    part: str
    """of train: `train`, or `validation`, by which the best epoch was chosen"""
    exact: bool
    """every pixel is equal"""
    mirrored: bool
    similarity: float
    """correlation of their thumbnails, at most 1"""
    label: Label
    seen_label: Label
    file: str | None = None
    """one's own photos: the image, relative to data_dir"""
    seen_file: str | None = None


@dataclass(frozen=True)
class Duplicates:
    """Evaluated images that the training had seen, too."""

    note: str = ""
    """why they were not looked for; empty when they were"""
    exact: Count = 0
    near: Count | None = None
    """None: not looked for"""
    other_label: Count = 0
    """pairs whose labels differ"""
    accuracy_without: float | None = None
    """honest accuracy: of all other images; None where there are none"""
    accuracy_without_low: float | None = None
    accuracy_without_high: float | None = None
    accuracy_on_them: float | None = None
    pairs: list[DuplicatePair] = field(default_factory=list)
    """the surest first"""

    @property
    def count(self) -> int:
        return self.exact + (self.near or 0)


@dataclass(frozen=True)
class Comparison:
    """Against another run, on the same images."""

    other: str = field(metadata={"alias": "with"})
    accuracy: float
    other_accuracy: float
    difference: float
    difference_low: float
    difference_high: float
    only_this: Count
    """images that this run alone gets right"""
    only_other: Count
    both: Count
    neither: Count
    p_value: float
    """McNemar's"""
    only_this_images: list[Count]
    """some of them, the surest first"""
    only_other_images: list[Count]
    other_tta: str = "none"
    """the other's augmentation at test time"""


@dataclass(frozen=True)
class Checkpoint:
    path: str
    sha256: str
    model: str
    epoch: float | None = None
    artifact: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """The images that were evaluated."""

    name: str
    data_dir: str | None
    size: Count
    digest: str
    """of the whole dataset"""
    labels_digest: str
    """of the labels and indices evaluated"""
    unused: dict[str, int] = field(default_factory=dict)
    """why → how many files beside one's own photos are not taken for photos"""
    skipped: list[str] = field(default_factory=list)
    """the photos that could not be read, and were not evaluated"""


@dataclass(frozen=True)
class Thumbnails:
    """One picture with the images of all confused pairs, in rows of `columns`."""

    file: str
    size: Annotated[int, Ge(1)]
    """pixels a side"""
    columns: Annotated[int, Ge(1)]
    images: list[Count]


def is_share(metric: str) -> bool:
    """Whether that of `Analysis.metrics` is read in percent: shares of the images, and means of such. Errors of calibration and areas under a
    curve are not, nor are counts."""
    return metric.endswith(("accuracy", "_f1", "unlike")) or "_at_" in metric


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All that the predictions alone tell."""

    split: str
    """`test` or `validation`; the prefix of the metrics"""
    classes: list[str]
    superclasses: list[str] | None = None
    superclass_of: list[Label] | None = None
    """of each class"""
    metrics: dict[str, float]
    accuracy_interval: tuple[float, float]
    per_class: list[ClassScores]
    confusion: Matrix
    """row = true class, column = predicted class"""
    superclass_confusion: Matrix | None = None
    errors: Errors
    confused: list[ConfusedPair]
    """most frequent first"""
    confused_symmetric: list[SymmetricPair]
    label_issues: list[LabelIssue]
    """the most doubtful first"""
    overlapping_classes: list[OverlappingPair]

    def __post_init__(self) -> None:
        """Errors: `ValueError` where the parts don't fit together, as in a file that was changed."""
        count = len(self.classes)
        if not count:
            raise ValueError("classes is empty")
        _check_matrix("confusion", self.confusion, count)
        if len(self.per_class) != count:
            raise ValueError(f"per_class has {len(self.per_class)} rows for {count} classes")
        _check_labels("confused", (label for pair in self.confused for label in (pair.true, pair.predicted)), count)
        _check_labels(
            "confused_symmetric", (label for pair in self.confused_symmetric for label in (pair.a, pair.b)), count
        )
        _check_labels("label_issues", (label for i in self.label_issues for label in (i.given, i.suggested)), count)
        _check_labels("overlapping_classes", (x for pair in self.overlapping_classes for x in (pair.a, pair.b)), count)
        if self.superclasses is not None:
            if self.superclass_of is None or len(self.superclass_of) != count:
                raise ValueError(f"superclass_of must name a superclass for each of {count} classes")
            _check_labels("superclass_of", self.superclass_of, len(self.superclasses))
            _check_matrix("superclass_confusion", self.superclass_confusion or [], len(self.superclasses))

    @property
    def baseline(self) -> tuple[str, float]:
        """The most frequent class of these images, and how often always naming it is right: what a network must beat."""
        largest = max(self.per_class, key=lambda row: row.support)
        return largest.name, largest.support / max(1, sum(row.support for row in self.per_class))

    @property
    def baseline_answer(self) -> str:
        """The answer that looks at no image and is right most often: the largest class, or any where several are the largest."""
        largest = max(row.support for row in self.per_class)
        several = sum(row.support == largest for row in self.per_class) > 1
        return "the same class" if several else repr(self.baseline[0])

    @property
    def beats_baseline(self) -> bool:
        """Whether it surely knows more than `baseline`."""
        return self.accuracy_interval[0] > self.baseline[1]

    @property
    def beats_chance(self) -> bool:
        """Whether it is surely right more often than its answers would be if they were dealt out to the images blindly: the agreement by
        chance in Cohen's kappa (Cohen 1960). Where not, its doubts and its confidence are about nothing."""
        total = max(1, sum(row.support for row in self.per_class))
        return self.accuracy_interval[0] > sum(row.support * row.predicted for row in self.per_class) / total**2

    def most_confused(self, limit: int) -> list[ConfusedPair]:
        """The most frequent pairs, at most `limit`. Of those that are equally frequent all or none: empty where nothing stands out."""
        chosen, rest = self.confused[:limit], self.confused[limit:]
        return [pair for pair in chosen if not rest or pair.count > rest[0].count]

    @property
    def failing(self) -> list[ClassScores]:
        """The classes that fail: of whose images a smaller share than `FAILS` was found. The weakest first; of those never found, the
        ones that were never even predicted."""
        weak = [row for row in self.per_class if row.support and row.recall < FAILS]
        return sorted(weak, key=lambda row: (row.recall, row.predicted > 0))


@dataclass(frozen=True, kw_only=True)
class Report(Analysis):
    """An evaluation: its numbers, where they came from, and the files beside them."""

    version: int = VERSION
    run_id: str
    """the run whose weights these are"""
    job_id: str
    """the W&B run of the evaluation"""
    wandb_url: str | None = None
    created: float
    """seconds since 1970"""
    tta: str = "none"
    """augmentation at test time; `flip`: the predictions are the mean logits of an image and its mirror image"""
    checkpoint: Checkpoint
    dataset: Evaluated
    calibration: Calibration
    answers: Answers | None = field(default=None, metadata={"may_be_absent": True})
    duplicates: Duplicates | None = None
    """None in files of earlier versions, as `answers`"""
    comparison: Comparison | None = None
    thumbnails: Thumbnails | None = None
    figures: dict[str, str] = field(default_factory=dict)
    """name → file"""
    tables: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.duplicates.pairs if self.duplicates else []
        labels = (label for pair in pairs for label in (pair.label, pair.seen_label))
        _check_labels("duplicates", labels, len(self.classes))
        for name in (*self.figures.values(), *([self.thumbnails.file] if self.thumbnails else [])):
            if Path(name).name != name or name in ("", ".."):
                raise ValueError("a figure's file must lie beside the report")

    def key(self, name: str) -> str:
        """W&B's: the test set's stand alone, another part's have its name before them."""
        return name if self.split == "test" else f"{self.split}/{name}"

    @staticmethod
    def load(run: Path | str, runs_dir: Path | str = RUNS_DIR) -> "Report":
        """run: a report.json, or a run by its id or folder, of which the test set's report is read, or else that of its validation images.

        Errors: `UserError` naming the file when it is missing, damaged, of another version, or doesn't fit together.
        """
        path = Path(run)
        if path.suffix != ".json":
            folder = find_run(runs_dir, str(run), "Report.load:")
            there = [folder.evaluated(split).report for split in ("test", "validation")]
            path = next((file for file in there if file.exists()), there[0])
        data = read_whole(path)
        try:
            report = parse_record(data, Report, path)
        except UserError:  # perhaps because it is of a later version, which then is what must be said
            _check_version(parse_record(data, _Versioned, path).version, path)
            raise
        _check_version(report.version, path)
        return report

    def save(self, path: Path) -> None:
        write_record(path, self)


class UnknownVersion(UserError):
    """The file was written by a later version of this code."""


@dataclass(frozen=True)
class _Versioned:
    """What files of any version have."""

    version: int


def _check_version(version: int, path: Path) -> None:
    if not 1 <= version <= VERSION:
        raise UnknownVersion(
            f"{path} is of version {version}, and this code reads up to {VERSION}; "
            "update the code, or run evaluate.py on that run again"
        )


def _check_matrix(name: str, matrix: Matrix, count: int) -> None:
    if len(matrix) != count or any(len(row) != count for row in matrix):
        raise ValueError(f"{name} must be a matrix of {count} × {count}")


def _check_labels(name: str, labels: Iterable[int], count: int) -> None:
    for label in labels:
        if not 0 <= label < count:
            raise ValueError(f"{name} names number {label} of {count}")

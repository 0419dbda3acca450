"""A model's predictions on a set of images: made once, kept in predictions.npz, and all else derived from them.

Imports no torch: the dashboard reads them as well.
"""

import errno
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.analysis import metrics
from common.analysis.report import Report
from common.base.errors import UserError, first_line
from common.base.files import atomic_path, is_no_file
from common.runs.folder import EvaluationFolder

LONGEST = 1 << 31  # bytes of the arrays, unpacked; ImageNet's 50,000 validation images have 200 million


@dataclass(frozen=True)
class Predictions:
    """What a model says of N images: `predictions.npz`."""

    logits: NDArray
    """float32 (N, K)"""
    labels: NDArray
    """int64 (N,)"""
    indices: NDArray
    """int64 (N,): which images of the dataset"""

    @property
    def predicted(self) -> NDArray:
        """int64 (N,): the classes with the largest logits."""
        return self.logits.argmax(axis=1)

    @property
    def confidences(self) -> NDArray:
        """float64 (N,): the probability of the predicted class."""
        return metrics.softmax(self.logits).max(axis=1)

    @property
    def digest(self) -> str:
        """SHA-256 over labels and indices: the same for two models that were asked about the same images."""
        return labels_digest(self.labels, self.indices)

    def are_about(self, labels: NDArray, indices: NDArray, classes: Sequence[str]) -> bool:
        """Whether they are of these very images, told apart by so many classes."""
        return self.digest == labels_digest(labels, indices) and self.logits.shape[1] == len(classes)

    def save(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, logits=self.logits, labels=self.labels, indices=self.indices)

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Errors: `UserError` naming the file when it is missing or damaged, or its arrays don't fit together."""
        try:
            if is_no_file(path):
                raise OSError(errno.EINVAL, "Not a file", str(path))
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LONGEST:
                    raise ValueError("it is too large")
            with np.load(path, allow_pickle=False) as saved:
                predictions = Predictions(saved["logits"], saved["labels"], saved["indices"])
            predictions._check()
            return predictions
        except (
            Exception
        ) as error:  # NumPy and zipfile raise many kinds for a file that is damaged, or that someone made up
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            raise UserError(
                f"{path} can't be read as predictions ({reason}); run evaluate.py on that run again"
            ) from error

    def _check(self) -> None:
        table = self.logits.ndim == 2 and self.logits.dtype.kind == "f" and self.logits.size > 0
        with np.errstate(over="ignore"):
            if not table or not np.isfinite(self.logits.astype(np.float32)).all():
                raise ValueError("logits are no table of numbers")
        for name, array in (("labels", self.labels), ("indices", self.indices)):
            if (
                array.shape != self.logits.shape[:1]
                or array.dtype.kind not in "iu"
                or not 0 <= array.min() <= array.max() < 2**63
            ):
                raise ValueError(f"{name} are not one number for each row of logits")
        if self.labels.max() >= self.logits.shape[1]:
            raise ValueError("a label is no class")


def labels_digest(labels: NDArray, indices: NDArray) -> str:
    return hashlib.sha256(np.stack([labels, indices]).astype("<i8").tobytes()).hexdigest()


def saved_predictions(folder: EvaluationFolder, sha256: str, digest: str) -> Predictions | None:
    """What evaluate.py left in `folder`, if it is what these very weights, by themselves, say of these very images; else None."""
    try:
        report = Report.load(folder.report)
        same = (report.checkpoint.sha256, report.dataset.digest, report.tta) == (sha256, digest, "none")
        return Predictions.load(folder.predictions) if same else None
    except UserError:
        return None


def comparable(folder: EvaluationFolder, labels: NDArray, indices: NDArray, classes: Sequence[str]) -> Predictions:
    """What evaluate.py left in `folder`. Errors: `UserError` when nothing, or of other images or classes."""
    if not folder.report.exists():
        raise UserError(f"--compare: {folder.path} holds no evaluation; run evaluate.py on that run first")
    predictions = Predictions.load(folder.predictions)
    same_classes = Report.load(folder.report).classes == list(classes)
    if not same_classes or not predictions.are_about(labels, indices, classes):
        raise UserError(
            f"--compare: {folder.path} is about other images or classes ({len(predictions.labels)} images, here {len(labels)}); "
            "evaluate both runs with the same --dataset, --data_dir and --split"
        )
    return predictions

"""A model's predictions on a set of images: made once, kept in predictions.npz, and all else derived from them.

Imports no torch: the dashboard reads them as well.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.analysis import metrics
from common.analysis.report import Report
from common.base.errors import UserError
from common.base.files import atomic_path
from common.runs.folder import EvaluationFolder

# What NumPy raises for a file that is damaged, or that someone made up.
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, NotImplementedError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


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

    def save(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, logits=self.logits, labels=self.labels, indices=self.indices)

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Errors: `UserError` naming the file when it is missing or damaged, or its arrays don't fit together."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                predictions = Predictions(saved["logits"], saved["labels"], saved["indices"])
            predictions._check()
            return predictions
        except UNREADABLE as error:
            raise UserError(
                f"{path} can't be read as predictions ({error}); run evaluate.py on that run again"
            ) from None

    def _check(self) -> None:
        if self.logits.ndim != 2 or self.logits.dtype.kind != "f" or not self.logits.size:
            raise ValueError("logits are no table of numbers")
        for name, array in (("labels", self.labels), ("indices", self.indices)):
            if array.shape != self.logits.shape[:1] or array.dtype.kind not in "iu" or array.min() < 0:
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
    if not same_classes or predictions.digest != labels_digest(labels, indices):
        raise UserError(
            f"--compare: {folder.path} is about other images or classes ({len(predictions.labels)} images, here {len(labels)}); "
            "evaluate both runs with the same --dataset, --data_dir and --split"
        )
    return predictions

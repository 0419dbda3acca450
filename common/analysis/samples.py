"""What evaluate.py tells W&B: the numbers and figures, predictions with their images, and curves by class."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.analysis import metrics
from common.analysis.predictions import Predictions
from common.analysis.report import Report
from common.data.dataset import Dataset
from common.runs.folder import EvaluationFolder

MISTAKES, OTHERS = 200, 100  # images at most
SIDE = 128  # pixels
POINTS = 200  # of a class's curve

Curve = tuple[tuple[str, str], tuple[str, str], list[list[Any]]]
"""(name, title) of x and of y, and rows of class, x, y"""


class Tracked(Protocol):
    """A W&B run, as far as it is told these."""

    mode: str

    def log_images(self, pictures: Mapping[str, Path]) -> None: ...

    def log_confusion_matrix(self, key: str, labels: Any, predictions: Any, classes: Sequence[str]) -> None: ...

    def set_summary(self, values: dict[str, Any]) -> None: ...

    def log_curves(self, key: str, title: str, classes: int, curves: Callable[[], Curve]) -> None: ...

    def log_pictures(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...


def log_evaluation(
    run: Tracked, report: Report, predictions: Predictions, data: Dataset, folder: EvaluationFolder
) -> None:
    """Figures, the metrics, the Table of predictions with their images, and where the classes are few the confusion matrix and curves by
    class."""
    run.log_images({report.key(f"figures/{name}"): folder.path / file for name, file in report.figures.items()})
    run.log_confusion_matrix(report.key("confusion"), predictions.labels, predictions.predicted, report.classes)
    run.log_curves(report.key("roc"), "ROC", len(report.classes), partial(roc, predictions, report.classes))
    lines = partial(precision_recall, predictions, report.classes)
    run.log_curves(report.key("precision_recall"), "Precision and recall", len(report.classes), lines)
    if run.mode != "disabled":
        run.log_pictures(report.key("predictions"), *sample_table(predictions, data))
    run.set_summary({"run_id": report.run_id, **report.metrics})


def chosen(predictions: Predictions) -> NDArray:
    """Positions of the images that are shown: the mistakes, the most confident first, then a random sample of the others."""
    wrong = predictions.predicted != predictions.labels
    mistakes, others = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    mistakes = mistakes[np.argsort(-predictions.confidences[mistakes], kind="stable")][:MISTAKES]
    sample = np.random.default_rng(0).choice(others, min(OTHERS, len(others)), replace=False)
    return np.concatenate([mistakes, np.sort(sample)])


def sample_table(predictions: Predictions, data: Dataset) -> tuple[list[str], list[list[Any]]]:
    """Columns, and a row for each of the `chosen` images, which is a JPEG's bytes; the superclass is that of the true class."""
    columns = ["image", "true", "predicted", "confidence"]
    rows = []
    for position in chosen(predictions):
        label, predicted = int(predictions.labels[position]), int(predictions.predicted[position])
        image = data.images[int(predictions.indices[position])].numpy()
        confidence = float(predictions.confidences[position])
        rows.append([_jpeg(image), data.classes[label], data.classes[predicted], confidence])
        if data.superclasses is not None and data.superclass_of is not None:
            rows[-1].append(data.superclasses[data.superclass_of[label]])
    return columns + ["superclass"] * (data.superclasses is not None), rows


def _jpeg(image: NDArray) -> bytes:
    """image: uint8 (3, h, w)."""
    picture, file = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def roc(predictions: Predictions, classes: Sequence[str]) -> Curve:
    """Each class against the others; of a class without images, or with all of them, there is none."""
    from sklearn.metrics import roc_curve  # a second, which what draws no curves should not wait for

    rows = _rows(predictions, classes, lambda truth, scores: roc_curve(truth, scores)[:2])
    return ("fpr", "False positive rate"), ("tpr", "True positive rate"), rows


def precision_recall(predictions: Predictions, classes: Sequence[str]) -> Curve:
    """As `roc`."""
    from sklearn.metrics import precision_recall_curve

    rows = _rows(predictions, classes, lambda truth, scores: precision_recall_curve(truth, scores)[1::-1])
    return ("recall", "Recall"), ("precision", "Precision"), rows


def _rows(
    predictions: Predictions, classes: Sequence[str], curve: Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]
) -> list[list[Any]]:
    """Rows of class, x, y. curve: of a class, from whether each image is of it and its probability."""
    scores, labels = metrics.softmax(predictions.logits), predictions.labels
    rows = []
    for k, name in enumerate(classes):
        if 0 < (labels == k).sum() < len(labels):
            rows += [[name, x, y] for x, y in _thinned(*curve(labels == k, scores[:, k]))]
    return rows


def _thinned(x: NDArray, y: NDArray) -> list[tuple[float, float]]:
    """Both ends stay."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]

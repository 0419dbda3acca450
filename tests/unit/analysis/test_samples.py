"""What W&B is shown of an evaluation: which images, and curves that are scikit-learn's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from common.analysis.metrics import softmax
from common.analysis.predictions import Predictions
from common.analysis.samples import precision_recall, roc, sample_table
from common.data.dataset import Dataset

CLASSES = ("a", "b", "c", "never")


@pytest.fixture
def some() -> tuple[Predictions, Dataset]:
    """1,000 images of which the dataset holds twice as many; a good third is wrong; of the last class there is none."""
    rng = np.random.default_rng(1)
    labels, indices = rng.integers(0, 3, 1000), rng.permutation(2000)[:1000]
    logits = (rng.normal(size=(1000, 4)) + 1.5 * np.eye(4)[labels]).astype(np.float32)
    images = torch.zeros(2000, 3, 300, 200, dtype=torch.uint8)
    images[indices] = torch.tensor(labels * 100, dtype=torch.uint8).view(-1, 1, 1, 1)  # its grey says the class
    data = Dataset("x", images, torch.zeros(2000, dtype=torch.int64), CLASSES, ("vowel", "other"), (0, 1, 1, 1), True)
    return Predictions(logits, labels, indices), data


def test_the_surest_mistakes_come_first_up_to_a_limit_then_a_sample_of_the_rest(some):
    predictions, data = some
    columns, rows = sample_table(predictions, data)
    assert columns == ["image", "true", "predicted", "confidence", "superclass"] and len(rows) == 300
    wrong = [row for row in rows if row[1] != row[2]]
    confidences = softmax(predictions.logits).max(axis=1)
    worst = sorted(confidences[predictions.predicted != predictions.labels], reverse=True)[:200]
    assert wrong == rows[:200] and [row[3] for row in wrong] == pytest.approx(worst)
    assert len({row[3] for row in rows[200:]}) == 100
    for row in rows:
        picture = Image.open(io.BytesIO(row[0]))
        assert picture.size == (85, 128) and abs(np.asarray(picture).mean() - 100 * CLASSES.index(row[1])) < 3
        assert row[4] == ("vowel" if row[1] == "a" else "other")


def test_a_data_set_without_superclasses_has_no_such_column(some):
    predictions, data = some
    plain = Dataset("x", data.images, data.labels, CLASSES, None, None, True)
    columns, rows = sample_table(predictions, plain)
    assert columns[-1] == "confidence" and {len(row) for row in rows} == {4}


def test_curves_by_class_have_scikit_learn_s_areas(some):
    predictions, scores = some[0], softmax(some[0].logits)
    for curve, area in ((roc, roc_auc_score), (precision_recall, average_precision_score)):
        _, _, rows = curve(predictions, CLASSES)
        assert {row[0] for row in rows} == {"a", "b", "c"} and len(rows) <= 600
        for k, name in enumerate(CLASSES[:3]):
            x, y = np.array([row[1:] for row in rows if row[0] == name]).T
            assert auc(x, y) == pytest.approx(area(predictions.labels == k, scores[:, k]), abs=0.01)

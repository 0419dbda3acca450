"""Logits and labels → numbers. Pure NumPy: nothing here reads a file, draws or logs.

Conventions: `logits: float (images, classes)`; `labels, predictions: int (images,)`, values in 0..classes-1;
`confusion: int (classes, classes)`, row = true class, column = predicted class. Intervals are 95 %.
Where scikit-learn has the same number, these functions return it (the tests compare them); they are written out because
its import takes a second, and because all of them follow from one matrix and one table of probabilities.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from common.analysis.report import TEMPERATURES, Bin

Z95 = float(special.ndtri(0.975))  # the normal distribution's 97.5 % quantile


# --- logits -----------------------------------------------------------------------------------------------------------


def softmax(logits: NDArray) -> NDArray:
    """Class probabilities `float64 (images, classes)`; rows sum to 1."""
    return special.softmax(logits.astype(np.float64), axis=1)


def negative_log_likelihood(logits: NDArray, labels: NDArray) -> float:
    """Mean cross-entropy in nats."""
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def top_k_accuracy(logits: NDArray, labels: NDArray, k: int) -> float:
    """Share of images whose label is among the k largest logits; 1.0 when there are at most k classes.

    Ties are broken as in `sklearn.metrics.top_k_accuracy_score`: among equal logits the higher class index wins.
    """
    order = np.argsort(logits, axis=1, kind="stable")[:, ::-1][:, :k]
    return float((order == labels[:, None]).any(axis=1).mean())


# --- classes ----------------------------------------------------------------------------------------------------------


def confusion_matrix(labels: NDArray, predictions: NDArray, num_classes: int) -> NDArray:
    """Counts `int64 (classes, classes)`; entry [i, j]: images of class i taken for class j."""
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


def grouped_confusion(confusion: NDArray, group_of: ArrayLike, num_groups: int) -> NDArray:
    """The confusion matrix of superclasses: rows and columns of one group summed. `group_of: int (classes,)`."""
    membership = np.eye(num_groups, dtype=np.int64)[np.asarray(group_of)]
    return membership.T @ confusion @ membership


def accuracy(confusion: NDArray) -> float:
    return float(np.trace(confusion) / confusion.sum())


def divide(numerator: NDArray, denominator: NDArray) -> NDArray:
    """Element by element, 0 where the denominator is 0: scikit-learn's `zero_division=0`."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=np.asarray(denominator) > 0)


def wilson_interval(successes: ArrayLike, trials: ArrayLike) -> tuple[NDArray, NDArray]:
    """Score interval of a proportion (Wilson 1927, JASA 22:209): lower and upper bound, (0, 1) without trials.

    Element by element; SciPy's `binomtest(…).proportion_ci("wilson")` takes one proportion at a time.

    centre = (p + z²/2n) / (1 + z²/n), half width = z/(1 + z²/n) · sqrt(p(1 - p)/n + z²/4n²)
    """
    count = np.asarray(trials, dtype=np.float64)
    n = np.maximum(count, 1)
    p = np.asarray(successes, dtype=np.float64) / n
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    low = np.where(count > 0, np.clip(centre - half, 0, 1), 0.0)
    high = np.where(count > 0, np.clip(centre + half, 0, 1), 1.0)
    return low, high


def per_class_scores(confusion: NDArray) -> dict[str, NDArray]:
    """Precision, recall and F1 of every class with their 95 % intervals, all `float (classes,)`, plus counts.

    Recall and precision are proportions: Wilson intervals. F1 = 2TP / (2TP + FP + FN) is a monotone function of the
    proportion J = TP / (TP + FP + FN): F1 = 2J / (1 + J). The interval is Wilson's for J, mapped through it
    (the "Wilson indirect" method of Lam, Gopal & Qian 2023, arXiv:2309.14621).
    """
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    either = support + predicted - hits
    precision_low, precision_high = wilson_interval(hits, predicted)
    recall_low, recall_high = wilson_interval(hits, support)
    overlap_low, overlap_high = wilson_interval(hits, either)
    return {
        "precision": divide(hits, predicted),
        "precision_low": precision_low,
        "precision_high": precision_high,
        "recall": divide(hits, support),
        "recall_low": recall_low,
        "recall_high": recall_high,
        "f1": divide(2 * hits, support + predicted),
        "f1_low": 2 * overlap_low / (1 + overlap_low),
        "f1_high": 2 * overlap_high / (1 + overlap_high),
        "support": support,
        "predicted": predicted,
    }


def macro_f1(confusion: NDArray) -> float:
    """Unweighted mean of the classes' F1; a class that never occurs and is never predicted counts 0."""
    return float(per_class_scores(confusion)["f1"].mean())


def balanced_accuracy(confusion: NDArray) -> float:
    """Unweighted mean of the classes' recall, of those that occur."""
    occurs = confusion.sum(axis=1) > 0
    return float(per_class_scores(confusion)["recall"][occurs].mean())


def baseline_accuracy(confusion: NDArray) -> float:
    """What always naming the most frequent class gives: the share of the images that are of it."""
    return float(confusion.sum(axis=1).max() / confusion.sum())


def confused_pairs(confusion: NDArray, limit: int) -> list[tuple[int, int, int]]:
    """(true, predicted, count) of the most frequent errors, most frequent first, at most `limit`, none of count 0."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j] > 0]


def confused_pairs_symmetric(confusion: NDArray, limit: int) -> list[tuple[int, int, int, int]]:
    """(a, b, a taken for b, b taken for a), a < b, by the sum of both directions, largest first."""
    return [(i, j, int(confusion[i, j]), int(confusion[j, i])) for i, j, _ in confused_pairs(_upper(confusion), limit)]


def errors_by_group(confusion: NDArray, group_of: ArrayLike) -> tuple[int, int]:
    """Errors (inside, across) groups: the wrong class of the right superclass, and of another superclass."""
    groups = np.asarray(group_of)
    same = groups[:, None] == groups[None, :]
    inside = int(confusion[same].sum() - np.trace(confusion))
    return inside, int(confusion[~same].sum())


def _upper(matrix: NDArray) -> NDArray:
    """Both directions of a pair added up, each pair once: upper triangle of M + Mᵀ without the diagonal."""
    return np.triu(matrix + matrix.T, k=1)


# --- calibration ------------------------------------------------------------------------------------------------------


def reliability_bins(probabilities: NDArray, labels: NDArray, bins: int = 15) -> list[Bin]:
    """Images by confidence of the predicted class, in `bins` equal intervals."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = which == b
        count = int(inside.sum())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (None, None)
        rows.append(Bin(float(edges[b]), float(edges[b + 1]), count, *means))
    return rows


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean over images of |accuracy - confidence| of their bin (Guo et al. 2017, "On Calibration", eq. 3)."""
    gaps = [
        b.count * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    ]
    return float(sum(gaps) / sum(b.count for b in bins))


def fit_temperature(
    logits: NDArray, labels: NDArray, low: float = TEMPERATURES[0], high: float = TEMPERATURES[1]
) -> float:
    """The T in [low, high] for which softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017, 4.2).

    With b = 1/T the loss is convex in b and its slope is mean(E_p[logit] - logit of the label): bisected on log b. SciPy's
    root finders want a change of sign between the ends, and a faultless model has none.
    """
    logits = logits.astype(np.float64)
    target = logits[np.arange(len(labels)), labels]

    def slope(log_b: float) -> float:
        return float(((softmax(np.exp(log_b) * logits) * logits).sum(axis=1) - target).mean())

    left, right = -np.log(high), -np.log(low)
    for _ in range(50):
        middle = (left + right) / 2
        # A slope of exactly 0 is one that has vanished in rounding: certain and right, so the temperature may fall further.
        left, right = (middle, right) if slope(middle) <= 0 else (left, middle)
    return float(np.exp(-(left + right) / 2))


# --- labels that look wrong -------------------------------------------------------------------------------------------


def confident_joint(labels: NDArray, probabilities: NDArray) -> tuple[NDArray, NDArray]:
    """Confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70, section 3.1).

    A class's threshold is the mean probability that its own images get; an image counts as (given label, j) where j is
    its most probable class among those whose probability reaches the threshold, and is left out if none does.

    Returns:
        joint: `int (classes, classes)`, given label × confident class.
        confident: `int (images,)`, the confident class of each image, -1 for none.
    """
    num_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    # A class without images has no threshold: nothing may be confidently in it.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    above = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident = np.where(above.max(axis=1) >= 0, above.argmax(axis=1), -1)
    kept = confident >= 0
    return confusion_matrix(labels[kept], confident[kept], num_classes), confident


def calibrated_joint(labels: NDArray, probabilities: NDArray) -> NDArray:
    """`float (classes, classes)`: how many images are estimated to be labelled i and to be j. The confident joint, its rows
    rescaled to the number of images of each class (same paper, eq. 3, in images)."""
    joint, _ = confident_joint(labels, probabilities)
    counts = np.bincount(labels, minlength=len(joint))
    # A class no image of which is confident carries no information: its images count as rightly labelled.
    rows = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(len(joint), dtype=joint.dtype))
    return rows / rows.sum(axis=1, keepdims=True) * counts[:, None]


def prune_by_noise_rate(labels: NDArray, probabilities: NDArray) -> NDArray:
    """`bool (images,)`: for each pair of label i and class j, as many images labelled i as are estimated to be j, those with the
    largest p(j) - p(i) (same paper, section 3.2, method 3)."""
    joint = np.rint(calibrated_joint(labels, probabilities)).astype(int)
    np.fill_diagonal(joint, 0)
    chosen = np.zeros(len(labels), dtype=bool)
    for given, other in zip(*np.nonzero(joint), strict=True):
        members = np.flatnonzero(labels == given)
        margin = probabilities[members, other] - probabilities[members, given]
        chosen[members[np.argsort(-margin, kind="stable")[: joint[given, other]]]] = True
    return chosen


def label_issues(labels: NDArray, probabilities: NDArray) -> list[int]:
    """Indices of images whose label looks wrong, worst first: the off-diagonal of the confident joint, and what pruning by noise
    rate adds, which is half as many again on planted errors. Only where the most probable class is another than the label: a doubt
    may not contradict itself.

    Sorted by normalized margin, p(given label) - p(most probable class), most negative first (same paper, section 3.2).
    """
    _, confident = confident_joint(labels, probabilities)
    doubted = ((confident >= 0) & (confident != labels)) | prune_by_noise_rate(labels, probabilities)
    suspects = np.flatnonzero(doubted & (probabilities.argmax(axis=1) != labels))
    margin = probabilities[suspects, labels[suspects]] - probabilities[suspects].max(axis=1)
    return [int(index) for index in suspects[np.argsort(margin, kind="stable")]]


def overlapping_classes(labels: NDArray, probabilities: NDArray, limit: int) -> list[tuple[int, int, float]]:
    """Class pairs (a, b, joint probability), largest first: the share of images estimated to have the label of one and
    to belong to the other.

    The calibrated joint, rescaled to sum 1 (same paper, eq. 3); both directions of a pair are added.
    """
    scaled = calibrated_joint(labels, probabilities)
    both = _upper(scaled / scaled.sum())
    order = np.argsort(-both, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, both.shape), strict=True)
    return [(int(a), int(b), float(both[a, b])) for a, b in pairs if both[a, b] > 0]


# --- two models -------------------------------------------------------------------------------------------------------


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: images that one model alone gets right, against a fair coin.

    p = 2 · P(X ≤ min(b, c)), X ~ Binomial(b + c, 1/2), at most 1 (McNemar 1947; Dietterich 1998 for classifiers).
    `scipy.stats.binomtest` gives the same, and takes half a second to be imported.
    """
    tail = special.bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return min(1.0, 2 * float(tail))


def paired_difference_interval(only_first: int, only_second: int, total: int) -> tuple[float, float]:
    """95 % interval of accuracy(first) - accuracy(second) on the same `total` images.

    The adjusted Wald interval for matched pairs, which adds ½ to each of the four cells
    (Agresti & Min 2005, Statistics in Medicine 24:729).
    """
    n, difference = total + 2, only_first - only_second
    half = Z95 * np.sqrt(only_first + only_second + 1 - difference**2 / n) / n
    return float(max(-1.0, difference / n - half)), float(min(1.0, difference / n + half))

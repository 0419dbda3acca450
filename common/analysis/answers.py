"""When a network should rather not answer: accuracy against coverage, the confidence from which on it is right often enough, and
the energy by which a photo is unlike anything seen. Pure NumPy, as `common.analysis.metrics`.

`confidences: float (images,)`, those of the predicted class; `correct: bool (images,)`. Coverage is the share of the images that is
answered, the surest first; risk the share of these that is wrong.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from common.analysis.metrics import softmax, wilson_interval
from common.analysis.predictions import Predictions
from common.analysis.report import Answers, Point, Threshold

TARGETS = (0.9, 0.95, 0.99)
LONGEST_CURVE = 200
LIKE = 0.95  # the share of the validation images whose energy is not above the limit, as in Liu et al. 2020
FEWEST_LIKE = 20  # images of which 5 % is one


# --- accuracy against coverage ----------------------------------------------------------------------------------------


def area(confidences: NDArray, correct: NDArray) -> tuple[float, float]:
    """AURC, the mean over k of the risk of the k surest images (Geifman & El-Yaniv 2017, arXiv:1705.08500), and E-AURC: by how much it
    is more than that of the best order, which has all errors last (Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206). Both are 0 at best.

    Images of one confidence have no order, so the mean over all of their orders counts.
    """
    counts, right = _ends(confidences, correct)
    k = np.arange(1, len(correct) + 1)
    errors = k - np.interp(k, [0, *counts], [0, *right])  # within a tie they come evenly
    best = np.maximum(0, k - right[-1])
    return float((errors / k).mean()), float(((errors - best) / k).mean())


def curve(confidences: NDArray, correct: NDArray) -> list[Point]:
    """How many images have at least which confidence, and how many of them are right: at most `LONGEST_CURVE` points, from the surest
    images to all, evenly spread over them."""
    counts, right = _ends(confidences, correct)
    wanted = np.linspace(0, counts[-1], LONGEST_CURVE + 1)[1:]
    kept = np.unique(np.searchsorted(counts, np.minimum(wanted, counts[-1])))
    falling = np.sort(confidences)[::-1]
    return [Point(float(falling[counts[i] - 1]), int(counts[i]), int(right[i])) for i in kept]


def _ends(confidences: NDArray, correct: NDArray) -> tuple[NDArray, NDArray]:
    """At the end of each tie, the surest first: how many images there are until there, and how many of them are right."""
    order = np.argsort(-confidences, kind="stable")
    falling = confidences[order]
    counts = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) + 1
    return counts, np.cumsum(correct[order])[counts - 1]


# --- thresholds -------------------------------------------------------------------------------------------------------


def confidence_for(points: Sequence[Point], target: float) -> float | None:
    """The smallest confidence from which on the accuracy is `target` or more; None where no confidence is enough.

    The accuracy counts with the lower end of its 95 % interval (Wilson's): with the accuracy itself, the smallest confidence would be
    one at which these images happened to be lucky, and others would fall short about as often as not.
    """
    reached = [point for point in points if _surely(point) >= target]
    return min((point.confidence for point in reached), default=None)


def most_reached(points: Sequence[Point]) -> float:
    """The largest accuracy that `confidence_for` has a confidence for."""
    return max(map(_surely, points), default=0.0)


def _surely(point: Point) -> float:
    return float(wilson_interval(point.correct, point.count)[0])


def threshold(target: float, points: Sequence[Point], confidences: NDArray, correct: NDArray) -> Threshold:
    """That for `target` by `points`, and what it gives on other images."""
    least = confidence_for(points, target)
    if least is None:
        return Threshold(target)
    answered = confidences >= least
    count, right = int(answered.sum()), int(correct[answered].sum())
    low, high = wilson_interval(right, count)
    accuracy = right / count if count else None
    return Threshold(target, least, count / len(correct), accuracy, float(low), float(high))


# --- energy -----------------------------------------------------------------------------------------------------------


def energies(logits: NDArray) -> NDArray:
    """`float64 (images,)`: -logsumexp(logits), high for images unlike those of training (Liu et al. 2020, arXiv:2010.03759, eq. 4, with
    T = 1 as in the paper)."""
    return -special.logsumexp(logits.astype(np.float64), axis=1)


def energy_limit(logits: NDArray) -> float | None:
    """The energy that the share `LIKE` of these images does not exceed; None of fewer than `FEWEST_LIKE`."""
    if len(logits) < FEWEST_LIKE:
        return None
    return float(np.quantile(energies(logits), LIKE))


# --- together ---------------------------------------------------------------------------------------------------------


def when_to_answer(
    predictions: Predictions, fitted_on: Predictions | None, temperature: float | None, note: str
) -> Answers:
    """What confidence and energy tell of `predictions`, with thresholds and limit of `fitted_on`; `note` says what that is, or why there
    is nothing. temperature: of both; None: 1."""
    confidences, correct = confidence_of(predictions.logits, temperature), predictions.predicted == predictions.labels
    aurc, excess = area(confidences, correct)
    own = curve(confidences, correct)
    if fitted_on is None:
        return Answers(aurc, excess, own, note=note)
    sure, right = confidence_of(fitted_on.logits, temperature), fitted_on.predicted == fitted_on.labels
    points, limit = curve(sure, right), energy_limit(fitted_on.logits)
    return Answers(
        aurc,
        excess,
        own,
        fitted=points,
        thresholds=[threshold(target, points, confidences, correct) for target in TARGETS],
        energy_limit=limit,
        unlike=None if limit is None else float((energies(predictions.logits) > limit).mean()),
        note=note,
    )


def confidence_of(logits: NDArray, temperature: float | None) -> NDArray:
    """`float64 (images,)`: the probability of the predicted class, calibrated."""
    return softmax(logits.astype(np.float64) / (temperature or 1.0)).max(axis=1)

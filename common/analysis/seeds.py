"""Is one recipe better than another, or was it luck? Several seeds of each on the same images → differences with intervals.

Luck has two sources: the seeds that were drawn, and the images that were. An interval that knows one of them alone claims too
much (Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks", MLSys). `right: bool (seeds, images)`,
whether a seed's network names an image's class; both recipes have the same images. Intervals are 95 %; differences are B − A.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.analysis import metrics


@dataclass(frozen=True)
class Difference:
    """Of two accuracies."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    """two-sided"""
    from_seeds: float | None = None
    """the share of the width's square that more seeds would take away; the rest more images would"""

    @property
    def interval(self) -> tuple[float, float]:
        """Cut to what a difference can be; two seeds can give more."""
        return max(self.low, -1.0), min(self.high, 1.0)

    @property
    def turned(self) -> "Difference":
        """The same of A − B."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)


def by_seed(right_a: NDArray, right_b: NDArray) -> NDArray:
    """B's accuracy minus A's for each seed, float (seeds,); seeds are in the same order."""
    return (right_b.sum(axis=1) - right_a.sum(axis=1)) / right_a.shape[1]  # integers first: equal ones stay equal


def over_seeds(right_a: NDArray, right_b: NDArray, paired: bool) -> Difference | None:
    """On these very images, over other seeds: Student's paired t, or Welch's where the seeds are not the same. None where there
    is no spread to judge by: one seed, or accuracies that are equal by chance."""
    a, b = (right.sum(axis=1) / right.shape[1] for right in (right_a, right_b))
    spread = [by_seed(right_a, right_b)] if paired else [a, b]
    if min(len(a), len(b)) < 2 or not any(map(np.ptp, spread)):
        return None
    from scipy import stats  # half a second, which evaluate.py, and a page without groups, should not wait for

    with warnings.catch_warnings():  # of a recipe whose accuracies are equal, which is no harm here
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_1samp(spread[0], 0) if paired else stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(float(b.mean() - a.mean()), float(interval.low), float(interval.high), float(test.pvalue))


def over_images(right_a: NDArray, right_b: NDArray) -> Difference | None:
    """Of these very networks, over other images: with one network each McNemar's test, else the paired t over images of the mean
    over seeds. None where each image is right as often here as there."""
    value = float(right_b.mean() - right_a.mean())
    if len(right_a) == len(right_b) == 1:
        only_b, only_a = int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum())
        interval = metrics.paired_difference_interval(only_b, only_a, right_a.shape[1])
        return Difference(value, *interval, metrics.mcnemar(only_b, only_a))
    images = right_b.mean(axis=0) - right_a.mean(axis=0)
    if len(images) < 2 or not np.ptp(images):
        return None
    from scipy import stats

    test = stats.ttest_1samp(images, 0)
    low, high = test.confidence_interval(0.95)
    return Difference(value, float(low), float(high), float(test.pvalue))


def over_both(right_a: NDArray, right_b: NDArray, paired: bool) -> Difference | None:
    """Over other seeds and other images alike: what can be said of the two recipes. None where `over_seeds` is.

    Seeds and images are crossed random effects, as readers and cases are in radiology (Dorfman, Berbaum & Metz 1992,
    Investigative Radiology 27:723). The variance of the mean has the seeds' part, which a few of them estimate with few degrees of
    freedom, and the images' part, from the analysis of variance of the (seeds, images) table; half widths add up as squares
    (Howe 1974, JASA 69:789):

        half² = (half of `over_seeds`)² + z² · max(var(mean over seeds) − Σ MS(rest) / seeds, 0) / images

    A bootstrap over two to five seeds would claim too much, and so does Satterthwaite's approximation with two: the test simulates it.
    """
    seeds, images = over_seeds(right_a, right_b, paired), right_a.shape[1]
    if seeds is None or images < 2:
        return None
    a, b = right_a.astype(np.float64), right_b.astype(np.float64)
    per_image = (b.mean(axis=0) - a.mean(axis=0)).var(ddof=1)
    noise = sum(_rest(table) / len(table) for table in ([b - a] if paired else [a, b]))
    from_seeds, from_images = (seeds.high - seeds.low) / 2, metrics.Z95 * math.sqrt(max(per_image - noise, 0) / images)
    half = math.hypot(from_seeds, from_images)
    return Difference(seeds.value, seeds.value - half, seeds.value + half, from_seeds=(from_seeds / half) ** 2)


def _rest(table: NDArray) -> float:
    """Mean square of what neither its seed nor its image explains in a table (seeds, images)."""
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    return (rest**2).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1))

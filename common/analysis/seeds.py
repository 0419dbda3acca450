"""Is one recipe better than another, or was it luck? Several seeds of each on the same images → differences with intervals.

Luck has two sources: the seeds that were drawn, and the images that were. An interval that knows one of them alone claims too
much (Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks", MLSys). `right: bool (seeds, images)`,
whether a seed's network names an image's class; both recipes have the same images. Intervals are 95 %; differences are B − A.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.analysis import metrics


@dataclass(frozen=True)
class Difference:
    """Of two accuracies."""

    value: float
    low: float
    high: float
    p_value: float
    """two-sided"""
    from_seeds: float | None = None
    """the share of the variance that more seeds would take away; the rest more images would"""


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
    test = stats.ttest_1samp(images, 0)
    low, high = test.confidence_interval(0.95)
    return Difference(value, float(low), float(high), float(test.pvalue))


def over_both(right_a: NDArray, right_b: NDArray, paired: bool) -> Difference | None:
    """Over other seeds and other images alike: what can be said of the two recipes. None with one seed, one image, or no spread.

    Seeds and images are crossed random effects, as readers and cases are in radiology: the analysis of variance of Dorfman,
    Berbaum & Metz (1992, Investigative Radiology 27:723) with the degrees of freedom of Hillis (2007, Statistics in Medicine
    26:596), which are Satterthwaite's. With n seeds, m images and mean squares of d = B − A (paired), the mean's variance is

        [MS(seeds) + max(MS(images) − MS(rest), 0)] / nm,  degrees of freedom (n − 1) · (the bracket / MS(seeds))²

    Where seeds are not paired, A's and B's mean squares of seeds and rest are their own, and add up.
    """
    if min(len(right_a), len(right_b), right_a.shape[1]) < 2:
        return None
    a, b = right_a.astype(np.float64), right_b.astype(np.float64)
    tables = [b - a] if paired else [a, b]
    parts = [_variance_parts(table) for table in tables]
    seeds = np.array([part[0] for part in parts])
    per_image = b.mean(axis=0) - a.mean(axis=0)
    images = max(per_image.var(ddof=1) / len(per_image) - sum(part[1] for part in parts), 0.0)
    variance = float(seeds.sum() + images)
    if variance == 0:
        return None
    freedom = seeds**2 @ [1 / (len(table) - 1) for table in tables]
    degrees = variance**2 / freedom if freedom > 0 else math.inf
    value, error = float(per_image.mean()), math.sqrt(variance)
    reach, p_value = stats.t.ppf(0.975, degrees) * error, 2 * stats.t.sf(abs(value) / error, degrees)
    return Difference(value, value - reach, value + reach, float(p_value), float(seeds.sum()) / variance)


def _variance_parts(table: NDArray) -> tuple[float, float]:
    """MS(seeds) / nm and MS(rest) / nm of a table (n seeds, m images)."""
    seeds, images = table.shape
    by_seed, by_image = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    rest = table - by_seed - by_image + table.mean()
    return by_seed.var(ddof=1) / seeds, (rest**2).sum() / ((seeds - 1) * (images - 1) * table.size)

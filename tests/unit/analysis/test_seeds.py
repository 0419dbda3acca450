"""Differences of recipes against SciPy, a plain loop, and simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from common.analysis.metrics import mcnemar, paired_difference_interval
from common.analysis.seeds import by_seed, over_both, over_images, over_seeds


def drawn(seeds_a: int, seeds_b: int, images: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((seeds_a, images)) < 0.7, rng.random((seeds_b, images)) < 0.8


def test_over_seeds_it_is_scipys_paired_t_test_where_seeds_are_the_same():
    a, b = drawn(4, 4)
    test = stats.ttest_rel(b.mean(axis=1), a.mean(axis=1))
    found = over_seeds(a, b, paired=True)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.value == pytest.approx(np.mean([y.mean() - x.mean() for x, y in zip(a, b, strict=True)]))
    assert found.p_value == pytest.approx(test.pvalue)
    np.testing.assert_allclose(by_seed(a, b), b.mean(axis=1) - a.mean(axis=1))


def test_over_seeds_it_is_welchs_test_where_seeds_are_others():
    a, b = drawn(3, 5)
    x, y = a.mean(axis=1), b.mean(axis=1)
    # Written out: Welch 1947, with Satterthwaite's degrees of freedom.
    parts = [x.var(ddof=1) / 3, y.var(ddof=1) / 5]
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 4)
    half = stats.t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    found = over_seeds(a, b, paired=False)
    assert (found.low, found.high) == pytest.approx((y.mean() - x.mean() - half, y.mean() - x.mean() + half))
    assert found.p_value == pytest.approx(stats.ttest_ind(y, x, equal_var=False).pvalue)


def test_over_images_one_network_each_is_mcnemars_test_and_several_are_a_paired_t_test():
    a, b = drawn(1, 1)
    only_b, only_a = (b & ~a).sum(), (a & ~b).sum()
    found = over_images(a, b)
    assert (found.low, found.high) == paired_difference_interval(only_b, only_a, 200)
    assert found.p_value == mcnemar(only_b, only_a)
    a, b = drawn(2, 3)
    test = stats.ttest_rel(b.mean(axis=0), a.mean(axis=0))
    found = over_images(a, b)
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


@pytest.mark.parametrize("paired", [True, False])
def test_over_both_is_what_a_plain_loop_over_the_table_adds_up(paired):
    a, b = drawn(3, 3, images=40)
    seeds, images = a.shape
    noise = 0.0
    for table in [b * 1.0 - a] if paired else [a * 1.0, b * 1.0]:
        rest = 0.0
        for seed in range(seeds):
            for image in range(images):
                rest += (table[seed, image] - table[seed].mean() - table[:, image].mean() + table.mean()) ** 2
        noise += rest / (seeds - 1) / (images - 1) / seeds
    per_image = [b[:, image].mean() - a[:, image].mean() for image in range(images)]
    from_images = max(np.var(per_image, ddof=1) - noise, 0) / images
    only_seeds = over_seeds(a, b, paired)
    expected = np.sqrt(((only_seeds.high - only_seeds.low) / 2) ** 2 + stats.norm.ppf(0.975) ** 2 * from_images)
    found = over_both(a, b, paired)
    assert (found.high - found.low) / 2 == pytest.approx(expected)
    assert (found.high + found.low) / 2 == found.value == pytest.approx(b.mean() - a.mean())
    assert 0 < found.from_seeds <= 1


def simulated(rng, seeds: int, images: int, seed_sd: float, paired: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Two recipes, and the true difference of their accuracies. An image is right where the sum of what image, seed, recipe and
    chance bring is above 0, all of them normal."""
    image, same_seed = rng.normal(0, 1.0, images), rng.normal(0, 0.1, (seeds, 1))
    right = []
    for skill in (1.0, 1.3):
        of_seed = (same_seed if paired else rng.normal(0, 0.1, (seeds, 1))) + rng.normal(0, seed_sd, (seeds, 1))
        of_image = image + rng.normal(0, 0.5, images)
        right.append(skill + of_image + of_seed + rng.normal(0, 1, (seeds, images)) > 0)
    sd = np.sqrt(1.0 + 0.5**2 + 0.1**2 + seed_sd**2 + 1)
    return right[0], right[1], stats.norm.cdf(1.3 / sd) - stats.norm.cdf(1.0 / sd)


def share_that_hold(method, seeds: int, seed_sd: float, paired: bool, times: int = 600, images: int = 200) -> float:
    """Of intervals over new seeds and new images each time, how many hold the truth."""
    rng, held = np.random.default_rng(seeds), []
    for _ in range(times):
        a, b, truth = simulated(rng, seeds, images, seed_sd, paired)
        found = method(a, b, paired)
        held.append(found is None or found.low <= truth <= found.high)
    return float(np.mean(held))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seeds, seed_sd", [(2, 0.0), (2, 0.2), (3, 0.05), (3, 0.2), (5, 0.2)])
def test_over_both_holds_the_truth_as_often_as_it_says(seeds, seed_sd, paired):
    # 600 draws of 95 % have a standard error of 0.9 points. A little too wide is allowed: few seeds know little of their spread.
    assert 0.93 <= share_that_hold(over_both, seeds, seed_sd, paired) <= 1


def test_an_interval_over_images_alone_would_claim_too_much_of_recipes():
    assert share_that_hold(lambda a, b, _: over_images(a, b), seeds=3, seed_sd=0.2, paired=True) < 0.8


def test_recipes_that_do_not_differ_are_seldom_said_to():
    rng, said = np.random.default_rng(1), 0
    for _ in range(600):
        image, seed = rng.normal(0, 1, 300), rng.normal(0, 0.2, (6, 1))
        right = 1 + image + seed + rng.normal(0, 1, (6, 300)) > 0
        found = over_both(right[:3], right[3:], paired=False)
        said += found is not None and not found.low <= 0 <= found.high
    assert said / 600 <= 0.07


def test_one_seed_and_equal_accuracies_say_nothing_of_seeds():
    a, b = drawn(1, 1)
    assert over_seeds(a, b, paired=True) is None and over_both(a, b, paired=True) is None
    assert over_seeds(*drawn(1, 3), paired=False) is None
    a = np.array([[True, False, True, True], [False, True, True, True]])
    b = np.array([[True, True, True, True], [True, True, True, True]])
    assert over_seeds(a, b, paired=True) is None and over_both(a, b, paired=True) is None  # +1 of 4 each
    assert over_images(a, a) is None

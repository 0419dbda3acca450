"""The numbers of an evaluation, against scikit-learn, SciPy, or the formula written out with plain loops."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier

from common.analysis import metrics


@pytest.fixture(scope="module")
def scored():
    """600 images of 12 classes, right about two times in three; class 11 has no image, class 10 is never predicted."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, 600)
    logits = rng.normal(size=(600, 12)).astype(np.float32)
    logits[np.arange(600), labels] += 2.5
    logits[:, 10] -= 20
    return logits, labels


def test_top_k_accuracy_equals_scikit_learn(scored):
    logits, labels = scored
    for k in (1, 2, 5, 11):
        expected = sk.top_k_accuracy_score(labels, logits, k=k, labels=range(12))
        assert metrics.top_k_accuracy(logits, labels, k) == expected
    assert metrics.top_k_accuracy(logits[:, :11], labels, 50) == 1.0


def test_top_k_accuracy_breaks_ties_as_scikit_learn_does(scored):
    logits, labels = scored
    coarse = np.round(logits)
    expected = sk.top_k_accuracy_score(labels, coarse, k=5, labels=range(12))
    assert metrics.top_k_accuracy(coarse, labels, 5) == expected


def test_confusion_matrix_and_scores_equal_scikit_learn(scored):
    logits, labels = scored
    predictions = logits.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predictions, 12)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, predictions, labels=range(12)))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=range(12), zero_division=0
    )
    ours = metrics.per_class_scores(confusion)
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["f1"], f1)
    np.testing.assert_array_equal(ours["support"], support)
    assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert metrics.macro_f1(confusion) == pytest.approx(
        sk.f1_score(labels, predictions, labels=range(12), average="macro", zero_division=0)
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_and_baseline_equal_scikit_learn(scored):
    logits, labels = scored
    predictions = logits.argmax(axis=1)
    for some in (labels >= 0, labels < 4, labels == 2):  # classes that don't occur have no recall
        confusion = metrics.confusion_matrix(labels[some], predictions[some], 12)
        expected = sk.balanced_accuracy_score(labels[some], predictions[some])
        assert metrics.balanced_accuracy(confusion) == pytest.approx(expected)
        dummy = DummyClassifier(strategy="most_frequent").fit(logits[some], labels[some])
        assert metrics.baseline_accuracy(confusion) == pytest.approx(dummy.score(logits[some], labels[some]))


def test_softmax_and_likelihood_equal_the_references_even_for_huge_logits(scored):
    logits, labels = scored
    np.testing.assert_allclose(metrics.softmax(logits), special.softmax(logits.astype(float), axis=1), rtol=1e-12)
    expected = sk.log_loss(labels, special.softmax(logits.astype(float), axis=1), labels=range(12))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(expected)
    assert np.isfinite(metrics.negative_log_likelihood(logits * 1e4, labels))


def test_wilson_intervals_equal_scipy():
    for successes, trials in [(0, 10), (10, 10), (3, 10), (812, 1000), (1, 1)]:
        low, high = metrics.wilson_interval(successes, trials)
        expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))
    assert tuple(map(float, metrics.wilson_interval(0, 0))) == (0.0, 1.0)


def test_every_interval_holds_its_estimate(scored):
    logits, labels = scored
    scores = metrics.per_class_scores(metrics.confusion_matrix(labels, logits.argmax(axis=1), 12))
    for name in ("precision", "recall", "f1"):
        # Wilson's bound at 0 or 1 is that number but for rounding.
        assert (scores[f"{name}_low"] <= scores[name] + 1e-12).all()
        assert (scores[name] <= scores[f"{name}_high"] + 1e-12).all()


def test_the_f1_interval_covers_the_true_f1_in_about_95_of_100_test_sets():
    probabilities = np.array([0.20, 0.06, 0.04, 0.70])  # TP, FP, FN, TN
    true_f1 = 2 * 0.20 / (2 * 0.20 + 0.06 + 0.04)
    draws = np.random.default_rng(1).multinomial(300, probabilities, size=3000)
    covered = 0
    for tp, fp, fn, tn in draws:
        scores = metrics.per_class_scores(np.array([[tn, fp], [fn, tp]]))
        covered += scores["f1_low"][1] <= true_f1 <= scores["f1_high"][1]
    assert 0.93 < covered / len(draws) < 0.97


def test_superclass_numbers_equal_those_of_relabelled_images(scored):
    logits, labels = scored
    group_of = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    predictions = logits.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predictions, 12)
    grouped = metrics.grouped_confusion(confusion, group_of, 3)
    np.testing.assert_array_equal(grouped, sk.confusion_matrix(group_of[labels], group_of[predictions]))
    wrong = labels != predictions
    inside = int((wrong & (group_of[labels] == group_of[predictions])).sum())
    assert metrics.errors_by_group(confusion, group_of) == (inside, int(wrong.sum()) - inside)


def test_confused_pairs_are_the_largest_errors_first():
    confusion = np.array([[9, 4, 0], [7, 5, 1], [0, 3, 8]])
    assert metrics.confused_pairs(confusion, 10) == [(1, 0, 7), (0, 1, 4), (2, 1, 3), (1, 2, 1)]
    assert metrics.confused_pairs(confusion, 2) == [(1, 0, 7), (0, 1, 4)]
    assert metrics.confused_pairs_symmetric(confusion, 10) == [(0, 1, 4, 7), (1, 2, 1, 3)]
    assert metrics.confused_pairs(np.diag([3, 3]), 5) == []


def test_calibration_error_equals_a_plain_loop(scored):
    logits, labels = scored
    probabilities = metrics.softmax(logits)
    bins = metrics.reliability_bins(probabilities, labels)
    expected = 0.0
    for b in range(15):
        members = [i for i in range(600) if b / 15 < probabilities[i].max() <= (b + 1) / 15]
        if members:
            confidence = np.mean([probabilities[i].max() for i in members])
            share_right = np.mean([probabilities[i].argmax() == labels[i] for i in members])
            expected += len(members) / 600 * abs(share_right - confidence)
        assert bins[b].count == len(members)
    assert metrics.expected_calibration_error(bins) == pytest.approx(expected)


def test_calibration_error_is_zero_for_a_certain_and_right_model():
    probabilities = np.eye(4)[[0, 1, 2, 3]]
    assert metrics.expected_calibration_error(metrics.reliability_bins(probabilities, np.arange(4))) == 0


def test_the_temperature_is_the_one_a_general_optimizer_finds(scored):
    logits, labels = scored
    temperature = metrics.fit_temperature(logits * 3, labels)

    def loss(t):
        return metrics.negative_log_likelihood(logits * 3 / t, labels)

    expected = optimize.minimize_scalar(loss, bounds=(0.1, 100), method="bounded", options={"xatol": 1e-8}).x
    assert temperature == pytest.approx(expected, rel=1e-4)
    assert metrics.fit_temperature(logits, labels) == pytest.approx(temperature / 3, rel=1e-4)


def test_the_temperature_of_a_faultless_model_stays_in_range():
    assert metrics.fit_temperature(np.eye(3) * 5.0, np.arange(3)) == pytest.approx(0.01, rel=1e-3)


def test_the_confident_joint_equals_the_paper_written_out(scored):
    logits, labels = scored
    probabilities = metrics.softmax(logits)
    joint, confident = metrics.confident_joint(labels, probabilities)
    expected = np.zeros((12, 12), dtype=int)
    thresholds = {c: probabilities[labels == c, c].mean() for c in range(12) if (labels == c).any()}
    for i in range(600):
        candidates = [c for c in thresholds if probabilities[i, c] >= thresholds[c]]
        chosen = max(candidates, key=lambda c: probabilities[i, c]) if candidates else -1
        assert confident[i] == chosen
        if chosen >= 0:
            expected[labels[i], chosen] += 1
    np.testing.assert_array_equal(joint, expected)


def test_planted_wrong_labels_are_found_and_ranked_first():
    rng = np.random.default_rng(2)
    true = rng.integers(0, 5, 1000)
    logits = rng.normal(size=(1000, 5))
    logits[np.arange(1000), true] += 6
    labels = true.copy()
    planted = rng.choice(1000, 40, replace=False)
    labels[planted] = (labels[planted] + 1) % 5
    found = metrics.label_issues(labels, metrics.softmax(logits))
    assert len(set(found[:40]) & set(planted)) >= 38
    assert len(found) <= 60


def test_pruning_by_noise_rate_equals_the_paper_written_out(scored):
    logits, labels = scored
    probabilities = metrics.softmax(logits)
    joint, _ = metrics.confident_joint(labels, probabilities)
    expected = set()
    for given in range(12):
        members = [i for i in range(600) if labels[i] == given]
        for other in range(12):
            if other == given or not members or joint[given].sum() == 0:
                continue
            count = round(joint[given, other] / joint[given].sum() * len(members))
            worst = sorted(members, key=lambda i: probabilities[i, given] - probabilities[i, other])
            expected |= set(worst[:count])
    assert set(np.flatnonzero(metrics.prune_by_noise_rate(labels, probabilities))) == expected


def test_no_label_is_doubted_that_the_network_finds_most_probable():
    rng = np.random.default_rng(4)
    for classes in (2, 3, 10, 40):
        labels = rng.integers(0, classes, 500)
        logits = rng.normal(size=(500, classes)) * 0.4
        logits[:, 0] += 1.5  # one class takes more than its share, so that the others' thresholds are low
        logits[np.arange(500), labels] += rng.normal(size=500)
        probabilities = metrics.softmax(logits)
        found = metrics.label_issues(labels, probabilities)
        assert found and all(probabilities[i].argmax() != labels[i] for i in found)
        _, confident = metrics.confident_joint(labels, probabilities)
        assert any(confident[i] not in (-1, labels[i]) and probabilities[i].argmax() == labels[i] for i in range(500))


def test_pruning_by_noise_rate_finds_more_planted_errors_than_the_confident_joint_alone():
    rng = np.random.default_rng(5)
    true = rng.integers(0, 10, 2000)
    logits = rng.normal(size=(2000, 10)) * 1.2
    logits[np.arange(2000), true] += 2
    labels = true.copy()
    planted = rng.choice(2000, 200, replace=False)
    labels[planted] = (labels[planted] + rng.integers(1, 10, 200)) % 10
    probabilities = metrics.softmax(logits)
    _, confident = metrics.confident_joint(labels, probabilities)
    before = set(np.flatnonzero((confident >= 0) & (confident != labels))) & set(planted)
    assert len(set(metrics.label_issues(labels, probabilities)) & set(planted)) > len(before)


def test_classes_that_share_images_overlap_most():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 2000)
    logits = rng.normal(size=(2000, 4))
    logits[np.arange(2000), labels] += 5
    swapped = (labels == 1) & (rng.random(2000) < 0.4)
    logits[swapped] = logits[swapped][:, [0, 2, 1, 3]]  # 40 % of class 1 look like class 2
    (first, second, share), *rest = metrics.overlapping_classes(labels, metrics.softmax(logits), 6)
    assert (first, second) == (1, 2)
    assert share == pytest.approx(swapped.mean(), abs=0.03)  # images below the threshold aren't counted
    assert all(other < share / 3 for _, _, other in rest)


def test_a_class_without_images_or_without_confident_images_does_no_harm():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.85, 0.1, 0.05]])
    labels = np.array([0, 1, 1])
    joint, _ = metrics.confident_joint(labels, probabilities)
    assert joint[:, 2].sum() == 0
    assert all(np.isfinite(share) for *_, share in metrics.overlapping_classes(labels, probabilities, 5))


def test_mcnemar_equals_the_exact_binomial_test():
    for b, c in [(0, 0), (1, 0), (5, 5), (3, 12), (40, 70), (900, 1000)]:
        expected = stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0
        assert metrics.mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
        assert metrics.mcnemar(b, c) == metrics.mcnemar(c, b)


def test_the_paired_interval_equals_wald_on_cells_with_a_half_added():
    b, c, n = 30, 12, 500
    first, second, total = (b + 0.5) / (n + 2), (c + 0.5) / (n + 2), n + 2
    half = stats.norm.ppf(0.975) * math.sqrt((first + second - (first - second) ** 2) / total)
    expected = (first - second - half, first - second + half)
    assert metrics.paired_difference_interval(b, c, n) == pytest.approx(expected)
    assert metrics.paired_difference_interval(0, 10, 10)[0] >= -1

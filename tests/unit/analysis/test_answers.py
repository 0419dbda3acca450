"""When a network should not answer: the numbers against plain loops, SciPy's and scikit-learn's."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from common.analysis import answers, figures
from common.analysis.analyse import analyse, trust
from common.analysis.predictions import Predictions
from common.analysis.report import Checkpoint, Evaluated, Point, Report
from common.analysis.text import _of_answers
from common.base.errors import UserError
from common.base.records import parse_record


def made(images: int, classes: int = 5, seed: int = 0, skill: float = 2.0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += skill
    return Predictions(logits, labels, np.arange(images))


def sure_and_right(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return answers.confidence_of(predictions.logits, None), predictions.predicted == predictions.labels


def area_by_a_loop(correct: list[bool]) -> float:
    """Of images in their order."""
    wrong, risks = 0, []
    for k, right in enumerate(correct, 1):
        wrong += not right
        risks.append(wrong / k)
    return sum(risks) / len(risks)


@pytest.mark.parametrize("images", [1, 2, 37, 500])
def test_the_area_is_the_mean_risk_of_the_surest_and_the_excess_that_beyond_the_best_order(images):
    confidences, correct = sure_and_right(made(images))
    in_order = [bool(correct[i]) for i in sorted(range(images), key=lambda i: -confidences[i])]
    expected, best = area_by_a_loop(in_order), area_by_a_loop(sorted(in_order, reverse=True))
    assert answers.area(confidences, correct) == pytest.approx((expected, expected - best))


def test_images_of_one_confidence_count_as_in_all_of_their_orders():
    confidences, correct = np.array([0.5, 0.9, 0.5, 0.5, 0.9, 0.3]), np.array([1, 0, 0, 1, 1, 0], bool)
    areas = []
    for order in itertools.permutations(range(6)):
        if all(confidences[a] >= confidences[b] for a, b in itertools.pairwise(order)):
            areas.append(area_by_a_loop([bool(correct[i]) for i in order]))
    assert answers.area(confidences, correct)[0] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(("correct", "excess"), [([1, 1, 0, 0], 0), ([1, 1, 1, 1], 0), ([0, 0, 0, 0], 0)])
def test_the_best_order_has_no_excess(correct, excess):
    area, beyond = answers.area(np.array([0.9, 0.8, 0.7, 0.6]), np.array(correct, bool))
    assert beyond == excess and area == area_by_a_loop(list(map(bool, correct)))


@pytest.mark.parametrize("images", [1, 3, 199, 200, 201, 5000])
def test_the_curve_has_few_points_and_each_counts_all_that_are_as_sure(images):
    confidences, correct = sure_and_right(made(images, skill=3))
    confidences = confidences.round(3)  # ties
    points = answers.curve(confidences, correct)
    assert len(points) <= 200 and points[-1].count == images and points[-1].confidence == confidences.min()
    for point in points:
        at_least = confidences >= point.confidence
        assert (point.count, point.correct) == (at_least.sum(), correct[at_least].sum())
    gaps = np.diff([0, *(point.count for point in points)])
    largest_tie = max(np.unique(confidences, return_counts=True)[1])
    assert max(gaps) <= math.ceil(images / 200) + largest_tie


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_a_threshold_is_the_smallest_confidence_with_the_accuracy_at_the_lower_end_of_its_interval(target):
    confidences, correct = sure_and_right(made(200, skill=3))
    smallest = None
    for least in sorted(confidences):
        at_least = confidences >= least
        test = binomtest(int(correct[at_least].sum()), int(at_least.sum()))
        if test.proportion_ci(0.95, "wilson").low >= target:
            smallest = least
            break
    assert answers.confidence_for(answers.curve(confidences, correct), target) == smallest
    assert (smallest is None) == (target > answers.most_reached(answers.curve(confidences, correct)))


def test_few_images_can_vouch_for_little_even_when_all_are_right():
    points = answers.curve(np.linspace(0.5, 1, 20), np.ones(20, bool))
    assert answers.confidence_for(points, 0.8) == 0.5
    assert answers.confidence_for(points, 0.9) is None and answers.confidence_for([], 0.1) is None


def test_on_other_images_a_threshold_keeps_what_it_promises():
    """Over many draws, at the accuracy wanted or above it: that is what the interval's lower end is for."""
    kept = []
    for seed in range(40):
        fitted, new = made(1000, seed=2 * seed), made(20_000, seed=2 * seed + 1)
        row = answers.threshold(0.9, answers.curve(*sure_and_right(fitted)), *sure_and_right(new))
        assert 0 < row.coverage < 1 and row.accuracy_low < row.accuracy < row.accuracy_high
        kept.append(row.accuracy >= 0.9)
    assert np.mean(kept) >= 0.9


def test_energy_is_that_of_the_paper_and_its_limit_leaves_a_twentieth():
    predictions = made(1000)
    expected = np.array([-math.log(sum(math.exp(float(x)) for x in row)) for row in predictions.logits])
    np.testing.assert_allclose(answers.energies(predictions.logits), expected)
    assert np.mean(expected > answers.energy_limit(predictions.logits)) == 0.05
    seen, unseen = answers.energies(predictions.logits), answers.energies(made(1000, skill=0).logits)
    assert roc_auc_score([0] * 1000 + [1] * 1000, [*seen, *unseen]) > 0.6  # high is unlike


def test_of_few_images_no_twentieth_is_told():
    test, few, enough = made(50), made(19), made(20)
    assert answers.when_to_answer(test, enough, None, "").unlike is not None
    found = answers.when_to_answer(test, few, None, "")
    assert (found.energy_limit, found.unlike, len(found.thresholds)) == (None, None, 3)


def test_huge_logits_overflow_nothing():
    logits = np.array([[1e30, -1e30], [-3e38, 3e38]], np.float32)
    assert np.isfinite(answers.energies(logits)).all() and (answers.confidence_of(logits, 0.01) == 1).all()


def test_what_is_fitted_on_validation_is_told_of_the_evaluated_images():
    test, validation = made(800, seed=1), made(600, seed=2)
    calibration, found = trust(test, validation, "fitted on 600 validation images", "test")
    sure = answers.confidence_of(test.logits, calibration.temperature)
    right = test.predicted == test.labels
    assert found.fitted[-1].count == 600 and found.curve[-1].count == 800
    assert found.fitted[-1].correct == (validation.predicted == validation.labels).sum()
    for row in found.thresholds[:2]:
        answered = [i for i in range(800) if sure[i] >= row.confidence]
        assert row.coverage == len(answered) / 800 and row.accuracy == np.mean([right[i] for i in answered])
    limit = np.quantile(answers.energies(validation.logits), 0.95)
    assert found.energy_limit == limit and found.unlike == np.mean(answers.energies(test.logits) > limit)


def test_without_validation_images_there_is_a_curve_and_no_threshold():
    calibration, found = trust(made(50), None, "no temperature: no such part", "test")
    assert calibration.temperature is None and found.aurc > 0 and found.curve[-1].count == 50
    assert (found.fitted, found.thresholds, found.energy_limit) == ([], [], None)
    assert found.note == "no thresholds: no such part"


def test_validation_images_that_are_evaluated_are_fitted_on_with_a_word_of_warning():
    calibration, found = trust(made(300), None, "no temperature: it would flatter", "validation")
    assert calibration.temperature is None and found.fitted == found.curve and "flatters" in found.note


@pytest.mark.parametrize(
    "text", [b'{"confidence": 1.0, "count": 0, "correct": 0}', b'{"confidence": 1.0, "count": 1, "correct": 2}']
)
def test_a_point_that_no_images_can_make_is_refused(text):
    with pytest.raises(UserError, match="report.json"):
        parse_record(text, Point, "report.json")


def test_the_text_and_the_figure_say_what_the_thresholds_give(tmp_path):
    predictions, validation = made(800, skill=3, seed=1), made(600, skill=3, seed=2)
    calibration, found = trust(predictions, validation, "fitted on 600 validation images", "test")
    lines = _of_answers(found)
    assert f"{found.aurc:.4f}" in lines[0]
    for row, line in zip(found.thresholds, lines[1:], strict=False):
        if row.confidence is None:
            assert "no confidence is enough" in line
        else:
            assert f"answering {row.coverage:.1%} of the images" in line and f"right on {row.accuracy:.1%}" in line
    axes = figures.risk_coverage(found).axes[0]
    risks = np.asarray(axes.get_lines()[0].get_xydata())
    assert risks[-1] == pytest.approx([1, 1 - (predictions.predicted == predictions.labels).mean()])
    marked = [row for row in found.thresholds if row.coverage is not None]
    assert len(axes.get_lines()) == 2 + len(marked)


def test_the_answers_come_back_from_a_file_and_a_report_without_them_is_read(tmp_path):
    predictions = made(300)
    calibration, found = trust(predictions, made(200, seed=3), "fitted on 200 validation images", "test")
    report = Report(
        **vars(analyse(predictions, list("abcde"))),
        calibration=calibration,
        answers=found,
        run_id="run",
        job_id="job",
        created=0.0,
        checkpoint=Checkpoint("best.safetensors", "aa", "resnet50"),
        dataset=Evaluated("digits", None, 300, "bb", predictions.digest),
    )
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    replace(report, answers=None).save(tmp_path / "report.json")
    assert "answers" not in json.loads((tmp_path / "report.json").read_text())
    assert Report.load(tmp_path / "report.json").answers is None

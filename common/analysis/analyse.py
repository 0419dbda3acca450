"""Predictions → an `Analysis`, a `Calibration`, a `Comparison`: the parts of report.json.

The numbers come from `common.analysis.metrics`; this module names them and puts them in order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.analysis import metrics
from common.analysis.answers import when_to_answer
from common.analysis.predictions import Predictions
from common.analysis.report import (
    Analysis,
    Answers,
    Calibration,
    ClassScores,
    Comparison,
    ConfusedPair,
    Errors,
    LabelIssue,
    OverlappingPair,
    SymmetricPair,
)
from common.base.text import counted

IMAGES_PER_PAIR = 12  # kept of each confused pair, most confident first
IMAGES_OF_PAIRS = 1500  # kept of all confused pairs together
LONGEST_LIST = 200  # entries of any other list
FEWEST_FOR_TEMPERATURE = (
    100  # images: from fewer, a temperature differs by a tenth and more from one sample to the next
)


def analyse(
    predictions: Predictions,
    classes: Sequence[str],
    superclasses: Sequence[str] | None = None,
    superclass_of: Sequence[int] | None = None,
    split: str = "test",
) -> Analysis:
    """All that the predictions alone tell. `split` is the prefix of the metrics."""
    labels, total = predictions.labels, len(predictions.labels)
    probabilities = metrics.softmax(predictions.logits)
    confusion = metrics.confusion_matrix(labels, predictions.predicted, len(classes))
    correct = int(np.trace(confusion))
    low, high = metrics.wilson_interval(correct, total)
    scores = {
        f"{split}/accuracy": correct / total,
        f"{split}/macro_f1": metrics.macro_f1(confusion),
        f"{split}/balanced_accuracy": metrics.balanced_accuracy(confusion),
        f"{split}/baseline_accuracy": metrics.baseline_accuracy(confusion),
        f"{split}/ece": metrics.expected_calibration_error(metrics.reliability_bins(probabilities, labels)),
    }
    if len(classes) > 5:  # of five classes or fewer it is always 1
        scores[f"{split}/top5_accuracy"] = metrics.top_k_accuracy(predictions.logits, labels, 5)
    grouped = inside = across = None
    if superclasses is not None and superclass_of is not None:
        grouped = metrics.grouped_confusion(confusion, superclass_of, len(superclasses))
        inside, across = metrics.errors_by_group(confusion, superclass_of)
        scores[f"{split}/superclass_accuracy"] = metrics.accuracy(grouped)
    group_names = [superclasses[group] for group in superclass_of] if superclasses and superclass_of else None
    return Analysis(
        split=split,
        classes=list(classes),
        superclasses=list(superclasses) if superclasses is not None else None,
        superclass_of=list(superclass_of) if superclass_of is not None else None,
        metrics=scores,
        accuracy_interval=(float(low), float(high)),
        per_class=_per_class(confusion, classes, group_names),
        confusion=confusion.tolist(),
        superclass_confusion=None if grouped is None else grouped.tolist(),
        errors=Errors(total - correct, inside, across),
        confused=_confused(confusion, predictions),
        confused_symmetric=_confused_symmetric(confusion),
        label_issues=_label_issues(predictions, probabilities),
        overlapping_classes=[
            OverlappingPair(a, b, count=round(share * total), share=share)
            for a, b, share in metrics.overlapping_classes(labels, probabilities, LONGEST_LIST)
        ],
    )


def _per_class(confusion: NDArray, classes: Sequence[str], group_names: Sequence[str] | None) -> list[ClassScores]:
    columns = metrics.per_class_scores(confusion)
    return [
        ClassScores(
            name,
            group_names[label] if group_names else None,
            **{key: values[label].item() for key, values in columns.items()},
        )
        for label, name in enumerate(classes)
    ]


def _confused(confusion: NDArray, predictions: Predictions) -> list[ConfusedPair]:
    """Confused pairs, most frequent first, with their images, until there are `IMAGES_OF_PAIRS` of those."""
    by_confidence = np.argsort(-predictions.confidences, kind="stable")
    labels, predicted = predictions.labels[by_confidence], predictions.predicted[by_confidence]
    support = confusion.sum(axis=1)
    found, room = [], IMAGES_OF_PAIRS
    for true, guess, count in metrics.confused_pairs(confusion, IMAGES_OF_PAIRS):
        members = by_confidence[(labels == true) & (predicted == guess)][: min(IMAGES_PER_PAIR, room)]
        if len(members) == 0:
            break
        room -= len(members)
        share, images = float(count / support[true]), predictions.indices[members].tolist()
        found.append(ConfusedPair(true, guess, count, share, images))
    return found


def _confused_symmetric(confusion: NDArray) -> list[SymmetricPair]:
    support = confusion.sum(axis=1)
    return [
        SymmetricPair(a, b, a_as_b, b_as_a, a_as_b + b_as_a, float((a_as_b + b_as_a) / (support[a] + support[b])))
        for a, b, a_as_b, b_as_a in metrics.confused_pairs_symmetric(confusion, LONGEST_LIST)
    ]


def _label_issues(predictions: Predictions, probabilities: NDArray) -> list[LabelIssue]:
    return [
        LabelIssue(
            index=int(predictions.indices[i]),
            given=int(predictions.labels[i]),
            suggested=int(predictions.predicted[i]),
            given_probability=float(probabilities[i, predictions.labels[i]]),
            suggested_probability=float(probabilities[i].max()),
        )
        for i in metrics.label_issues(predictions.labels, probabilities)[:LONGEST_LIST]
    ]


def trust(
    predictions: Predictions, validation: Predictions | None, note: str, split: str
) -> tuple[Calibration, Answers]:
    """How far the confidence can be trusted, and when it should not answer, by what is fitted on `validation`, of which `note` speaks.

    Where the validation images are evaluated themselves, a temperature would flatter them; thresholds and the energy's limit, which others
    need, are fitted on them all the same.
    """
    calibration = calibrate(predictions, validation, note)
    if split == "validation":
        fitted_on, said = predictions, "fitted on these very images, which flatters them"
    elif validation is None:
        fitted_on, said = None, note.replace("no temperature", "no thresholds", 1)
    else:
        fitted_on, said = validation, f"fitted on {len(validation.labels)} validation images"
    return calibration, when_to_answer(predictions, fitted_on, calibration.temperature, said)


def calibrate(predictions: Predictions, validation: Predictions | None, note: str) -> Calibration:
    """Reliability before and after the temperature that suits `validation` best; `note` says what it was fitted on. Of too few images
    none is fitted."""
    before = _reliability(predictions.logits, predictions.labels)
    if validation is None:
        return Calibration(**before, note=note)
    if (count := len(validation.labels)) < FEWEST_FOR_TEMPERATURE:
        few = f"no temperature: {counted(count, 'validation image')} {'is' if count == 1 else 'are'} too few to fit one on, which takes {FEWEST_FOR_TEMPERATURE}"
        return Calibration(**before, note=few)
    temperature = metrics.fit_temperature(validation.logits, validation.labels)
    after = _reliability(predictions.logits / temperature, predictions.labels)
    return Calibration(
        **before, temperature=temperature, **{f"{key}_after": value for key, value in after.items()}, note=note
    )


def _reliability(logits: NDArray, labels: NDArray) -> dict[str, Any]:
    bins = metrics.reliability_bins(metrics.softmax(logits), labels)
    ece, nll = metrics.expected_calibration_error(bins), metrics.negative_log_likelihood(logits, labels)
    return {"ece": ece, "nll": nll, "bins": bins}


def compare(this: Predictions, other: Predictions, other_id: str, other_tta: str = "none") -> Comparison:
    """Two models on the same images: the difference in accuracy, whether chance explains it (McNemar), and the images
    that one of them alone gets right, surest first."""
    assert this.digest == other.digest
    this_right, other_right = this.predicted == this.labels, other.predicted == other.labels
    only_this, only_other = this_right & ~other_right, other_right & ~this_right
    counts = int(only_this.sum()), int(only_other.sum())
    low, high = metrics.paired_difference_interval(*counts, len(this.labels))
    return Comparison(
        other=other_id,
        accuracy=float(this_right.mean()),
        other_accuracy=float(other_right.mean()),
        difference=(counts[0] - counts[1]) / len(this.labels),
        difference_low=low,
        difference_high=high,
        only_this=counts[0],
        only_other=counts[1],
        both=int((this_right & other_right).sum()),
        neither=int((~this_right & ~other_right).sum()),
        p_value=metrics.mcnemar(*counts),
        only_this_images=_surest(this, only_this),
        only_other_images=_surest(other, only_other),
        other_tta=other_tta,
    )


def _surest(predictions: Predictions, chosen: NDArray) -> list[int]:
    members = np.flatnonzero(chosen)
    order = np.argsort(-predictions.confidences[members], kind="stable")
    return predictions.indices[members[order]][:LONGEST_LIST].tolist()

"""Logits and labels → what an evaluation says: `report.json`, the tables, and the text a person reads.

The numbers come from `common.metrics`; this module names them and puts them in order. Image indices are those of the
dataset; labels are class indices. Intervals are 95 %.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.analysis import metrics
from common.analysis.predictions import Predictions

VERSION = 1
IMAGES_PER_PAIR = 12  # kept of each confused pair, most confident first
IMAGES_OF_PAIRS = 1500  # kept of all confused pairs together
LONGEST_LIST = 200  # entries of any other list
PAIRS_SHOWN = 10  # in the text
Report = dict[str, Any]
Table = tuple[list[str], list[list[Any]]]  # columns, rows


def analyse(
    predictions: Predictions,
    classes: Sequence[str],
    superclasses: Sequence[str] | None = None,
    superclass_of: Sequence[int] | None = None,
    split: str = "test",
) -> Report:
    """All that the predictions alone tell; its keys are those of report.json. `split` is the prefix of the metrics."""
    labels, answers = predictions.labels, predictions.answers
    probabilities = metrics.softmax(predictions.logits)
    confusion = metrics.confusion_matrix(labels, answers, len(classes))
    correct, total = int(np.trace(confusion)), len(labels)
    bins = metrics.reliability_bins(probabilities, labels)
    report = {
        "split": split,
        "classes": list(classes),
        "superclasses": superclasses and list(superclasses),
        "superclass_of": superclass_of and list(superclass_of),
        "metrics": {
            f"{split}/accuracy": correct / total,
            f"{split}/top5_accuracy": metrics.top_k_accuracy(predictions.logits, labels, 5),
            f"{split}/macro_f1": metrics.macro_f1(confusion),
            f"{split}/ece": metrics.expected_calibration_error(bins),
        },
        "accuracy_interval": [float(bound) for bound in metrics.wilson_interval(correct, total)],
        "per_class": _per_class(confusion, classes, superclasses, superclass_of),
        "confusion": confusion.tolist(),
        "superclass_confusion": None,
        "errors": {"total": total - correct, "inside_superclass": None, "across_superclasses": None},
        "confused": _confused(confusion, predictions),
        "confused_symmetric": _confused_symmetric(confusion),
        "label_issues": _label_issues(predictions, probabilities),
        "overlapping_classes": [
            {"a": a, "b": b, "count": round(share * total), "share": share}
            for a, b, share in metrics.overlapping_classes(labels, probabilities, LONGEST_LIST)
        ],
    }
    if superclasses:
        grouped = metrics.grouped_confusion(confusion, superclass_of, len(superclasses))
        inside, across = metrics.errors_by_group(confusion, superclass_of)
        report["superclass_confusion"] = grouped.tolist()
        report["errors"] |= {"inside_superclass": inside, "across_superclasses": across}
        report["metrics"][f"{split}/superclass_accuracy"] = metrics.accuracy(grouped)
    return report


def _per_class(
    confusion: NDArray, classes: Sequence[str], superclasses: Sequence[str] | None, superclass_of: Sequence[int] | None
) -> list[dict[str, Any]]:
    scores = metrics.per_class_scores(confusion)
    return [
        {
            "class": name,
            "superclass": superclasses[superclass_of[label]] if superclasses else None,
            **{key: values[label].item() for key, values in scores.items()},
        }
        for label, name in enumerate(classes)
    ]


def _confused(confusion: NDArray, predictions: Predictions) -> list[dict[str, Any]]:
    """Confused pairs, most frequent first, with their images, until there are `IMAGES_OF_PAIRS` of those."""
    by_confidence = np.argsort(-predictions.confidences, kind="stable")
    labels, answers = predictions.labels[by_confidence], predictions.answers[by_confidence]
    support = confusion.sum(axis=1)
    found, room = [], IMAGES_OF_PAIRS
    for true, predicted, count in metrics.confused_pairs(confusion, IMAGES_OF_PAIRS):
        members = by_confidence[(labels == true) & (answers == predicted)][: min(IMAGES_PER_PAIR, room)]
        if len(members) == 0:
            break
        room -= len(members)
        found.append(
            {
                "true": true,
                "predicted": predicted,
                "count": count,
                "share": float(count / support[true]),
                "images": predictions.indices[members].tolist(),
            }
        )
    return found


def _confused_symmetric(confusion: NDArray) -> list[dict[str, Any]]:
    """`share`: of the images of both classes."""
    support = confusion.sum(axis=1)
    return [
        {
            "a": a,
            "b": b,
            "a_as_b": a_as_b,
            "b_as_a": b_as_a,
            "count": a_as_b + b_as_a,
            "share": float((a_as_b + b_as_a) / (support[a] + support[b])),
        }
        for a, b, a_as_b, b_as_a in metrics.confused_pairs_symmetric(confusion, LONGEST_LIST)
    ]


def _label_issues(predictions: Predictions, probabilities: NDArray) -> list[dict[str, Any]]:
    _, confident = metrics.confident_joint(predictions.labels, probabilities)
    return [
        {
            "index": int(predictions.indices[i]),
            "given": int(predictions.labels[i]),
            "suggested": int(confident[i]),
            "given_probability": float(probabilities[i, predictions.labels[i]]),
            "suggested_probability": float(probabilities[i, confident[i]]),
        }
        for i in metrics.label_issues(predictions.labels, probabilities)[:LONGEST_LIST]
    ]


def calibrate(predictions: Predictions, validation: Predictions | None, note: str) -> dict[str, Any]:
    """Reliability before and after the temperature that suits `validation` best; `note` says what it was fitted on."""
    temperature = metrics.fit_temperature(validation.logits, validation.labels) if validation else None
    before = _reliability(predictions.logits, predictions.labels)
    after = _reliability(predictions.logits / temperature, predictions.labels) if temperature else dict.fromkeys(before)
    return {**before, "temperature": temperature, **{f"{key}_after": after[key] for key in after}, "note": note}


def _reliability(logits: NDArray, labels: NDArray) -> dict[str, Any]:
    bins = metrics.reliability_bins(metrics.softmax(logits), labels)
    return {
        "ece": metrics.expected_calibration_error(bins),
        "nll": metrics.negative_log_likelihood(logits, labels),
        "bins": bins,
    }


def compare(this: Predictions, other: Predictions, other_id: str) -> dict[str, Any]:
    """Two models on the same images: the difference in accuracy, whether chance explains it (McNemar), and the images
    that one of them alone gets right, surest first."""
    assert this.digest == other.digest
    this_right, other_right = this.answers == this.labels, other.answers == other.labels
    only_this, only_other = this_right & ~other_right, other_right & ~this_right
    counts = int(only_this.sum()), int(only_other.sum())
    low, high = metrics.paired_difference_interval(*counts, len(this.labels))
    return {
        "with": other_id,
        "accuracy": float(this_right.mean()),
        "other_accuracy": float(other_right.mean()),
        "difference": (counts[0] - counts[1]) / len(this.labels),
        "difference_low": low,
        "difference_high": high,
        "only_this": counts[0],
        "only_other": counts[1],
        "both": int((this_right & other_right).sum()),
        "neither": int((~this_right & ~other_right).sum()),
        "p_value": metrics.mcnemar(*counts),
        "only_this_images": _surest(this, only_this),
        "only_other_images": _surest(other, only_other),
    }


def _surest(predictions: Predictions, chosen: NDArray) -> list[int]:
    members = np.flatnonzero(chosen)
    order = np.argsort(-predictions.confidences[members], kind="stable")
    return predictions.indices[members[order]][:LONGEST_LIST].tolist()


def tables(report: Report) -> dict[str, Table]:
    """The lists of a complete report as tables, class names in place of labels; empty ones are left out."""
    names, calibration = report["classes"], report["calibration"]
    rows = {
        "per_class": report["per_class"],
        "confused": _named(report["confused"], names, "true", "predicted"),
        "confused_symmetric": _named(report["confused_symmetric"], names, "a", "b"),
        "superclass_confusion": _superclass_cells(report),
        "calibration": calibration["bins"],
        "calibration_after": calibration["bins_after"],
        "label_issues": _named(report["label_issues"], names, "given", "suggested"),
        "overlapping_classes": _named(report["overlapping_classes"], names, "a", "b"),
        "comparison": [report["comparison"]] if report["comparison"] else [],
    }
    return {name: _table(some) for name, some in rows.items() if some}


def _named(rows: list[dict[str, Any]], names: list[str], *keys: str) -> list[dict[str, Any]]:
    return [{**row, **{key: names[row[key]] for key in keys}} for row in rows]


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        key for key, value in rows[0].items() if not isinstance(value, list)
    ]  # lists of images stay in the report
    return columns, [[row[key] for key in columns] for row in rows]


def _superclass_cells(report: Report) -> list[dict[str, Any]]:
    """The superclass matrix as rows (true, predicted, count) without its zeros, most frequent first."""
    names = report["superclasses"]
    cells = [
        {"true": names[i], "predicted": names[j], "count": count}
        for i, row in enumerate(report["superclass_confusion"] or [])
        for j, count in enumerate(row)
        if count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])


def classification_report(predictions: Predictions, classes: Sequence[str]) -> str:
    """scikit-learn's own, a line a class."""
    from sklearn.metrics import classification_report

    return classification_report(
        predictions.labels,
        predictions.answers,
        labels=range(len(classes)),
        target_names=classes,
        digits=3,
        zero_division=0,
    )


def headline(report: Report) -> str:
    """The numbers in a few lines, most important first."""
    numbers = {key.partition("/")[2]: value for key, value in report["metrics"].items()}
    low, high = report["accuracy_interval"]
    errors, calibration = report["errors"], report["calibration"]
    total = sum(row["support"] for row in report["per_class"])
    lines = [
        f"accuracy             {numbers['accuracy']:.4f}   95 % interval {low:.4f} to {high:.4f}; "
        f"{errors['total']} of {total} images wrong",
        f"top-5 accuracy       {numbers['top5_accuracy']:.4f}",
        f"macro F1             {numbers['macro_f1']:.4f}",
    ]
    if report["superclasses"]:
        lines.append(
            f"superclass accuracy  {numbers['superclass_accuracy']:.4f}   {errors['inside_superclass']} errors stay "
            f"inside the superclass, {errors['across_superclasses']} leave it"
        )
    better = (
        "{ece_after:.4f} with temperature {temperature:.2f}, ".format(**calibration)
        if calibration["temperature"]
        else ""
    )
    lines.append(f"calibration error    {numbers['ece']:.4f}   {better}{calibration['note']}")
    if report["comparison"]:
        lines.append(_comparison_line(report["comparison"]))
    return "\n".join(lines)


def _comparison_line(comparison: dict[str, Any]) -> str:
    return (
        f"against {comparison['with']}: {comparison['difference']:+.4f} accuracy, 95 % interval "
        f"{comparison['difference_low']:+.4f} to {comparison['difference_high']:+.4f}, McNemar's p "
        f"{'below 0.0001' if comparison['p_value'] < 1e-4 else format(comparison['p_value'], '.4f')}; {comparison['only_this']} images right only here, {comparison['only_other']} only there"
    )


def most_confused(report: Report) -> str:
    """The most frequent errors, a line each."""
    if not report["confused"]:
        return "no errors"
    classes = report["classes"]
    pairs = report["confused"][:PAIRS_SHOWN]
    width = max(len(classes[pair["true"]]) for pair in pairs)
    lines = [
        f"  {classes[pair['true']]:>{width}} taken for {classes[pair['predicted']]}: {pair['count']} "
        f"({pair['share']:.0%} of its class)"
        for pair in pairs
    ]
    return "\n".join(["most confused", *lines])

"""What a run was warned of and has not been mended, each with the flag or the file that mends it."""

from typing import Any

from common.analysis.analyse import LONGEST_LIST
from common.analysis.report import Report
from common.base.text import counted, percent
from common.runs.records import Split, Summary
from common.runs.rules import unequal_classes

SMALL_ECE, LARGE_ECE = 0.02, 0.05  # below: stated confidence can be taken at its word; above: it cannot
FEW = 100  # images: of fewer, calibration errors such as these are chance
TOLD = 2  # sentences; more are not read


def remedies(
    report: Report | None, summary: Summary, split: Split | None, config: dict[str, Any], issues: str
) -> list[str]:
    """Sentences for the end of what next, the gravest first; flags stand in backticks. issues: the file of labels in doubt."""
    told = [
        *of_unequal_classes(summary, split, config),
        *of_no_validation(split),
        *of_labels(report, issues),
        *of_confidence(report),
    ]
    return told[:TOLD]


def of_unequal_classes(summary: Summary, split: Split | None, config: dict[str, Any]) -> list[str]:
    """Training's own warning; none of a run that did not keep its counts, as earlier versions did not."""
    counts, classes = summary.class_counts or [], split.classes if split else ()
    if not any(counts) or len(counts) != len(classes):
        return []
    best_by = config.get("best_by") if summary.validation_size else None
    found = unequal_classes(classes, counts, config.get("balance"), best_by)
    return [f"The {'; '.join(found)}."] if found else []


def of_no_validation(split: Split | None) -> list[str]:
    if split is None or split.validation:
        return []
    return [
        "Without validation images its last epoch counts as its best, and its confidence can't be calibrated. Train again with "
        "`--validation_fraction 0.1`."
    ]


def of_labels(report: Report | None, issues: str) -> list[str]:
    if report is None or not report.label_issues or not report.beats_chance:
        return []
    count = len(report.label_issues)
    of = f"{counted(count, f'{report.split} image')}{' or more' * (count == LONGEST_LIST)}"
    if report.split == "test":
        return [f"The labels of {of} are in doubt. Look at them in `{issues}` before you blame the model."]
    return [
        f"The labels of {of} are in doubt. Fill in the column fix of `{issues}`, and train again with `--label_fixes`."
    ]


def of_confidence(report: Report | None) -> list[str]:
    if report is None or report.dataset.size < FEW or not report.beats_chance:
        return []
    found = report.calibration
    if found.ece < SMALL_ECE or not found.improved or percent(found.ece_after) == percent(found.ece):
        return []
    return [
        f"Its confidence is off by {percent(found.ece)}; with its temperature by {percent(found.ece_after)}, as `predict.py` tells it."
    ]

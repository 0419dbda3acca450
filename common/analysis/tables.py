"""A report's lists as tables, for W&B and for the run folder."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from common.analysis.report import Report
from common.base.records import as_json

Row = dict[str, Any]
Table = tuple[list[str], list[list[Any]]]  # columns, rows


def tables(report: Report) -> dict[str, Table]:
    """The lists by name, class names in place of labels; empty ones are left out. A column is named as in report.json."""
    rows: dict[str, list[Row]] = {
        "per_class": [as_json(row) for row in report.per_class],
        "confused": _named(report.confused, report.classes, "true", "predicted"),
        "confused_symmetric": _named(report.confused_symmetric, report.classes, "a", "b"),
        "superclass_confusion": _superclass_cells(report),
        "calibration": [as_json(row) for row in report.calibration.bins],
        "calibration_after": [as_json(row) for row in report.calibration.bins_after or []],
        "label_issues": _named(report.label_issues, report.classes, "given", "suggested"),
        "overlapping_classes": _named(report.overlapping_classes, report.classes, "a", "b"),
        "duplicates": _named(
            report.duplicates.pairs if report.duplicates else [], report.classes, "label", "seen_label"
        ),
        "comparison": [as_json(report.comparison)] if report.comparison else [],
    }
    return {name: _table(some) for name, some in rows.items() if some}


def issues_csv(report: Report, names: Sequence[str] | None) -> str:
    """The doubtful labels for a person to fill in the column `fix`, as `--label_fixes` takes it. names: the images' files, where they have
    any; else they are called by their indices."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", "label", "label_probability", "suggested", "suggested_probability", "fix"])
    for issue in report.label_issues:
        image = names[issue.index] if names else issue.index
        label, suggested = report.classes[issue.given], report.classes[issue.suggested]
        numbers = f"{issue.given_probability:.4f}", f"{issue.suggested_probability:.4f}"
        writer.writerow([image, report.split, label, numbers[0], suggested, numbers[1], ""])
    return text.getvalue()


def _named(pairs: list[Any], names: list[str], *labels: str) -> list[Row]:
    rows = [as_json(pair) for pair in pairs]
    return [{**row, **{label: names[row[label]] for label in labels}} for row in rows]


def _table(rows: list[Row]) -> Table:
    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]  # images stay in the report
    return columns, [[row[key] for key in columns] for row in rows]


def _superclass_cells(report: Report) -> list[Row]:
    """The superclass matrix as rows (true, predicted, count) without its zeros, most frequent first."""
    names = report.superclasses or []
    cells = [
        {"true": names[i], "predicted": names[j], "count": count}
        for i, row in enumerate(report.superclass_confusion or [])
        for j, count in enumerate(row)
        if count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])

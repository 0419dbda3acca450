"""Which classes fail, in words: a paragraph for the dashboard and the model card, lines for report.txt."""

from collections.abc import Callable

from common.analysis.report import FAILS, Analysis, ClassScores
from common.base.text import counted, listed, percent

CLASSES_TOLD = 10
LOST_TOLD = 100


def failing_classes(report: Analysis, shown: Callable[[str], str] = str) -> str:
    """Classes of which there are images alone; praise only of what surely beats naming that class as often, but blindly. `shown` makes a
    name fit for where the text stands."""
    if not report.errors.total:
        return "None: every image of every class was found."
    total = sum(row.support for row in report.per_class)
    rows = [row for row in report.per_class if row.support]
    lost = [shown(row.name) for row in report.failing if not row.recall]
    partly = sorted((row for row in rows if 0 < row.recall < 1), key=lambda row: row.recall)
    known = [row for row in rows if row.recall and row.recall_low > row.predicted / total]
    best = sorted(known, key=lambda row: -row.recall)[: min(3, max(1, len(rows) // 2))]
    more = [f"{len(lost) - LOST_TOLD} more"] if len(lost) > LOST_TOLD else []
    told = [f"Never found: {listed([*lost[:LOST_TOLD], *more])}."] if lost else []
    weak = len(report.failing) - len(lost)
    worst = untied(partly, min(CLASSES_TOLD, max(5, weak), max(weak, len(rows) - len(best))))
    if worst:
        others = f", and {weak - len(worst)} more in less than half of their images" * (weak > len(worst))
        told.append(f"Found least often: {recalls(worst, shown)}{others}.")
    elif partly:
        told.append(f"{len(partly)} classes are found less than always, and none of them stands out.")
    best = [row for row in best if not worst or row.recall > worst[-1].recall]
    if best:
        told.append(f"Most often: {recalls(best, shown)}.")
    if worst or best:
        told.append(
            f"(Share of the class's images: its recall. A class fails below {FAILS * 100:.0f} %: {how_many_fail(report)}.)"
        )
    return " ".join(told)


def failing_lines(report: Analysis) -> str:
    """Every class that fails, a line each; nothing when there is none."""
    if not report.failing:
        return ""
    lines = [f"  {row.name}: {_found(row)}" for row in report.failing]
    title = f"classes that fail: {len(lines)} of {with_images(report)}, of which less than half of the images are found"
    return "\n".join([title, *lines])


def _found(row: ClassScores) -> str:
    if row.recall:
        return f"{row.recall:.1%} of {counted(row.support, 'image')} found"
    taken = f"and {row.predicted} of other classes taken for it" if row.predicted else "never predicted"
    return f"none of {counted(row.support, 'image')} found, {taken}"


def how_many_fail(report: Analysis) -> str:
    fail = len(report.failing)
    return f"{fail or 'none'} of {with_images(report)} {'does' if fail == 1 else 'do'}"


def with_images(report: Analysis) -> int:
    """How many classes there are images of; the others can't fail."""
    return sum(row.support > 0 for row in report.per_class)


def recalls(rows: list[ClassScores], shown: Callable[[str], str]) -> str:
    return listed([f"{shown(row.name)} ({percent(row.recall)})" for row in rows])


def untied(rows: list[ClassScores], limit: int) -> list[ClassScores]:
    """The first `limit`, and those that are found as rarely as the last of them, unless these are more than as many again: then none of
    them."""
    if len(rows) <= limit:
        return rows
    last = rows[limit - 1].recall
    through = [row for row in rows if row.recall <= last]
    return through if len(through) <= 2 * limit else [row for row in rows if row.recall < last]

"""What the numbers of a run mean, in plain sentences. Pure: run dictionaries of `reading` in, text out."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from common.dashboard.reading import differing_keys

Run = dict[str, Any]
SMALL_ECE, LARGE_ECE = 0.02, 0.05  # below: stated confidence can be taken at its word; above: it cannot


def percent(share: float | None) -> str:
    """`0.8123` → `81.2 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"


def shown(value: Any) -> str:
    """A setting as a person writes it on the command line."""
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" and {items[-1]}" if items else ""


# ---------------------------------------------------------------------------------------------- one run


def describe_run(run: Run) -> list[dict[str, str]]:
    """`[{"question", "answer"}, …]`: what a newcomer asks of a run."""
    report = run["report"]
    answers = [("How good is it?", how_good(run))]
    if report:
        answers += [
            ("Which classes fail?", failing_classes(report)),
            ("What are they taken for?", confusions(report)),
            ("Is its confidence to be trusted?", confidence(report)),
        ]
        doubts = label_doubts(report)
        if doubts:
            answers.append(("Are the labels right?", doubts))
    return [{"question": question, "answer": answer} for question, answer in answers if answer]


def how_good(run: Run) -> str:
    report = run["report"]
    if report is None or report["accuracy"] is None:
        if run["validation_accuracy"] is None:
            return "Not known yet: no epoch with a validation was logged, and it was not tested."
        at = "" if run["best_epoch"] is None else f", after epoch {run['best_epoch']:g}"
        return (
            f"Right on {percent(run['validation_accuracy'])} of the validation images at its best{at}. "
            "It was not tested yet, and the best epoch was chosen by this number, so expect a little less."
        )
    size = report.get("size")
    where = f"{size:,} {report.get('split', 'test')} images" if size else f"the {report.get('split', 'test')} images"
    text = f"Right on {percent(report['accuracy'])} of {where}"
    if report["accuracy_interval"]:
        low, high = report["accuracy_interval"]
        text += f" (another test set of this size would likely give {percent(low)} to {percent(high)})"
    if report["classes"]:
        text += f"; guessing among {len(report['classes'])} classes gives {percent(1 / len(report['classes']))}"
    text += "."
    if report["top5_accuracy"] is not None and len(report["classes"]) > 5:
        text += f" The right class is among its first five in {percent(report['top5_accuracy'])}."
    if report["superclass_accuracy"] is not None and report.get("superclasses"):
        text += f" It names the right one of {len(report['superclasses'])} superclasses in "
        text += f"{percent(report['superclass_accuracy'])}."
    if run["validation_accuracy"] is not None:
        text += f" On validation it had {percent(run['validation_accuracy'])}."
    return text


def failing_classes(report: dict[str, Any]) -> str:
    rows = [row for row in report["per_class"] if isinstance(row.get("recall"), int | float)]
    if not rows:
        return ""
    rows.sort(key=lambda row: row["recall"])
    count = min(5, max(1, len(rows) // 3))
    worst = [f"{row['class']} ({percent(row['recall'])})" for row in rows[:count]]
    text = f"Found least often: {listed(worst)}."
    if len(rows) > count:
        best = [f"{row['class']} ({percent(row['recall'])})" for row in rows[: -min(3, count) - 1 : -1]]
        text += f" Found most often: {listed(best)}. The share is of the images of that class that it recognised."
    return text


def confusions(report: dict[str, Any]) -> str:
    pairs = report["confused_pairs"] or pairs_of_cells(report)
    sentences = []
    for pair in pairs[:4]:
        share = f", {percent(pair['share'])} of them" if isinstance(pair.get("share"), int | float) else ""
        sentences.append(f"{pair['true']} for {pair['predicted']} ({pair.get('count', '?')} images{share})")
    if not sentences:
        return "It made no mistake on these images." if report["accuracy"] == 1 else ""
    text = f"It most often takes {listed(sentences)}."
    if report.get("superclass_of") and report.get("cells"):
        of = report["superclass_of"]
        errors = sum(n for i, j, n in report["cells"] if i != j)
        near = sum(n for i, j, n in report["cells"] if i != j and of[i] == of[j])
        if errors:
            text += f" {percent(near / errors)} of its errors stay inside the right superclass."
    return text


def pairs_of_cells(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The most confused pairs, from the matrix: `[{"true", "predicted", "count", "share"}, …]`."""
    cells, classes = report.get("cells", []), report["classes"]
    support: dict[int, int] = defaultdict(int)
    for i, _, n in cells:
        support[i] += n
    wrong = sorted(((n, i, j) for i, j, n in cells if i != j), key=lambda cell: (-cell[0], cell[1:]))
    return [
        {"true": classes[i], "predicted": classes[j], "count": n, "share": round(n / support[i], 4)}
        for n, i, j in wrong[:30]
    ]


def confidence(report: dict[str, Any]) -> str:
    calibration = report.get("calibration") or {}
    ece = report["ece"] if report["ece"] is not None else calibration.get("ece_before")
    if ece is None:
        return ""
    gap = confidence_gap(calibration.get("bins") or [])
    direction = "" if gap is None else " It is surer than it should be." if gap > 0 else " It is too modest."
    off = f"its confidence and its accuracy differ by {percent(ece)} on average"
    if ece < SMALL_ECE:
        text = f"Yes: {off} (expected calibration error)."
    elif ece < LARGE_ECE:
        text = f"Roughly: {off} (expected calibration error).{direction}"
    else:
        text = f"No: {off} (expected calibration error).{direction}"
    after, temperature = calibration.get("ece_after"), calibration.get("temperature")
    if after is not None and temperature is not None:
        if after < ece:
            text += f" Dividing its logits by {temperature:.2f} (fitted on validation) brings that to {percent(after)}."
        else:
            text += f" A temperature fitted on validation ({temperature:.2f}) does not improve it."
    return text


def confidence_gap(bins: list[dict[str, Any]]) -> float | None:
    """Mean confidence minus accuracy over the bins, in [-1, 1]; None without images."""
    rows = [
        (b["count"], b["confidence"] - b["accuracy"])
        for b in bins
        if all(isinstance(b.get(key), int | float) for key in ("count", "confidence", "accuracy"))
    ]
    total = sum(count for count, _ in rows)
    return sum(count * gap for count, gap in rows) / total if total else None


def label_doubts(report: dict[str, Any]) -> str:
    count = len(report["label_issues"])
    if not count:
        return ""
    images = "image carries a label" if count == 1 else "images carry labels"
    return f"{count} test {images} that the model contradicts with confidence; look at them before blaming the model."


# ---------------------------------------------------------------------------------------------- all runs


def score(run: Run) -> tuple[float, str] | None:
    """`(accuracy, "test" | "validation")` by which a run is ranked, None when it has neither."""
    report = run["report"]
    if report and report["accuracy"] is not None and report.get("split", "test") == "test":
        return report["accuracy"], "test"
    if run["validation_accuracy"] is not None:
        return run["validation_accuracy"], "validation"
    return None


def rank(runs: list[Run]) -> list[tuple[str, str, list[Run]]]:
    """`[(dataset, "test" | "validation", runs best first), …]`: only runs measured on the same images compete.

    A data set's tested runs compete on the test set; if fewer than two are tested, all compete on validation, because
    otherwise the one run that was tested would win by being alone.
    """
    ranking = []
    datasets = Counter(run["dataset"] for run in runs)
    for dataset, _ in sorted(datasets.items(), key=lambda item: (-item[1], item[0])):
        members = [run for run in runs if run["dataset"] == dataset]
        tested = [run for run in members if (score(run) or (0, ""))[1] == "test"]
        validated = [run for run in members if run["validation_accuracy"] is not None]
        if tested and (len(tested) > 1 or len(validated) < 2):
            ranking.append((dataset, "test", sorted(tested, key=lambda run: -run["report"]["accuracy"])))
        elif validated:
            ranking.append((dataset, "validation", sorted(validated, key=lambda run: -run["validation_accuracy"])))
    return ranking


def describe_best(runs: list[Run]) -> list[dict[str, str]]:
    """For each data set, `{"dataset", "run", "text"}`: the best run and what set it apart."""
    found = []
    for dataset, measure, ranked in rank(runs):
        best, others = ranked[0], ranked[1:]
        value = accuracy_of(best, measure)
        text = f"is right on {percent(value)} of the {measure} images of {dataset}"
        if not others:
            text += (
                ". It is the only run measured on them." if measure == "test" else ". It is the only run to compare."
            )
        else:
            text += f", the best of {len(ranked)} runs. {set_apart(best, others, measure)}"
        found.append({"dataset": dataset, "run": best["id"], "text": text})
    return found


def accuracy_of(run: Run, measure: str) -> float:
    return run["report"]["accuracy"] if measure == "test" else run["validation_accuracy"]


def set_apart(best: Run, others: list[Run], measure: str) -> str:
    """What the best run did that the next did not, what it did alone, and whether the gap can be chance."""
    second = others[0]
    gap = accuracy_of(best, measure) - accuracy_of(second, measure)
    text = f"Next is {second['id']} with {percent(accuracy_of(second, measure))}"
    if gap == 0:
        text += ": a tie"
    elif measure == "test" and overlapping(best["report"]["accuracy_interval"], second["report"]["accuracy_interval"]):
        text += ": so close that chance may explain the gap"
    text += ". "
    keys = differing_keys([best, second])
    if keys:
        changes = [f"{key} {shown(best['config'].get(key))} instead of {shown(second['config'].get(key))}"
                   for key in keys[:6]]  # fmt: skip
        text += f"The best one used {listed(changes)}."
        if len(keys) > 6:
            text += f" {len(keys) - 6} more settings differ."
    else:
        text += "Both had the same settings."
    alone = [
        f"{key} {shown(best['config'].get(key))}"
        for key in differing_keys([best, *others])
        if all(run["config"].get(key) != best["config"].get(key) for run in others)
    ]
    if alone and len(others) > 1:
        text += f" No other run had {listed(alone[:6])}."
    return text


def overlapping(first: list[float] | None, second: list[float] | None) -> bool:
    return bool(first and second and first[0] <= second[1] and second[0] <= first[1])

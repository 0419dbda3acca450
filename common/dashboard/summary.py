"""What the numbers mean, in plain sentences. Pure: the runs that `reading` read in, text out."""

from collections.abc import Sequence
from typing import Any

from common.analysis.report import Answers, Bin, Comparison, Duplicates, Report, Threshold
from common.base.text import counted
from common.dashboard.reading import differing_keys

Run = dict[str, Any]  # its "report" is a `Report` or None
SMALL_ECE, LARGE_ECE = 0.02, 0.05  # below: stated confidence can be taken at its word; above: it cannot
DIFFERENCES_TOLD = 6


def percent(share: float | None) -> str:
    """`0.8123` → `81.2 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def setting(run: Run, key: str) -> str:
    return str(run["config"].get(key))


# --- one run ----------------------------------------------------------------------------------------------------------


def describe_run(run: Run) -> list[dict[str, str]]:
    """What a newcomer asks of a run, `[{"question", "answer"}, …]`."""
    report: Report | None = run["report"]
    answers = [("How good is it?", how_good(run))]
    if report:
        answers += [
            ("Which classes fail?", failing_classes(report)),
            ("What are they taken for?", confusions(report)),
            ("Is its confidence to be trusted?", confidence(report)),
        ]
        if report.answers:
            answers.append(("When should it not answer?", when_unsure(report.answers)))
        if report.duplicates:
            answers.append(("Had it seen these images in training?", seen_before(report.duplicates)))
        if report.comparison:
            answers.append((f"Is it better than {report.comparison.other}?", compared(report.comparison)))
    return [{"question": question, "answer": answer} for question, answer in answers]


def how_good(run: Run) -> str:
    report: Report | None = run["report"]
    validation = run["validation_accuracy"]
    if report is None:
        if validation is None:
            return "Not known yet: it was neither validated nor tested."
        epoch = "" if run["best_epoch"] is None else f", after epoch {run['best_epoch']:g}"
        return (
            f"Right on {percent(validation)} of the validation images at its best{epoch}. It is not tested yet; "
            f"expect a little less there, because the best epoch was chosen by {chosen_by(run)}."
        )
    metrics, classes, (low, high) = report.metrics, len(report.classes), report.accuracy_interval
    accuracy, balanced, top5, superclass = (
        metrics.get(f"{report.split}/{name}")
        for name in ("accuracy", "balanced_accuracy", "top5_accuracy", "superclass_accuracy")
    )
    mirrored = ", each seen with its mirror image (--tta flip)" if report.tta == "flip" else ""
    text = (
        f"Right on {percent(accuracy)} of {counted(report.dataset.size, f'{report.split} image')} "
        f"(95 % interval {percent(low)} to {percent(high)}){mirrored}; {baseline(report)}."
    )
    if balanced is not None:
        text += f" If every class counted the same, on {percent(balanced)} (balanced accuracy)."
    if top5 is not None and classes > 5:
        text += f" The right class is among its first five in {percent(top5)}."
    if superclass is not None:
        text += f" It finds the right superclass in {percent(superclass)}."
    if validation is not None:
        text += f" On validation it had {percent(validation)}."
    return text


def seen_before(found: Duplicates) -> str:
    if found.note:
        return f"Not known: {found.note}"
    nearly = "" if found.near is None else " or nearly"
    if not found.count:
        return f"No: none of them is in train or validation, pixel by pixel{nearly}."
    how = f"{found.exact} pixel by pixel" + ("" if found.near is None else f", {found.near} nearly")
    low, high = percent(found.accuracy_without_low), percent(found.accuracy_without_high)
    text = (
        f"{found.count} of them ({how}). Without those it is right on {percent(found.accuracy_without)} (95 % interval {low} to {high}): "
        f"its honest accuracy. On those it is right on {percent(found.accuracy_on_them)}."
    )
    return (
        text
        + f" {found.other_label} of them {'has' if found.other_label == 1 else 'have'} another label in training."
        * bool(found.other_label)
    )


def baseline(report: Report) -> str:
    """What an answer that looks at no image gives."""
    largest, share = report.baseline
    text = f"always answering {largest!r} gives {percent(share)}"
    return text if report.accuracy_interval[0] > share else f"{text}, which it does not surely beat"


def chosen_by(run: Run) -> str:
    """By what number of the validation the best epoch was chosen."""
    best_by = run["config"].get("best_by", "accuracy")
    return "this number" if best_by == "accuracy" else f"that set's {best_by}"


def failing_classes(report: Report) -> str:
    lost = [row.name for row in report.failing]
    never = f"Never found: {listed(lost)}. " if lost else ""
    found = sorted((row.recall, name) for name, row in zip(report.classes, report.per_class, strict=True))
    count = min(5, max(1, len(found) // 2))
    worst, best = ([f"{name} ({percent(recall)})" for recall, name in part]
                   for part in (found[:count], found[::-1][: min(3, count)]))  # fmt: skip
    return f"{never}Found least often: {listed(worst)}. Most often: {listed(best)}. (Share of the class's images: its recall.)"


def confusions(report: Report) -> str:
    classes, errors = report.classes, report.errors
    pairs = [
        f"{classes[pair.true]} for {classes[pair.predicted]} ({pair.count} of {sum(report.confusion[pair.true])})"
        for pair in report.confused[:4]
    ]
    if not pairs:
        return "It made no mistake on these images."
    text = f"It most often takes {listed(pairs)}."
    if errors.inside_superclass is not None and errors.total:
        text += f" {percent(errors.inside_superclass / errors.total)} of its errors stay in the right superclass."
    return text


def confidence(report: Report) -> str:
    calibration = report.calibration
    ece, after, temperature = calibration.ece, calibration.ece_after, calibration.temperature
    off = f"its confidence and its accuracy differ by {percent(ece)} on average (expected calibration error)."
    if ece < SMALL_ECE:
        text = f"Yes: {off}"
    else:
        word = "Roughly" if ece < LARGE_ECE else "No"
        lean = "surer than it should be" if overconfident(calibration.bins) else "too modest"
        text = f"{word}: {off} It is {lean}."
    if after is not None and temperature is not None:
        text += (
            f" Dividing its logits by {temperature:.2f} (fitted on validation) brings that to {percent(after)}."
            if calibration.improved
            else f" A temperature fitted on validation ({temperature:.2f}) does not improve it."
        )
    return text


def when_unsure(answers: Answers) -> str:
    if not answers.thresholds:
        return f"Not known: {answers.note}."
    text = " ".join(map(answering, answers.thresholds)) + f" (Thresholds {answers.note}.)"
    if answers.unlike is not None:
        text += f" {percent(answers.unlike)} of these images count as unlike anything seen, by their energy."
    return f"{text} python predict.py --min_accuracy marks what it should not answer."


def answering(row: Threshold) -> str:
    if row.confidence is None or row.coverage is None:
        return f"No confidence is enough to be right on {percent(row.target)}."
    if row.accuracy is None:
        return f"Of none of these images is it as sure ({percent(row.confidence)}) as to be right on {percent(row.target)}."
    return (
        f"Below a confidence of {percent(row.confidence)}, to be right on {percent(row.target)}: answering {percent(row.coverage)} of the "
        f"images it is right on {percent(row.accuracy)} of those."
    )


def overconfident(bins: Sequence[Bin]) -> bool:
    return sum(b.count * ((b.confidence or 0) - (b.accuracy or 0)) for b in bins) > 0


def compared(comparison: Comparison) -> str:
    low, high = comparison.difference_low, comparison.difference_high
    verdict = "Chance may explain the difference" if low <= 0 <= high else "Yes" if low > 0 else "No, worse"
    return (
        f"{verdict}: {percent(comparison.accuracy)} against {percent(comparison.other_accuracy)} on the same images, "
        f"a difference of {percent(low)} to {percent(high)} (95 % interval; McNemar's p = {comparison.p_value:.2g}). "
        f"{counted(comparison.only_this, 'image')} only this run got right, {comparison.only_other} only the other."
    )


# --- all runs ---------------------------------------------------------------------------------------------------------


def measured(run: Run, split: str) -> float | None:
    """The accuracy by which runs are ranked."""
    report: Report | None = run["report"]
    if split == "test":
        return report.metrics.get("test/accuracy") if report and report.split == "test" else None
    return run["validation_accuracy"]


def rank(runs: list[Run]) -> list[tuple[str, str, list[Run]]]:
    """`[(data, "test" | "validation", runs best first), …]`: only runs measured on the same images compete.

    The runs tested compete on the test set. Where fewer than two are, all compete on validation, because otherwise the
    one that was tested would win by being alone.
    """
    ranking = []
    for data in dict.fromkeys(run["data"] for run in runs):
        of_split = {
            split: _ranked([run for run in runs if run["data"] == data], split) for split in ("test", "validation")
        }
        tested = len(of_split["test"]) > 1 or (of_split["test"] and len(of_split["validation"]) < 2)
        split = "test" if tested else "validation"
        if of_split[split]:
            ranking.append((data, split, of_split[split]))
    return ranking


def _ranked(runs: list[Run], split: str) -> list[Run]:
    scored = [(score, run) for run in runs if (score := measured(run, split)) is not None]
    return [run for _, run in sorted(scored, key=lambda pair: -pair[0])]


def describe_best(runs: list[Run]) -> list[dict[str, str]]:
    """For each data set `{"run", "text"}`: the best run, and what set it apart."""
    found = []
    for data, split, ranked in rank(runs):
        best = ranked[0]
        text = f"is right on {percent(measured(best, split))} of the {split} images of {data}"
        if len(ranked) > 1:
            text += f", the best of {len(ranked)} runs. {set_apart(ranked, split)}"
        else:
            text += "; no other run was measured on them."
        found.append({"run": best["id"], "text": text})
    return found


def set_apart(ranked: list[Run], split: str) -> str:
    """What the best run did that the next did not, what it did alone, and whether the gap may be chance."""
    best, second = ranked[:2]
    text = f"Next is {second['id']} with {percent(measured(second, split))}"
    if measured(best, split) == measured(second, split):
        text += ": a tie"
    elif split == "test":
        (low, _), (_, high) = best["report"].accuracy_interval, second["report"].accuracy_interval
        text += ": so close that chance may explain it" if low <= high else ""
    keys = differing_keys([best, second])
    changes = [f"{key} {setting(best, key)} instead of {setting(second, key)}" for key in keys[:DIFFERENCES_TOLD]]
    text += f". The best one used {listed(changes)}." if changes else ". Both had the same settings."
    if len(keys) > DIFFERENCES_TOLD:
        text += f" {len(keys) - DIFFERENCES_TOLD} more settings differ."
    alone = [
        f"{key} {setting(best, key)}"
        for key in differing_keys(ranked)
        if all(setting(run, key) != setting(best, key) for run in ranked[1:])
    ]
    if alone and len(ranked) > 2:
        text += f" No other run had {listed(alone[:DIFFERENCES_TOLD])}."
    return text

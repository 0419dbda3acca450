"""What the numbers mean, in plain sentences. Pure: the runs that `reading` read in, text out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from common.analysis.answers import LIKE
from common.analysis.classes import failing_classes
from common.analysis.metrics import wilson_interval
from common.analysis.recipes import same_images
from common.analysis.report import Answers, Bin, Comparison, ConfusedPair, Duplicates, Report, Threshold
from common.base.text import counted, listed, percent
from common.dashboard.reading import differing_keys
from common.dashboard.remedies import FEW, LARGE_ECE, SMALL_ECE
from common.runs.rules import OF_HEAD, is_of_head_alone

Run = dict[str, Any]  # its "report" is a `Report` or None
DIFFERENCES_TOLD = 6
WORST_TOLD = 3  # classes that are found equally rarely; of more, none stands out


def setting(run: Run, key: str) -> str:
    value = run["config"].get(key)
    return "none" if value is None else str(value)


def surely(successes: float, trials: float, chance: float) -> bool:
    """Whether a share is above what chance gives, by its 95 % interval."""
    return bool(wilson_interval(successes, trials)[0] > chance)


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
        text = f"Right on {percent(validation)} of the validation images at its best{epoch}."
        if not beats_baseline(run, "validation"):
            text += f" Naming one class for all of them gives at least {percent(1 / run['facts']['Classes'])}, which it does not surely beat."
        return (
            f"{text} It is not tested yet; "
            f"expect a little less there, because the best epoch was chosen by {chosen_by(run)}.{head_alone([run])}"
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
    total, support = report.dataset.size, sorted((row.support for row in report.per_class), reverse=True)
    if top5 is not None and classes > 5 and surely(top5 * total, total, sum(support[:5]) / max(1, sum(support))):
        text += f" The right class is among its first five in {percent(top5)}."
    if superclass is not None and surely(superclass * total, total, largest_superclass(report)):
        text += f" It finds the right superclass in {percent(superclass)}."
    if validation is not None:
        text += f" On validation it had {percent(validation)}."
    return text + head_alone([run])


def head_alone(runs: Sequence[Run]) -> str:
    """A sentence of those runs whose best weights are of the head's own epochs: what their settings say of the rest had not begun."""
    alone = [run for run in runs if is_best_of_head_alone(run)]
    if not alone:
        return ""
    if len(runs) == 1:
        return f" Its best epoch is {OF_HEAD}"
    names = listed([run["id"] for run in alone])
    what = f"The best epoch of {names} is" if len(alone) == 1 else f"The best epochs of {names} are"
    return f" {what} {OF_HEAD}"


def seen_in_words(runs: Sequence[Run], split: str) -> str:
    """A sentence of those measured images that the training of these runs, one recipe's, had seen, too."""
    reports = [run["report"] for run in runs if run["report"] and run["report"].split == split]
    seen = [report.duplicates for report in reports if report.duplicates and report.duplicates.count]
    if not seen:
        return ""
    if any(found.accuracy_without is None for found in seen):
        return " The training had seen all of them: how it does on other images is not known."
    without = percent(fmean(found.accuracy_without for found in seen))
    return f" The training had seen {seen[0].count} of them; of the others it is right on {without}."


def is_best_of_head_alone(run: Run) -> bool:
    report: Report | None = run["report"]
    tested = report.checkpoint.epoch if report else None
    return is_of_head_alone(run["best_epoch"] if tested is None else tested, run["config"].get("head_epochs"))


def largest_superclass(report: Report) -> float:
    """Its share of the images: how often naming it for all of them is right."""
    rows = report.superclass_confusion or [[1]]
    return max(map(sum, rows)) / max(1, sum(map(sum, rows)))


def seen_before(found: Duplicates) -> str:
    if found.note:
        return f"Not known: {found.note}"
    nearly = "" if found.near is None else " or nearly"
    if not found.count:
        return f"No: none of them is in train or validation, pixel by pixel{nearly}."
    how = f"{found.exact} pixel by pixel" + ("" if found.near is None else f", {found.near} nearly")
    if found.accuracy_without is None:
        return f"All of them ({how}): nothing is left to measure it by honestly."
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
    text = f"always answering {report.baseline_answer} gives {percent(report.baseline[1])}"
    return text if report.beats_baseline else f"{text}, which it does not surely beat"


def chosen_by(run: Run) -> str:
    """By what number of the validation the best epoch was chosen."""
    best_by = run["config"].get("best_by", "accuracy")
    return "this number" if best_by == "accuracy" else f"that set's {best_by}"


def confusions(report: Report) -> str:
    classes, errors = report.classes, report.errors
    if not errors.total:
        return "It made no mistake on these images."
    named = [name for row, name in zip(report.per_class, classes, strict=True) if row.predicted]
    if len(named) == 1:
        return f"It takes every image for {named[0]}."
    told = report.most_confused(4)
    pairs = [
        f"{classes[pair.true]} for {classes[pair.predicted]} ({pair.count} of {sum(report.confusion[pair.true])})"
        for pair in told
    ]
    if not pairs:
        text = f"No two classes stand out: none is taken for another more than {counted(report.confused[0].count, 'time')}."
    elif sum(pair.count for pair in told) == errors.total:
        text = f"It takes {listed(pairs)}; these are all of its mistakes."
    else:
        text = f"It most often takes {listed(pairs)}."
    if errors.inside_superclass is not None and surely(
        errors.inside_superclass, errors.total, inside_by_chance(report)
    ):
        text += f" {percent(errors.inside_superclass / errors.total)} of its errors stay in the right superclass."
    return text + worst_taken_for(report, told)


def worst_taken_for(report: Report, told: Sequence[ConfusedPair]) -> str:
    """What the class that is found least often is taken for, where none of the pairs told says so."""
    rows = [(row.recall, label) for label, row in enumerate(report.per_class) if row.support]
    least = min(recall for recall, _ in rows)
    worst = [label for recall, label in rows if recall == least]
    if least == 1 or len(worst) > WORST_TOLD:
        return ""
    text = ""
    for label in worst:
        pairs = sorted(
            ((count, other) for other, count in enumerate(report.confusion[label]) if count and other != label),
            key=lambda pair: (-pair[0], pair[1]),
        )
        if all(any((label, other) == (pair.true, pair.predicted) for pair in told) for _, other in pairs):
            continue
        taken = [f"{count} for {report.classes[other]}" for count, other in pairs[:3]]
        rest = sum(count for count, _ in pairs[3:])
        text += (
            f" Of {counted(sum(report.confusion[label]), 'image')} of {report.classes[label]}, found least often, it takes "
            f"{listed([*taken, f'{rest} for others'] if rest else taken)}."
        )
    return text


def inside_by_chance(report: Report) -> float:
    """The share of errors that would stay in the right superclass if each went to any wrong class alike."""
    of, others = report.superclass_of or [], max(1, len(report.classes) - 1)
    errors = [sum(row) - row[label] for label, row in enumerate(report.confusion)]
    inside = sum(count * (of.count(of[label]) - 1) / others for label, count in enumerate(errors))
    return inside / max(1, sum(errors))


def confidence(report: Report) -> str:
    calibration = report.calibration
    ece, after, temperature = calibration.ece, calibration.ece_after, calibration.temperature
    off = f"its confidence and its accuracy differ by {percent(ece)} on average (expected calibration error)."
    if not report.beats_chance:
        return f"There is nothing to trust: its answers are not surely better than blind ones; {off}"
    if report.dataset.size < FEW:
        return f"Not known: {counted(report.dataset.size, 'image')} are too few to tell; there {off}"
    if ece < SMALL_ECE:
        text = f"Yes: {off}"
    else:
        word = "Roughly" if ece < LARGE_ECE else "No"
        lean = "surer than it should be" if overconfident(calibration.bins) else "too modest"
        text = f"{word}: {off} It is {lean}."
    if after is not None and temperature is not None and calibration.found:
        text += (
            f" Dividing its logits by {temperature:.2f} (fitted on validation) brings that to {percent(after)}, as predict.py does."
            if calibration.improved and percent(after) != percent(ece)
            else f" A temperature fitted on validation ({temperature:.2f}) does not improve it."
        )
    return text


def when_unsure(answers: Answers) -> str:
    if not answers.thresholds:
        return f"Not known: {answers.note}."
    out_of_reach = [percent(row.target) for row in answers.thresholds if row.confidence is None]
    told = [answering(row) for row in answers.thresholds if row.confidence is not None]
    told += [f"No confidence is enough to be right on {listed(out_of_reach)}."] if out_of_reach else []
    text = f"{' '.join(told)} (Thresholds {answers.note}.)"
    images = answers.curve[-1].count if answers.curve else 0
    if answers.unlike is not None:
        more = "more than" if surely(answers.unlike * images, images, 1 - LIKE) else "not surely more than"
        text += (
            f" {percent(answers.unlike)} of these images count as unlike anything seen, by their energy: {more} the {percent(1 - LIKE)} "
            "of the images that this was fitted on."
        )
    if len(out_of_reach) == len(answers.thresholds):
        return text
    return f"{text} python predict.py --min_accuracy marks what it should not answer."


def answering(row: Threshold) -> str:
    start = f"To be right on {percent(row.target)}, only from a confidence of {percent(row.confidence)} on"
    if row.accuracy is None:
        return f"{start}, which it has of none of these images."
    return f"{start}: answering {percent(row.coverage)} of the images it is right on {percent(row.accuracy)} of those."


def overconfident(bins: Sequence[Bin]) -> bool:
    return sum(b.count * ((b.confidence or 0) - (b.accuracy or 0)) for b in bins) > 0


def compared(comparison: Comparison) -> str:
    low, high = comparison.difference_low, comparison.difference_high
    if not comparison.only_this and not comparison.only_other:
        return f"Neither is better: both are right on the same images, {percent(comparison.accuracy)} of them."
    verdict = "Chance may explain the difference" if low <= 0 <= high else "Yes" if low > 0 else "No, worse"
    return (
        f"{verdict}: {percent(comparison.accuracy)} against {percent(comparison.other_accuracy)} on the same images, "
        f"a difference of {percent(low)} to {percent(high)} (95 % interval; McNemar's p = {comparison.p_value:.2g}). "
        f"{counted(comparison.only_this, 'image')} only this run got right, {comparison.only_other} only the other."
    )


# --- all runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """The runs on some data that were measured on the same images with the same labels."""

    data: str
    split: str
    """`test` or `validation`"""
    runs: list[Run]
    """the best first"""
    apart: int
    """how many more were measured on other images or labels, and don't compete"""


def measured(run: Run, split: str) -> float | None:
    """The accuracy by which runs are ranked."""
    report: Report | None = run["report"]
    if split == "test":
        return report.metrics.get("test/accuracy") if report and report.split == "test" else None
    return run["validation_accuracy"]


def same_measure(run: Run, other: Run, split: str) -> bool:
    """Whether both were measured on the same images with the same labels, as far as is known."""
    if split == "validation":
        return run["validated_on"] is not None and run["validated_on"] == other["validated_on"]
    return same_evaluated(run, other)


def same_evaluated(run: Run, other: Run) -> bool:
    """Whether both evaluations are of the same images with the same labels."""
    same_size = run["config"].get("image_size") == other["config"].get("image_size")
    return same_images(run["report"], other["report"], same_size)


def rank(runs: list[Run]) -> list[Ranking]:
    """One for each data set: only runs measured on the same images with the same labels compete.

    The runs tested compete on the test set. Where fewer than two are, all compete on validation, because otherwise the
    one that was tested would win by being alone. Of several kinds of images the one that most runs have counts.
    """
    rankings = []
    for data in dict.fromkeys(run["data"] for run in runs):
        of_split = {
            split: _ranked([run for run in runs if run["data"] == data], split) for split in ("test", "validation")
        }
        tested = len(of_split["test"][0]) > 1 or (of_split["test"][0] and len(of_split["validation"][0]) < 2)
        split = "test" if tested else "validation"
        ranked, apart = of_split[split]
        if ranked:
            rankings.append(Ranking(data, split, ranked, apart))
    return rankings


def _ranked(runs: list[Run], split: str) -> tuple[list[Run], int]:
    """The largest set of comparable runs, best first, and how many are left out."""
    scored = [(score, run) for run in runs if (score := measured(run, split)) is not None]
    alike: list[list[tuple[float, Run]]] = []
    for pair in scored:
        home = next((some for some in alike if same_measure(some[0][1], pair[1], split)), None)
        alike.append([pair]) if home is None else home.append(pair)
    most = max(alike, key=len, default=[])
    return [run for _, run in sorted(most, key=lambda pair: -pair[0])], len(scored) - len(most)


def beats_baseline(run: Run, split: str) -> bool:
    """Whether it is surely right more often than one answer for all images; true where that is not known."""
    if split == "test":
        return bool(run["report"].beats_baseline)
    count, images = (run["facts"].get(key) for key in ("Classes", "Validation images"))
    accuracy = measured(run, "validation")
    return not (count and images and accuracy is not None) or surely(accuracy * images, images, 1 / count)


def describe_best(rankings: Sequence[Ranking], recipes: Collection[str] = ()) -> list[dict[str, Any]]:
    """For each data set `{"run", "text"}`: the best run, and what set it apart. `run` is None where none can be called the best.
    recipes: the data on which recipes compete, each with several seeds, so that what set one run apart may be its seed."""
    found = []
    for ranking in rankings:
        data, split, ranked, apart = ranking.data, ranking.split, ranking.runs, ranking.apart
        best, named = ranked[0], f"the {split} images of {data}"
        others = (
            f" {counted(apart, 'more run')} had other {split} images or labels, and {'does' if apart == 1 else 'do'} not compete."
            * bool(apart)
        )
        name: str | None = best["id"]
        if len(ranked) == 1 and apart:
            name = None
            text = f"No two of the {apart + 1} runs on {data} were measured on the same {split} images and labels, so that none is known to be the best."
        elif not beats_baseline(best, split):
            name = None
            text = (
                f"No run surely beats one answer for all of {named}: {best['id']}, with the highest accuracy, is right on "
                f"{percent(measured(best, split))}.{others}"
            )
        elif len(ranked) == 1:
            text = f"is right on {percent(measured(best, split))} of {named}; no other run was measured on them."
        elif data in recipes:
            text = f"is right on {percent(measured(best, split))} of {named}, the best of {len(ranked)} single runs; a part of that is the luck of its seed.{others}"
        else:
            text = f"is right on {percent(measured(best, split))} of {named}, the best of {len(ranked)} runs. {set_apart(ranked, split)}{others}"
        if name:
            text += seen_in_words([best], split) + head_alone([best])
        if name and split == "test" and len(ranked) > 1:
            text += (
                f" As the best of {len(ranked)}, chosen on the test images, it looks a little better there than it is."
            )
        found.append({"run": name, "text": text})
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
    keys = [key for key in differing_keys([best, second]) if key != "seed"]
    changes = [f"{key} {setting(best, key)} instead of {setting(second, key)}" for key in keys[:DIFFERENCES_TOLD]]
    same = "Both had the same settings" + " but the seed" * (setting(best, "seed") != setting(second, "seed"))
    text += f". It used {listed(changes)}." if changes else f". {same}."
    if len(keys) > DIFFERENCES_TOLD:
        text += f" {len(keys) - DIFFERENCES_TOLD} more settings differ."
    alone = [
        f"{key} {setting(best, key)}"
        for key in differing_keys(ranked)
        if key != "seed"
        and best["config"].get(key) is not None
        and all(setting(run, key) != setting(best, key) for run in ranked[1:])
    ]
    if alone and len(ranked) > 2:
        text += f" No other run had {listed(alone[:DIFFERENCES_TOLD])}."
    return text

"""Recipes, each a group of runs that are evaluated, and what is said of one or of two."""

import math
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from common.analysis.predictions import Predictions
from common.analysis.report import Report
from common.analysis.seeds import Difference, by_seed, over_both, over_images, over_seeds
from common.base.errors import UserError
from common.base.files import sha256_of
from common.base.text import markdown_table, mean_and_sd, printable
from common.runs.folder import RunFolder, command
from common.runs.groups import Recipe, differing, find_recipe, groups

# What a difference is over, as tables have it.
OVER_SEEDS, OVER_IMAGES = "other seeds, these images", "these networks, other images"
OVER_BOTH = "other seeds, other images"


@dataclass(frozen=True)
class Tested:
    """A recipe's runs on the test set."""

    recipe: Recipe
    reports: list[Report]
    """in order of the seeds"""
    right: NDArray
    """bool (seeds, images)"""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def accuracies(self) -> list[float]:
        return [float(accuracy) for accuracy in self.right.mean(axis=1)]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_pair(runs_dir: str, first: str, second: str) -> tuple[Tested, Tested]:
    """Two groups or runs by their names. Errors: `UserError` when they are not two, one of them is no single recipe, or they were
    not evaluated on the same images."""
    one, other = (find_recipe(runs_dir, name) for name in (first, second))
    shared = {run.path.resolve() for run in one.runs.values()} & {run.path.resolve() for run in other.runs.values()}
    if shared:
        raise UserError(f"{first} and {second} are to be two, but {min(shared).name} is in both")
    a, b = (read_tested(recipe) for recipe in (one, other))
    check_same_images(a, b)
    return a, b


def read_tested(recipe: Recipe) -> Tested:
    """Errors: `UserError` naming the file, or the command that evaluates what is not."""
    reports: list[Report] = []
    right = []
    for folder in recipe.runs.values():
        report, predictions = read_evaluation(recipe, folder)
        if reports:
            check_same(reports[0], report, recipe, recipe)
        reports.append(report)
        right.append(predictions.predicted == predictions.labels)
    return Tested(recipe, reports, np.stack(right))


def read_evaluation(recipe: Recipe, folder: RunFolder) -> tuple[Report, Predictions]:
    """What evaluate.py left of the run's best weights."""
    place = folder.evaluated()
    evaluate = folder.command("evaluate.py", "--checkpoint", recipe.name if len(recipe.runs) > 1 else folder.id)
    if not place.report.exists() and folder.split.exists() and (split := folder.read_split()).test_files == ():
        raise UserError(
            f"{folder.id} has no test set to be compared on; add {split.data_dir}/test/<class>/, and: {evaluate}"
        )
    if not place.report.exists():
        raise UserError(f"{folder.id} is not evaluated; first: {evaluate}")
    report, predictions = Report.load(place.report), Predictions.load(place.predictions)
    if predictions.digest != report.dataset.labels_digest or predictions.logits.shape[1] != len(report.classes):
        raise UserError(f"{place.predictions} is not what {place.report.name} beside it speaks of; again: {evaluate}")
    if folder.best.exists() and sha256_of(folder.best) != report.checkpoint.sha256:
        raise UserError(f"{place.report} is of other weights than {folder.best}; again: {evaluate}")
    return report, predictions


def check_same_images(a: Tested, b: Tested) -> None:
    check_same(a.reports[0], b.reports[0], a.recipe, b.recipe)


def check_same(one: Report, other: Report, recipe: Recipe, other_recipe: Recipe) -> None:
    """Errors: `UserError` when two evaluations are of other classes or images.

    One's own photos are decoded to the network's size, so that their pixels are the same only where that is."""
    who = f"{printable(one.run_id)} and {printable(other.run_id)} were evaluated on other"
    if one.classes != other.classes:
        raise UserError(f"{who} classes ({len(one.classes)} and {len(other.classes)} of them); they can't be compared")
    sizes = {settings["image_size"] for settings in (recipe.settings, other_recipe.settings)}
    if not same_images(one, other, same_size=len(sizes) == 1):
        raise UserError(
            f"{who} images ({one.dataset.size} and {other.dataset.size} of them); evaluate both with the same --dataset and --data_dir"
        )


def same_images(one: Report, other: Report, same_size: bool) -> bool:
    """Whether two evaluations are of the same images with the same labels. same_size: of both runs' images."""
    same_pixels = one.dataset.digest == other.dataset.digest or (one.dataset.name == "folder" and not same_size)
    return one.classes == other.classes and one.dataset.labels_digest == other.dataset.labels_digest and same_pixels


# --- in words ---------------------------------------------------------------------------------------------------------


def group_in_words(recipe: Recipe, split: str) -> list[str]:
    """What evaluate.py prints of a group at its end: its accuracies, and what to do next."""
    reports = [Report.load(folder.evaluated(split).report) for folder in recipe.runs.values()]
    accuracies = [report.metrics[f"{split}/accuracy"] for report in reports]
    each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    runs_dir = next(iter(recipe.runs.values())).path.parent
    what = f"mean ± sd of {len(reports)} seeds: {each}" if len(reports) > 1 else "one seed"
    lines = [f"group {recipe.name}: {split} accuracy {mean_and_sd(accuracies)} ({what})"]
    if split != "test":  # on which alone recipes are compared
        return lines
    names = [name for name in groups(runs_dir) if name.isprintable() and not name.startswith("-")]
    others = [name for name in names if name != recipe.name and recipe.name in names]
    return [*lines, *(f"next: {command(runs_dir, 'compare.py', name, recipe.name)}" for name in others[-1:])]


def comparison_in_words(a: Tested, b: Tested) -> str:
    """Markdown: both recipes, their difference, which settings make it, and a verdict."""
    found = differences(a, b)
    return "\n\n".join(
        [
            recipe_in_words(a),
            recipe_in_words(b),
            difference_in_words(a, b, found),
            settings_in_words(a, b),
            fill(verdict(a, b, found), 80),
        ]
    )


def recipe_in_words(tested: Tested) -> str:
    rows = [
        (seed, printable(run.id, 120), f"{accuracy:.4f}")
        for (seed, run), accuracy in zip(tested.recipe.runs.items(), tested.accuracies, strict=True)
    ]
    table = markdown_table(("seed", "run", "test accuracy"), rows, {"seed", "test accuracy"})
    mean = f"mean ± sd of {len(rows)} seeds" if len(rows) > 1 else "one seed"
    return f"## {tested.name}\n\n{table}\n\n{mean_and_sd(tested.accuracies)} ({mean}) on {tested.right.shape[1]} images"


def difference_in_words(a: Tested, b: Tested, found: dict[str, Difference]) -> str:
    rows = [(what, *_interval(difference)) for what, difference in found.items()]
    header = ("over", "95 % interval", "p")
    parts = [f"## {b.name} − {a.name}", mean_difference(a, b)]
    if rows:
        parts.append(markdown_table(header, rows, set(header[1:])))
    if narrowing := narrows(found):
        parts.append(fill(narrowing, 80))
    return "\n\n".join(parts)


def same_seeds(a: Tested, b: Tested) -> bool:
    """Whether their runs are pairs."""
    return list(a.recipe.runs) == list(b.recipe.runs)


def differences(a: Tested, b: Tested) -> dict[str, Difference]:
    """B − A over seeds, over images and over both, by what it is over; those that can't be known are left out."""
    paired = same_seeds(a, b)
    found = {
        OVER_SEEDS: over_seeds(a.right, b.right, paired),
        OVER_IMAGES: over_images(a.right, b.right),
        OVER_BOTH: over_both(a.right, b.right, paired),
    }
    return {what: difference for what, difference in found.items() if difference is not None}


def narrows(found: dict[str, Difference]) -> str | None:
    """What would tell two recipes apart more surely, from their `differences`; None with one seed, which can't say."""
    both = found.get(OVER_BOTH)
    share = both.from_seeds if both else None
    if share is None:
        return None
    wanted = "seeds" if share > 0.5 else "test images"
    without_seeds, without_images = 1 - math.sqrt(1 - share), 1 - math.sqrt(share)  # half widths add up as squares
    return (
        f"More {wanted} would narrow the last interval most: without the luck of the seeds it would be {without_seeds:.0%} narrower, without "
        f"that of the images {without_images:.0%}. It has no p, because it joins two intervals, and is no test of its own."
    )


def mean_difference(a: Tested, b: Tested) -> str:
    if not same_seeds(a, b):
        return (
            f"{_signed(float(b.right.mean() - a.right.mean()))}; their seeds are not the same, so they are not paired"
        )
    each = by_seed(a.right, b.right)
    mean = float(each.mean())
    if len(each) == 1:
        return f"{_signed(mean)} with one seed"
    return f"{_signed(mean)} ± {each.std(ddof=1):.4f} (mean ± sd of {len(each)} pairs of the same seed)"


def settings_in_words(a: Tested, b: Tested) -> str:
    """The flags in which the recipes differ."""
    apart = differing(a.recipe.settings, b.recipe.settings)
    lines = [f"- `--{flag}`: {printable(before)} → {printable(after)}" for flag, (before, after) in apart.items()]
    return "\n".join(["Settings that differ:", "", *lines] if lines else ["No setting differs but the seeds."])


def verdict(a: Tested, b: Tested, found: dict[str, Difference]) -> str:
    """One sentence that claims no more than the intervals of `differences` do; it says of B what they say of B − A."""
    seeds, images, both = map(found.get, (OVER_SEEDS, OVER_IMAGES, OVER_BOTH))
    than = f"{'better' if b.right.mean() > a.right.mean() else 'worse'} than"
    on_images = f"on other images too, the networks of {b.name} are {than} those of {a.name}"
    if min(len(a.right), len(b.right)) < 2:
        known = on_images if tells(images) else "not even these networks are shown to differ"
        return f"One seed can't tell which recipe is better; {known}."
    if seeds is None or both is None:
        return (
            "Nothing can be said: the seeds happen not to differ, which leaves no luck to measure; train more of them."
        )
    if tells(both):
        least, most = sorted(100 * abs(end) for end in both.interval)
        points = f"{least:.1f} to {most:.1f} points (95 % interval)"
        return f"{b.name} is {than} {a.name} by {points}, with other seeds and on other images too."
    if tells(seeds):
        return f"{b.name} is {than} {a.name} on these very images with other seeds too; on other images it may not be."
    if tells(images):
        return f"{on_images[0].upper()}{on_images[1:]}; with other seeds they may not be."
    low, high = (100 * end for end in both.interval)
    points = f"{low:+.1f} to {high:+.1f} points (95 % interval)"
    return f"Neither is shown to be better: {b.name} may be {points} away from {a.name}."


def tells(difference: Difference | None) -> bool:
    """Whether the interval is on one side of zero."""
    return difference is not None and (difference.low > 0 or difference.high < 0)


def _interval(difference: Difference) -> tuple[str, str]:
    p = difference.p_value
    p_value = "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    return " to ".join(map(_signed, difference.interval)), p_value


def _signed(value: float) -> str:
    return f"{value:+.4f}"

"""Any two runs side by side, and runs of one recipe with several seeds as one: what the page says of each pair, by the statistics of
compare.py. Pure but for the predictions, which are read once for each run."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.analysis.predictions import Predictions
from common.analysis.recipes import OVER_IMAGES, Tested, differences, narrows, tells, verdict
from common.analysis.report import Report
from common.analysis.seeds import Difference
from common.base.errors import UserError
from common.base.text import counted, listed, path_word, percent
from common.config import SETS_APART, TrainConfig, as_dict
from common.dashboard.reading import number, plain
from common.dashboard.summary import DIFFERENCES_TOLD, Run, head_alone, same_evaluated
from common.runs.folder import RunFolder
from common.runs.groups import RECIPE, Recipe, differing

RUNS = 32  # whose predictions are read, the leading and the newest: 496 pairs
DEFAULTS: dict[str, Any] = {key: plain(value) for key, value in as_dict(TrainConfig()).items() if key in SETS_APART}


@dataclass(frozen=True)
class Answered:
    """What a network said of the images it was tested on."""

    right: NDArray
    """bool (images,)"""
    labels: NDArray
    """int64 (images,)"""
    indices: NDArray
    """int64 (images,), in the dataset"""
    digest: str
    """of labels and indices"""
    classes: int
    """how many it tells apart"""


@dataclass(frozen=True)
class Side:
    """A run, or a group of runs that differ in their seeds alone."""

    tested: Tested
    runs: list[Run]

    @property
    def name(self) -> str:
        return self.tested.name

    @property
    def mean(self) -> float:
        return float(self.tested.right.mean())


class NotComparable(Exception):
    """Why, in a sentence."""


# --- which runs and groups there are ----------------------------------------------------------------------------------


def side_by_side(
    runs: list[Run], folders: dict[str, Path], leading: Sequence[str]
) -> tuple[dict[str, Any], list[Side]]:
    """What the page holds of its runs' comparisons, and the sides that can be compared."""
    ids = {run["id"] for run in runs}
    members: dict[str, list[Run]] = {}
    for run in runs:
        group = group_of(run)
        if group and group not in ids:  # as compare.py, which takes such a name for the run
            members.setdefault(group, []).append(run)
    members = {group: sorted(of, key=seed_of) for group, of in members.items() if len(of) > 1}
    answered: dict[str, Answered] = {}
    why_not: dict[str, str] = {}
    chosen = to_read(runs, leading)
    for run in runs:
        try:
            answered[run["id"]] = read_answered(run, RunFolder(folders[run["id"]]), chosen)
        except NotComparable as reason:
            why_not[run["id"]] = str(reason)
    sides = []
    groups = []
    for group, of in members.items():
        note = ""
        try:
            sides.append(one_recipe(group, of, answered, why_not, folders))
        except NotComparable as reason:
            note = why_not[group] = str(reason)
        groups.append(group_row(group, of, note))
    groups.sort(key=lambda row: tuple(-row[key]["mean"] if row[key] else 1 for key in ("test", "validation")))
    alone = [run for run in runs if run["id"] in answered]
    sides += [side_of(run["id"], [run], answered, folders) for run in alone]
    sides.sort(key=lambda side: (len(side.runs) == 1, -side.mean))
    return {
        "groups": groups,
        "settings": {**DEFAULTS, "data_dir": None},
        "sides": [side.name for side in sides],
        "pairs": pairs_of(sides),
        "why_not": why_not,
        "right": {run: packed(answers.right) for run, answers in answered.items()},
        "images": images_of(alone, answered, folders),
    }, sides


def to_read(runs: list[Run], leading: Sequence[str]) -> set[str]:
    """The ids of the runs whose predictions are read: the leading ones, those of their groups, and the newest."""
    groups = {group_of(run) for run in runs if run["id"] in leading} - {None}
    order = sorted(
        (run for run in runs if run["report"]),
        key=lambda run: (run["id"] not in leading, group_of(run) not in groups),
    )
    return {run["id"] for run in order[:RUNS]}


def read_answered(run: Run, folder: RunFolder, chosen: set[str]) -> Answered:
    """Errors: `NotComparable` with the sentence that the page shows."""
    report: Report | None = run["report"]
    if report is None:
        raise NotComparable(f"{run['id']} is not tested yet: `{run['evaluate']}`")
    if run["id"] not in chosen:
        raise NotComparable(
            f"The page compares {RUNS} runs, the leading and the newest, of which {run['id']} is none: "
            f"`{folder.command('compare.py', path_word(Path(run['id'])), 'OTHER')}` compares it with any."
        )
    tested, best = report.checkpoint.epoch, run["best_epoch"]
    if tested is not None and best is not None and number(tested) != best:
        raise NotComparable(
            f"{run['id']} has other best weights now than when it was tested; again: `{run['evaluate']}`"
        )
    path = folder.evaluated(report.split).predictions
    try:
        stat = path.stat()
        answers = _answered(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, UserError):
        raise NotComparable(
            f"{run['id']}: {path.relative_to(folder.path).as_posix()} is missing or damaged; again: `{run['evaluate']}`"
        ) from None
    if answers.digest != report.dataset.labels_digest or answers.classes != len(report.classes):
        raise NotComparable(
            f"{run['id']}: {path.name} is not what report.json beside it speaks of; again: `{run['evaluate']}`"
        )
    return answers


@lru_cache(maxsize=2 * RUNS)  # a watched page is built again and again, mostly from the same runs
def _answered(path: Path, changed: int, size: int) -> Answered:
    predictions = Predictions.load(path)
    right = predictions.predicted == predictions.labels
    return Answered(right, predictions.labels, predictions.indices, predictions.digest, predictions.logits.shape[1])


def group_of(run: Run) -> str | None:
    group = run["config"].get("group")
    return group if isinstance(group, str) else None


def seed_of(run: Run) -> int:
    seed = run["config"].get("seed", 0)
    return seed if isinstance(seed, int) else 0


def one_recipe(
    group: str, members: list[Run], answered: dict[str, Answered], why_not: dict[str, str], folders: dict[str, Path]
) -> Side:
    """The group as one recipe, of those of its runs that are tested. Errors: `NotComparable`, as compare.py refuses it."""
    first = members[0]
    for run in members[1:]:
        if apart := differing(settings_of(first), settings_of(run)):
            raise NotComparable(
                f"The runs of {group} differ in more than the seed ({', '.join(list(apart)[:DIFFERENCES_TOLD])}), so that they are not one "
                "recipe: give each recipe a --group of its own."
            )
    if len({seed_of(run) for run in members}) < len(members):
        raise NotComparable(f"Two runs of {group} have the same seed, which would count twice.")
    for run in members:
        if run["status"] not in ("finished", "unknown"):
            raise NotComparable(f"{run['id']} of {group} has not finished: it is {run['status']}.")
    if untested := [run for run in members if run["report"] is None]:
        evaluate = RunFolder(folders[first["id"]]).command("evaluate.py", "--checkpoint", group)
        raise NotComparable(
            f"{len(untested)} of the {len(members)} runs of {group} {'is' if len(untested) == 1 else 'are'} not tested yet: `{evaluate}`"
        )
    for run in members:
        if run["id"] not in answered:
            raise NotComparable(f"Not all of {group} can be compared. {why_not[run['id']]}")
        if reason := apart_in(first, run):
            raise NotComparable(f"{group} is not wholly tested on the same images. {reason}")
    return side_of(group, members, answered, folders)


def side_of(name: str, runs: list[Run], answered: dict[str, Answered], folders: dict[str, Path]) -> Side:
    recipe = Recipe(name, {seed_of(run): RunFolder(folders[run["id"]]) for run in runs}, settings_of(runs[0]))
    right = np.stack([answered[run["id"]].right for run in runs])
    return Side(Tested(recipe, [run["report"] for run in runs], right), runs)


def settings_of(run: Run) -> dict[str, Any]:
    """The flags that make a recipe; one that an earlier version did not know has its default."""
    return {key: run["config"].get(key, DEFAULTS[key]) for key in RECIPE}


def group_row(group: str, members: list[Run], note: str) -> dict[str, Any]:
    """A group as the page's table has it: means over its runs; `note` says why it can't be compared, if it can't."""
    return {
        "name": group,
        "runs": [run["id"] for run in members],
        "data": members[0]["data"],
        "one_recipe": not any(differing(settings_of(members[0]), settings_of(run)) for run in members),
        "test": mean_and_sd([run["report"].metrics.get("test/accuracy") if run["report"] else None for run in members]),
        "validation": mean_and_sd([run["validation_accuracy"] for run in members]),
        "note": note,
    }


def mean_and_sd(values: Sequence[float | None]) -> dict[str, Any] | None:
    """`{"mean", "sd", "seeds"}` of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": number(fmean(known)),
        "sd": number(stdev(known)) if len(known) > 1 else None,
        "seeds": len(known),
    }


# --- pairs ------------------------------------------------------------------------------------------------------------


def apart_in(run: Run, other: Run) -> str | None:
    """Why two tested runs can't be compared; None where they can."""
    one, two = run["report"], other["report"]
    who = f"{run['id']} and {other['id']} can't be compared:"
    if one.classes != two.classes:
        return f"{who} their classes differ ({len(one.classes)} and {len(two.classes)} of them)."
    if one.split != two.split:
        return f"{who} one was evaluated on {one.split} images, the other on {two.split} images."
    if not same_evaluated(run, other):
        return f"{who} their {one.split} images or labels differ ({one.dataset.size} and {two.dataset.size} images)."
    return None


def pairs_of(sides: list[Side]) -> list[list[Any]]:
    """`[[i, j, what is said of sides i and j, or why nothing is], …]`, i < j."""
    return [[i, j, pair_of(a, b)] for i, a in enumerate(sides) for j, b in enumerate(sides) if i < j]


def pair_of(a: Side, b: Side) -> dict[str, Any] | str:
    """Of two sides all that the page says of them; differences are b − a, as compare.py's."""
    if inside := {run["id"] for run in a.runs} & {run["id"] for run in b.runs}:
        return f"{min(inside)} is in both."
    if reason := apart_in(a.runs[0], b.runs[0]):
        return reason
    found = differences(a.tested, b.tested)
    turned = {what: one.turned for what, one in found.items()}  # for who has chosen them in the other order
    all_a, all_b = a.tested.right.all(axis=0), b.tested.right.all(axis=0)
    any_a, any_b = a.tested.right.any(axis=0), b.tested.right.any(axis=0)
    return {
        "said": accuracies_in_words(a, b, found),
        "verdict": said_for_sure(a, b, found),
        "turned": said_for_sure(b, a, turned),
        "said_turned": accuracies_in_words(b, a, turned),
        "rows": [[what, *map(number, one.interval), number(one.p_value)] for what, one in found.items()],
        "narrows": narrows(found),
        "counts": [int(part.sum()) for part in (all_a & all_b, all_a & ~any_b, all_b & ~any_a, ~any_a & ~any_b)],
    }


def settings_apart(a: Side, b: Side) -> dict[str, tuple[Any, Any]]:
    """Flag → both values, of those that differ."""
    return differing(a.tested.recipe.settings, b.tested.recipe.settings)


def accuracies_in_words(a: Side, b: Side, found: dict[str, Difference]) -> str:
    """Of b − a, as the intervals are. found: their `differences`."""
    images = counted(a.tested.right.shape[1], f"{a.runs[0]['report'].split} image")
    points = round(100 * (b.mean - a.mean), 6)
    apart = f"{abs(points):.2f} points {'more' if points > 0 else 'less'} than" if points else "as many as"
    sure = ""
    if len(a.runs) == len(b.runs) == 1:
        difference = found[OVER_IMAGES]
        low, high = (100 * end for end in difference.interval)
        sure = f" (95 % interval {low:+.2f} to {high:+.2f}; McNemar's p = {difference.p_value:.2g})"
    flips = [run["id"] for side in (a, b) for run in side.runs if run["report"].tta != "none"]
    mirrored = f" {listed(flips)} saw each image with its mirror image (--tta flip)." * bool(flips)
    text = f"{b.name} is right on {right_in_words(b)} of {images}, {apart} {a.name} with {right_in_words(a)}"
    return f"{text}{sure}.{mirrored}{head_alone([*a.runs, *b.runs])}"


def right_in_words(side: Side) -> str:
    accuracies = side.tested.accuracies
    if len(accuracies) == 1:
        return percent(accuracies[0])
    return f"{100 * fmean(accuracies):.1f} ± {100 * stdev(accuracies):.1f} % (mean ± sd of {counted(len(accuracies), 'seed')})"


def said_for_sure(a: Side, b: Side, found: dict[str, Difference]) -> str:
    """What is sure of b − a, in a sentence: compare.py's verdict, unless only the seed differs. found: their `differences`."""
    if len(a.runs) > 1 or len(b.runs) > 1 or settings_apart(a, b):
        return verdict(a.tested, b.tested, found)
    sure = any(map(tells, found.values()))
    which = "the difference is more than other images would make" if sure else "chance may explain the difference"
    return f"Both are of one recipe, so that only their luck differs; of these two networks, {which}."


# --- the images -------------------------------------------------------------------------------------------------------


def packed(right: NDArray) -> str:
    """One bit an image, the first in the highest bit of the first byte, as base64."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def images_of(runs: list[Run], answered: dict[str, Answered], folders: dict[str, Path]) -> dict[str, Any]:
    """What the page calls the images: `of` run → set; `sets` `[{"count", "labels", "classes", "indices", "files"}]`, each once."""
    of: dict[str, int] = {}
    sets: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for run in runs:
        answers, report = answered[run["id"]], run["report"]
        key = answers.digest, tuple(report.classes)
        if key not in sets:
            count = len(answers.labels)
            in_order = np.array_equal(answers.indices, np.arange(count))
            sets[key] = {
                "at": len(sets),
                "count": count,
                "labels": base64.b64encode(answers.labels.astype("<u2").tobytes()).decode()
                if answers.classes <= 1 << 16
                else None,
                "classes": run["id"],  # whose report names them
                "indices": None if in_order else answers.indices.tolist(),
                "files": files_of(report, RunFolder(folders[run["id"]]), count) if in_order else None,
            }
        of[run["id"]] = sets[key]["at"]
    return {"of": of, "sets": list(sets.values())}


def files_of(report: Report, folder: RunFolder, count: int) -> list[str] | None:
    """The photos' names where the run drew them for its test set and says which; None where that is not known."""
    if report.split != "test" or report.dataset.skipped:
        return None
    try:
        files = folder.read_split().test_files or ()
    except UserError:
        return None
    return list(files) if len(files) == count else None

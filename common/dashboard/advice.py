"""Which recipe is better, how sure that is, and what to try next: in sentences, from the sides that `comparing` made."""

from collections.abc import Sequence
from typing import Any

from common.analysis.recipes import OVER_BOTH, differences, tells
from common.analysis.seeds import Difference
from common.base.errors import UserError
from common.base.text import counted, listed
from common.config import PRESETS, SETS_APART, as_dict
from common.dashboard.comparing import Side, right_in_words, said_for_sure, settings_apart
from common.dashboard.summary import DIFFERENCES_TOLD, Ranking, beats_baseline, head_alone, seen_in_words
from common.runs.folder import load_config


def recipes_in_words(
    rankings: Sequence[Ranking], sides: Sequence[Side], groups: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each data on which recipes compete `{"text", "sure", "pair", "next", "commands"}`: which recipe is best, how sure that is, and
    what to try next. `text` is empty where each has one seed, so that there are runs to be ranked, and no recipes. groups: as the page has
    them; the runs of one that is no recipe yet stand for none."""
    grouped = {run for row in groups if row["one_recipe"] for run in row["runs"]}
    found = {}
    for ranking in rankings:
        if ranking.split != "test":
            continue
        ids = {run["id"] for run in ranking.runs}
        here = [side for side in sides if {run["id"] for run in side.runs} <= ids]
        here = [side for side in here if len(side.runs) > 1 or side.runs[0]["id"] not in grouped]
        ranked = sorted(here, key=lambda side: -side.mean)
        waiting = [row["note"] for row in groups if row["one_recipe"] and row["note"] and row["data"] == ranking.data]
        if any(len(side.runs) > 1 for side in here):
            said = _best_recipe(ranking, ranked)
            found[ranking.data] = {**said, "next": " ".join([*waiting, said["next"]])}
        elif len(ranked) > 1 and beats_baseline(ranked[0].runs[0], "test") and settings_apart(*ranked[:2]):
            found[ranking.data] = {
                "text": "",
                "sure": "",
                "pair": [ranked[0].name, ranked[1].name],
                **_next(ranked[0], ranked[1], None),  # one seed each, which can't say
            }
    return found


def _best_recipe(ranking: Ranking, ranked: list[Side]) -> dict[str, Any]:
    best, named = ranked[0], f"the test images of {ranking.data}"
    if not any(beats_baseline(run, "test") for run in best.runs):
        text = f"No recipe surely beats one answer for all of {named}: {best.name}, with the highest accuracy, is right on {right_in_words(best)}."
        return {"text": text, "sure": "", "next": "", "commands": [], "pair": None}
    if len(ranked) == 1:
        return {
            "text": f"{best.name} is right on {right_in_words(best)} of {named}; no other recipe was tested on them."
            + seen_in_words(best.runs, "test"),
            "sure": "",
            "next": "To know whether another recipe is better, train it with the same seeds.",
            "commands": [],
            "pair": None,
        }
    second = ranked[1]
    text = (
        f"Of {len(ranked)} recipes {best.name} has the highest accuracy on {named}: right on {right_in_words(best)}. "
        f"Next is {second.name} with {right_in_words(second)}."
    )
    told = [
        f"{key} {_shown(mine)} instead of {_shown(other)}"
        for key, (mine, other) in settings_apart(best, second).items()
    ]
    more = f" {len(told) - DIFFERENCES_TOLD} more settings differ." if len(told) > DIFFERENCES_TOLD else ""
    text += f" {best.name} used {listed(told[:DIFFERENCES_TOLD])}.{more}" if told else " Both have the same settings."
    text += seen_in_words(best.runs, "test") + head_alone([*best.runs, *second.runs])
    found = differences(second.tested, best.tested)
    return {
        "text": text,
        "sure": said_for_sure(second, best, found),
        "pair": [best.name, second.name],
        **_next(best, second, found.get(OVER_BOTH)),
    }


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _next(best: Side, second: Side, both: Difference | None) -> dict[str, Any]:
    """both: their difference over other seeds and other images, where it is known."""
    if tells(both):
        return {
            "next": f"What next: begin from the settings of {best.name}, change one more, and train that with the same seeds.",
            "commands": [],
        }
    if both is not None and both.from_seeds is not None and both.from_seeds <= 0.5:
        few = counted(best.tested.right.shape[1], "image")
        return {
            "next": f"What next: more than these {few} to test on would tell them apart soonest; more seeds would help less.",
            "commands": [],
        }
    several = max(len(best.runs), len(second.runs))
    seeds = 2 * several if several > 1 else 3
    commands = [more_seeds(side, seeds) for side in (best, second)]
    return {
        "next": "What next: "
        + (
            "one seed of each can't tell which recipe is better; train"
            if several == 1
            else "more seeds would tell; train"
        )
        + f" {seeds} of each, and evaluate.py on both.",
        "commands": [command for command in commands if command],
    }


def more_seeds(side: Side, seeds: int) -> str | None:
    """The command that trains so many seeds of the recipe, those that there are not counted again; None where its config can't be read.
    A single run is in no group, so that its recipe begins one."""
    first, *_ = side.tested.recipe.runs.values()
    try:
        config = load_config(first)
    except UserError:
        return None
    values, preset = as_dict(config), as_dict(PRESETS[config.start.preset])
    given = [name for name in values if (name in SETS_APART or name == "data_dir") and values[name] != preset[name]]
    words = [word for name in given for word in (f"--{name}", str(values[name]))]
    group = side.name if len(side.runs) > 1 else f"{side.name}-seeds"
    start = ["--preset", config.start.preset] if "preset" not in given else []
    return first.command("train.py", *start, *words, "--seeds", str(seeds), "--group", group)

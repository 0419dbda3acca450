"""Groups: runs that share a `--group`. Those of `train.py --seeds` are one recipe, and differ in their seeds alone. Imports no torch."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.base.errors import UserError
from common.base.text import printable
from common.config import SETS_APART, TrainConfig, as_dict
from common.runs.find import is_file, list_runs, run_named
from common.runs.folder import RunFolder, load_config, run_state

Member = tuple[RunFolder, TrainConfig]
RECIPE = tuple(name for name in as_dict(TrainConfig()) if name in SETS_APART and name != "seed")
"""the flags that make a recipe"""


@dataclass(frozen=True)
class Recipe:
    """A recipe's runs, one a seed; they have finished, and differ in nothing else."""

    name: str
    runs: dict[int, RunFolder]
    """by seed, in their order"""
    settings: dict[str, Any]
    """the flags of `RECIPE`"""


def groups(runs_dir: str | Path) -> dict[str, list[Member]]:
    """Name → the group's runs, by seed. A run whose config can't be read is in none."""
    return read_groups(runs_dir)[0]


def read_groups(runs_dir: str | Path) -> tuple[dict[str, list[Member]], list[UserError]]:
    """As `groups`, and why configs can't be read: their runs may be of any group."""
    found: dict[str, list[Member]] = {}
    unread: list[UserError] = []
    for folder in list_runs(runs_dir):
        try:
            if folder.config.exists():  # else it was killed before it was a run
                config = load_config(folder)
                if config.run.group:
                    found.setdefault(config.run.group, []).append((folder, config))
        except UserError as error:
            unread.append(error)
    return {name: sorted(members, key=lambda member: member[1].compute.seed) for name, members in found.items()}, unread


def say_what_may_be_missing(name: str, unread: Sequence[UserError]) -> None:
    for error in unread:
        print(f"group {printable(name)} may lack a run: {printable(error, 300)}", file=sys.stderr)


def find_recipe(runs_dir: str | Path, name: str) -> Recipe:
    """A run, by id or folder, or a group. Errors: `UserError` that says what there is, or why it is not one recipe."""
    if folder := run_named(runs_dir, name):
        return one_recipe(folder.id, [(folder, load_config(folder))])
    there, unread = read_groups(runs_dir)
    if name in there:
        say_what_may_be_missing(name, unread)
        return one_recipe(name, there[name])
    runs = [folder.id for folder in list_runs(runs_dir)][-3:]
    known = [f"the groups {', '.join(map(printable, there))}"] * bool(there) + [
        f"runs such as {', '.join(runs)}"
    ] * bool(runs)
    raise UserError(f"{name} is no group and no run in {runs_dir}; there are {' and '.join(known) or 'none at all'}")


def find_group(runs_dir: str | Path, name: str | None) -> Recipe | None:
    """The group of that name; None where it is the name of a file or a run, or of nothing. Errors: as `one_recipe`."""
    if name is None or is_file(name) or run_named(runs_dir, name):
        return None
    there, unread = read_groups(runs_dir)
    if name not in there:
        return None
    say_what_may_be_missing(name, unread)
    return one_recipe(name, there[name])


def one_recipe(name: str, members: Sequence[Member]) -> Recipe:
    """Errors: `UserError` when the runs differ in more than their seeds, or one has not finished."""
    runs: dict[int, RunFolder] = {}
    first, settings = members[0][0], recipe_settings(members[0][1])
    for folder, config in members:
        if apart := differing(settings, recipe_settings(config)):
            raise UserError(
                f"{name}: its runs differ in more than the seed: {in_words(apart, first.id, folder.id)}; give each recipe a --group of its own"
            )
        seed = config.compute.seed
        if seed in runs:
            raise UserError(
                f"{name}: {runs[seed].id} and {folder.id} both have seed {seed}; remove one of their folders"
            )
        runs[seed] = folder
        check_finished(name, folder)
    return Recipe(name, runs, settings)


def check_finished(name: str, folder: RunFolder) -> None:
    """Errors: `UserError` when the run is known not to have finished: its weights are then not those of its recipe."""
    state = run_state(folder)
    if state not in ("finished", "unknown"):
        go_on = folder.command("train.py", "--resume", folder.id)
        what = "wait for it" if state == "running" else f"go on with {go_on}, or remove {folder.path}"
        raise UserError(f"{name}: {folder.id} has not finished, it is {printable(state)}; {what}")


def recipe_settings(config: TrainConfig) -> dict[str, Any]:
    values = as_dict(config)
    return {name: values[name] for name in RECIPE}


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Flag → both values, of the flags that differ."""
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def in_words(apart: dict[str, tuple[Any, Any]], one: str, other: str) -> str:
    """`--lr (A 0.1, B 0.2)`, …"""
    return ", ".join(f"--{flag} ({one} {printable(a)}, {other} {printable(b)})" for flag, (a, b) in apart.items())

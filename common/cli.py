"""The command line → a config. Imports no torch: `--help` answers at once."""

import dataclasses
import sys
from typing import Any, TypeVar, cast

import tyro

from common.base.checked import hints_of, names_paths
from common.base.errors import UserError
from common.base.home import expanded, provide_home
from common.config import MAY_CHANGE_ON_RESUME, PRESETS, RUNS_DIR, Group, TrainConfig, as_dict

Config = TypeVar("Config")


def parse(
    cls: type[Config], default: Config | None = None, argv: list[str] | None = None, description: str = ""
) -> Config:
    """The command line as a `cls`; `--help` shows `default`'s values. Every flag takes a value, as W&B's agent gives it, and every path
    may begin with `~`.

    Errors: tyro's own box on stderr, also for a value out of range, and exit status 2; `UserError` for a home that nobody has.
    """
    config = tyro.cli(
        cls,
        default=cast(Config, default),
        args=argv,
        description=description,
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )
    config = _with_homes(config, default)
    provide_home()
    return config


def _with_homes(config: Any, default: Any) -> Any:
    """`config` with `~` expanded in the paths that the command line gave: those unlike `default`'s."""
    changes, kind = {}, cast(Any, type(config))
    for name, hint in hints_of(kind).items():
        value, before = getattr(config, name), getattr(default, name, None)
        if isinstance(value, Group):
            changes[name] = _with_homes(value, before)
        elif value and value != before and names_paths(hint):
            paths = [value] if isinstance(value, str) else value
            found = tuple(expanded(path, f"--{name}") for path in paths)
            changes[name] = found[0] if isinstance(value, str) else found
    return dataclasses.replace(config, **changes) if changes else config


def parse_train(argv: list[str] | None = None, description: str = "") -> TrainConfig:
    """The preset's values, overridden by the flags; with `--resume`, the run's own values, of which few may change."""
    argv = sys.argv[1:] if argv is None else argv
    resume = _value_of("resume", argv)
    if not resume or resume == "None":
        return parse(TrainConfig, PRESETS.get(_value_of("preset", argv), PRESETS["lab"]), argv, description)
    from common.runs.find import find_run
    from common.runs.folder import load_config

    runs_dir = expanded(_value_of("runs_dir", argv) or RUNS_DIR, "--runs_dir")
    folder = find_run(runs_dir, expanded(resume, "--resume"), "--resume")
    if folder.read_summary().job_type == "soup":
        raise UserError(
            f"--resume {folder.id}: a soup was not trained, so there is nothing to go on with; begin a new run"
        )
    saved = load_config(folder).replace(runs_dir=str(folder.path.parent))  # it may have been copied or moved
    config = parse(TrainConfig, saved, argv, description)
    before, after = as_dict(saved), as_dict(config)
    changed = [name for name in before if name not in MAY_CHANGE_ON_RESUME and before[name] != after[name]]
    if changed:
        was = ", ".join(f"--{name} (was {before[name]}, now {after[name]})" for name in changed)
        raise UserError(
            f"--resume goes on with the same run, so these can't change: {was}; leave them out, or begin a new run"
        )
    return config


def _value_of(flag: str, argv: list[str]) -> str:
    """What the command line gives for `flag`, as `--flag value` or `--flag=value`; the last one counts."""
    value = ""
    for position, argument in enumerate(argv):
        name, equals, given = argument.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == flag:
            value = given if equals else (argv[position + 1] if position + 1 < len(argv) else "")
    return value

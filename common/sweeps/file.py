"""W&B's sweep file in Optuna's terms: read, checked, and turned into command lines."""

import contextlib
import io
import itertools
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from common.base.errors import UserError
from common.cli import parse_train
from common.config import BEST_BY, GROUP_OF, IN_SWEEPS, Recipe, allowed

Goal = Literal["minimize", "maximize"]
Word = TypeVar("Word", bound=str)

KEYS = {
    "program", "method", "metric", "parameters", "early_terminate", "command", "run_cap",
    "name", "description", "project", "entity", "scheduler",
}  # fmt: skip
VALIDATED = tuple(f"validation/{name}" for name in get_args(BEST_BY))
ENGINES = ("optuna", "wandb")  # of `wandb sweep-scheduler`; here it is Optuna in any case
METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = {  # name: the keys that it must have
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_uniform": ("min", "max"),
    "q_log_uniform_values": ("min", "max"),
}
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


@dataclass(frozen=True)
class Parameter:
    distribution: BaseDistribution
    q: int | float | None = None
    """The distribution counts multiples of q. None: it gives the values themselves."""

    def value(self, drawn: Any) -> Any:
        if self.q is None:
            return drawn
        return drawn * self.q if isinstance(self.q, int) else round(drawn * self.q, 12)

    def all_drawn(self) -> Sequence[Any]:
        """What can be drawn, in order; nothing where that has no end."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        if isinstance(self.distribution, IntDistribution):
            return range(self.distribution.low, self.distribution.high + 1)
        return ()

    def examples(self) -> list[Any]:
        """The values by which a flag shows whether it takes them all: the choices, or the ends of a range. A draw of a continuous
        one is never its end, such as an lr of 0: its middle stands for it."""
        drawn: Sequence[Any]
        match self.distribution:
            case FloatDistribution(low=low, high=high):
                drawn = [(low + high) / 2]
            case IntDistribution(low=low, high=high):
                drawn = [low, high]
            case _:
                drawn = self.all_drawn() or []
        return [self.value(one) for one in drawn]


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was found good."""

    text: str
    program: str
    method: str
    metric: str
    goal: Goal
    parameters: dict[str, Parameter]
    pruner: optuna.pruners.BasePruner
    command: tuple[str, ...]
    run_cap: float
    environment: dict[str, str]

    @property
    def best(self) -> Any:
        return max if self.goal == "maximize" else min

    @property
    def note(self) -> str | None:
        """What there is to say where the trials are compared by one number of the validation, and keep their best epoch by another."""
        given = self.parameters.get("best_by")
        kept_by = [f"validation/{name}" for name in (given.examples() if given else [Recipe().best_by])]
        if self.metric not in VALIDATED or kept_by == [self.metric]:
            return None
        name = self.metric.removeprefix("validation/")
        return (
            f"note: the best weights of a trial are those of its epoch of the best {' or '.join(kept_by)}; for those of the best "
            f"{self.metric}, by which trials are compared, add `best_by: {{value: {name}}}` to the parameters"
        )

    def values(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """What Optuna drew, as values of train.py's flags."""
        return {name: parameter.value(drawn[name]) for name, parameter in self.parameters.items() if name in drawn}

    def command_line(self, values: dict[str, Any]) -> list[str]:
        """What W&B's agent would run, by this Python."""
        macros = {
            "${env}": ["/usr/bin/env"] if Path("/usr/bin/env").exists() else [],  # none on Windows, as with the agent
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": flags(values),
        }
        return [word for part in self.command for word in macros.get(part, [part])]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination; the last parameter changes fastest."""
        for drawn in itertools.product(*(parameter.all_drawn() for parameter in self.parameters.values())):
            yield dict(zip(self.parameters, drawn, strict=True))

    def size(self) -> float:
        """The number of trials there can be at most."""
        if self.method != "grid":
            return self.run_cap
        combinations: int = math.prod(len(parameter.all_drawn()) for parameter in self.parameters.values())
        return min(self.run_cap, combinations)


def flags(values: dict[str, Any]) -> list[str]:
    """As W&B's agent writes `${args}`: `--lr=0.01 --nesterov=False --max_steps=None`."""
    return [f"--{name}={value}" for name, value in values.items()]


def read_sweep(path: Path) -> Sweep:
    """Errors: `UserError` naming the file and the key, before anything is run or written."""
    try:
        text = path.read_text(encoding="utf-8")
        spec = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as a sweep: {error}") from None
    try:
        return _sweep(text, _mapping(spec, "the file"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(text: str, spec: dict[str, Any]) -> Sweep:
    _only(spec, KEYS, "the sweep")
    program = spec.get("program")
    if not isinstance(program, str) or not Path(program).is_file():
        raise UserError(f"program is {program!r}, but must be a script, as seen from {Path.cwd()}")
    if "scheduler" in spec:  # its other keys name code of one's own, which would have to be run
        scheduler = _mapping(spec["scheduler"], "scheduler")
        _only(scheduler, {"engine"}, "scheduler")
        _one_of(scheduler.get("engine"), ENGINES, "scheduler.engine")
    metric = _mapping(spec.get("metric"), "metric")
    _only(metric, {"name", "goal"}, "metric")
    if not isinstance(metric.get("name"), str):
        raise UserError("metric.name is missing; it must be what the trials log, such as validation/accuracy")
    goal = _goal(metric["name"], metric.get("goal", "minimize"))
    method = _one_of(spec.get("method"), METHODS, "method")
    parameters = {
        str(name): _parameter(f"parameters.{name}", str(name), _mapping(given, f"parameters.{name}"))
        for name, given in _mapping(spec.get("parameters"), "parameters").items()
    }
    endless = [name for name, parameter in parameters.items() if not parameter.all_drawn()]
    if method == "grid" and endless:
        raise UserError(f"parameters.{endless[0]} has no end of values; with method grid give it `values`")
    run_cap = spec.get("run_cap", math.inf)
    if run_cap != math.inf and not (_is_int(run_cap) and run_cap >= 1):
        raise UserError(f"run_cap is {run_cap!r}, but must be a whole number, 1 or more")
    return Sweep(
        text=text,
        program=program,
        method=method,
        metric=metric["name"],
        goal=goal,
        parameters=parameters,
        pruner=_pruner(spec.get("early_terminate")),
        command=_command(spec.get("command", DEFAULT_COMMAND)),
        run_cap=run_cap,
        environment={f"WANDB_{key.upper()}": str(spec[key]) for key in ("project", "entity") if spec.get(key)},
    )


def _goal(metric: str, given: Any) -> Goal:
    """Errors: `UserError` for the wrong way of what the validation measures."""
    goal: Goal = _one_of(given, ("minimize", "maximize"), "metric.goal")
    right = "minimize" if metric == "validation/loss" else "maximize"
    if metric in VALIDATED and goal != right:
        raise UserError(f"metric.goal is {goal} (W&B's default is minimize), but must be {right} for {metric}")
    return goal


def _parameter(where: str, name: str, spec: dict[str, Any]) -> Parameter:
    if name not in IN_SWEEPS:
        why = "is for the sweep to set" if name in GROUP_OF else "is no flag of train.py"
        raise UserError(f"{where} {why}; allowed are {', '.join(sorted(IN_SWEEPS))}")
    if "parameters" in spec:
        raise UserError(f"{where} nests parameters, which is not supported: train.py's flags are flat")
    numbers = [spec[key] for key in ("min", "max", "q") if key in spec]
    inferred = "constant" if "value" in spec else "categorical" if "values" in spec else None
    inferred = inferred or ("int_uniform" if all(map(_is_int, numbers)) else "uniform")
    kind = _one_of(spec.get("distribution", inferred), tuple(DISTRIBUTIONS), f"{where}.distribution")
    _only(spec, {*DISTRIBUTIONS[kind], "distribution"} | ({"q"} if kind.startswith("q_") else set()), where)
    missing = [key for key in DISTRIBUTIONS[kind] if key not in spec]
    if missing:
        raise UserError(f"{where}.{missing[0]} is missing, which {kind} needs")

    if kind in ("constant", "categorical"):
        parameter = Parameter(CategoricalDistribution(_choices(spec, where)))
    else:
        parameter = _numeric(kind, spec["min"], spec["max"], spec.get("q", 1), where)
    for value in parameter.examples():
        _check_flag(where, name, value)
    return parameter


def _choices(spec: dict[str, Any], where: str) -> list[Any]:
    choices = [spec["value"]] if "value" in spec else spec["values"]
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where}.values is {choices!r}, but must be a list of one or more values")
    for choice in choices:
        if choice is not None and not isinstance(choice, (bool, int, float, str)):
            raise UserError(f"{where} has the value {choice!r}, but must be text, a number, true, false or null")
    return choices


def _numeric(kind: str, low: Any, high: Any, q: Any, where: str) -> Parameter:
    whole = kind == "int_uniform"
    for key, number in (("min", low), ("max", high), ("q", q)):
        if not _is_int(number) and (whole or not isinstance(number, float) or not math.isfinite(number)):
            hint = "; YAML reads 1e-3 as text, write 0.001" if isinstance(number, str) else ""
            raise UserError(f"{where}.{key} is {number!r}, but must be a {'whole ' if whole else ''}number{hint}")
    logarithmic = "log" in kind
    if low > high or (logarithmic and low <= 0) or q <= 0:
        raise UserError(
            f"{where} has min {low}, max {high} and q {q}: min must be at most max{', both above 0' * logarithmic}"
        )
    if kind in ("uniform", "log_uniform_values"):
        return Parameter(FloatDistribution(low, high, log=logarithmic))
    # W&B rounds to multiples of q, and so to whole numbers where q is one; counting them keeps within min and max
    first, last = math.ceil(round(low / q, 9)), math.floor(round(high / q, 9))
    if first > last:
        raise UserError(f"{where} has no multiple of q {q} between min {low} and max {high}")
    return Parameter(IntDistribution(first, last, log=logarithmic), q)


def _check_flag(where: str, name: str, value: Any) -> None:
    """Whether the flag takes the value; whether it goes with the other parameters is for the trial to check."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parse_train(flags({name: value}))
    except SystemExit:
        if "Error parsing TrainConfig" not in box.getvalue():  # what one flag allows another
            raise UserError(f"{where} has the value {value!r}, which --{name} does not take: {allowed(name)}") from None


def _pruner(spec: Any) -> optuna.pruners.BasePruner:
    """W&B's Hyperband is one ladder of it, successive halving: of the trials that have logged the metric min_iter, min_iter·eta,
    min_iter·eta², … times, the best 1/eta go on. `max_iter` and `s` give the same ladder from its top."""
    if spec is None:
        return optuna.pruners.NopPruner()
    spec = _mapping(spec, "early_terminate")
    _one_of(spec.get("type"), ("hyperband",), "early_terminate.type")
    wanted = ("max_iter", "s") if "max_iter" in spec else ("min_iter",)
    _only(spec, {"type", "eta", *wanted}, "early_terminate")
    for key, least in (("eta", 2), *((key, 1) for key in wanted)):
        number = spec.get(key, 3 if key == "eta" else None)
        if not _is_int(number) or number < least:
            raise UserError(f"early_terminate.{key} is {number!r}, but must be a whole number, {least} or more")
    eta = spec.get("eta", 3)
    first = spec["min_iter"] if "min_iter" in spec else max(1, spec["max_iter"] // eta ** spec["s"])
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)


def _command(parts: Any) -> tuple[str, ...]:
    parts = tuple(map(str, parts)) if isinstance(parts, (list, tuple)) else ()
    unknown = [part for part in parts if "${" in part and part not in DEFAULT_COMMAND]
    if unknown or "${args}" not in parts:
        raise UserError(
            f"command has {unknown[0] if unknown else 'no ${args}'}; it must be a list of words and of "
            f"{', '.join(DEFAULT_COMMAND)}, the last of which is needed"
        )
    if "${" not in parts[0] and not shutil.which(parts[0]):
        raise UserError(f"command begins with {parts[0]}, which is no program here")
    return parts


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} is {value!r}, but must be a mapping of keys to values")
    return value


def _only(mapping: dict[Any, Any], allowed: set[str], where: str) -> None:
    unknown = [str(key) for key in mapping if key not in allowed]
    if unknown:
        raise UserError(
            f"{where} has {', '.join(unknown)}, not supported here; allowed are {', '.join(sorted(allowed))}"
        )


def _one_of(value: Any, allowed: tuple[Word, ...], where: str) -> Word:
    if value not in allowed:
        raise UserError(f"{where} is {value!r}; supported here: {', '.join(allowed)}")
    return value

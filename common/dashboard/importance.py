"""What a sweep's trials tell together: the best so far, and which parameters mattered, by Optuna, from trials.json and the sweep's file."""

import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from common.base.text import counted

LEAST = 10  # completed trials, of fewer importance would be chance
DECADES = 20  # ratio of largest to smallest above which numbers of an unknown range count as logarithmic

Sweep = dict[str, Any]


def described(sweep: Sweep) -> Sweep:
    """The sweep as `reading.read_sweeps` has it, with `best_so_far` (a value or None for each trial), `importance` `[[parameter,
    share], …]`, the largest first, and `importance_note`; its `space` is taken out."""
    space = sweep.pop("space")
    importance, note = importance_of(sweep, space)
    return {**sweep, "best_so_far": best_so_far(sweep), "importance": importance, "importance_note": note}


def completed(sweep: Sweep) -> list[dict[str, Any]]:
    return [trial for trial in sweep["trials"] if trial["state"] == "complete" and trial["value"] is not None]


def best_so_far(sweep: Sweep) -> list[float | None]:
    """After each trial in turn, the best of those that completed; a trial that was stopped early does not count."""
    better = min if sweep["goal"] == "minimize" else max
    best: float | None = None
    found = []
    for trial in sorted(sweep["trials"], key=lambda trial: trial["number"]):
        if trial["state"] == "complete" and trial["value"] is not None:
            best = trial["value"] if best is None else better(best, trial["value"])
        found.append(best)
    return found


def importance_of(sweep: Sweep, space: dict[str, Any]) -> tuple[list[tuple[str, float]], str]:
    """Shares that sum to 1, and what is to be said of them or why there are none."""
    trials = completed(sweep)
    if len(trials) < LEAST:
        done = counted(len(trials), "completed trial")
        return (
            [],
            f"Which parameters matter can be told from {LEAST} completed trials on: {LEAST - len(trials)} more than these {done}."
            * bool(sweep["trials"]),
        )
    names = sorted(set.intersection(*(set(trial["parameters"]) for trial in trials)))
    columns = {name: [trial["parameters"][name] for trial in trials] for name in names}
    varied = {name: values for name, values in columns.items() if len({repr(value) for value in values}) > 1}
    results = [trial["value"] for trial in trials]
    if len(set(results)) < 2:
        return [], "Which parameters matter can't be told: all trials gave the same value."
    if len(varied) < 2:
        return [], "Which parameters matter is no question: no more than one differs between the trials."
    try:
        found = _importances(json.dumps([sweep["goal"], results, varied, {name: space.get(name) for name in varied}]))
    except Exception:  # a stranger's trials may hold what Optuna refuses
        return [], "Which parameters matter can't be told from these trials."
    if len({round(share, 6) for _, share in found}) == 1:
        return [], f"No parameter stands out in these {counted(len(trials), 'completed trial')}."
    return (
        found,
        f"By Optuna's PED-ANOVA, from {counted(len(trials), 'completed trial')}: how much a parameter decides whether a trial is among the best. A few dozen make it steady.",
    )


@lru_cache(maxsize=16)  # a watched page is built again and again
def _importances(known: str) -> list[tuple[str, float]]:
    """known: JSON of `[goal, values, {parameter: its values}, {parameter: its part of the sweep file}]`."""
    import optuna  # a second, which a page without such a sweep should not wait for
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    goal, results, varied, space = json.loads(known)
    distributions, columns = {}, {}
    for name, values in varied.items():
        distributions[name], columns[name] = _distribution(values, space[name])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction=goal)
        for i, value in enumerate(results):
            params = {name: column[i] for name, column in columns.items()}
            study.add_trial(optuna.create_trial(value=value, params=params, distributions=distributions))
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return sorted(((name, float(share)) for name, share in found.items()), key=lambda pair: (-pair[1], pair[0]))


def _distribution(values: Sequence[Any], spec: Any) -> tuple[Any, Sequence[Any]]:
    """The distribution that the sweep file says a parameter was drawn from, or one inferred from its values, and the values as it has
    them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    spec = spec if isinstance(spec, dict) else {}
    whole = all(type(value) is int for value in values)
    if not all(type(value) in (int, float) for value in values) or "values" in spec:
        kinds = [repr(value) for value in values]  # as text, since True and 1 are equal
        return CategoricalDistribution(sorted(set(kinds))), kinds
    ends = [spec[key] for key in ("min", "max") if type(spec.get(key)) in (int, float)]
    low, high = min([*values, *ends]), max([*values, *ends])
    log = low > 0 and ("log" in str(spec.get("distribution")) if ends else high / low >= DECADES)
    if whole and "q" not in spec:
        return IntDistribution(low, high, log=log), values
    return FloatDistribution(low, high, log=log), values

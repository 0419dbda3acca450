"""What the page says of a sweep's trials together, against Optuna's own study and plain loops."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from dashboard_runs import make_sweep
from helpers import ROOT
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from common.dashboard import importance, page

SPACE = {
    "lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
    "batch_size": {"values": [16, 32, 64]},
    "finetune": {"values": ["full", "head"]},
    "epochs": {"min": 1, "max": 9},
    "momentum": {"value": 0.9},
}


def write(runs_dir: Path, trials: list[dict], goal: str = "maximize", space: dict = SPACE) -> Path:
    folder = runs_dir / "sweeps" / "s"
    folder.mkdir(parents=True, exist_ok=True)
    metric = {"name": "validation/accuracy", "goal": goal}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"metric": metric, "parameters": space}))
    (folder / "trials.json").write_text(json.dumps(trials))
    return runs_dir


def trial(number: int, value: float | None, parameters: dict, state: str = "complete", **more: object) -> dict:
    return {"number": number, "run_id": f"s-{number}", "state": state, "value": value, "parameters": parameters, "error": None, **more}  # fmt: skip


def study_of(count: int, goal: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=goal, sampler=optuna.samplers.RandomSampler(seed=3))

    def objective(t: optuna.Trial) -> float:
        lr, batch = t.suggest_float("lr", 0.0001, 0.1, log=True), t.suggest_categorical("batch_size", [16, 32, 64])
        kind, epochs = t.suggest_categorical("finetune", ["full", "head"]), t.suggest_int("epochs", 1, 9)
        t.suggest_categorical("momentum", [0.9])
        good = 0.01 * epochs + (0.2 if kind == "full" else 0) + 0.0001 * batch - abs(lr - 0.01)
        return good if goal == "maximize" else -good

    study.optimize(objective, n_trials=count)
    return study


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_importance_is_optunas_of_the_study_itself(tmp_path: Path, goal: str) -> None:
    study = study_of(25, goal)
    trials = [trial(t.number, t.value, t.params) for t in study.trials]
    trials += [trial(25, 9.0, study.trials[0].params, "pruned"), trial(26, None, study.trials[0].params, "fail")]
    (sweep,) = page.collect(write(tmp_path, trials, goal))["sweeps"]
    expected = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    found = dict(sweep["importance"])
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-4)
    assert set(found) == set(SPACE) - {"momentum"} and sum(found.values()) == pytest.approx(1)
    assert [share for _, share in sweep["importance"]] == sorted(found.values(), reverse=True)
    assert "25 completed trials" in sweep["importance_note"]


@pytest.mark.parametrize("count", [1, 9])
def test_of_too_few_completed_trials_it_is_said_how_many_are_missing_and_optuna_is_not_imported(tmp_path, count):
    trials = [trial(t.number, t.value, t.params) for t in study_of(count, "maximize").trials]
    write(tmp_path, [*trials, trial(count, 0.5, trials[0]["parameters"], "pruned")])
    code = (
        "import json, sys; from pathlib import Path; from common.dashboard.page import collect; "
        f"(sweep,) = collect(Path({str(tmp_path)!r}))['sweeps']; assert 'optuna' not in sys.modules; "
        "print(json.dumps([sweep['importance'], sweep['importance_note']]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    shares, note = json.loads(done.stdout)
    assert shares == [] and f"from 10 completed trials on: {10 - count} more than" in note


@pytest.mark.parametrize(("goal", "best"), [("maximize", max), ("minimize", min)])
def test_the_best_so_far_counts_completed_trials_in_their_order(tmp_path: Path, goal: str, best) -> None:
    values = [None, 0.5, 0.4, 9.0, -9.0, 0.7, 0.6]
    states = ["fail", "complete", "complete", "pruned", "running", "complete", "complete"]
    rows = [trial(n, v, {"lr": 0.1}, s) for n, (v, s) in enumerate(zip(values, states, strict=True))]
    (sweep,) = page.collect(write(tmp_path, rows[::-1], goal))["sweeps"]
    expected, known = [], []
    for value, state in zip(values, states, strict=True):
        known += [value] if state == "complete" else []
        expected.append(best(known) if known else None)
    assert sweep["best_so_far"] == expected


@pytest.mark.parametrize(
    ("parameters", "values"),
    [
        (lambda n: {"lr": 0.1}, lambda n: n / 10),  # one alone
        (lambda n: {}, lambda n: n / 10),
        (lambda n: {"lr": n, "epochs": n}, lambda n: 0.5),  # equal results
        (lambda n: {"lr": [n], "epochs": {"a": n}}, lambda n: n / 10),  # what no sweep writes
        (lambda n: {"lr": [n, None, True, "x"][n % 4], "epochs": -n}, lambda n: n / 10),
        (lambda n: {"lr": 2**62 + n, "epochs": 10.0**300 * n}, lambda n: 1e300 * n),
    ],
)
def test_odd_trials_cost_no_page_and_an_importance_is_shares_or_a_sentence(tmp_path, parameters, values) -> None:
    space = {"lr": ["?"], "epochs": {"min": "x", "max": None, "distribution": 5}}
    (sweep,) = page.collect(write(tmp_path, [trial(n, values(n), parameters(n)) for n in range(12)], space=space))[
        "sweeps"
    ]
    assert sweep["importance_note"] and (
        not sweep["importance"] or sum(share for _, share in sweep["importance"]) == pytest.approx(1)
    )
    json.dumps(sweep, allow_nan=False)


def test_a_trial_of_several_seeds_has_their_sd_and_every_run(tmp_path: Path) -> None:
    several = trial(0, 0.8, {"lr": 0.1}, sd=0.0123456, runs=["s-0-seed0", "s-0-seed1"])
    (sweep,) = page.collect(write(tmp_path, [several, trial(1, 0.7, {"lr": 0.2})]))["sweeps"]
    assert sweep["trials"][0]["sd"] == 0.012346 and sweep["trials"][0]["runs"] == ["s-0-seed0", "s-0-seed1"]
    assert sweep["trials"][1]["sd"] is None and sweep["trials"][1]["runs"] == ["s-1"]


def test_a_sweep_without_its_file_infers_what_was_searched(tmp_path: Path) -> None:
    runs_dir = write(tmp_path, [trial(t.number, t.value, t.params) for t in study_of(20, "maximize").trials])
    (runs_dir / "sweeps" / "s" / "sweep.yaml").write_text("parameters: [1")
    (sweep,) = page.collect(runs_dir)["sweeps"]
    assert sweep["problems"] and {"lr", "batch_size", "finetune", "epochs"} == {name for name, _ in sweep["importance"]}
    make_sweep(tmp_path, "other", ["a"])
    assert importance.LEAST == 10 and len(page.collect(runs_dir)["sweeps"]) == 2

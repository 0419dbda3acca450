"""Sweeps without a server: sweep.py as its users run it, mostly over a stand-in for train.py (tests/sweep_stub.py)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from helpers import FAKES, ROOT, run_script, script_environment
from run_folders import words_of

import sweep
from common.base.errors import UserError
from common.cli import parse, parse_train
from common.config import as_dict
from common.runs.folder import RunFolder, load_config, read_metrics
from common.runs.records import Summary
from common.sweeps.file import DEFAULT_COMMAND, flags, read_sweep
from common.sweeps.trials import LocalSweep

METRIC = {"name": "validation/accuracy", "goal": "maximize"}
TWO_BY_TWO = {"lr": {"values": [0.1, 0.4]}, "nesterov": {"values": [True, False]}, "epochs": {"value": 2}}


def write_sweep(folder: Path, **changes: object) -> Path:
    """A sweep file; a change to None leaves the key out."""
    spec = {"program": str(FAKES / "sweep_stub.py"), "method": "grid", "metric": METRIC, "parameters": TWO_BY_TWO}
    path = folder / "my sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**spec, **changes}.items() if v is not None}, sort_keys=False))
    return path


def lrs(*values: float) -> dict:
    return {"lr": {"values": list(values)}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.sweeps.run.POLL_SECONDS", 0.02)
    for name in ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(path: Path, sweep_id: str = "s", **options: object) -> int:
    return sweep.main(sweep.SweepConfig(str(path), sweep_id=sweep_id, **options))


def records(sweep_id: str = "s", runs_dir: str = "runs") -> list[dict]:
    return json.loads(Path(runs_dir, "sweeps", sweep_id, "trials.json").read_text())


def stub(run_id: str) -> dict:
    return json.loads(Path("runs", run_id, "stub.json").read_text())


def wait_for(condition, process: subprocess.Popen | None = None):
    """What `condition` returns, once it is true."""
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing came within a minute"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    return value


def start(path: Path, *options: object, **env: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "sweep.py"), str(path), *map(str, options)]
    environment = script_environment(path.parent, PYTHONUNBUFFERED="1", **env)
    return subprocess.Popen(
        command, cwd=path.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# --- searches ---------------------------------------------------------------------------------------------------------


def test_a_grid_runs_every_combination_once_with_several_workers(here, capsys):
    assert run(write_sweep(here), workers=3) == 0
    tried = [tuple(record["parameters"].values()) for record in records()]
    assert sorted(tried) == [(0.1, False, 2), (0.1, True, 2), (0.4, False, 2), (0.4, True, 2)]
    assert [record["run_id"] for record in records()] == ["s-0", "s-1", "s-2", "s-3"]
    assert {record["state"] for record in records()} == {"complete"}
    assert [record["value"] for record in records()] == [0.9, 0.9, 0.6, 0.6]
    shown = capsys.readouterr().out
    assert f"python {FAKES / 'sweep_stub.py'} --lr=0.1 --nesterov=True --epochs=2" in shown.splitlines()
    assert (here / "runs/sweeps/s/sweep.yaml").read_text() == (here / "my sweep.yaml").read_text()


def test_a_trial_of_several_seeds_is_worth_their_mean_and_goes_on_with_as_many(here, capsys):
    path = write_sweep(here, parameters=lrs(0.1, 0.4), scheduler={"engine": "optuna"})
    assert run(path, seeds=3, count=1) == 0
    with pytest.raises(UserError, match="--seeds is 2, but sweep s was begun with 3"):
        run(path, seeds=2)
    assert run(path) == 0
    assert [record["value"] for record in records()] == pytest.approx([0.91, 0.61])
    assert [record["sd"] for record in records()] == pytest.approx([0.01, 0.01])
    assert [record["runs"] for record in records()] == [[f"s-{n}-seed{k}" for k in range(3)] for n in range(2)]
    assert {stub("s-1-seed0")[name] for name in ("WANDB_RUN_ID", "WANDB_RUN_GROUP")} == {"s-1"}
    assert "0.9100 ± 0.0100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "scheduler", [{"engine": "ax"}, {}, "optuna", {"engine": "optuna", "source": "mine.py", "optimizer": "study"}]
)
def test_a_scheduler_of_another_kind_is_refused_by_name(here, scheduler):
    with pytest.raises(UserError, match="scheduler"):
        read_sweep(write_sweep(here, scheduler=scheduler))


@pytest.mark.slow
def test_seeds_of_a_trial_are_a_group_that_evaluate_takes(tmp_path):
    """The real train.py."""
    fixed = {"preset": "digits", "device": "cpu", "image_size": 16, "batch_size": 400, "epochs": 1}
    parameters = {**{name: {"value": value} for name, value in fixed.items()}, "lr": {"values": [0.1]}}
    path = write_sweep(tmp_path, program=str(ROOT / "train.py"), parameters=parameters)
    run_script("sweep.py", path, "--sweep_id", "s", "--seeds", 2, cwd=tmp_path)
    (record,) = json.loads((tmp_path / "runs/sweeps/s/trials.json").read_text())
    best = [
        json.loads((tmp_path / "runs" / name / "summary.json").read_text())["best/validation_accuracy"]
        for name in ("s-0-seed0", "s-0-seed1")
    ]
    assert record["value"] == pytest.approx(sum(best) / 2) and record["state"] == "complete"
    said = run_script("evaluate.py", "--checkpoint", "s-0", "--device", "cpu", cwd=tmp_path).stdout
    assert "mean ± sd" in said


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_stays_within_the_ranges_and_counts_earlier_trials(here, method):
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.9},
        "batch_size": {"min": 2, "max": 5},
    }
    path = write_sweep(here, method=method, parameters=parameters)
    assert run(path, count=3) == 0
    assert run(path, count=5) == 0
    assert len(records()) == 5
    for record in records():
        assert 0.001 <= record["parameters"]["lr"] <= 0.9 and record["parameters"]["batch_size"] in (2, 3, 4, 5)
        assert record["value"] == 1 - record["parameters"]["lr"]


def test_a_smaller_loss_is_better_when_minimizing(here, capsys):
    path = write_sweep(here, metric={"name": "validation/loss"}, parameters=lrs(0.4, 0.1, 0.3))
    assert run(path) == 0
    assert "Best: trial 1, run s-1" in capsys.readouterr().out


def test_a_poor_trial_is_stopped_early_and_cleanly(here, monkeypatch):
    monkeypatch.setenv("STUB_HOLD", "0.4")
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    assert run(write_sweep(here, parameters=lrs(0.1, 0.4, 0.05), early_terminate=early)) == 0
    assert [record["state"] for record in records()] == ["complete", "pruned", "complete"]
    assert records()[1]["value"] == 0.6 and records()[1]["error"] is None
    assert RunFolder(Path("runs/s-1")).read_summary() == Summary(status="interrupted")


def test_a_failing_trial_fails_alone(here, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "0.1")
    assert run(write_sweep(here, parameters=lrs(0.1, 0.4))) == 0
    assert [(record["state"], record["error"]) for record in records()] == [
        ("fail", "exit status 3: error: no such data"),
        ("complete", None),
    ]


def test_a_sweep_without_a_completed_trial_fails(here, monkeypatch, capsys):
    monkeypatch.setenv("STUB_FAIL", "0.1,0.4")
    assert run(write_sweep(here, parameters=lrs(0.1, 0.4))) == 1
    assert "No trial has completed." in capsys.readouterr().out


def test_a_trial_that_never_logs_the_metric_fails_with_its_name(here):
    assert run(write_sweep(here, metric={"name": "test/accuracy"}, parameters=lrs(0.1))) == 1
    assert records()[0]["error"] == "never logged test/accuracy"


def test_a_trial_runs_what_the_agent_would_run(here, monkeypatch):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    monkeypatch.setenv("WANDB_SWEEP_ID", "made-up")
    run(write_sweep(here, project="my-project"))
    for record in records():
        args = {name: {"value": value} for name, value in record["parameters"].items()}
        trial = stub(record["run_id"])
        assert trial["argv"][1:] == utils.create_sweep_command_args({"args": args})["args"]
        assert trial["WANDB_RUN_ID"] == record["run_id"] and trial["WANDB_RUN_GROUP"] == "s"
        assert trial["WANDB_PROJECT"] == "my-project" and trial["WANDB_SWEEP_ID"] is None
    assert list(DEFAULT_COMMAND) == utils.DEFAULT_SWEEP_COMMAND


def test_values_are_written_as_the_agent_writes_them():
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    values = {
        "lr": 1e-05,
        "nesterov": False,
        "compile": True,
        "max_steps": None,
        "data_dir": "a b",
        "seed": 3,
        "momentum": 0.1 + 0.2,
    }
    args = {name: {"value": value} for name, value in values.items()}
    assert flags(values) == utils.create_sweep_command_args({"args": args})["args"]


def test_the_best_command_works_as_printed_also_in_a_folder_whose_name_needs_quotes(here, capsys):
    (here / "it's").mkdir()
    stub = str(shutil.copy(FAKES / "sweep_stub.py", here / "it's" / "a stub.py"))
    path = write_sweep(here, program=stub, parameters={**lrs(0.1), "data_dir": {"value": "my photos"}})
    assert run(path, runs_dir="it's/my runs") == 0
    shown = capsys.readouterr().out.splitlines()
    words = words_of(shown[shown.index("Best: trial 0, run s-0") + 1])
    assert words == [stub, "--lr=0.1", "--data_dir=my photos", "--runs_dir", "it's/my runs"]
    config = parse_train(words[1:])
    assert (config.recipe.lr, config.place.data_dir, config.run.runs_dir) == (0.1, "my photos", "it's/my runs")


def test_the_trials_of_another_runs_dir_are_there(here):
    assert run(write_sweep(here, parameters=lrs(0.1)), runs_dir="elsewhere") == 0
    assert Path("elsewhere/s-0/metrics.jsonl").exists() and records(runs_dir="elsewhere")[0]["value"] == 0.9
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["a?b#c", "100%20", 'it\'s "so"\nand so', "größe"])
def test_a_sweep_keeps_its_record_in_its_folder_whatever_that_is_called(name, here):
    path = write_sweep(here, parameters=lrs(0.1))
    for _ in range(2):
        assert run(path, runs_dir=name) == 0
    assert {entry.name for entry in here.iterdir()} == {name, path.name}
    assert Path(name, "sweeps", "s", "study.db").stat().st_size > 0 and len(records(runs_dir=name)) == 1


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"value": None}, {None}),
        ({"values": [True, None, 0.5, "x"]}, {True, None, 0.5, "x"}),
        ({"distribution": "categorical", "values": [1, 2]}, {1, 2}),
        ({"min": 1, "max": 3}, {1, 2, 3}),
        ({"distribution": "int_uniform", "min": 1, "max": 2}, {1, 2}),
        ({"distribution": "q_uniform", "min": 10, "max": 35, "q": 8}, {16, 24, 32}),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.35, "q": 0.1}, {0.1, 0.2, 0.3}),
        ({"distribution": "q_log_uniform_values", "min": 16, "max": 64, "q": 16}, {16, 32, 48, 64}),
        ({"distribution": "q_log_uniform_values", "min": 0.5, "max": 3}, {1, 2, 3}),
        ({"min": 1.0, "max": 2}, (1, 2)),
        ({"distribution": "uniform", "min": 1, "max": 2}, (1, 2)),
        ({"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}, (0.001, 0.1)),
    ],
)
def test_every_distribution_gives_its_values_and_no_others(given, allowed, tmp_path, monkeypatch):
    monkeypatch.setattr("common.sweeps.file._check_flag", lambda *_: None)  # these values suit no one flag
    path = write_sweep(tmp_path, method="random", parameters={"lr": given})
    parameter = read_sweep(path).parameters["lr"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [parameter.value(study.ask({"x": parameter.distribution}).params["x"]) for _ in range(100)]
    if isinstance(allowed, set):
        assert set(drawn) == allowed and {type(value) for value in drawn} == {type(value) for value in allowed}
    else:
        assert allowed[0] <= min(drawn) < max(drawn) <= allowed[1]
        assert all(isinstance(value, float) for value in drawn)


# --- going on ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_trial_cleanly_and_says_how_to_go_on(here):
    path = write_sweep(here, parameters=lrs(0.4, 0.1))
    process = start(path, STUB_HOLD="0.4")
    sweep_id = process.stdout.readline().split()[1].rstrip(":")
    wait_for(Path(f"runs/{sweep_id}-0/metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert RunFolder(Path(f"runs/{sweep_id}-0")).read_summary() == Summary(status="interrupted")
    assert records(sweep_id)[0]["error"] == "interrupted, run again as trial 1"

    script, *again = words_of(shown.splitlines()[-1])
    assert script == str(ROOT / "sweep.py")
    assert sweep.main(parse(sweep.SweepConfig, argv=again)) == 0
    assert [record["parameters"]["lr"] for record in records(sweep_id)] == [0.4, 0.4, 0.1]
    assert [record["state"] for record in records(sweep_id)] == ["fail", "complete", "complete"]


def test_a_second_ctrl_c_ends_a_trial_that_does_not_stop(here):
    process = start(write_sweep(here, parameters=lrs(0.4)), "--sweep_id", "s", STUB_HOLD="0.4", STUB_DEAF="0.4")
    wait_for(Path("runs/s-0/metrics.jsonl").exists, process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert not Path("runs/s-0/summary.json").exists()  # it did not save
    assert records()[0]["error"] == "interrupted, run again as trial 1"


def test_a_trial_that_died_with_its_sweep_is_run_again(here):
    path = write_sweep(here, parameters=lrs(0.4, 0.1))
    process = start(path, "--sweep_id", "s", STUB_HOLD="0.4")
    wait_for(Path("runs/s-0/metrics.jsonl").exists, process)
    process.kill()
    process.communicate()
    os.kill(stub("s-0")["pid"], signal.SIGKILL)
    assert run(path) == 0
    assert [(r["parameters"]["lr"], r["state"]) for r in records()] == [
        (0.4, "fail"),
        (0.4, "complete"),
        (0.1, "complete"),
    ]


def test_a_trial_that_outlived_its_sweep_is_waited_for_and_counted(here):
    path = write_sweep(here, parameters=lrs(0.4))
    process = start(path, "--sweep_id", "s", STUB_HOLD="0.4")
    wait_for(Path("runs/s-0/metrics.jsonl").exists, process)
    process.kill()
    process.communicate()
    process = start(path, "--sweep_id", "s")
    assert process.stdout.readline().startswith("Sweep s")
    assert process.stdout.readline() == "Waiting for the trials of other processes\n"
    Path("release").touch()
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert [(record["state"], record["value"]) for record in records()] == [("complete", 0.6)]


@pytest.mark.parametrize("fails", ["", "0.1"])
def test_a_trial_that_its_own_process_settles_meanwhile_is_settled_once(here, monkeypatch, fails):
    monkeypatch.setenv("STUB_FAIL", fails)
    file = read_sweep(write_sweep(here, parameters=lrs(0.1)))
    own, other = (LocalSweep(file, Path("runs"), "s") for _ in range(2))
    trial, claim = own.begin_trial(1), other._claim
    assert trial is not None

    def claim_after_it_ended(*what):
        own.settle(trial)
        return claim(*what)

    monkeypatch.setattr(other, "_claim", claim_after_it_ended)
    assert other.begin_trial(1) is None
    assert [trial.state.name for trial in other.study.trials] == ["FAIL" if fails else "COMPLETE"]


def test_two_processes_share_a_sweep(here):
    path = write_sweep(here, parameters=lrs(0.1, 0.2, 0.3, 0.4))
    other = start(path, "--sweep_id", "s")
    assert run(path) == 0
    shown, _ = other.communicate(timeout=60)
    assert other.returncode == 0, shown
    assert sorted(record["parameters"]["lr"] for record in records()) == [0.1, 0.2, 0.3, 0.4]
    assert {record["state"] for record in records()} == {"complete"}


def test_a_sweep_does_not_go_on_with_another_file(here):
    assert run(write_sweep(here, parameters=lrs(0.1))) == 0
    with pytest.raises(UserError, match="--sweep_id s was begun with other settings"):
        run(write_sweep(here, parameters=lrs(0.2)))


@pytest.mark.parametrize(
    "metric, best_by, noted",
    [
        ("validation/accuracy", None, None),
        ("validation/macro_f1", ["macro_f1"], None),
        ("validation/macro_f1", None, "best validation/accuracy; .* add `best_by: {value: macro_f1}`"),
        (
            "validation/accuracy",
            ["accuracy", "balanced_accuracy"],
            "validation/accuracy or validation/balanced_accuracy",
        ),
        ("train/accuracy", None, None),
    ],
)
def test_a_metric_by_which_trials_do_not_keep_their_best_epoch_is_noted(metric, best_by, noted, here):
    parameters = {**TWO_BY_TWO, **({"best_by": {"values": best_by}} if best_by else {})}
    note = read_sweep(write_sweep(here, metric={"name": metric, "goal": "maximize"}, parameters=parameters)).note
    assert (note is None) == (noted is None) and re.search(noted or "", note or "")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"controller": {"type": "local"}}, "the sweep has controller, not supported"),
        ({"method": "genetic"}, "method is 'genetic'; supported here: grid, random, bayes"),
        ({"program": "nowhere.py"}, "program is 'nowhere.py'"),
        ({"metric": None}, "metric is None"),
        ({"metric": {"goal": "maximize"}}, "metric.name is missing"),
        ({"metric": {**METRIC, "goal": "best"}}, "metric.goal is 'best'"),
        ({"metric": {"name": "validation/macro_f1"}}, "metric.goal is minimize"),
        ({"metric": {"name": "validation/loss", "goal": "maximize"}}, "must be minimize for validation/loss"),
        ({"metric": {**METRIC, "target": 0.9}}, "metric has target, not supported"),
        ({"run_cap": 0}, "run_cap is 0"),
        ({"parameters": None}, "parameters is None"),
        ({"parameters": {"learning_rate": {"value": 1}}}, "parameters.learning_rate is no flag of train.py"),
        ({"parameters": {"run_id": {"value": "a"}}}, "parameters.run_id is for the sweep to set"),
        ({"parameters": {"lr": 0.1}}, "parameters.lr is 0.1, but must be a mapping"),
        ({"parameters": {"lr": {"parameters": {"a": {"value": 1}}}}}, "parameters.lr nests parameters"),
        ({"parameters": {"lr": {"distribution": "normal", "mu": 0}}}, "parameters.lr.distribution is 'normal'"),
        ({"parameters": {"lr": {"values": [1], "probabilities": [1]}}}, "parameters.lr has probabilities"),
        ({"parameters": {"lr": {"min": 0.1}}}, "parameters.lr.max is missing, which uniform needs"),
        ({"parameters": {"lr": {"min": "1e-3", "max": 1}}}, "YAML reads 1e-3 as text, write 0.001"),
        ({"parameters": {"lr": {"min": 2.0, "max": 1}}}, "min must be at most max"),
        ({"parameters": {"lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "both above 0"),
        ({"parameters": {"lr": {"min": 0.1, "max": 1}}}, "parameters.lr has no end of values"),
        ({"parameters": {"lr": {"values": []}}}, "parameters.lr.values is []"),
        ({"parameters": {"tags": {"value": ["a"]}}}, r"parameters.tags has the value ['a']"),
        ({"parameters": {"finetune": {"values": ["full", "all"]}}}, "'all', which --finetune does not take"),
        ({"parameters": {"batch_size": {"value": 0.5}}}, "0.5, which --batch_size does not take"),
        (
            {"parameters": {"batch_size": {"min": 1, "max": 8}}},
            "1, which --batch_size does not take: a whole number, 2 or",
        ),
        ({"parameters": {"lr": {"value": -1}}}, "-1, which --lr does not take: a number, above 0"),
        ({"parameters": {"lr": {"min": -1.0, "max": 0.1}}}, "which --lr does not take: a number, above 0"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type is 'envelope'"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate.min_iter is None"),
        (
            {"early_terminate": {"type": "hyperband", "max_iter": 9, "s": 2, "strict": True}},
            "early_terminate has strict",
        ),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}}, "early_terminate.eta is 1.5"),
        ({"command": ["${env}", "${program}", "${args_json}"]}, "command has ${args_json}"),
        ({"command": ["python", "train.py"]}, "command has no ${args}"),
        ({"command": ["no-such-program", "${args}"]}, "command begins with no-such-program"),
    ],
)
def test_what_is_not_supported_is_named(changes, named, tmp_path):
    path = write_sweep(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        read_sweep(path)
    assert str(error.value).startswith(str(path)) and named in str(error.value)


def test_bad_input_is_one_line_and_leaves_nothing(here):
    path = write_sweep(here, parameters={"learning_rate": {"value": 0.1}})
    done = run_script("sweep.py", path, cwd=here, status=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(entry.name for entry in here.iterdir() if entry.name != "home") == ["my sweep.yaml"]


def test_a_search_without_end_needs_a_count(here):
    with pytest.raises(UserError, match="--count is missing"):
        run(write_sweep(here, method="random"))
    assert run(write_sweep(here, method="random", run_cap=1)) == 0


def test_a_sweep_that_can_not_be_opened_is_named(here):
    folder = here / "runs/sweeps/s"
    folder.mkdir(parents=True)
    (folder / "study.db").write_text("not a database, but long enough to be looked at" * 10)
    with pytest.raises(UserError, match="study.db can't be opened"):
        run(write_sweep(here))


def test_help_imports_neither_torch_nor_optuna():
    code = "import sweep, common.config, sys; assert not {'torch', 'optuna', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_sweep_yaml_runs_the_real_training(here, monkeypatch):
    spec = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    quick = {
        "preset": "digits",
        "image_size": 16,
        "max_steps": 2,
        "augment": "none",
        "finetune": "full",
        "device": "cpu",
    }
    spec["parameters"] |= {name: {"value": value} for name, value in quick.items()}
    path = write_sweep(here, **{**spec, "program": str(ROOT / "train.py")})
    for name, value in script_environment(here).items():
        monkeypatch.setenv(name, value)
    assert run(path, "real", count=1) == 0
    assert [record["state"] for record in records("real")] == ["complete"]
    for record in records("real"):
        folder = RunFolder(here / "runs" / record["run_id"])
        config = load_config(folder)
        assert {name: as_dict(config)[name] for name in record["parameters"]} == record["parameters"]
        logged = [row["validation/accuracy"] for row in read_metrics(folder) if "validation/accuracy" in row]
        assert record["value"] == max(logged)
        assert folder.last.exists() and folder.best.exists()

"""With a W&B server, spoken to by the real client: what a run tells, what another machine reads, sweeps by W&B's own agent."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers import ROOT, run_script, script_environment
from wandb_backend import API_KEY, Backend, Trial

from common.cli import parse_train
from common.config import as_dict
from common.training.state import load_training_state

FLAGS = (
    *("--preset", "digits", "--device", "cpu", "--image_size", 16, "--batch_size", 400, "--epochs", 2),
    *("--log_every", 1, "--project", "lab", "--group", "a group", "--tags", "a", "b", "--run_id", "first"),
    *("--register", "digits-net", "--alert", "True"),
)  # fmt: skip
MODEL = "resnext50_32x4d-digits:best"
WANDB = str(Path(sys.executable).with_name("wandb"))


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def files_with_the_key(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if API_KEY.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A run trained on one machine, and evaluated on another, that has nothing but the server."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    with Backend() as backend:
        trained = run_script(
            "train.py",
            *FLAGS,
            cwd=here,
            env=script_environment(here, WANDB_MODE=None, TINY_FIGURES=None, **backend.env(here)),
        )
        env = script_environment(there, WANDB_MODE=None, **backend.env(there))
        evaluated = run_script(
            "evaluate.py", "--checkpoint", MODEL, "--project", "lab", "--device", "cpu", cwd=there, env=env
        )
        evaluation = next((run for run in backend.runs.values() if run.job_type == "evaluate"), None)
        yield SimpleNamespace(
            backend=backend,
            here=here,
            there=there,
            folder=here / "runs" / "first",
            run=backend.runs["first"],
            evaluation=evaluation,
            said=trained.stdout + trained.stderr,
            evaluated=evaluated.stdout + evaluated.stderr,
        )
        assert not backend.unknown


def test_the_run_s_config_is_the_command_line(lab):
    run = lab.run
    assert (run.project, run.group, run.job_type, run.tags) == ("lab", "a group", "train", ["a", "b"])
    config = parse_train(list(map(str, FLAGS)))
    assert {key: run.config[key] for key in ("lr", "batch_size", "epochs", "dataset", "weight_decay", "group")} == {
        **{"lr": config.recipe.lr, "batch_size": 400, "epochs": 2, "dataset": "digits"},
        **{"weight_decay": config.recipe.weight_decay, "group": "a group"},
    }
    assert run.config.keys() == as_dict(config).keys(), "derived facts belong to the summary"


def test_every_row_arrives_once_with_its_keys_and_step(lab):
    local = rows_of(lab.folder)
    assert [row["_step"] for row in lab.run.rows] == [row["step"] for row in local] == list(range(1, 9))
    for sent, row in zip(lab.run.rows, local, strict=True):
        numbers = {key: value for key, value in row.items() if key not in ("step", "time")}
        assert {key: sent[key] for key in numbers} == pytest.approx(numbers)
        assert sent.keys() - numbers.keys() <= {"_step", "_timestamp", "_runtime", "loss"}
    assert [row["step"] for row in local if "validation/accuracy" in row] == [4, 8]


def test_the_summary_names_the_best_epoch_and_the_run_ends_well(lab):
    epochs = [row for row in rows_of(lab.folder) if "validation/accuracy" in row]
    best = max(epochs, key=lambda row: row["validation/accuracy"])
    assert lab.run.summary["best/epoch"] == best["epoch"]
    assert lab.run.summary["best/validation_accuracy"] == pytest.approx(best["validation/accuracy"])
    assert lab.run.summary["parameters_total"] > 0 and lab.run.summary["device"]
    assert (lab.run.state, lab.run.exit_code, lab.run.starts) == ("finished", 0, 1)
    assert f"/tester/lab/runs/{lab.run.id}" in lab.said and "sync.py" not in lab.said


def test_the_loss_figure_arrives_with_the_first_epoch_and_the_last(lab):
    figures = [row["loss"] for row in lab.run.rows if "loss" in row]
    assert len(figures) == 2
    assert all(lab.run.files[figure["path"]].startswith(b"\x89PNG") for figure in figures)
    assert lab.run.files[figures[-1]["path"]] == (lab.folder / "loss.png").read_bytes()


def test_the_best_weights_are_the_model_artifact(lab):
    model, weights = lab.backend.artifact(MODEL), (lab.folder / "checkpoints" / "best.safetensors").read_bytes()
    assert model is not None and model is lab.backend.artifact("resnext50_32x4d-digits:latest")
    assert (model.type, model.version, model.files) == ("model", "v0", {"best.safetensors": weights})
    assert model.metadata["model"] == "resnext50_32x4d" and model.metadata["run_id"] == "first"
    assert len(model.metadata["classes"]) == 10 and model.metadata["image_size"] == 16
    assert model.metadata["epoch"] == lab.run.summary["best/epoch"]


def test_another_machine_evaluates_the_artifact_that_it_downloads(lab):
    weights = (lab.folder / "checkpoints" / "best.safetensors").read_bytes()
    (downloaded,) = [path for path in (lab.there / "home").rglob("*.safetensors") if "artifacts" in path.parts]
    assert downloaded.read_bytes() == weights
    report = json.loads((lab.there / "runs" / "first" / "evaluation" / "report.json").read_text())
    assert report["checkpoint"]["artifact"] == MODEL and report["run_id"] == "first"
    run = lab.evaluation
    assert (run.project, run.state, run.exit_code) == ("lab", "finished", 0)
    assert run.summary["run_id"] == "first"
    assert {key: run.summary[key] for key in report["metrics"]} == pytest.approx(report["metrics"])


def test_the_evaluation_s_figures_and_tables_arrive(lab):
    folder, run = lab.there / "runs" / "first" / "evaluation", lab.evaluation
    report = json.loads((folder / "report.json").read_text())
    media = {key: value for row in run.history for key, value in row.items() if isinstance(value, dict)}
    assert "WARNING" not in lab.evaluated, lab.evaluated
    for name, file in report["figures"].items():
        assert run.files[media[f"figures/{name}"]["path"]] == (folder / file).read_bytes()
    for key in report["tables"]:
        local = json.loads((folder / "tables" / f"{key.replace('/', '-')}.json").read_text())
        sent = json.loads(run.files[media[key]["path"]])
        assert sent["columns"] == local["columns"] and len(sent["data"]) == len(local["rows"]) > 0
    assert [a.type for a in lab.backend.artifacts if a.created_by == run.id].count("run_table") >= len(report["tables"])


def test_the_weights_description_is_their_model_card_from_training_on_and_says_what_the_evaluation_found(lab):
    model, report = lab.backend.artifact(MODEL), next((lab.there / "runs").glob("*/evaluation/report.json"))
    told = json.loads((lab.folder / "tracking.json").read_text())["artifacts"]
    (first,) = [artifact["description"] for artifact in told if artifact["type"] == "model"]
    assert "It was not evaluated on a test set." in first and "validation accuracy" in first
    accuracy = json.loads(report.read_text())["metrics"]["test/accuracy"]
    assert f"accuracy **{accuracy:.4f}** on the test images" in model.description
    assert all(not artifact.description for artifact in lab.backend.artifacts if artifact.type != "model")


def test_lineage_reads_dataset_model_evaluation(lab):
    data, model = lab.backend.artifact("digits-split"), lab.backend.artifact(MODEL)
    assert (data.type, data.used_by) == ("dataset", ["first"])
    assert data.files == {"split.json": (lab.folder / "split.json").read_bytes()}
    assert (model.created_by, model.used_by) == ("first", [lab.evaluation.id])


def test_the_epoch_is_the_axis_of_the_validation_and_of_the_means_over_an_epoch(lab):
    told = lab.run.raw_config["_wandb"]["value"][
        "m"
    ]  # as the client encodes define_metric: 1 name, 2 glob, 5 index of the axis
    over = {one.get("1") or one["2"]: told[one["5"] - 1]["1"] for one in told if "5" in one}
    assert over.keys() >= {"validation/*", "train/loss", "train/accuracy"} and set(over.values()) == {"epoch"}
    assert "train/batch_loss" not in over and isinstance(lab.run.summary["validation/accuracy"], float)


def test_the_mistakes_are_a_table_with_their_images(lab):
    run, folder = lab.evaluation, lab.there / "runs" / "first" / "evaluation"
    (value,) = [row["predictions"] for row in run.history if "predictions" in row]
    (artifact,) = [a for a in lab.backend.artifacts if a.name == f"run-{run.id}-predictions"]
    assert value["path"] in run.files
    table = json.loads(artifact.files["predictions.table.json"])
    assert table["columns"] == ["image", "true", "predicted", "confidence"]
    saved = np.load(folder / "predictions.npz")
    wrong = int((saved["logits"].argmax(1) != saved["labels"]).sum())
    mistakes = [row for row in table["data"] if row[1] != row[2]]
    assert len(mistakes) == min(wrong, 200) > 0 and mistakes == table["data"][: len(mistakes)]
    assert len(table["data"]) == len(mistakes) + min(100, len(saved["labels"]) - wrong)
    confidences = [row[3] for row in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert all(artifact.files[row[0]["path"]].startswith(b"\xff\xd8") for row in table["data"])


def test_curves_by_class_are_w_and_b_s_own_charts(lab):
    charts = lab.evaluation.raw_config["_wandb"]["value"]["visualize"]
    for key, axes in (("roc", ["fpr", "tpr"]), ("precision_recall", ["recall", "precision"])):
        assert charts[key]["panel_config"]["panelDefId"] == "wandb/area-under-curve/v0"
        (value,) = [row[f"{key}_table"] for row in lab.evaluation.history if f"{key}_table" in row]
        table = json.loads(lab.evaluation.files[value["path"]])
        assert table["columns"] == ["class", *axes] and {row[0] for row in table["data"]} == set(map(str, range(10)))


def test_the_best_weights_are_in_the_registry_and_the_end_is_told(lab):
    assert lab.backend.registry == {"wandb-registry-model/digits-net": [lab.backend.artifact(MODEL)]}
    (alert,) = lab.backend.alerts
    assert "finished" in json.dumps(alert) and "first" in json.dumps(alert)


TRACKED = """
from pathlib import Path
from common.runs.folder import RunFolder
from common.tracking.run import start

run = start(RunFolder(Path("runs/run")), "train", {}, run_id="run")
run.set_summary({"best/epoch": 1.0})
run.log_code(Path(%r))
run.finish(0)
evaluation = start(RunFolder(Path("runs/run")), "evaluate", {})
evaluation.finish(0)
"""


def test_the_code_is_kept_where_there_is_no_git_and_evaluations_share_the_group(tmp_path):
    with Backend() as backend:
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        call([sys.executable, "-c", TRACKED % str(ROOT)], tmp_path, env)
        (code,) = [artifact for artifact in backend.artifacts if artifact.type == "code"]
        for name in ("train.py", "common/training/step.py"):
            assert code.files[name] == (ROOT / name).read_bytes()
        assert backend.runs["run"].raw_config["_wandb"]["value"]["code_path"].partition(":")[0] == code.name
        assert {run.group for run in backend.runs.values()} == {"run"} and len(backend.runs) == 2
        assert not backend.unknown


@pytest.mark.slow
def test_a_run_that_is_killed_shows_its_best_and_one_that_diverges_is_told(tmp_path):
    with Backend() as backend:
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        flags = [*FLAGS[:-6], "--run_id", "killed", "--epochs", 1000]
        with open(tmp_path / "killed.txt", "w") as output:
            command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
            try:
                backend.wait_for(lambda: "killed" in backend.runs and len(backend.runs["killed"].rows) >= 8, 300)
                backend.wait_for(lambda: "best/epoch" in backend.runs["killed"].summary, 60)
            finally:
                process.kill()
        summary = backend.runs["killed"].summary
        assert summary["best/validation_accuracy"] > 0 and summary["best/by"] == "accuracy" and not backend.alerts
        run_script("train.py", *FLAGS, "--run_id", "bad", "--lr", 1e10, cwd=tmp_path, env=env, status=1)
        (alert,) = backend.alerts
        assert "diverged" in json.dumps(alert) and alert.get("severity") == "ERROR"


def test_the_api_key_is_nowhere_but_in_the_environment(lab):
    run_script("dashboard.py", cwd=lab.here, env=script_environment(lab.here, WANDB_API_KEY=API_KEY))
    assert (lab.here / "dashboard.html").exists()
    assert not files_with_the_key(lab.here, lab.there)
    for run in lab.backend.runs.values():
        assert API_KEY not in json.dumps([run.raw_config, run.summary, run.streams])
        assert not any(API_KEY.encode() in data for data in run.files.values())
    assert API_KEY not in lab.said + lab.evaluated


# W&B's agent


def call(command: list[str], cwd: Path, env: dict[str, str]) -> str:
    with open(cwd / "output.txt", "w") as output:
        done = subprocess.run(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, timeout=400)
    said = (cwd / "output.txt").read_text()
    assert done.returncode == 0, said
    return said


@pytest.mark.slow
def test_a_sweep_runs_as_a_user_runs_it(tmp_path):
    """`wandb sweep` and `wandb agent` with sweep.yaml on small data: three trials, of which one fails and one is stopped."""
    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    fixed = {"preset": "digits", "device": "cpu", "image_size": 16, "batch_size": 400, "log_weights": False}
    chosen = ("lr", "weight_decay", "epochs")
    ranges = {name: given for name, given in sweep["parameters"].items() if name in chosen}
    parameters = {
        **ranges,
        "epochs": {"values": [2, 1000]},
        **{name: {"value": value} for name, value in fixed.items()},
    }
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({**sweep, "program": str(ROOT / "train.py"), "parameters": parameters})
    )
    with Backend() as backend:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        env = script_environment(tmp_path, WANDB_MODE=None, PATH=path, **backend.env(tmp_path))
        backend.trials = [
            Trial({**fixed, "lr": 1e10, "weight_decay": 0.001, "epochs": 2}),
            Trial({**fixed, "lr": 0.05, "weight_decay": 0.001, "epochs": 2}),
            Trial({**fixed, "lr": 0.01, "weight_decay": 1e-05, "epochs": 1000}, stop_after_rows=3),
        ]
        call([WANDB, "sweep", "sweep.yaml"], tmp_path, env)
        [made] = backend.sweeps.values()
        assert made.project == sweep["project"] and "early_terminate" in made.config
        said = call([WANDB, "agent", "--count", "3", f"{made.entity}/{made.project}/{made.id}"], tmp_path, env)
        assert not backend.unknown and len(made.runs) == 3, said

    failed, finished, stopped = (backend.runs[run_id] for run_id in made.runs)
    for trial, run in zip(backend.trials, (failed, finished, stopped), strict=True):
        assert {name: run.config[name] for name in trial.args} == trial.args
        assert (run.sweep, run.project) == (made.id, sweep["project"])
        local = tmp_path / "runs" / run.id
        rows = [(row["step"], row.get("validation/accuracy")) for row in rows_of(local)] if run is not failed else []
        assert [(row["_step"], row.get("validation/accuracy")) for row in run.rows] == rows
        record = json.loads((local / "tracking.json").read_text())["runs"]
        assert [(r["id"], r["project"], r["mode"]) for r in record] == [(run.id, sweep["project"], "online")]

    assert (failed.state, failed.exit_code) == ("failed", 1)
    assert (finished.state, finished.exit_code) == ("finished", 0)
    assert len([row for row in finished.rows if sweep["metric"]["name"] in row]) == 2

    assert (stopped.state, stopped.exit_code) == ("failed", 143)
    local = tmp_path / "runs" / stopped.id
    summary = json.loads((local / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["step"] >= 3
    assert load_training_state(local / "checkpoints" / "last.pt")["progress"]["step"] == summary["step"]
    assert not [artifact for artifact in backend.artifacts if artifact.type == "model"]
    assert not files_with_the_key(tmp_path)

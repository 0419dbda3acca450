"""A run folder is data: whatever its links and entries say, nothing that lies outside it leaves the machine."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import run_script, script_environment
from wandb_backend import Backend

pytestmark = pytest.mark.slow  # W&B's client waits for a server that knows nothing of what was not sent

SECRET = b"what nobody may see"
# Runs made offline, each with a row, a picture and an artifact; `entry` has been told by its log's own records of a file elsewhere.
MAKE = """
import os, sys
from pathlib import Path
import wandb
from PIL import Image
from common.config import TrainConfig
from common.runs.folder import RunFolder, save_config
from common.tracking.run import start

for name in sys.argv[2:]:
    folder = RunFolder(Path("runs") / name)
    folder.checkpoints.mkdir(parents=True)
    save_config(folder, TrainConfig())
    folder.best.write_bytes(name.encode())
    Image.new("RGB", (4, 4), "red").save(folder.path / "picture.png")
    run = start(folder, "train", {}, run_id=name)
    run.log({"loss": 1.0}, step=1, images={"seen": folder.path / "picture.png"})
    run.log_artifact(f"{name}-model", "model", [folder.best])
    if name == "entry":
        artifact = wandb.Artifact("stolen", "model")
        artifact.add_file(sys.argv[1], policy="immutable", skip_cache=True)
        run._run.log_artifact(artifact)
    run.finish(0)
"""
HONEST = ("honest", "put_elsewhere")
TAMPERED = ("linked", "far", "table", "entry")


def make(place: Path, *names: str, **variables: str) -> None:
    env = script_environment(place, WANDB_MODE="offline", **variables)
    command = [sys.executable, "-c", MAKE, str(place / "secrets" / "secret.json"), *names]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def log_of(folder: Path) -> Path:
    return folder / json.loads((folder / "tracking.json").read_text())["runs"][0]["dirs"][0]


def change(folder: Path, kind: str, **fields: object) -> None:
    """Of the first of its records of that kind in tracking.json."""
    tracking = json.loads((folder / "tracking.json").read_text())
    tracking[kind] = [{**(tracking[kind] or [{}])[0], **fields}]
    (folder / "tracking.json").write_text(json.dumps(tracking))


def tamper(place: Path) -> None:
    runs, secrets = place / "runs", place / "secrets"
    (log_of(runs / "linked") / "files" / "media" / "x.png").symlink_to(secrets / "secret.json")
    far = log_of(runs / "far").name
    shutil.copytree(runs / "far" / "wandb" / far, secrets / far)
    (secrets / far / "files" / "media" / "x.png").write_bytes(SECRET)
    change(runs / "far", "runs", dirs=[str(secrets / far)])
    change(runs / "table", "tables", key="t", run_id="table", file="../../secrets/secret.json", time=1.0)
    digest = hashlib.sha256((secrets / "secret.json").read_bytes()).hexdigest()
    change(runs / "table", "artifacts", files=["../../secrets/secret.json"], digest=digest)


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("sync")
    (place / "secrets").mkdir()
    table = {"columns": ["x"], "rows": [[SECRET.decode()]]}
    (place / "secrets" / "secret.json").write_text(json.dumps(table))
    make(place, "honest", *TAMPERED)
    make(place, "put_elsewhere", WANDB_DIR=str(place / "scratch"))
    tamper(place)
    (place / "runs" / "damaged" / "checkpoints").mkdir(parents=True)
    (place / "runs" / "damaged" / "tracking.json").write_text('{"runs": [{"id": "\x1b"}]}')
    with Backend() as backend:
        env = script_environment(place, WANDB_MODE=None, WANDB_DIR=str(place / "scratch"), **backend.env(place))
        done = run_script("sync.py", cwd=place, env=env, status=1)
        sent = [(run.id, name, data) for run in backend.runs.values() for name, data in run.files.items()]
        sent += [(a.created_by, name, data) for a in backend.artifacts for name, data in a.files.items()]
        assert not backend.unknown
    return SimpleNamespace(sent=sent, runs=backend.runs, done=done, place=place)


def test_nothing_outside_a_run_folder_leaves_the_machine(synced: SimpleNamespace) -> None:
    assert [(run, name) for run, name, data in synced.sent if SECRET in data] == []
    assert "Traceback" not in synced.done.stderr


@pytest.mark.parametrize("name", HONEST)
def test_what_is_the_run_s_own_arrives_also_from_where_wandb_dir_has_put_it(synced: SimpleNamespace, name: str) -> None:
    assert [row["loss"] for row in synced.runs[name].rows] == [1.0]
    assert any(run == name and file.endswith(".png") for run, file, _ in synced.sent)
    assert any(run == name and data == name.encode() for run, _, data in synced.sent)


@pytest.mark.parametrize("name", ["linked", "far", "entry"])
def test_what_is_not_sent_is_said_in_a_line(synced: SimpleNamespace, name: str) -> None:
    assert any(f"runs/{name}: " in line and "not sent" in line for line in synced.done.stderr.splitlines())


def test_a_run_whose_log_lies_elsewhere_is_not_called_whole(synced: SimpleNamespace) -> None:
    (row,) = [line for line in synced.done.stdout.splitlines() if line.startswith("| far |")]
    assert "incomplete" in row


def test_a_damaged_run_costs_the_others_nothing(synced: SimpleNamespace) -> None:
    assert "damaged/tracking.json" in synced.done.stderr and "1 of 7 run folders are damaged" in synced.done.stderr

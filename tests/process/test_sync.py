"""What was done with no server reaches it later, whole and once, also from another place than where it was done."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, run_script, script_environment
from wandb_backend import Backend

from common.runs.find import resolve_checkpoint
from common.tracking.artifacts import table_artifact_name

FLAGS = (
    *("--preset", "digits", "--device", "cpu", "--image_size", 16, "--batch_size", 400, "--epochs", 2),
    *("--log_every", 1, "--run_id", "run", "--register", "digits/nets"),
)  # fmt: skip
MODEL = "resnext50_32x4d-digits:best"


def state_of(backend: Backend) -> dict:
    """All that would show that something was sent twice."""
    return {
        "rows": {run.id: run.rows for run in backend.runs.values()},
        "files": {run.id: run.files for run in backend.runs.values()},
        "artifacts": [(a.id, a.state, a.aliases, a.files) for a in backend.artifacts],
        "starts": {run.id: run.starts for run in backend.runs.values()},
    }


def sync(place: Path, runs_dir: str, backend: Backend, status: int, **more: str) -> str:
    env = script_environment(place, WANDB_MODE=None, **backend.env(place), **more)
    done = run_script("sync.py", "--runs_dir", runs_dir, cwd=place, env=env, status=status)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend
        assert not backend.unknown


@pytest.fixture(scope="module")
def offline(tmp_path_factory, server) -> SimpleNamespace:
    """A run trained offline, sent to a server that refuses its data and evaluated offline, what was kept of its weights, and its
    folder moved, with nothing left behind."""
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    env = script_environment(old, WANDB_MODE="offline")
    trained = run_script("train.py", *FLAGS, cwd=old, env=env)
    server.fault = "full"
    refused = sync(old, "runs", server, 1)
    server.fault = None
    evaluated = run_script("evaluate.py", "--checkpoint", MODEL, "--device", "cpu", cwd=old, env=env)
    best = old / "runs" / "run" / "checkpoints" / "best.safetensors"
    copies = [path.name for path in old.rglob("*") if path.is_file() and path.stat().st_size >= best.stat().st_size]
    shutil.copytree(old / "runs", new / "elsewhere", symlinks=True)
    shutil.rmtree(old)
    return SimpleNamespace(
        place=new,
        folder=new / "elsewhere" / "run",
        copies=copies,
        said=trained.stdout,
        refused=refused,
        evaluated=evaluated.stdout,
    )


@pytest.fixture(scope="module")
def synced(offline, server) -> SimpleNamespace:
    """The server after two calls of sync.py."""
    accepted, before = sync(offline.place, "elsewhere", server, 0), state_of(server)
    again, after = sync(offline.place, "elsewhere", server, 0), state_of(server)
    return SimpleNamespace(backend=server, accepted=accepted, again=again, states=(before, after))


def test_offline_an_artifact_s_name_and_a_run_s_id_mean_the_run_s_weights(offline):
    report = json.loads((offline.folder / "evaluation" / "report.json").read_text())
    assert report["checkpoint"]["artifact"] == MODEL and len(report["checkpoint"]["sha256"]) == 64
    best = offline.folder / "checkpoints" / "best.safetensors"
    for name in ("run", MODEL, "resnext50_32x4d-digits:latest", "resnext50_32x4d-digits:v0", "resnext50_32x4d-digits"):
        assert resolve_checkpoint(name, offline.folder.parent)[0] == best


def test_an_offline_run_keeps_few_copies_of_its_weights(offline):
    assert {"last.pt", "best.safetensors"} <= set(offline.copies) and len(offline.copies) <= 3, offline.copies


def test_the_commands_that_send_are_printed(offline):
    assert "send: wandb sync runs/run/wandb/offline-run-" in offline.said and "python sync.py run" in offline.said
    assert "wandb leet runs/run/wandb/offline-run-" in offline.evaluated


def test_while_the_server_refuses_data_something_is_missing(offline):
    assert "incomplete" in offline.refused and "0 of 8" in offline.refused


def test_a_moved_run_arrives_whole(synced, offline):
    run, backend = synced.backend.runs["run"], synced.backend
    local = [json.loads(line) for line in (offline.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["_step"] for row in run.rows] == [row["step"] for row in local] == list(range(1, 9))
    for sent, row in zip(run.rows, local, strict=True):
        assert all(sent[key] == pytest.approx(value) for key, value in row.items() if key not in ("step", "time"))
    assert (run.state, run.job_type, run.config["epochs"]) == ("finished", "train", 2)
    assert "best/validation_accuracy" in run.summary
    figures = [row["loss"]["path"] for row in run.rows if "loss" in row]
    assert len(figures) == 2 and all(run.files[figure].startswith(b"\x89PNG") for figure in figures)
    weights = (offline.folder / "checkpoints" / "best.safetensors").read_bytes()
    model = backend.artifact(MODEL)
    assert model is not None and model is backend.artifact("resnext50_32x4d-digits:latest")
    assert (model.version, model.files, model.created_by) == ("v0", {"best.safetensors": weights}, "run")
    assert model.metadata["run_id"] == "run"
    assert backend.artifact("digits-split").files == {"split.json": (offline.folder / "split.json").read_bytes()}
    assert "8 of 8" in synced.accepted and "incomplete" not in synced.accepted


def test_what_an_offline_run_could_not_register_sync_links_into_the_registry(synced, offline):
    assert synced.backend.registry == {"wandb-registry-digits/nets": [synced.backend.artifact(MODEL)]}
    assert synced.backend.requests.count("LinkArtifact") == 1  # though sync.py ran twice
    told = json.loads((offline.folder / "tracking.json").read_text())["artifacts"]
    assert [(a["register"], a["registered"]) for a in told if a["type"] == "model"] == [("digits/nets", True)]


def test_a_moved_evaluation_s_pictures_arrive(synced, offline):
    (table,) = [a for a in synced.backend.artifacts if a.name.endswith("-predictions") and a.files]
    told = json.loads(table.files["predictions.table.json"])
    kept = json.loads((offline.folder / "evaluation" / "tables" / "predictions.json").read_text())
    assert [row[1:] for row in told["data"]] == [row[1:] for row in kept["rows"]]
    assert all(table.files[row[0]["path"]].startswith(b"\xff\xd8") for row in told["data"])


def test_a_moved_evaluation_arrives_whole(synced, offline):
    (run,) = [run for run in synced.backend.runs.values() if run.job_type == "evaluate"]
    report = json.loads((offline.folder / "evaluation" / "report.json").read_text())
    media = {key: value for row in run.history for key, value in row.items() if isinstance(value, dict)}
    assert [row["_step"] for row in run.rows] == list(range(len(run.rows)))
    for name, file in report["figures"].items():
        assert run.files[media[f"figures/{name}"]["path"]] == (offline.folder / "evaluation" / file).read_bytes()
    tables = [artifact for artifact in synced.backend.artifacts if artifact.type in ("table", "run_table")]
    for key in report["tables"]:
        local = json.loads((offline.folder / "evaluation" / "tables" / f"{key.replace('/', '-')}.json").read_text())
        assert json.loads(run.files[media[key]["path"]])["columns"] == local["columns"]
        assert any(f"{key.replace('/', '')}" in table.name and table.files for table in tables), key
    assert run.summary["run_id"] == "run"


def test_syncing_twice_adds_nothing(synced):
    before, after = synced.states
    assert before == after
    assert "already there" in synced.again and "sent" not in synced.again


def test_a_run_that_gets_its_missing_rows_ends_on_the_server_as_it_ended_here(tmp_path):
    code = """
from pathlib import Path
from common.runs.folder import RunFolder
from common.tracking.run import start
from common.tracking.server import log_again

folder = RunFolder(Path("runs/run"))
run = start(folder, "train", {}, run_id="run")
run.log({"loss": 1.0}, step=1)
run.finish(143)
(record,) = folder.read_tracking().runs
log_again(record, [], [{"_step": 2, "loss": 0.5}], {})
"""
    with Backend() as backend:
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        run = backend.runs["run"]
        assert [row["_step"] for row in run.rows] == [1, 2]
        assert (run.state, run.exit_code) == ("failed", 143)


@pytest.mark.slow
def test_rows_of_an_offline_run_are_sent_while_it_trains_each_once(tmp_path):
    """A training without network, a watching sync.py beside it, stopped and begun again in the middle; both are real processes."""
    env = script_environment(tmp_path, WANDB_MODE="offline")
    train = [sys.executable, str(ROOT / "train.py"), *map(str, FLAGS), "--epochs", "2000", "--log_weights", "False"]
    watching = [sys.executable, str(ROOT / "sync.py"), "--watch", "True"]
    with Backend() as backend, open(tmp_path / "said.txt", "a") as said:
        online = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        processes = []

        def begin(command: list[str], env: dict[str, str]) -> subprocess.Popen:
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=said))
            return processes[-1]

        try:
            training = begin(train, env)
            watch = begin(watching, online)
            backend.wait_for(lambda: "run" in backend.runs and len(backend.runs["run"].rows) >= 1, 300)
            assert training.poll() is None, (tmp_path / "said.txt").read_text()
            assert not backend.runs["run"].finished
            watch.send_signal(signal.SIGINT)
            assert watch.wait(120) == 130
            known = len(backend.runs["run"].rows)
            watch = begin(watching, online)
            backend.wait_for(lambda: len(backend.runs["run"].rows) > known, 300)
            assert training.poll() is None and not backend.runs["run"].finished
            training.send_signal(signal.SIGTERM)
            assert training.wait(120) == 143
            backend.wait_for(lambda: backend.runs["run"].finished, 300)
            watch.send_signal(signal.SIGINT)
            assert watch.wait(120) == 130
        finally:
            for process in processes:
                process.kill()
        run, text = backend.runs["run"], (tmp_path / "said.txt").read_text()
        steps = [json.loads(line)["step"] for line in (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()]
        assert [row["_step"] for row in run.rows] == steps, text
        assert (run.exit_code, run.summary["status"], run.config["epochs"]) == (143, "interrupted", 2000)
        assert text.count("W&B run; `python sync.py` checks") == 2 and "rows sent" in text, text
        assert not backend.unknown


@pytest.mark.slow
def test_what_a_full_server_refused_is_sent_once_later(tmp_path):
    """Rows, weights and figures of an online run, from the middle on."""
    with Backend() as backend:
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path))
        flags = [*FLAGS, "--epochs", 16]
        command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
        with open(tmp_path / "output.txt", "w") as output:
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            backend.wait_for(lambda: "run" in backend.runs and len(backend.runs["run"].rows) >= 6)
            backend.fault = "full"
            status = process.wait(300)
        finally:
            process.kill()
        said = (tmp_path / "output.txt").read_text()
        assert status == 0 and "send the rest: python sync.py run" in said, said
        steps, run = list(range(1, 65)), backend.runs["run"]
        assert [row["_step"] for row in run.rows] == steps[: len(run.rows)] and len(run.rows) < len(steps)
        backend.fault = None
        for state in ("sent", "already there"):
            assert state in run_script("sync.py", "run", cwd=tmp_path, env=env).stdout
            assert [row["_step"] for row in run.rows] == steps
        assert all(run.files[row["loss"]["path"]].startswith(b"\x89PNG") for row in run.rows if "loss" in row)
        drawn = {path.name for path in (tmp_path / "runs" / "run" / "wandb").glob("*/files/media/images/loss*.png")}
        assert {Path(row["loss"]["path"]).name for row in run.rows if "loss" in row} == drawn != set()
        weights = (tmp_path / "runs" / "run" / "checkpoints" / "best.safetensors").read_bytes()
        assert backend.artifact(MODEL).files == {"best.safetensors": weights}
        assert not backend.unknown


@pytest.mark.parametrize("key", ["per_class", "validation/per_class", "a b/c.d"])
def test_a_table_s_artifact_is_known_by_the_name_that_the_client_gives_it(key):
    internal = pytest.importorskip("wandb.sdk.artifacts._internal_artifact", reason="wandb has moved it")
    name = internal.InternalArtifact(f"run-id-{key}", "run_table").name
    assert table_artifact_name("id", key) == name.partition(":")[0]


# What W&B's own logs don't have

RUNS = """
import json, os, signal, time
from dataclasses import replace
from pathlib import Path

from common.config import PRESETS
from common.runs.folder import RunFolder, create_run
from common.runs.records import Split
from common.tracking.run import start

SPLIT = Split(dataset="digits", classes=("0", "1"), digest="the same for all", validation=[3])


def begin(name, mode):
    os.environ["WANDB_MODE"] = mode
    folder = RunFolder(Path("runs") / name)
    create_run(folder, PRESETS["digits"].replace(run_id=name), SPLIT)
    return folder, start(folder, "train", {"lr": 0.1}, run_id=name, group="together")


def row(folder, run, step):
    values = {"epoch": step / 4, "train/batch_loss": 1 / step}
    with open(folder.metrics, "a") as file:
        file.write(json.dumps({"step": step, "time": 0.0, **values}) + "\\n")
    run.log(values, step)


def end(folder, run, code=0):
    run.finish(code)
    folder.update_summary(status="finished", **{"best/epoch": 2.0})


def kill_the_client():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, name, _, parent = stat.read_text().split()[:4]
        except (OSError, ValueError):
            continue
        if name == "(wandb-core)" and int(parent) == os.getpid():
            os.kill(int(number), signal.SIGKILL)
            return
    raise SystemExit("no wandb-core to kill")
"""

SHARED = """
for name in ("first", "second", "third"):  # trained on the same data
    folder, run = begin(name, "offline")
    run.use_dataset("shared-split", folder.split)
    for step in (1, 2, 3):
        row(folder, run, step)
    end(folder, run)

evaluation = start(RunFolder(Path("runs/first")), "evaluate", {})
evaluation.log_table("per_class", ["class", "recall"], [["0", 1.0], ["1", 0.5]])
evaluation.finish(0)

folder, run = begin("torn", "offline")  # its log is gone, but for its folder
row(folder, run, 1), row(folder, run, 2)
end(folder, run, 3)
(directory,) = [folder.path / d for record in folder.read_tracking().runs for d in record.dirs]
for log in directory.glob("*.wandb"):
    log.write_bytes(log.read_bytes()[:20])

folder, run = begin("lost", "offline")  # its weights are gone
row(folder, run, 1)
folder.checkpoints.mkdir()
folder.best.write_bytes(b"weights")
run.log_artifact("lost-model", "model", [folder.best], ["best"])
end(folder, run)
folder.best.unlink()
"""

WITHOUT_ITS_CLIENT = """
folder, run = begin("killed", "online")
row(folder, run, 1)
while not Path("arrived").exists():
    time.sleep(0.1)
kill_the_client()
for step in range(2, 12):
    row(folder, run, step)
end(folder, run)
os._exit(0)
"""


def run_code(place: Path, code: str, backend: Backend) -> subprocess.Popen:
    # A shell that has a run's id gives it to every script, and to `wandb sync`.
    env = script_environment(place, WANDB_MODE=None, WANDB_RUN_ID="of-the-shell", **backend.env(place))
    with open(place / "said.txt", "a") as said:
        return subprocess.Popen([sys.executable, "-c", RUNS + code], cwd=place, env=env, stdout=said, stderr=said)


@pytest.fixture(scope="module")
def unsent(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """Runs of which W&B's logs have less than their folders, after two calls of sync.py."""
    place = tmp_path_factory.mktemp("unsent")
    with Backend() as backend:
        killed = run_code(place, WITHOUT_ITS_CLIENT, backend)
        shared = run_code(place, SHARED, backend)
        try:
            backend.wait_for(lambda: "killed" in backend.runs and backend.runs["killed"].rows, 300)
            (place / "arrived").touch()
            assert killed.wait(300) == 0 and shared.wait(300) == 0, (place / "said.txt").read_text()
        finally:
            killed.kill(), shared.kill()
        before = len(backend.runs["killed"].rows)
        synced, after = sync(place, "runs", backend, 1, WANDB_RUN_ID="of-the-shell"), state_of(backend)
        again = sync(place, "runs", backend, 1, WANDB_RUN_ID="of-the-shell")
        yield SimpleNamespace(
            backend=backend, before=before, synced=synced, again=again, states=(after, state_of(backend))
        )
        assert not backend.unknown


def line_of(run: str, said: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith(f"| {run} |")]
    return line


@pytest.mark.slow
def test_rows_that_went_with_w_and_b_s_process_are_sent_from_the_run_folder(unsent):
    run = unsent.backend.runs["killed"]
    assert unsent.before == 1
    assert [(row["_step"], row["train/batch_loss"]) for row in run.rows] == [
        (step, pytest.approx(1 / step)) for step in range(1, 12)
    ]
    assert "11 of 11" in line_of("killed", unsent.synced) and "| sent |" in line_of("killed", unsent.synced)
    assert (run.summary["status"], run.summary["best/epoch"], run.state) == ("finished", 2.0, "finished")


@pytest.mark.slow
def test_a_run_whose_log_is_gone_is_made_from_its_folder(unsent):
    run = unsent.backend.runs["torn"]
    assert [row["_step"] for row in run.rows] == [1, 2] and (run.exit_code, run.job_type) == (3, "train")
    assert run.config["dataset"] == "digits" and "2 of 2" in line_of("torn", unsent.synced)


@pytest.mark.slow
def test_data_that_another_run_logged_first_has_arrived_and_each_run_uses_it(unsent):
    data = unsent.backend.artifact("shared-split")
    assert data.version == "v0" and {data.created_by, *data.used_by} == {"first", "second", "third"}
    for name in ("first", "second", "third"):
        assert "1 of 1" in line_of(name, unsent.synced) and "already there" in line_of(name, unsent.again)


@pytest.mark.slow
def test_a_run_s_id_in_the_shell_is_no_other_run_s(unsent):
    trainings = {"killed", "first", "second", "third", "torn", "lost"}
    (evaluation,) = unsent.backend.runs.keys() - trainings
    assert evaluation != "of-the-shell" and unsent.backend.runs[evaluation].job_type == "evaluate"
    assert "per_class" in unsent.backend.runs[evaluation].history[0]


@pytest.mark.slow
def test_an_artifact_whose_file_is_gone_and_that_never_arrived_is_missed(unsent):
    assert "0 of 1" in line_of("lost", unsent.again) and "incomplete" in line_of("lost", unsent.again)


@pytest.mark.slow
def test_syncing_what_logs_lack_twice_adds_nothing(unsent):
    assert unsent.states[0] == unsent.states[1]

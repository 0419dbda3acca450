"""What sync.py takes for whole, with a server that holds what a test says: the truth is the run folder."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
from run_folders import SPLIT

from common.config import PRESETS
from common.runs.folder import RunFolder, create_run
from common.runs.records import LoggedArtifact, TrackedRun, Tracking
from common.tracking import server, sync
from common.tracking.server import OnServer
from common.tracking.sync import sync_run


class Server:
    """Stands for what `common.tracking.server` asks and gives. `refuses`: steps of rows that `wandb sync` does not bring there."""

    def __init__(self, steps: set[int] | None, refuses: set[int] = frozenset()) -> None:
        self.steps, self.refuses, self.logs, self.logged = steps, refuses, {}, []

    def on_server(self, record: TrackedRun) -> OnServer | None:
        return None if self.steps is None else OnServer(frozenset(self.steps), frozenset(), frozenset())

    def send(self, directories: list[Path]) -> None:
        rows = {step for directory in directories for step in self.logs[directory.name]} - self.refuses
        self.steps = self.steps if not rows else (self.steps or set()) | rows  # of an empty log it makes no run

    def log_again(self, record, artifacts, rows, files, summary=None, new=None, ends=True) -> None:
        steps = [row["_step"] for row in rows]
        assert (new is None) == (self.steps is not None)
        assert all(step > max(self.steps or {-1}) for step in steps), "W&B takes no row behind its last"
        self.logged.append((rows, summary, new))
        self.steps = (self.steps or set()) | set(steps)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    create_run(folder, PRESETS["digits"].replace(run_id="run", group="G"), SPLIT)
    folder.update_summary(status="finished", **{"best/epoch": 2.0})
    rows = [{"step": step, "time": 1.0, "epoch": step / 2, "train/batch_loss": 1 / step} for step in (1, 2, 3, 4)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sync.time, "sleep", lambda seconds: None)
    return folder


def synced(folder: RunFolder, there: Server, monkeypatch, logs: dict[str, set[int]], mode="offline") -> list:
    """logs: W&B's logs in the folder, and the steps of their rows."""
    there.logs = logs
    for name in logs:
        (folder.path / name).mkdir(exist_ok=True)
    folder.write_tracking(Tracking([TrackedRun("run", "train", "p", None, mode, 0.0, list(logs), 0)]))
    for name in ("on_server", "send", "log_again"):
        monkeypatch.setattr(server, name, getattr(there, name))
    told = lambda directories: {s: {"_step": s} for d in directories for s in logs[d.name]}  # noqa: E731
    monkeypatch.setattr(sync, "logged_rows", told)
    return sync_run(folder)


@pytest.mark.parametrize(
    ("there", "logs"),
    [
        ({1}, {"log": {1}}),  # sent as it came, and the client was killed
        ({1, 2}, {"log": {1}, "later": {2}}),
        (set(), {"log": set()}),
        (None, {"log": {1, 2}}),  # offline, and the client was killed
        (None, {"log": set()}),
        ({1, 2, 3}, {}),  # W&B's logs were deleted
        (None, {"log": {1}, "gone": {2, 3}}),
    ],
)
def test_every_row_of_metrics_jsonl_reaches_the_server(folder, there, logs, monkeypatch):
    backend = Server(there)
    (run,) = synced(folder, backend, monkeypatch, logs or {"log": set()})
    assert backend.steps == {1, 2, 3, 4} and (run.state, run.rows) == ("sent", (4, 4))
    (rows, summary, new) = backend.logged[0]
    assert rows[-1] == {"_step": 4, "epoch": 2.0, "train/batch_loss": 0.25}
    assert summary == {"best/epoch": 2.0, "status": "finished"}
    if new:
        assert (new["group"], new["config"]["run_id"], new["job_type"]) == ("G", "run", "train")
    assert [run.state for run in sync_run(folder)] == ["already there"] and len(backend.logged) == 1


def test_rows_that_follow_one_that_was_refused_wait_for_it(folder, monkeypatch):
    backend = Server({1}, refuses={2})
    (run,) = synced(folder, backend, monkeypatch, {"log": {2, 3}})
    assert not run.complete and run.rows == (2, 4) and max(backend.steps) == 3
    assert all(rows == [] for rows, _, _ in backend.logged)


def test_a_row_missing_in_the_middle_is_never_called_whole(folder, monkeypatch):
    backend = Server({1, 3, 4})
    (run,) = synced(folder, backend, monkeypatch, {"log": {1}})
    assert run.state == "incomplete" and run.rows == (3, 4)


def test_an_online_run_that_is_training_is_left_to_its_own_process(folder, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as training:
        folder.update_summary(status="running", pid=training.pid, host=socket.gethostname())
        backend = Server({1})
        (run,) = synced(folder, backend, monkeypatch, {"log": {1}}, mode="online")
        assert run.state == "running" and not run.complete and backend.logged == []
        training.kill()
    (run,) = synced(folder, backend, monkeypatch, {"log": {1}}, mode="online")  # it has crashed
    assert run.state == "sent" and backend.steps == {1, 2, 3, 4}


def test_what_is_no_row_of_ours_in_metrics_jsonl_is_not_sent(folder, monkeypatch):
    strange = [[1], {"epoch": 1.0}, {"step": "5"}, {"step": -1}, {"step": True}, {"step": 8, "x": "y"}]
    strange.append({"step": 9, "epoch": 2.0, "secret": "/etc/passwd", "media": {"_type": "image-file"}})
    with open(folder.metrics, "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in strange) + '{"step": 10, "epo')
    backend = Server({1, 2, 3, 4})
    (run,) = synced(folder, backend, monkeypatch, {"log": {1}})
    assert [rows for rows, _, _ in backend.logged] == [[{"_step": 9, "epoch": 2.0}]] and run.rows == (5, 5)


def test_an_evaluation_s_rows_that_no_log_has_are_missed(folder, monkeypatch):
    record = TrackedRun("other", "evaluate", "p", None, "online", 0.0, ["log"], 0, rows=3)
    backend = Server({0})
    synced(folder, backend, monkeypatch, {"log": {0}})
    folder.write_tracking(Tracking([record]))
    backend.steps = {0}
    assert [(run.state, run.rows) for run in sync_run(folder)] == [("incomplete", (1, 3))]
    backend.steps = {0, 1, 2}
    assert [(run.state, run.rows) for run in sync_run(folder)] == [("already there", (3, 3))]


def test_an_artifact_whose_files_are_gone_counts_only_when_the_server_has_it(folder, monkeypatch):
    gone = LoggedArtifact("model", "model", ["best"], "0" * 64, ["checkpoints/best.safetensors"], 0.0, "run")
    backend = Server({1, 2, 3, 4})
    synced(folder, backend, monkeypatch, {"log": {1}})
    folder.write_tracking(Tracking(folder.read_tracking().runs, [gone]))
    (run,) = sync_run(folder)
    assert (run.state, run.artifacts) == ("incomplete", (0, 1))
    there = OnServer(frozenset(backend.steps), frozenset({("model", frozenset({"digest"}))}), frozenset())
    monkeypatch.setattr(server, "on_server", lambda record: there)
    (run,) = sync_run(folder)
    assert (run.state, run.artifacts) == ("already there", (1, 1))


@pytest.mark.parametrize("kind", ["runs", "artifacts", "tables"])
def test_a_run_with_an_odd_entry_is_sent_and_not_called_whole(folder, kind, monkeypatch, capsys):
    backend = Server({1})
    synced(folder, backend, monkeypatch, {"log": {1}})
    monkeypatch.setattr(sync, "logged_in", lambda: True)
    assert sync.sync([], str(folder.path.parent)) == 0
    told = json.loads(folder.tracking.read_text())
    told[kind].append({"id": 5, "time": "late\x1b[2J"})
    folder.tracking.write_text(json.dumps(told))
    capsys.readouterr()
    assert sync.sync([], str(folder.path.parent)) == 1
    out, err = capsys.readouterr()
    assert "| run | train | 4 of 4 |" in out and "whole" not in out
    assert f"tracking.json: {kind}." in err and "1 of 1 run folders are damaged" in err and "\x1b" not in err

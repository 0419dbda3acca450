"""Which of the files that a run folder names are the run's own."""

import json
from pathlib import Path

import pytest

from common.base.files import sha256_of
from common.runs.folder import RunFolder
from common.runs.records import LoggedArtifact, LoggedTable, TrackedRun, Tracking
from common.tracking import logs
from common.tracking.artifacts import local_artifacts
from common.tracking.logs import log_folders, may_be_sent, media_files


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with a log; `outside` beside it has the same kind of things."""
    for place in (tmp_path / "runs" / "run" / "wandb", tmp_path / "outside" / "wandb"):
        log = place / "offline-run-20261127_000000-run"
        (log / "files" / "media").mkdir(parents=True)
        (log / "files" / "media" / "seen.png").write_bytes(b"seen")
        (log / "run-run.wandb").write_bytes(b"log")
        (place / "t.json").write_text(json.dumps({"columns": ["x"], "rows": [[1]]}))
    return RunFolder(tmp_path / "runs" / "run")


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What W&B's log says, in place of its reader, which takes seconds."""
    said: list[dict] = []
    monkeypatch.setattr(logs, "_records", lambda _: iter(said))
    return said


LOG = "wandb/offline-run-20261127_000000-run"


def record(*dirs: str) -> TrackedRun:
    return TrackedRun("run", "train", "p", None, "offline", 1.0, list(dirs))


@pytest.mark.parametrize(
    "entry", ["../../outside/{log}", "{outside}/{log}", "..", "/", "wandb/link", "wandb/round", "a\0b"]
)
def test_a_log_that_lies_elsewhere_is_left_out_and_said(folder, tmp_path, capsys, entry):
    (folder.path / "wandb" / "link").symlink_to(tmp_path / "outside" / LOG)
    (folder.path / "wandb" / "round").symlink_to(folder.path / "wandb" / "round")
    named = entry.format(log=LOG, outside=tmp_path / "outside")
    if entry.endswith("round"):
        assert log_folders(folder, record(LOG, named))[0] == [folder.path / LOG]
        return
    assert log_folders(folder, record(LOG, named)) == ([folder.path / LOG], False)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_log_lies_where_wandb_dir_has_put_it_if_it_is_of_that_very_run(folder, tmp_path, monkeypatch):
    elsewhere = f"../../outside/{LOG}"
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "outside"))
    assert log_folders(folder, record(elsewhere)) == ([folder.path / elsewhere], True)
    of_another = TrackedRun("another", "train", "p", None, "offline", 1.0, [elsewhere])
    assert log_folders(folder, of_another) == ([], False)
    assert log_folders(folder, record("../../outside")) == ([], False)


@pytest.mark.parametrize("what", ["a file", "a folder", "all files", "the log itself"])
def test_no_link_that_leads_elsewhere_is_followed(folder, tmp_path, what):
    log, outside = folder.path / LOG, tmp_path / "outside" / LOG
    assert media_files(folder, [log]).keys() == {"media/seen.png"} and may_be_sent(folder, log)
    link = {
        "a file": "files/media/x.png",
        "a folder": "files/media/x",
        "all files": "files",
        "the log itself": "x.wandb",
    }[what]
    if what == "all files":
        (log / link).rename(log / "moved")
    (log / link).symlink_to(
        outside
        / {"a file": "files/media/seen.png", "a folder": "files", "all files": "files"}.get(what, "run-run.wandb")
    )
    assert media_files(folder, [log]).keys() == (set() if what == "all files" else {"media/seen.png"})
    assert not may_be_sent(folder, log)


@pytest.mark.parametrize("place, sent", [("gone", True), ("outside", False), ("copied", True), ("own", True)])
def test_a_file_elsewhere_that_the_log_itself_names_is_not_sent(folder, tmp_path, told, place, sent):
    """An artifact's files are named by absolute paths; those of a run folder that was copied lie in the first one."""
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "outside" / "copied").write_bytes(b"weights")
    (folder.path / "best").write_bytes(b"weights")
    path = {"own": folder.path / "best", "outside": tmp_path / "outside" / "secret"}.get(
        place, tmp_path / "outside" / place
    )
    told.append(
        {"type": "artifact", "artifact": {"manifest": {"contents": [{"local_path": str(path)}, {"path": "x"}, 1]}}}
    )
    assert may_be_sent(folder, folder.path / LOG) == sent
    told[:] = [{"files": {"files": [{"path": "../../../../../outside/secret"}]}}, {"files": "x"}, {"artifact": None}]
    assert not may_be_sent(folder, folder.path / LOG)


def test_links_within_the_run_folder_are_its_own(folder):
    log = folder.path / LOG
    (log / "files" / "media" / "again.png").symlink_to(log / "files" / "media" / "seen.png")
    assert media_files(folder, [log]).keys() == {"media/seen.png", "media/again.png"} and may_be_sent(folder, log)


@pytest.mark.parametrize(
    "place, own", [("wandb/t.json", True), ("../../outside/wandb/t.json", False), ("link.json", False)]
)
def test_artifacts_and_tables_of_files_elsewhere_are_none_of_the_run_s(folder, tmp_path, place, own):
    (folder.path / "link.json").symlink_to(tmp_path / "outside" / "wandb" / "t.json")
    digest = sha256_of(folder.path / place)
    artifact = LoggedArtifact("n", "model", [], digest, [place], 1.0, "run")
    folder.write_tracking(Tracking(artifacts=[artifact], tables=[LoggedTable("t", "run", place, 1.0)]))
    assert len(local_artifacts(folder, "run")) == (2 if own else 0)

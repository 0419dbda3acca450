"""A run is found by its id, its folder, its artifacts' names, or as the newest; and says how it ended."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from run_folders import SPLIT, words_of

from common.base.errors import UserError
from common.config import TrainConfig
from common.runs.find import find_artifact, find_run, is_run, list_runs, resolve_checkpoint
from common.runs.folder import RunFolder, create_run, load_config, new_run_id, plan_run, run_state, sweep_folder
from common.runs.records import LoggedArtifact
from common.training import prepare


def make(root: Path, name: str, started: float = 0.0, weights: bool = True) -> RunFolder:
    folder = RunFolder(root / name)
    create_run(folder, TrainConfig.of(runs_dir=str(root)), SPLIT)
    folder.update_summary(started=started)
    if weights:
        folder.best.parent.mkdir()
        folder.best.write_bytes(name.encode())
    return folder


def log(folder: RunFolder, *artifacts: tuple[float, str], aliases=("best", "latest"), name="net-digits") -> None:
    """Adds artifacts, each a (time, digest), to what W&B was told of the run."""
    known = folder.read_tracking()
    file = "checkpoints/best.safetensors"
    for time, digest in artifacts:
        known.artifacts.append(LoggedArtifact(name, "model", list(aliases), digest, [file], time, folder.id))
    folder.write_tracking(known)


def test_ids_sort_by_age_and_do_not_repeat():
    ids = {new_run_id() for _ in range(3)}
    assert len(ids) == 3 and all(re.fullmatch(r"\d{8}-\d{6}-[a-z]{4}", name) for name in ids)


def test_a_new_runs_id_is_the_one_given_or_wandbs_or_a_new_one(tmp_path, monkeypatch):
    assert re.fullmatch(r"\d{8}-\d{6}-[a-z]{4}", plan_run(str(tmp_path), None).id)
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    assert plan_run(str(tmp_path), None).path == tmp_path / "from-the-agent"
    assert plan_run(str(tmp_path), "given").path == tmp_path / "given"
    assert list(tmp_path.iterdir()) == []  # planned, not made


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "-flag", "a b", "x" * 121])
def test_an_id_that_is_no_folders_name_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="--run_id"):
        plan_run(str(tmp_path), name)


def test_a_taken_id_is_refused_with_the_way_to_go_on(tmp_path):
    make(tmp_path, "first")
    with pytest.raises(UserError, match="--run_id first is taken.*--resume first"):
        plan_run(str(tmp_path), "first")


def test_a_runs_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--runs_dir.*not a folder"):
        plan_run(str(tmp_path / "file"), "x")


def test_runs_are_listed_oldest_first_and_other_folders_are_not(tmp_path):
    for name, started in (("b", 3.0), ("a", 2.0), ("c", 1.0)):
        make(tmp_path, name, started)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "file").touch()
    assert [folder.id for folder in list_runs(tmp_path)] == ["c", "a", "b"]
    assert list_runs(tmp_path / "absent") == []


@pytest.mark.parametrize("left", ["config.yaml", "metrics.jsonl", "summary.json", "checkpoints/last.pt"])
def test_whatever_a_killed_run_has_left_makes_its_folder_a_run(left, tmp_path):
    (tmp_path / "killed" / left).parent.mkdir(parents=True)
    (tmp_path / "killed" / left).touch()
    assert is_run(tmp_path / "killed") and [folder.id for folder in list_runs(tmp_path)] == ["killed"]
    assert find_run(tmp_path, "killed", "--resume").id == "killed"


@pytest.mark.parametrize("sweep_id", ["s", "checkpoints", "summary.json"])
def test_the_folder_of_the_sweeps_is_no_run_and_no_run_takes_its_name(sweep_id, tmp_path):
    sweep_folder(tmp_path, sweep_id).path.mkdir(parents=True)
    assert not is_run(tmp_path / "sweeps") and list_runs(tmp_path) == []
    with pytest.raises(UserError, match="--run_id is sweeps"):
        plan_run(str(tmp_path), "sweeps")


def test_a_run_is_found_by_id_and_by_folder(tmp_path, monkeypatch):
    folder = make(tmp_path / "runs", "first")
    monkeypatch.chdir(tmp_path)
    for reference in ("first", str(folder.path), "runs/first", "runs/first/"):
        assert find_run("runs", reference, "--resume").path.resolve() == folder.path.resolve()
        assert find_run("runs", reference, "--resume").id == "first"
    monkeypatch.chdir(folder.path)
    assert find_run("../../elsewhere", ".", "--resume").path.resolve() == folder.path
    assert find_run("../../elsewhere", ".", "--resume").id == "first"
    (folder.path / "wandb").mkdir()
    monkeypatch.chdir(folder.path / "wandb")
    assert find_run("../../elsewhere", "..", "--resume").id == "first"


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path):
    make(tmp_path, "first", 1.0)
    make(tmp_path, "second", 2.0)
    with pytest.raises(UserError, match="--resume third is no run.*second, first"):
        find_run(tmp_path, "third", "--resume")
    with pytest.raises(UserError, match="there are no runs"):
        find_run(tmp_path / "absent", "third", "--resume")


def test_an_artifacts_versions_count_up_and_aliases_move_to_the_one_that_had_them_last(tmp_path):
    one, two, three = (make(tmp_path, name) for name in ("one", "two", "three"))
    log(one, (10.0, "aaa"))
    log(two, (20.0, "bbb"))
    log(three, (30.0, "ccc"), aliases=["candidate"])

    def found(reference: str) -> str | None:
        artifact = find_artifact(tmp_path, reference)
        return artifact and artifact[0].id

    assert [found(f"net-digits:v{version}") for version in range(4)] == ["one", "two", "three", None]
    assert found("net-digits:best") == "two"
    assert found("net-digits:candidate") == "three"
    assert found("net-digits:latest") == found("net-digits") == "three"
    assert found("team/project/net-digits:v0") == found("project/net-digits:v0") == "one"
    assert found("other:latest") is found("net-digits:absent") is None


def test_the_same_bytes_logged_again_are_no_new_version_but_have_the_aliases(tmp_path):
    one, two, again = (make(tmp_path, name) for name in ("one", "two", "again"))
    log(one, (10.0, "aaa"))
    log(two, (20.0, "bbb"))
    log(again, (30.0, "aaa"))
    versions = [find_artifact(tmp_path, f"net-digits:v{version}") for version in range(3)]
    assert [version and version[1].digest for version in versions] == ["aaa", "bbb", None]
    assert find_artifact(tmp_path, "net-digits:best")[1].digest == "aaa"


def test_a_checkpoint_is_a_file_a_run_an_artifact_or_the_newest(tmp_path, monkeypatch):
    old, new = make(tmp_path, "old", 1.0), make(tmp_path, "new", 2.0)
    make(tmp_path, "without", 3.0, weights=False)
    log(old, (10.0, "aaa"))
    assert resolve_checkpoint(None, tmp_path) == (new.best, None)
    assert resolve_checkpoint(str(old.best), tmp_path) == (old.best, None)
    assert resolve_checkpoint("old", tmp_path) == (old.best, None)
    assert resolve_checkpoint(str(old.path), "elsewhere") == (old.best, None)
    assert resolve_checkpoint("net-digits:best", tmp_path) == (old.best, "net-digits:best")
    monkeypatch.chdir(tmp_path.parent)
    assert resolve_checkpoint(f"{tmp_path.name}/old", "elsewhere")[0].samefile(old.best)


def test_an_artifact_is_asked_for_in_wandb_before_the_local_runs(tmp_path):
    folder, asked = make(tmp_path, "old"), []
    log(folder, (10.0, "aaa"))

    def download(reference: str) -> Path | None:
        asked.append(reference)
        return Path("downloaded") if "team" in reference else None

    assert resolve_checkpoint("team/p/net:v3", tmp_path, download) == (Path("downloaded"), "team/p/net:v3")
    assert resolve_checkpoint("net-digits:best", tmp_path, download) == (folder.best, "net-digits:best")
    resolve_checkpoint("old", tmp_path, download)
    assert asked == ["team/p/net:v3", "net-digits:best"]


def test_a_checkpoint_that_is_not_there_is_named_with_what_is(tmp_path):
    with pytest.raises(UserError, match="no run with weights"):
        resolve_checkpoint(None, tmp_path)
    log(make(tmp_path, "first"), (1.0, "aaa"))
    make(tmp_path, "untrained", weights=False)
    for reference in ("absent", "absent.safetensors", "net-digits:v7"):
        with pytest.raises(UserError, match=rf"--checkpoint {reference}.*first.*net-digits:latest"):
            resolve_checkpoint(reference, tmp_path)
    with pytest.raises(UserError, match="untrained.*has not finished an epoch"):
        resolve_checkpoint("untrained", tmp_path)


def test_a_run_whose_process_is_gone_has_crashed(tmp_path):
    folder = make(tmp_path, "first")
    assert run_state(folder) == "running" and folder.read_summary().pid == os.getpid()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder.update_summary(pid=gone.pid)
    assert run_state(folder) == "crashed"
    folder.update_summary(host="another")  # whose processes can't be seen
    assert run_state(folder) == "running"
    folder.update_summary(status="finished")
    assert run_state(folder) == "finished"
    assert run_state(RunFolder(tmp_path / "absent")) == "unknown"


def test_a_run_is_held_by_one_process_at_a_time(tmp_path):
    folder = make(tmp_path, "first")
    with folder.locked():
        with pytest.raises(UserError, match="first is in use"), folder.locked():
            pass
    with folder.locked():
        pass


def test_a_lock_ends_with_its_process_and_not_with_a_process_that_it_began(tmp_path):
    folder = make(tmp_path, "first")
    code = f"""
import os, sys, time
from pathlib import Path
from common.runs.folder import RunFolder

with RunFolder(Path({str(folder.path)!r})).locked():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="first is in use"), folder.locked():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with folder.locked():
        assert folder.lock.exists()


@pytest.mark.parametrize("name", ["elsewhere", "my runs", "it's", 'say "yes"', "$HOME; ls", "größe\n"])
def test_a_printed_command_reaches_its_script_as_it_was_meant(name, tmp_path):
    folder = RunFolder(tmp_path / name / "first")
    assert words_of(folder.command("evaluate.py", "--checkpoint", folder.id)) == [
        "evaluate.py", "--checkpoint", "first", "--runs_dir", str(tmp_path / name),
    ]  # fmt: skip
    assert words_of(folder.command("train.py", f"--data_dir={name}"))[1] == f"--data_dir={name}"


def test_a_printed_command_leaves_out_the_folder_that_is_taken_anyway():
    assert RunFolder(Path("runs/first")).command("train.py", "--resume", "first") == "python train.py --resume first"


@pytest.mark.parametrize("text", ["", "[1, 2]", "colour: red", "lr: -1", "a: [", "\x00"])
def test_a_damaged_config_is_named(text, tmp_path):
    folder = make(tmp_path, "first")
    folder.config.write_text(text)
    with pytest.raises(UserError, match="config.yaml"):
        load_config(folder)


def test_data_that_changed_since_is_refused(tmp_path):
    folder = make(tmp_path, "first")
    prepare.check_same_data(folder, "then")
    with pytest.raises(UserError, match="--resume first.*changed"):
        prepare.check_same_data(folder, "now")


def test_a_run_whose_summary_is_damaged_does_not_hide_behind_older_ones(tmp_path):
    make(tmp_path, "old", started=1_000_000.0)
    make(tmp_path, "new", started=2_000_000.0).summary.write_text('{"started": "yesterday"}')
    assert [folder.id for folder in list_runs(tmp_path)] == ["old", "new"]

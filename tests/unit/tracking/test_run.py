"""What is printed of a W&B run works as printed; what it was told is recorded, and under no one else's id."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from run_folders import words_of

from common.runs.folder import RunFolder
from common.runs.records import TrackedRun
from common.tracking import run as tracking_run
from common.tracking.run import WandbRun, start


@pytest.mark.parametrize("name", ["elsewhere", "my runs", "it's"])
def test_the_commands_that_view_and_send_an_offline_run_work_as_printed(name, tmp_path):
    folder = RunFolder(tmp_path / name / "first")
    record = TrackedRun("first", "train", "p", None, "offline", 0.0, ["wandb/offline-run-1", "wandb/offline-run-2"])
    view, send, check = WandbRun(folder, record, SimpleNamespace(url=None)).hint()
    logs = [str(folder.path / log) for log in record.dirs]
    assert view.startswith("W&B (offline) view: wandb ") and words_of(view.partition("view: ")[2]) == ["leet", logs[-1]]
    assert words_of(send.partition("send: ")[2]) == ["sync", *logs]
    assert words_of(check.partition("afterwards: ")[2]) == ["sync.py", "first", "--runs_dir", str(tmp_path / name)]


def test_a_run_that_is_not_tracked_says_nothing(tmp_path):
    record = TrackedRun("first", "train", "p", None, "disabled", 0.0)
    assert WandbRun(RunFolder(tmp_path / "first"), record, None).hint() == []


def test_five_scripts_that_tell_w_and_b_something_at_once_lose_no_record(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()

    def script(number: int) -> None:
        record = TrackedRun(f"W{number}", "evaluate", "p", None, "disabled", 0.0)
        with folder.changed_tracking() as tracking:
            tracking.runs.append(record)
        run = WandbRun(folder, record, None)
        for artifact in range(5):
            file = tmp_path / f"{number}-{artifact}"
            file.write_text(file.name)
            run.log_artifact(file.name, "model", [file])
            run.log_artifact(file.name, "model", [file])  # as after a resume: known already
            run.log_table(f"{number}/{artifact}", ["a"], [[1]])

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(script, range(5)))
    told, names = folder.read_tracking(), [f"{n}-{a}" for n in range(5) for a in range(5)]
    assert sorted(run.id for run in told.runs) == [f"W{number}" for number in range(5)]
    assert sorted(artifact.name for artifact in told.artifacts) == names
    assert sorted(table.key.replace("/", "-") for table in told.tables) == names


@pytest.mark.parametrize("given", [None, "chosen"])
def test_a_run_s_id_in_the_shell_is_taken_by_no_other_run(given, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "the-training")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    begun = []
    monkeypatch.setattr(tracking_run, "_begin", lambda mode, options: (begun.append(options["id"]), (None, mode))[1])
    ids = [start(RunFolder(tmp_path / "run"), "evaluate", {}, run_id=given).id for _ in range(2)]
    assert ids == begun and "the-training" not in ids
    assert ids == [given, given] if given else len(set(ids)) == 2

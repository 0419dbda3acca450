"""What is printed of a W&B run works as printed."""

from types import SimpleNamespace

import pytest
from run_folders import words_of

from common.runs.folder import RunFolder
from common.runs.records import TrackedRun
from common.tracking.run import WandbRun


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

"""A run that is stopped at the worst moments goes on as if it had not been: in a validation, between two writes, twice."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import script_environment
from resumed import FLAGS, PATIENCE, assert_same_run, lines_of, start, state_of, wait_until

import train
from common.base.errors import RunError, UserError
from common.cli import parse_train
from common.config import PRESETS
from common.model import predict
from common.model.build import build_model
from common.training import features, prepare, step

pytestmark = pytest.mark.usefixtures("small_networks")

# 12 steps an epoch and 2 epochs, with a checkpoint at the last step of each.
SMALL = PRESETS["digits"].replace(
    device="cpu",
    image_size=16,
    batch_size=64,
    validation_fraction=0.5,
    epochs=2,
    log_every=2,
    checkpoint_every=3,
    run_id="run",
)
KINDS = {
    "full": {"mixup_alpha": 0.2, "ema_decay": 0.9, "nesterov": True},
    "partial": {"finetune": "partial", "backbone_lr_scale": 0.5, "augment": "none"},
    "balanced": {"balance": "sampling", "accumulate": 3, "best_by": "macro_f1", "mixup_alpha": 0.2, "ema_decay": 0.9},
    "balanced head": {"finetune": "head", "balance": "sampling", "accumulate": 2, "best_by": "loss"},
    "head": {"finetune": "head", "feature_views": 2, "momentum": 0.5},
    "head first": {"head_epochs": 1, "epochs": 1, "feature_views": 2, "mixup_alpha": 0.2, "ema_decay": 0.9},
}


def begin(folder: Path, kind: str, **changes: object) -> int:
    weights = folder / "weights.pth"
    torch.save(build_model("resnext50_32x4d", 3, "none", seed=5).state_dict(), weights)
    flags = {**KINDS[kind], **({"weights": str(weights)} if kind == "head first" else {})}
    return train.main(SMALL.replace(**{"runs_dir": str(folder), **flags, **changes}))


def go_on(folder: Path, *flags: object) -> int:
    return train.main(parse_train(["--resume", "run", "--runs_dir", str(folder), *map(str, flags)]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_networks):
    """Kind of run → the folder of such a run that nothing interrupted."""

    @cache
    def of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        assert begin(folder, kind) == 0
        return folder / "run"

    return of


def in_call(patch: pytest.MonkeyPatch, module: object, name: str, call: int, happens: Callable[[], object]) -> None:
    """Something happens at the beginning of a function's n-th call."""
    function, calls = getattr(module, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            happens()
        return function(*args, **kwargs)

    patch.setattr(module, name, interrupted)


def signal_in_call(
    patch: pytest.MonkeyPatch, module: object, name: str, call: int, number: int = signal.SIGTERM
) -> None:
    in_call(patch, module, name, call, lambda: os.kill(os.getpid(), number))


def hour_in_call(patch: pytest.MonkeyPatch, module: object, name: str, call: int) -> None:
    clock = time.monotonic
    in_call(patch, module, name, call, lambda: patch.setattr(time, "monotonic", lambda: clock() + 3600))


@pytest.mark.parametrize(
    "kind, module, name, call, step",
    [
        ("full", step, "train_step", 17, 17),
        ("partial", step, "train_step", 8, 8),
        pytest.param("balanced", step, "train_step", 17, 17, marks=pytest.mark.slow),
        ("balanced head", step, "train_step", 5, 5),
        pytest.param("head", step, "train_step", 20, 20, marks=pytest.mark.slow),
        ("head", features, "predict", 2, 0),
        ("head first", features, "predict", 2, 0),
        ("head first", step, "train_step", 5, 5),
        ("head first", step, "train_step", 12, 12),
        ("head first", predict, "predict", 1, 12),
        ("head first", step, "train_step", 13, 13),
        pytest.param("head first", step, "train_step", 20, 20, marks=pytest.mark.slow),
        ("full", predict, "predict", 1, 12),
        ("full", predict, "predict", 2, 24),
    ],
)
def test_a_run_interrupted_anywhere_goes_on_as_if_it_had_not_been(tmp_path, whole, kind, module, name, call, step):
    with pytest.MonkeyPatch.context() as patch:
        signal_in_call(patch, module, name, call)
        assert begin(tmp_path, kind) == 143
    assert state_of(tmp_path / "run")["progress"]["step"] == step
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert go_on(tmp_path) == 0
    assert_same_run(tmp_path / "run", whole(kind))


@pytest.mark.parametrize(
    "kind, module, name, call, step",
    [
        ("full", predict, "predict", 1, 12),
        ("head", features, "predict", 2, 0),
        ("head first", step, "train_step", 12, 12),
    ],
)
def test_a_run_that_max_minutes_ended_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path, whole, kind, module, name, call, step, capsys
):
    with pytest.MonkeyPatch.context() as patch:
        hour_in_call(patch, module, name, call)
        assert begin(tmp_path, kind, max_minutes=59) == 124
    assert state_of(tmp_path / "run")["progress"]["step"] == step
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    said = capsys.readouterr().out
    assert f"interrupted by --max_minutes after step {step} " in said
    assert f"go on with: python train.py --resume run --runs_dir {tmp_path}\n" in said
    assert go_on(tmp_path, "--max_minutes", 59) == 0  # which it needs no hour for
    assert_same_run(tmp_path / "run", whole(kind))


def test_several_ends_by_max_minutes_before_the_first_step_and_later_change_nothing(tmp_path, whole):
    assert begin(tmp_path, "full", max_minutes=1e-9) == 124
    assert go_on(tmp_path, "--max_minutes", 1e-9) == 124
    assert state_of(tmp_path / "run")["progress"]["step"] == 0
    with pytest.MonkeyPatch.context() as patch:
        hour_in_call(patch, step, "train_step", 20)
        assert go_on(tmp_path, "--max_minutes", 59) == 124
    assert go_on(tmp_path) == 0  # the limit was that process's
    assert_same_run(tmp_path / "run", whole("full"))


def test_a_run_that_ends_by_itself_just_before_max_minutes_has_finished(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        hour_in_call(patch, prepare, "end", 1)
        assert begin(tmp_path, "full", max_steps=2, max_minutes=59) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_hang_up_saves_and_says_how_to_go_on(tmp_path, whole, capsys):
    with pytest.MonkeyPatch.context() as patch:
        signal_in_call(patch, step, "train_step", 7, signal.SIGHUP)
        assert begin(tmp_path, "full") == 129
    assert "go on with: python train.py --resume run" in capsys.readouterr().out
    assert go_on(tmp_path) == 0
    assert_same_run(tmp_path / "run", whole("full"))


def test_going_on_with_another_number_of_threads_is_said(tmp_path, capsys):
    assert begin(tmp_path, "full", max_steps=1) == 0
    assert go_on(tmp_path, "--max_steps", 2) == 0
    assert "note " not in capsys.readouterr().out
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert go_on(tmp_path, "--max_steps", 3) == 0
    finally:
        torch.set_num_threads(threads)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    assert f"cpu ({threads + 1} threads) (was cpu ({threads} threads))" in note and "no longer bit for bit" in note


def test_a_run_that_another_process_finished_meanwhile_is_not_overwritten(tmp_path):
    """Both were begun with one id; the slower one prepared longer than the other trained."""
    quick = {"max_steps": 2, "checkpoint_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        prepared, found = prepare.prepare, {}

        def slow(*args):
            run = prepared(*args)
            patch.undo()
            assert begin(tmp_path, "full", **quick) == 0
            found.update(files_of(tmp_path / "run"))
            return run

        patch.setattr(prepare, "prepare", slow)
        with pytest.raises(UserError, match="--run_id run is taken.*--resume run"):
            begin(tmp_path, "full", **quick, lr=0.05)
    assert found and files_of(tmp_path / "run") == found


def test_a_run_that_max_steps_ended_in_its_validation_takes_no_further_step(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        signal_in_call(patch, predict, "predict", 1)
        assert train.main(SMALL.replace(runs_dir=str(tmp_path), max_steps=7)) == 143
    assert go_on(tmp_path) == 0
    assert state_of(tmp_path / "run")["progress"]["step"] == 7
    assert [json.loads(line)["step"] for line in open(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 7]


def fill_the_disk(patch: pytest.MonkeyPatch, room: int) -> list[int]:
    """The disk takes so many writes, and no more. A write is what is flushed: a file, a folder's entry, a row."""
    flush, written = os.fsync, []

    def fsync(descriptor: int) -> None:
        if len(written) == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(descriptor)
        flush(descriptor)

    patch.setattr(os, "fsync", fsync)
    return written


def full_after(folder: Path, room: int) -> bool:
    """A run whose disk is full after so many writes, and that goes on when there is room again → whether it was full."""
    with pytest.MonkeyPatch.context() as patch:
        written = fill_the_disk(patch, room)
        try:
            assert begin(folder, "full") == 0
            return len(written) == room
        except RunError as error:
            assert "can't be written" in str(error) and "Free space in" in str(error)
    if (folder / "run" / "config.yaml").exists():
        assert go_on(folder) == 0
    else:
        assert begin(folder, "full") == 0
    return True


@pytest.mark.parametrize("part", range(2))
def test_a_disk_that_is_full_from_some_write_on_loses_nothing(tmp_path, whole, part):
    room = random.Random(part).randrange(15 * part, 15 * part + 15)
    assert full_after(tmp_path, room)
    assert_same_run(tmp_path / "run", whole("full"))


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_write_on_loses_nothing(tmp_path, whole):
    room = 0
    (tmp_path / "0").mkdir()
    while full_after(tmp_path / str(room), room):
        assert_same_run(tmp_path / str(room) / "run", whole("full"))
        room += 1
        (tmp_path / str(room)).mkdir()
    assert room > 60


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_going_on_with_a_finished_run_changes_nothing_and_says_how_to_train_longer(whole, capsys):
    before = files_of(whole("full"))
    assert go_on(whole("full").parent) == 0
    assert "nothing is left to train" in (said := capsys.readouterr().out) and "--epochs" in said
    assert files_of(whole("full")) == before


def test_an_end_that_lies_behind_is_refused(whole):
    before = files_of(whole("full"))
    with pytest.raises(
        UserError, match="at step 24 already, and with these --epochs and --max_steps would end after 12"
    ):
        go_on(whole("full").parent, "--epochs", 1)
    assert files_of(whole("full")) == before


def test_a_finished_run_trains_longer_from_its_last_step_on(tmp_path, whole):
    first = SMALL.replace(runs_dir=str(tmp_path), schedule="constant", epochs=1, warmup_epochs=0)
    assert train.main(first) == 0
    assert go_on(tmp_path, "--epochs", 2) == 0
    other = first.replace(runs_dir=str(tmp_path / "other"), epochs=2)
    assert train.main(other) == 0
    assert_same_run(tmp_path / "run", tmp_path / "other" / "run")


def test_a_second_signal_ends_at_once_and_ctrl_c_in_a_terminal_saves(tmp_path):
    env, run = script_environment(tmp_path, WANDB_MODE="offline"), tmp_path / "runs" / "run"
    process = start(*FLAGS, "--run_id", "run", cwd=tmp_path, env=env)
    wait_until(lambda: lines_of(run) >= 3, process)
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):  # both arrive before the step's end
        process.send_signal(number)
    assert process.wait(PATIENCE) in (130, 143)  # of the one seen last: two threads may take them in either order
    assert "stopped at once" in (tmp_path / "stderr.txt").read_text()
    saved = state_of(run)["progress"]["step"]
    assert saved >= 4 and saved % 4 == 0  # --checkpoint_every

    # A terminal sends Ctrl-C to all processes of the command, those of W&B included.
    process = start("--resume", "run", cwd=tmp_path, env=env, new_session=True)
    metrics = run / "metrics.jsonl"
    before = metrics.stat().st_ino
    wait_until(lambda: metrics.stat().st_ino != before and lines_of(run) > saved // 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    said = (tmp_path / "stdout.txt").read_text()
    assert "go on with: python train.py --resume run\n" in said
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    directory = json.loads((run / "tracking.json").read_text())["runs"][0]["dirs"][-1]
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run / directory)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '"type":"exit"' in shown and "130" in next(line for line in shown.splitlines() if '"type":"exit"' in line)
    assert "interrupted" in shown

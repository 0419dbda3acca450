"""A run that was stopped goes on as if it had not been: the same weights, the same rows, the same W&B history."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import run_script, script_environment
from resumed import (
    FLAGS,
    PATIENCE,
    assert_same_run,
    history_of,
    lines_of,
    rows_of,
    start,
    state_of,
    wait_until,
    without_times,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two runs with the same flags that nothing interrupted, at the same time in one `runs_dir`; the first one's folder."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "other").mkdir()
    env, common = script_environment(folder), (*FLAGS, "--runs_dir", folder / "runs")
    first = start(*common, "--run_id", "run", cwd=folder, env=env)
    second = start(*common, "--run_id", "twin", cwd=folder / "other", env=env)
    statuses = [process.wait(PATIENCE) for process in (first, second)]
    assert statuses == [0, 0], (folder / "stderr.txt").read_text() + (folder / "other" / "stderr.txt").read_text()
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run, tracked offline, that SIGTERM ended in mid-epoch and that was resumed; what the processes said. While the first
    one held the run, another tried to go on with it."""
    folder = tmp_path_factory.mktemp("interrupted")
    env, run = script_environment(folder, WANDB_MODE="offline"), folder / "runs" / "run"
    process = start(*FLAGS, "--run_id", "run", cwd=folder, env=env)
    wait_until(lambda: lines_of(run) >= 2, process)
    process.send_signal(signal.SIGSTOP)
    try:
        before = run_files(run)
        intruder = run_script("train.py", "--resume", "run", cwd=folder, env=env, status=None)
        untouched = run_files(run) == before
    finally:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    status = process.wait(PATIENCE)
    printed = (folder / "stdout.txt").read_text() + (folder / "stderr.txt").read_text()
    summary = json.loads((run / "summary.json").read_text())
    step = state_of(run)["progress"]["step"]
    resumed = run_script("train.py", "--resume", "run", cwd=folder, env=env)
    said = {"status": status, "printed": printed, "summary": summary, "step": step, "resumed": resumed}
    return run, {**said, "intruder": intruder, "untouched": untouched}


def run_files(run: Path) -> dict[str, bytes]:
    """The run's own files, without those that W&B's process may still be writing."""
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and "wandb" not in path.parts}


def test_two_runs_at_once_in_one_folder_do_not_disturb_each_other(whole):
    assert_same_run(whole.with_name("twin"), whole)


def test_a_second_process_on_a_run_in_use_is_refused(interrupted):
    intruder = interrupted[1]["intruder"]
    assert intruder.returncode == 2
    assert intruder.stderr.startswith("error: run run is in use") and intruder.stderr.count("\n") == 1
    assert interrupted[1]["untouched"]


def test_sigterm_saves_and_says_how_to_go_on(interrupted):
    run, first = interrupted
    assert first["status"] == 143, first["printed"]
    assert "go on with: python train.py --resume run\n" in first["printed"]
    assert "Traceback" not in first["printed"]
    assert first["summary"]["status"] == "interrupted" and first["summary"]["step"] == first["step"]
    assert 4 <= first["step"] < 26


def test_console_and_machine_go_on_where_they_were(interrupted):
    run, first = interrupted
    kept, printed = (
        (run / "console.log").read_text(),
        first["printed"].splitlines() + first["resumed"].stdout.splitlines(),
    )
    assert kept.count("\n--- ") == 1 and kept.startswith("--- ")
    for line in ("go on with: python train.py --resume run", "finished after step 32"):
        assert sum(line in told for told in kept.splitlines()) == sum(line in told for told in printed) == 1
    times = [json.loads(line)["time"] for line in (run / "system.jsonl").read_text().splitlines()]
    assert len(times) >= 2 and times == sorted(times)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(interrupted, whole):
    assert_same_run(interrupted[0], whole)
    assert "finished after step 32" in interrupted[1]["resumed"].stdout


def assert_same_history(run: Path, compared: Callable[[dict], dict] = dict) -> None:
    """W&B's logs hold each of the run's rows once, in order, to the last bit."""
    history = [{k: v for k, v in row.items() if not k.startswith("_") or k == "_step"} for row in history_of(run)]
    assert [row.pop("_step") for row in history] == [row["step"] for row in rows_of(run)]
    for sent, kept in zip(history, rows_of(run), strict=True):
        sent = {key: value for key, value in sent.items() if not key.startswith("loss.")}  # the figure
        kept = {key: value for key, value in kept.items() if key not in ("step", "time")}
        assert compared(sent) == compared(kept)


def test_the_offline_history_has_every_step_once(interrupted):
    assert_same_history(interrupted[0])


def test_changed_flags_are_refused_by_name(whole):
    changed = ("--lr", 0.5, "--ema_decay", 0.8, "--epochs", 3)
    done = run_script("train.py", "--resume", "run", *changed, cwd=whole.parent.parent, status=2)
    assert "--lr (was 0.2, now 0.5)" in done.stderr and "--ema_decay (was 0.9, now 0.8)" in done.stderr
    assert "--epochs" not in done.stderr and done.stderr.count("\n") == 1


def kill_and_resume(folder: Path, moments: int, seed: int, *flags: object, wandb_mode: str = "disabled") -> Path:
    """A run that SIGKILL ends so many times, at seeded moments, and that goes on after each → its folder.

    A moment is a number of changes to metrics.jsonl, the first of which is its making or its being cut back to what was saved,
    and then a part of a second, which falls into steps, checkpoints and figures. Of four, one falls anywhere from the start on.
    """
    chance, env = random.Random(seed), script_environment(folder, WANDB_MODE=wandb_mode)
    run = folder / "runs" / "run"

    def go_on() -> tuple[object, ...]:
        return ("--resume", "run") if (run / "config.yaml").exists() else (*FLAGS, *flags, "--run_id", "run")

    def written() -> tuple[int, int] | None:
        return ((found := (run / "metrics.jsonl").stat()).st_ino, found.st_size) if lines_of(run) else None

    for number in range(moments):
        changes, later = chance.randint(1, 3), chance.uniform(0, 0.2)
        if number % 4 == 3:
            changes, later = 0, chance.uniform(0, 10)
        process = start(*go_on(), cwd=folder, env=env)
        for _ in range(changes):
            before = written()
            wait_until(lambda before=before: written() != before, process)
        moment = time.monotonic() + later
        wait_until(lambda moment=moment: time.monotonic() > moment, process)
        process.kill()
        assert process.wait(PATIENCE) in (0, -signal.SIGKILL), (folder / "stderr.txt").read_text()
    run_script("train.py", *go_on(), cwd=folder, env=env)
    return run


def test_three_kills_lose_nothing(tmp_path, whole):
    assert_same_run(kill_and_resume(tmp_path, 3, seed=1), whole)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    longer = ("--epochs", 6, "--max_steps", 150)
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    run_script("train.py", *FLAGS, *longer, "--run_id", "run", cwd=tmp_path / "whole")
    killed = kill_and_resume(tmp_path / "killed", 20, 2, *longer, wandb_mode="offline")
    assert_same_run(killed, tmp_path / "whole" / "runs" / "run")
    assert_same_history(killed, without_times)  # a step that a kill undid was done again at another speed

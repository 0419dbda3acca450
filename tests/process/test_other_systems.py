"""The scripts where users run them: without what Windows lacks, without a home, on file systems without locks, in a job's limits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, run_script, script_environment
from resumed import PATIENCE, lines_of, start, wait_until

from common.runs.folder import RunFolder

SMALL = (
    *("--preset", "digits", "--device", "cpu", "--image_size", 16, "--batch_size", 64, "--validation_fraction", 0.5),
    *("--epochs", 1, "--max_steps", 3, "--log_every", 1),
)  # fmt: skip


# On Windows `filelock` locks by that system's own means, and has nothing to warn of.
WINDOWS = {"TEST_SYSTEM": "windows", "PYTHONWARNINGS": "ignore:only soft file lock"}


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


# --- without what Windows lacks ---------------------------------------------------------------------------------------


def test_without_what_windows_lacks_a_run_trains_and_goes_on(tmp_path):
    env = script_environment(tmp_path, **WINDOWS)
    run_script("train.py", *SMALL, "--run_id", "run", "--max_minutes", 1e-9, cwd=tmp_path, env=env, status=124)
    done = run_script("train.py", "--resume", "run", cwd=tmp_path, env=env)
    assert "finished after step 3" in done.stdout and "Traceback" not in done.stderr
    assert [json.loads(line)["step"] for line in open(tmp_path / "runs/run/metrics.jsonl")] == [1, 2, 3]
    refused = run_script("train.py", *SMALL, "--run_id", "run", cwd=tmp_path, env=env, status=2)
    assert refused.stderr.startswith("error: --run_id run is taken") and refused.stderr.count("\n") == 1


def write_sweep(folder: Path, *lrs: float) -> Path:
    given = dict(zip(map(str, SMALL[::2]), SMALL[1::2], strict=True))
    parameters = {flag.removeprefix("--"): {"value": value} for flag, value in given.items()}
    spec = {
        "program": str(ROOT / "train.py"),
        "method": "grid",
        "metric": {"name": "validation/accuracy", "goal": "maximize"},
        "parameters": {**parameters, "lr": {"values": list(lrs)}},
    }
    path = folder / "größe.yaml"
    path.write_text(yaml.safe_dump(spec, allow_unicode=True) + "# größer\n", encoding="utf-8")
    return path


def test_without_what_windows_lacks_a_sweep_runs_its_trials(tmp_path):
    env = script_environment(tmp_path, **WINDOWS)
    done = run_script("sweep.py", write_sweep(tmp_path, 0.1), "--sweep_id", "s", cwd=tmp_path, env=env)
    assert "Best: trial 0, run s-0" in done.stdout
    assert summary_of(tmp_path / "runs/s-0")["status"] == "finished"


@pytest.fixture
def held_sweep(tmp_path):
    """A function that begins a sweep of one trial, which waits after its first epoch, on a system → the sweep's process."""

    def begin(**env: str) -> subprocess.Popen[bytes]:
        spec = {
            "program": str(ROOT / "tests/fakes/sweep_stub.py"),
            "method": "grid",
            "metric": {"name": "validation/accuracy", "goal": "maximize"},
            "parameters": {"lr": {"values": [0.4]}},
        }
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec))
        command = [sys.executable, str(ROOT / "sweep.py"), "sweep.yaml", "--sweep_id", "s"]
        environment = script_environment(tmp_path, STUB_HOLD="0.4", **env)
        with open(tmp_path / "out.txt", "wb") as out:
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
        wait_until((tmp_path / "runs/s-0/metrics.jsonl").exists, process)
        return process

    return begin


SYSTEMS = [
    WINDOWS,
    pytest.param({"TEST_SYSTEM": "without_flock", "TEST_FLOCK_ERROR": "ENOSYS"}, marks=pytest.mark.slow),
    pytest.param({"TEST_SYSTEM": "without_flock", "TEST_FLOCK_ERROR": "EOPNOTSUPP"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.get("TEST_FLOCK_ERROR", "windows"))
def test_a_trial_that_outlived_its_sweep_is_waited_for_where_no_lock_can_be_inherited(system, tmp_path, held_sweep):
    first = held_sweep(**system)
    first.kill()
    first.wait()
    second = subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), "sweep.yaml", "--sweep_id", "s"],
        cwd=tmp_path,
        env=script_environment(tmp_path, PYTHONUNBUFFERED="1", **system),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert second.stdout.readline().startswith("Sweep s")
        assert second.stdout.readline() == "Waiting for the trials of other processes\n"
    finally:
        (tmp_path / "release").touch()
    shown, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, shown
    (record,) = json.loads((tmp_path / "runs/sweeps/s/trials.json").read_text())
    assert (record["state"], record["value"]) == ("complete", 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS[:2], ids=lambda system: system.get("TEST_FLOCK_ERROR", "windows"))
def test_a_trial_that_died_with_its_sweep_is_run_again_where_no_lock_can_be_inherited(system, tmp_path, held_sweep):
    first = held_sweep(**system)
    first.kill()
    first.wait()
    os.kill(json.loads((tmp_path / "runs/s-0/stub.json").read_text())["pid"], signal.SIGKILL)
    (tmp_path / "release").touch()
    env = script_environment(tmp_path, **system)
    run_script("sweep.py", "sweep.yaml", "--sweep_id", "s", cwd=tmp_path, env=env)
    records = json.loads((tmp_path / "runs/sweeps/s/trials.json").read_text())
    assert [record["state"] for record in records] == ["fail", "complete"]


@pytest.mark.slow
def test_without_what_windows_lacks_ctrl_c_lets_a_sweeps_trial_save(tmp_path, held_sweep):
    process = held_sweep(**WINDOWS)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130, (tmp_path / "out.txt").read_text()
    assert summary_of(tmp_path / "runs/s-0") == {"status": "interrupted"}
    (record, *_) = json.loads((tmp_path / "runs/sweeps/s/trials.json").read_text())
    assert record["error"] == "interrupted, run again as trial 1"


# --- clusters and containers ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_home_a_run_trains_is_evaluated_and_leaves_no_folder_named_tilde(tmp_path):
    (tmp_path / "tmp").mkdir()
    env = script_environment(tmp_path, TEST_SYSTEM="nobody", TORCH_HOME=None, TMPDIR=str(tmp_path / "tmp"))
    done = run_script("train.py", *SMALL, "--run_id", "run", cwd=tmp_path, env=env)
    assert done.stderr.count("note: this user has no home folder") == 1 and str(tmp_path / "tmp") in done.stderr
    run_script("evaluate.py", "--checkpoint", "run", cwd=tmp_path, env=env)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "tmp"]


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSYS", "EOPNOTSUPP"])
def test_on_a_file_system_without_locks_a_run_trains_and_is_one_processs_at_a_time(error, tmp_path):
    env = script_environment(tmp_path, TEST_SYSTEM="without_flock", TEST_FLOCK_ERROR=error)
    run = tmp_path / "runs" / "run"
    process = start(*SMALL[:-6], "--epochs", 99, "--log_every", 1, "--run_id", "run", cwd=tmp_path, env=env)
    try:
        wait_until(lambda: lines_of(run) >= 1, process)
        assert process.poll() is None, (tmp_path / "stderr.txt").read_text()
        refused = run_script("train.py", "--resume", "run", cwd=tmp_path, env=env, status=2)
        assert refused.stderr.startswith("error: run run is in use by another process")
    finally:
        process.kill()
        process.wait()
    done = run_script("train.py", "--resume", "run", "--max_minutes", 1e-9, cwd=tmp_path, env=env, status=124)
    assert "Warning" not in done.stderr
    assert RunFolder(run).read_summary().status == "interrupted"


def executable(path: Path, *lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


@pytest.mark.slow
def test_the_job_script_goes_on_until_the_run_has_finished(tmp_path):
    """docs/cluster.md's own, with other flags. `srun` runs what it is given, `scontrol` is noted."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    script = page.partition("```bash\n")[2].partition("```")[0]
    flags, limit = "--preset best", "--max_minutes 225"
    assert script.count(flags) == script.count(limit) == 1
    script = script.replace(flags, " ".join(map(str, SMALL)))
    executable(tmp_path / "bin" / "srun", 'exec "$@"')
    executable(tmp_path / "bin" / "python", f'exec "{sys.executable}" "$@"')
    executable(tmp_path / "bin" / "scontrol", f'echo "$@" >> "{tmp_path}/scontrol.txt"')
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    env = script_environment(tmp_path, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path))
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"

    def job(text: str) -> str:
        done = subprocess.run(["bash", "-c", text], cwd="/", env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert "Traceback" not in done.stderr, done.stderr
        return summary_of(tmp_path / "runs" / "job-7")["status"]

    for _ in range(2):
        assert job(script.replace(limit, "--max_minutes 1e-9")) == "interrupted"
    assert job(script) == "finished"
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n" * 2

"""What is not the run's own fault does not cost it: a full disk, a loss that diverges, no memory, no W&B."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_script, script_environment
from resumed import start
from wandb_backend import API_KEY, Backend

from common.base.device import memory_errors
from common.base.errors import RunError
from common.training.state import load_training_state

FLAGS = (
    *("--preset", "digits", "--device", "cpu", "--batch_size", 16, "--image_size", 16, "--log_every", 1),
    *("--max_steps", 4, "--run_id", "run"),
)  # fmt: skip
PATIENCE = 600  # seconds that a busy machine may take for what takes seconds


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def message(stderr: str) -> str:
    """The one line that is no progress bar."""
    assert "Traceback" not in stderr, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    run_script("train.py", *FLAGS, cwd=folder)
    return folder / "runs" / "run"


# The disk


@pytest.mark.slow
def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_what_to_free(tmp_path, trained):
    run = Path(shutil.copytree(trained, tmp_path / "runs" / "run"))
    last = run / "checkpoints" / "last.pt"
    before, best = last.read_bytes(), (run / "checkpoints" / "best.safetensors").stat().st_size
    assert best < len(before)
    limit = (best + len(before)) // 2  # there is room for the weights, but not for the state
    command = [sys.executable, str(ROOT / "train.py"), "--resume", "run", "--max_steps", "8"]
    full = subprocess.run(
        command,
        cwd=tmp_path,
        env=script_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1, full.stderr
    said = message(full.stderr)
    assert "checkpoints/last.pt can't be written" in said and "Free space in" in said and "--resume" in said
    assert last.read_bytes() == before
    assert not list(run.rglob("*.tmp*"))
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"

    again = run_script("train.py", "--resume", "run", "--max_steps", 8, cwd=tmp_path)
    assert "finished after step 8" in again.stdout and steps_of(run) == list(range(1, 9))


# The loss and the memory


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_lr(tmp_path):
    done = run_script("train.py", *FLAGS, "--lr", 1e10, "--checkpoint_every", 1, cwd=tmp_path, status=1)
    said, run = message(done.stderr), tmp_path / "runs" / "run"
    what, step = re.search(r"error: (.*) is (?:nan|-?inf) at step (\d+) with lr ", said).groups()
    assert what in ("train/batch_loss", "validation/loss", "the norm of the weights") and "--lr" in said
    state = load_training_state(run / "checkpoints" / "last.pt")
    assert state["progress"]["step"] == int(step) - 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values()), "what is kept must be good"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed" and f"step {step}" in summary["error"]


@pytest.mark.parametrize(
    "batch_size, accumulate, said",
    [
        (64, 1, "try --batch_size 32, --accumulate 2, or a smaller"),
        (64, 8, "try --batch_size 32, --accumulate 16, or"),
        (64, 32, "try --batch_size 32, or a smaller"),
        (64, None, "try --batch_size 32, or a smaller"),
    ],
)
def test_out_of_memory_names_the_parts_to_train_a_batch_in(batch_size, accumulate, said):
    with pytest.raises(RunError, match=said), memory_errors(batch_size, torch.device("cpu"), accumulate):
        raise MemoryError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"
        ),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_names_the_batch_size_to_try(error):
    with pytest.raises(RunError, match="--batch_size 64; try --batch_size 32"), memory_errors(64, torch.device("cpu")):
        raise error


@pytest.mark.slow
def test_a_process_that_gets_no_more_memory_names_the_batch_size_to_try(tmp_path):
    flags = ("--preset", "digits", "--device", "cpu", "--image_size", "224", "--batch_size", "400", "--run_id", "run")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *flags],  # the real network, which needs some 40 GB for these
        cwd=tmp_path,
        env=script_environment(tmp_path, TINY_MODELS=None),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30)),
    )
    assert done.returncode == 1, done.stderr
    assert "--batch_size 400; try --batch_size 200" in message(done.stderr)
    assert json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())["status"] == "failed"


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(64, torch.device("cpu")):
        raise RuntimeError("shapes differ")


# W&B


def test_without_a_server_the_run_is_offline_and_says_how_to_send_it(tmp_path):
    nothing_listens = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": API_KEY, "WANDB_INIT_TIMEOUT": "5"}
    env = script_environment(tmp_path, WANDB_MODE=None, **nothing_listens)
    done, run = run_script("train.py", *FLAGS, cwd=tmp_path, env=env), tmp_path / "runs" / "run"
    assert "the server can't be reached; this run is offline" in done.stderr
    assert "finished after step 4" in done.stdout and "send: wandb sync runs/run/wandb/offline-run-" in done.stdout
    assert "python sync.py run" in done.stdout
    assert steps_of(run) == [1, 2, 3, 4]
    (job,) = json.loads((run / "tracking.json").read_text())["runs"]
    assert job["mode"] == "offline" and all((run / directory).is_dir() for directory in job["dirs"])


@pytest.mark.parametrize("fault", ["500", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("full", "hang"))])
def test_a_server_that_fails_in_the_middle_costs_nothing(tmp_path, fault):
    with Backend() as backend:
        waits = {"WANDB_FINISH_TIMEOUT": "5", "WANDB_INIT_TIMEOUT": "60"}
        env = script_environment(tmp_path, WANDB_MODE=None, **backend.env(tmp_path), **waits)
        process = start(*FLAGS, cwd=tmp_path, env=env)
        try:
            backend.wait_for(lambda: "run" in backend.runs, PATIENCE)
            backend.fault = fault
            status = process.wait(PATIENCE)
        finally:
            process.kill()
        said = (tmp_path / "stdout.txt").read_text() + (tmp_path / "stderr.txt").read_text()
        assert status == 0, said
        assert backend.faults and "Traceback" not in said
        assert "finished after step 4" in said
        assert "send the rest: python sync.py run" in said
        assert steps_of(tmp_path / "runs" / "run") == [1, 2, 3, 4]

        backend.fault = None  # and all of it arrives when the run goes on
        again = run_script("train.py", "--resume", "run", "--max_steps", 6, cwd=tmp_path, env=env)
        assert "something is missing" not in again.stdout
        assert [row["_step"] for row in backend.runs["run"].rows] == [1, 2, 3, 4, 5, 6]
        assert backend.artifact("resnext50_32x4d-digits:best") and backend.artifact("digits-split:latest")

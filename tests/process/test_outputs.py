"""Real runs whose outputs are closed, full, or in an encoding without the characters, beside one that has them all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, run_script, script_environment

from common.base.files import read_json
from common.model.weights import load_weights

FLAGS = ["--preset=digits", "--epochs=2", "--log_every=5", "--checkpoint_every=5"]


def train(cwd: Path, outputs: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    """By a shell that gives the script's process its place."""
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, *flags]
    env = {**script_environment(cwd, WANDB_MODE="offline"), "MPLBACKEND": "module://nowhere", **environment}
    return subprocess.Popen(["bash", "-c", f'exec "$0" "$@" {outputs}', *command], cwd=cwd, env=env)


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> dict:
    """The weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("heard")
    run_script("train.py", *FLAGS, "--run_id=heard", cwd=folder)
    return load_weights(folder / "runs" / "heard" / "checkpoints" / "best.safetensors")[0]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("outputs", [">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_a_run_without_outputs_is_saved_when_stopped_and_goes_on(outputs, tmp_path, heard):
    process = train(tmp_path, outputs, "--run_id=unheard", PYTHONIOENCODING="ascii")
    rows = tmp_path / "runs" / "unheard" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (rows.exists() and rows.read_text().count("\n") >= 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 143
    again = [sys.executable, str(ROOT / "train.py"), "--resume=unheard"]
    env = script_environment(tmp_path, WANDB_MODE="offline", PYTHONIOENCODING="ascii")
    done = subprocess.run(["bash", "-c", f'exec "$0" "$@" {outputs}', *again], cwd=tmp_path, env=env, timeout=300)
    assert done.returncode == 0 and read_json(tmp_path / "runs" / "unheard" / "summary.json")["status"] == "finished"
    unheard = load_weights(tmp_path / "runs" / "unheard" / "checkpoints" / "best.safetensors")[0]
    assert heard.keys() == unheard.keys() and all((heard[key] == unheard[key]).all() for key in heard)
    assert all(line.startswith("{") for line in rows.read_text().splitlines())

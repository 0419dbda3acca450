"""A script's process that begins with its packages imported, which are most of the seconds that a short run takes.

Python's own fork server imports them once and forks itself for each script; the rest is as in `python script.py`: a process with its own
environment, folder, output and signals, and an exit of the interpreter's kind.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PACKAGES = [
    "torch",
    "torchvision.transforms.v2",
    "matplotlib.figure",
    "sklearn.metrics",
    "scipy.stats",
    "tyro",
    "pydantic",
    "requests",
    "filelock",
    "yaml",
    "wandb",
    "warm",
]

# What Python and these packages read once, when they begin.
READ_AT_START = ("PYTHON", "OMP_", "MKL_", "MPL", "TORCH", "CUDA", "LC_", "LANG", "LD_", "MALLOC_", "TEST_")
NOT_AT_START = ("TORCH_HOME", "TEST_DOWNLOADS")


def fits(environment: dict[str, str], usual: dict[str, str]) -> bool:
    """Whether a process with this environment can begin warm."""
    apart = {name for name, _ in environment.items() ^ usual.items()}
    at_start = any(name.startswith(READ_AT_START) and name not in NOT_AT_START for name in apart)
    return hasattr(os, "fork") and not at_start


def server() -> ForkServerContext:
    """Begins processes of this one's functions."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PACKAGES)
    return context


def run(command: list[str], cwd: Path, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text; command: a script and its arguments."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = server().Process(target=_script, args=(command, str(cwd), environment, list(map(str, files))))
        process.start()
        process.join(timeout)
        ended = process.exitcode
        if ended is None:
            process.kill()
            process.join()
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    if ended is None:
        raise subprocess.TimeoutExpired(command, timeout, *texts)
    return subprocess.CompletedProcess(command, ended, *texts)


class Started:
    """A script's process that goes on beside this one: of `subprocess.Popen`, what tests use."""

    def __init__(self, process: ForkServerProcess, command: list[str]) -> None:
        self._process, self._command = process, command
        assert process.pid is not None
        self.pid: int = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    command: list[str], cwd: Path, environment: dict[str, str], outputs: list[Path], new_session: bool = False
) -> Started:
    """As `subprocess.Popen`, with stdout and stderr in files."""
    for output in outputs:
        output.write_bytes(b"")
    arguments = (command, str(cwd), environment, list(map(str, outputs)), new_session)
    process = server().Process(target=_script, args=arguments)
    process.start()
    return Started(process, command)


def _own_folders_of_wandb() -> None:
    """In place of those that wandb made when it was imported, which the first process to end would remove for all."""
    import wandb
    from wandb.sdk.data_types import _private

    for folder in (wandb.Artifact._TMP_DIR, _private.MEDIA_TMP):
        folder._finalizer.detach()  # type: ignore[attr-defined]
        folder.__init__()  # type: ignore[misc]


def _script(
    command: list[str], cwd: str, environment: dict[str, str], outputs: list[str], new_session: bool = False
) -> None:
    """In the new process: what `python` does with a script, and its end."""
    if new_session:
        os.setsid()
    for stream, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", closefd=False), open(2, "w", 1, closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]  # the process's own, as it began with them
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    _own_folders_of_wandb()
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(command[0]).parent), *paths]
    sys.argv = command
    status = 0
    try:
        for start in [Path(path, "sitecustomize.py") for path in paths]:
            if start.exists():
                runpy.run_path(str(start), run_name="sitecustomize")
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)

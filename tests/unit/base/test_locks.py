"""A lock is one process's at a time, and of no process that is gone."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

from common.base.errors import UserError
from common.base.locks import holder_file, lives, locked

ADD_ONE = """
import sys, time
from pathlib import Path
from common.base.locks import locked
number = Path(sys.argv[1])
for _ in range(20):
    with locked(number.with_name("lock")):
        value = int(number.read_text())
        time.sleep(0.001)
        number.write_text(str(value + 1))
"""


def test_who_waits_comes_in_alone(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", ADD_ONE, str(tmp_path / "number")]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "60"


def hold(path: Path, before: str = "") -> subprocess.Popen[str]:
    code = f"""
{before}
import time
from pathlib import Path
from common.base.locks import locked
with locked(Path({str(path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_lock_in_use_is_said_and_one_whose_process_was_killed_is_free(tmp_path):
    holder = hold(tmp_path / "new" / "lock")
    try:
        with pytest.raises(UserError, match="^taken$"), locked(tmp_path / "new" / "lock", "taken"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path / "new" / "lock", "taken"):
        pass


def test_who_waits_goes_on_when_the_holder_is_killed(tmp_path):
    holder = hold(tmp_path / "lock")
    waiter = subprocess.Popen([sys.executable, "-c", f"""
from pathlib import Path
from common.base.locks import locked
with locked(Path({str(tmp_path / "lock")!r})):
    pass
"""], cwd=ROOT)  # fmt: skip
    time.sleep(1)
    assert waiter.poll() is None
    holder.kill()
    holder.communicate()
    assert waiter.wait(60) == 0


WITHOUT_LOCKS = [
    errno.ENOSYS,
    *(pytest.param(e, marks=pytest.mark.slow) for e in (errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EIO)),
]


def no_flock(number: int) -> str:
    """Code that makes a process's file systems ones that can't lock."""
    return f"""
import fcntl, os
def flock(file, operation):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = flock
"""


@pytest.mark.parametrize("number", WITHOUT_LOCKS)
@pytest.mark.filterwarnings("error")
def test_on_a_file_system_without_locks_one_process_at_a_time_comes_in_all_the_same(number, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # put back at the end
    exec(no_flock(number), {})
    path = tmp_path / "lock"
    path.touch()  # as it was left where there were locks: it must not pass for a holder
    holder = hold(path, no_flock(number))
    try:
        for _ in range(2):
            with pytest.raises(UserError, match="^taken"), locked(path, "taken"):
                pass
    finally:
        holder.kill()
        holder.communicate()
    for _ in range(2):
        with locked(path, "taken"), pytest.raises(UserError, match="^taken"), locked(path, "taken"):
            pass


def test_a_slow_file_system_is_none_without_locks(tmp_path, monkeypatch):
    flock = fcntl.flock

    def slow(file, operation):
        time.sleep(0.5)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path / "lock", "taken"):
        assert not holder_file(tmp_path / "lock").exists()
        with pytest.raises(UserError, match="^taken$"), locked(tmp_path / "lock", "taken"):
            pass
    with locked(tmp_path / "lock", "taken"):
        pass


def test_a_folder_that_cant_be_written_is_named():
    with pytest.raises(UserError, match=r"^/proc/self/lock can't be locked"), locked(Path("/proc/self/lock"), "taken"):
        pass


def test_a_process_lives_until_it_has_ended_and_is_asked_without_harm():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert lives(process.pid) and process.poll() is None
    process.kill()
    process.wait()
    assert not lives(process.pid)
    assert lives(os.getpid()) and lives(1)


class Kernel32:
    """Windows' own functions, for one process that runs, one that has ended and is still known, and one of another user."""

    RUNS, ENDED, ANOTHERS = 12, 16, 20

    def __init__(self) -> None:
        self.error, self.open = 0, set[int]()

        def open_process(access: int, inherit: bool, pid) -> int:
            self.error = 5 if pid.value == self.ANOTHERS else 87
            if pid.value not in (self.RUNS, self.ENDED):
                return 0
            self.open.add(pid.value + 1000)
            return pid.value + 1000

        self.OpenProcess = open_process

    def WaitForSingleObject(self, handle, milliseconds: int) -> int:
        assert milliseconds == 0
        return 0x102 if handle.value == self.RUNS + 1000 else 0

    def CloseHandle(self, handle) -> None:
        self.open.remove(handle.value)


def test_on_windows_a_process_is_asked_for_by_a_handle_and_never_by_a_signal(monkeypatch):
    kernel = Kernel32()
    monkeypatch.setattr("common.base.locks.WINDOWS", True)
    monkeypatch.setattr("ctypes.WinDLL", lambda name, use_last_error: kernel, raising=False)
    monkeypatch.setattr("ctypes.get_last_error", lambda: kernel.error, raising=False)
    monkeypatch.setattr(os, "kill", None)
    assert [lives(pid) for pid in (kernel.RUNS, kernel.ENDED, kernel.ANOTHERS, 99)] == [True, False, True, False]
    assert not kernel.open


def test_an_error_within_lets_go(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock", "taken"):
        raise KeyError
    with locked(tmp_path / "lock", "taken"):
        pass

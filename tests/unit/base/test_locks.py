"""A lock is one process's at a time, and of no process that is gone."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

from common.base.errors import UserError
from common.base.locks import locked

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


def hold(path: Path) -> subprocess.Popen[str]:
    code = f"""
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_lets_no_one_in(number, tmp_path, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    said = (
        f"lock can't be locked.*{os.strerror(number)}|^taken$"  # filelock before version 4 does not tell the two apart
    )
    with pytest.raises(UserError, match=said), locked(tmp_path / "lock", "taken"):
        pass


def test_an_error_within_lets_go(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock", "taken"):
        raise KeyError
    with locked(tmp_path / "lock", "taken"):
        pass

"""Locks between processes, as files, and whether a process lives. The kernel lets go of a lock when its process ends, however it ends."""

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from common.base.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

WINDOWS = os.name == "nt"


@contextlib.contextmanager
def locked(path: Path, in_use: str | None = None) -> Iterator[None]:
    """Within the block this process alone holds the lock. The file stays: who waits for it has it open.

    On a file system without locks a file beside it names the holder, and counts for as long as that lives: see `has_locks`.

    Args:
        path: the lock's file; its folder is made.
        in_use: what is said when another process holds it. None: it is waited for.

    Errors: `UserError` with `in_use`, or where no lock can be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    gone, patience = "", 0.0
    try:
        if has_locks(path.parent):
            lock: BaseFileLock = FileLock(path)
        else:
            lock = SoftFileLock(holder_file(path))
            gone = (
                f" (this file system has no locks: if the other was on a machine that is gone, delete {lock.lock_file})"
            )
            patience = (
                1.0  # filelock before version 4 removes a dead holder's file at one look, and comes in at the next
            )
        lock.acquire(timeout=-1 if in_use is None else patience)
    except Timeout:
        raise UserError(f"{in_use}{gone}") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{path} can't be locked ({error}); choose a folder on a file system that has locks") from None
    try:
        yield
    finally:
        lock.release()


def holder_file(lock: Path) -> Path:
    """Not the lock itself, which may lie there, empty, from a file system that has locks."""
    return lock.with_name(f"{lock.name}-holder")


def has_locks(folder: Path) -> bool:
    """Whether files in `folder` can be locked. On some of a cluster's or a container's file systems they can't, each with an error
    of its own, so that a file which nobody else has tells it best. Errors: `OSError` when none can be written."""
    if WINDOWS:
        return True
    with tempfile.TemporaryFile(dir=folder) as probe:
        return lock_for_heirs(probe) is True


def lock_for_heirs(file: IO[Any]) -> bool | None:
    """Locks an open file until this process has closed it and every child that inherits it has ended: by hand, since no library hands
    a lock on. → whether it could, or None where there are no such locks: on Windows, and on some file systems."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def lives(pid: int) -> bool:
    """Whether there is a process of that id on this machine; one that can't be asked counts as there."""
    if WINDOWS:  # where `os.kill` with 0 is Ctrl-C, and with most other numbers the end of the process
        return _lives_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _lives_on_windows(pid: int) -> bool:
    synchronize, access_denied, still_running = 0x00100000, 5, 0x102  # of the Windows API
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    process = kernel.OpenProcess(synchronize, False, ctypes.c_uint32(pid))
    if not process:
        return ctypes.get_last_error() == access_denied  # type: ignore[attr-defined]
    try:
        return kernel.WaitForSingleObject(ctypes.c_void_p(process), 0) == still_running
    finally:
        kernel.CloseHandle(ctypes.c_void_p(process))

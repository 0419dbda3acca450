"""Locks between processes, as files. The kernel lets go of them when their process ends, however it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from common.base.errors import UserError


@contextlib.contextmanager
def locked(path: Path, in_use: str | None = None) -> Iterator[None]:
    """Within the block this process alone holds the lock. The file stays: who waits for it has it open.

    Args:
        path: the lock's file; its folder is made.
        in_use: what is said when another process holds it. None: it is waited for.

    Errors: `UserError` with `in_use`, or where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if in_use is None else 0)
    except Timeout:
        raise UserError(in_use) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{path} can't be locked ({error}); choose a folder on a file system that has locks") from None
    try:
        yield
    finally:
        lock.release()

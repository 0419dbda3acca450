"""Ctrl-C and SIGTERM: noted, so that a loop can end where its state is whole."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from common.base.terminal import write_error

Batch = TypeVar("Batch")

LOOK_SECONDS = 0.1  # between two looks for a signal; an event would lock up when its handler interrupts a wait for it


class Interrupt:
    """The SIGINTs and SIGTERMs that came."""

    def __init__(self, first: str, second: str | None) -> None:
        self.first, self.second = first, second
        self.count = 0
        self.signal: int | None = None
        """the first one"""

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, by the shell's convention; 0 without either."""
        return 128 + self.signal if self.signal else 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.signal is None:
            self.signal = number
            write_error(self.first)
        elif self.second is not None:
            write_error(self.second)
            os._exit(128 + number)

    def sleep(self, seconds: float) -> bool:
        """Waits, but no longer than until a signal comes → whether none has."""
        until = time.monotonic() + seconds
        while self.signal is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_SECONDS, left))
        return self.signal is None


class Interrupted(Exception):
    """Leaves a loop that is not worth finishing, such as a validation."""


def watched(batches: Iterable[Batch], stopped: Callable[[], bool]) -> Iterator[Batch]:
    """The same batches, until `stopped` says so. Raises: `Interrupted`."""
    for batch in batches:
        if stopped():
            raise Interrupted
        yield batch


@contextlib.contextmanager
def interruptible(
    first: str = "stopping after this step; once more stops at once",
    second: str | None = "stopped at once; the last checkpoint that was saved is kept",
) -> Iterator[Interrupt]:
    """Within the block, SIGINT and SIGTERM only set a flag that the loop looks at where its state is whole.

    Args:
        first: what is said when the first one comes.
        second: what is said when the next one comes, which ends the process at once. None: it is only counted.
    """
    interrupt = Interrupt(first, second)
    before = {number: signal.signal(number, interrupt.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

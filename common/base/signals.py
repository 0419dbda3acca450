"""Ctrl-C, SIGTERM, a hang-up, and a limit in time: noted, so that a loop can end where its state is whole."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from common.base.terminal import write_error

Batch = TypeVar("Batch")

LOOK_SECONDS = 0.1  # between two looks for a signal; an event would lock up when its handler interrupts a wait for it
TIME_IS_UP = 124  # exit status, as of the command `timeout`
# SIGHUP: the terminal has gone, or a scheduler says so. SIGBREAK: what Windows has for SIGTERM.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class Interrupt:
    """The signals that came, and whether time is up."""

    def __init__(self, first: str, second: str | None, seconds: float = math.inf) -> None:
        self.first, self.second = first, second
        self.deadline = time.monotonic() + seconds
        self.count = 0
        self.signal: int | None = None
        """the first one"""
        self.time_is_up = False
        """whether `stopped` has said so: an end that comes just before the limit is none by the limit"""

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, by the shell's convention; 124 when time was up; 0 without any."""
        return 128 + self.signal if self.signal else TIME_IS_UP if self.time_is_up else 0

    def stopped(self) -> bool:
        """Whether to stop now: a signal has come, or time is up."""
        self.time_is_up = self.time_is_up or time.monotonic() >= self.deadline
        return self.exit_status > 0

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
    seconds: float = math.inf,
) -> Iterator[Interrupt]:
    """Within the block, a signal only sets a flag that the loop looks at where its state is whole.

    A SIGHUP that is ignored, as `nohup` has it, stays ignored.

    Args:
        first: what is said when the first one comes.
        second: what is said when the next one comes, which ends the process at once. None: it is only counted.
        seconds: after which time is up.
    """
    interrupt = Interrupt(first, second, seconds)
    there = {name: getattr(signal, name) for name in NAMES if hasattr(signal, name)}
    if "SIGHUP" in there and signal.getsignal(there["SIGHUP"]) == signal.SIG_IGN:
        del there["SIGHUP"]
    before = {number: signal.signal(number, interrupt.handle) for number in there.values()}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM: noted, so that a loop can end where its state is whole."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

Batch = TypeVar("Batch")


class Interrupt:
    """Set by the first SIGINT or SIGTERM; the second one ends the process at once."""

    signal: int | None = None

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, by the shell's convention; 0 without either."""
        return 128 + self.signal if self.signal else 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os.write(2, b"\nstopped at once; the last checkpoint that was saved is kept\n")
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\nstopping after this step; once more stops at once\n")


class Interrupted(Exception):
    """Leaves a loop that is not worth finishing, such as a validation."""


def watched(batches: Iterable[Batch], stopped: Callable[[], bool]) -> Iterator[Batch]:
    """The same batches, until `stopped` says so. Raises: `Interrupted`."""
    for batch in batches:
        if stopped():
            raise Interrupted
        yield batch


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Within the block, SIGINT and SIGTERM only set a flag that the loop looks at between steps."""
    interrupt = Interrupt()
    before = {number: signal.signal(number, interrupt.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Where a script's words go: a terminal, a notebook, a log, a pipe whose reader may leave, a disk that may be full, nowhere."""

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, TextIO, cast

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0  # of a bar where nothing can be drawn over: some 12 kB an hour


# --- streams ----------------------------------------------------------------------------------------------------------


# What a terminal obeys; colours, and one line up and its erasure, which tyro, tqdm and W&B print, come first.
_ORDERS = re.compile(r"\x1b\[(?:[\d;]*m|A|2K)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Lasting:
    """A stream that drops what can't be written, since no run should end for want of a reader, and what a terminal would obey, which may
    stand in any path."""

    listeners: list[Callable[[object, str], None]] = []
    """of all such streams: what is called with the stream and each text that is written to it"""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None
        """why something was dropped, unless the reader has gone by its own will"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self.stream.write(_ORDERS.sub(self._shown, text))
        for listener in Lasting.listeners:
            listener(self, text)
        return len(text)

    def _shown(self, order: re.Match[str]) -> str:
        return order[0] if len(order[0]) > 1 and self.stream.isatty() else "?"

    def flush(self) -> None:
        with self._dropping():
            self.stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            pass
        except OSError as error:
            self.error = error
        except ValueError:  # it was closed
            pass


@contextlib.contextmanager
def heard_by(listener: Callable[[object, str], None]) -> Iterator[None]:
    """Within the block, it is told what the script's outputs are, as `Lasting.listeners`."""
    Lasting.listeners.append(listener)
    try:
        yield
    finally:
        Lasting.listeners.remove(listener)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within the block, what is written is for the moment, and nobody is told."""
    listeners, Lasting.listeners = Lasting.listeners, []
    try:
        yield
    finally:
        Lasting.listeners = listeners


def make_output_last() -> None:
    """From here on, nothing that is printed can end the process: not to a stream that is closed or full, nor in an encoding that
    lacks a character, which is then written as its code point; nor does a terminal obey what stands in a path. A notebook's streams, which
    can't fail, and are no terminals, stay as they are."""
    _fill_closed_descriptors()
    sys.stdout, sys.stderr = _lasting(sys.stdout, sys.__stdout__), _lasting(sys.stderr, sys.__stderr__)


def _fill_closed_descriptors() -> None:
    """Else the next file that is opened gets the number of an output, and what C libraries and child processes print goes into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free


def _lasting(stream: TextIO | None, of_the_process: TextIO | None) -> TextIO:
    if stream is None:  # Python found it closed
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    if stream is not of_the_process:  # a notebook's, a test's, or one that lasts already
        return stream
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, Lasting(stream))


def say_what_was_dropped() -> None:
    """At a script's end: what was printed, and did not arrive, is named where that can be read."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if error is not None:
        print(f"not all of the output could be printed: {error.strerror or error}", file=sys.stderr)


def write_error(text: str) -> None:
    """A line on stderr, at once, as in a handler of signals, where `print` could meet itself."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


# --- progress bars ----------------------------------------------------------------------------------------------------


class Lines(tqdm):
    """A bar where nothing can be drawn over, as in a log: a line now and then, and one at its end."""

    written = float("-inf")
    """when the last one was, of whichever bar"""
    spare = 50
    """ends of short bars that are still told, so that a run of a thousand short epochs doesn't write a thousand lines"""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        now = time.monotonic()
        due = now - Lines.written >= SECONDS_BETWEEN_LINES
        long = self.format_dict["elapsed"] >= SECONDS_BETWEEN_LINES
        ended = self.n == self.total and (long or Lines.spare > 0)
        if msg is None and self.n > self.initial and (due or ended):
            Lines.written, Lines.spare = now, Lines.spare - (not long)
            with unheard():
                self.fp.write(f"{self}\n")
                self.fp.flush()

    def close(self) -> None:
        if not self.disable and self.leave:
            self.display()
        self.last_print_t = float("-inf")  # tqdm then takes it for one that was never shown, and clears nothing
        super().close()


def progress_bar(batches: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """tqdm's bar on stderr, drawn over in a terminal and in lines elsewhere. options: tqdm's own."""
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(batches, dynamic_ncols=True, mininterval=0.5, **options)
    form = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    if options.get("total") is None and not hasattr(batches, "__len__"):
        form = "{desc}: {n_fmt} [{elapsed}, {rate_fmt}{postfix}]"
    seconds = SECONDS_BETWEEN_LINES
    return Lines(batches, bar_format=form, mininterval=seconds, maxinterval=seconds, **options)


@contextlib.contextmanager
def own_bars(module: ModuleType) -> Iterator[None]:
    """Within the block, the bars that a library's module makes by its `tqdm` are ours."""
    theirs = module.tqdm
    module.tqdm = progress_bar  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.tqdm = theirs  # type: ignore[attr-defined]

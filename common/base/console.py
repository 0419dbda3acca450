"""What a run prints, kept in a file beside it: whole lines, without progress bars and colours."""

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from common.base.errors import RunError, UserError
from common.base.files import may_append, write_atomic
from common.base.terminal import heard_by
from common.base.text import as_lines, one_line

LONGEST = 1 << 20  # bytes of the file, of which the newest half is kept
LONGEST_LINE = 1 << 14  # characters
LEFT_OUT = "… what came before was left out …\n"


class Console:
    """Collects what is printed, until it is told which file that goes to. Nothing that goes wrong here reaches who prints."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.kept = ""
        self.torn: dict[int, str] = {}
        """of each output the line that has not ended"""
        self.lock = threading.RLock()

    def hear(self, stream: object, text: str) -> None:
        """Keeps the lines that end with this text."""
        with self.lock:
            whole, newline, torn = (self.torn.pop(id(stream), "") + text).rpartition("\n")
            # A bar is drawn again and again, and its line may never end.
            drawn_over = torn.rfind("\r", 0, len(torn) - 1) + 1
            self.torn[id(stream)] = torn[drawn_over:][-LONGEST_LINE:]
            if newline:
                self._keep(whole)

    def write_to(self, path: Path) -> None:
        """What was printed, and all that will be, goes there, after what an earlier process printed."""
        with self.lock:
            began = time.strftime("%Y-%m-%d %H:%M:%S")
            self.path, self.kept = path, f"--- {began} ---\n{self.kept}"
            self._keep("")

    def _keep(self, text: str) -> None:
        lines = (f"{line[:LONGEST_LINE]}\n" for line in as_lines(text) if line)
        self.kept = (self.kept + "".join(lines))[-LONGEST // 2 :]
        if self.path is None:
            return
        with contextlib.suppress(OSError):  # a full disk, which may have room again for the next line
            if may_append(self.path):
                with open(self.path, "ab") as file:
                    file.write(self.kept.encode("utf-8", "backslashreplace"))
                self.kept = ""
                _shorten(self.path)


def _shorten(path: Path) -> None:
    if path.stat().st_size > LONGEST:
        newest = path.read_bytes()[-LONGEST // 2 :].partition(b"\n")[2]
        write_atomic(path, LEFT_OUT.encode() + newest)


@contextlib.contextmanager
def kept_console() -> Iterator[Console]:
    """Within the block, what is printed is kept, and so is the error that ends it, which is printed later."""
    console = Console()
    with heard_by(console.hear):
        try:
            yield console
        except (UserError, RunError) as error:
            console.hear(console, f"error: {one_line(error, 2000)}\n")
            raise
        except Exception:
            console.hear(console, traceback.format_exc())
            raise

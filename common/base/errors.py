"""How a script ends when something is wrong: one line on stderr, no traceback."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from common.base.terminal import make_output_last, say_what_was_dropped
from common.base.text import without_orders

LONGEST_MESSAGE = 2000  # characters


class UserError(ValueError):
    """Something a user can mend. The message says what came, what is allowed, and which flag or file to change."""


class RunError(RuntimeError):
    """Something that ended a run that was going: a full disk, a loss that is not finite. The message says what is kept."""


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Around a script's `main`: a `UserError` ends it with one line and exit status 2, a `RunError` with status 1. Nothing in it
    depends on where its output goes, or on how the user's own figures are drawn. The message may quote a stranger's text, of which no
    terminal obeys anything."""
    make_output_last()
    try:
        with _matplotlib_as_it_comes():
            yield
    except (UserError, RunError) as error:
        print(f"error: {_in_a_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:  # where nothing is half done
        sys.exit(130)
    finally:
        say_what_was_dropped()


def first_line(error: Exception) -> str:
    """What fits into a one-line message; torch's own run to many."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _in_a_line(error: Exception) -> str:
    """Its message without line breaks, and without what a terminal would obey. Spaces stay: a path may have two in a row."""
    line = re.sub(r"\s*\n\s*", " ", str(error).strip())
    return without_orders(line[:LONGEST_MESSAGE])


@contextlib.contextmanager
def _matplotlib_as_it_comes() -> Iterator[None]:
    """Matplotlib, wherever it is first imported in the block, takes no display and no settings of the user's: a backend that is
    not there, as a notebook names it to the scripts it starts, would end a run at its first figure.

    Errors: `UserError` for a damaged matplotlibrc in the working directory, which it reads before all others."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        try:
            Path("matplotlibrc").read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"matplotlibrc in {Path.cwd()} is damaged, and matplotlib would stop at it; remove it"
            ) from None
    wanted = {"MPLBACKEND": "agg"}
    installed = find_spec("matplotlib")
    if installed is not None and installed.origin is not None:
        wanted["MATPLOTLIBRC"] = str(Path(installed.origin).parent / "mpl-data" / "matplotlibrc")
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:  # a notebook's own figures go on as before
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value

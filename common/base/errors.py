"""How a script ends when something is wrong: one line on stderr, no traceback."""

import contextlib
import sys
from collections.abc import Iterator

from common.base.text import printable

LONGEST_MESSAGE = 2000  # characters


class UserError(ValueError):
    """Something a user can mend. The message says what came, what is allowed, and which flag or file to change."""


class RunError(RuntimeError):
    """Something that ended a run that was going: a full disk, a loss that is not finite. The message says what is kept."""


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Around a script's `main`: a `UserError` ends it with one line and exit status 2, a `RunError` with status 1. The message may
    quote a stranger's text, of which no terminal obeys anything."""
    try:
        yield
    except (UserError, RunError) as error:
        print(f"error: {printable(error, LONGEST_MESSAGE)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:  # where nothing is half done
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as in `python train.py … | head`
        sys.stderr.close()
        sys.exit(1)


def first_line(error: Exception) -> str:
    """What fits into a one-line message; torch's own run to many."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

"""One way to end on bad input: a line on stderr, exit status 2, no traceback."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Something a user can mend. The message says what came, what is allowed, and which flag or file to change."""


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Around a script's `main`: a `UserError` becomes one line on stderr and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader has gone, as in `python train.py … | head`
        sys.stderr.close()
        sys.exit(1)

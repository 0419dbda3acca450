"""Keeping the page up to date while runs train."""

import signal
import sys
import time
from pathlib import Path

from common.dashboard.page import write_page
from common.dashboard.reading import signature

LOOK_SECONDS = 2.0  # between two looks at the run folders


def watch(runs_dir: Path, output: Path, reload_seconds: int) -> None:
    """Builds the page again whenever a file changes, and while a run trains, which may die without touching one."""
    print("Watching for changes; Ctrl-C ends.", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seen, training, pause = None, True, LOOK_SECONDS
    try:
        while True:
            time.sleep(pause)
            state, began = signature(runs_dir), time.monotonic()
            if state != seen or training:
                data = write_page(runs_dir, output, reload_seconds)
                seen, training = state, any(run["status"] == "running" for run in data["runs"])
            pause = max(LOOK_SECONDS, 10 * (time.monotonic() - began))  # the run that trains needs the processor more
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        write_page(runs_dir, output)  # the page left behind doesn't reload

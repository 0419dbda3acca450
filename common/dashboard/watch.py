"""What `dashboard.py` does: builds the page once, or whenever a run changes."""

import time
from pathlib import Path

from common.base.signals import interruptible
from common.dashboard.page import what_is_missing, write_page
from common.dashboard.reading import signature

LOOK_SECONDS = 2.0  # between two looks at the run folders
RELOAD_SECONDS = 10  # between two reloads of a watched page


def build(runs_dir: Path, output: Path, watched: bool) -> None:
    """Writes the page, and says what may be missing from it. Errors: `UserError` as `write_page`."""
    data = write_page(runs_dir, output, RELOAD_SECONDS if watched else 0)
    count, size = len(data["runs"]), output.stat().st_size / 1e6
    print(f"{output.resolve()}: {count} run{'' if count == 1 else 's'}, {size:.1f} MB. Open it in a browser.")
    if hint := what_is_missing(data):
        print(hint)


def watch(runs_dir: Path, output: Path) -> int:
    """Builds the page again whenever a file changes, and while a run trains, which may die without touching one, until Ctrl-C or
    SIGTERM → exit status."""
    seen, training, pause = None, True, LOOK_SECONDS
    with interruptible("writing the page a last time", "stopped at once; the page is an earlier one") as interrupt:
        print("Watching for changes; Ctrl-C ends.", flush=True)
        try:
            while interrupt.sleep(pause):
                state, began = signature(runs_dir), time.monotonic()
                if state != seen or training:
                    data = write_page(runs_dir, output, RELOAD_SECONDS)
                    seen, training = state, any(run["status"] == "running" for run in data["runs"])
                pause = max(LOOK_SECONDS, 10 * (time.monotonic() - began))  # a run that trains needs the processor more
        finally:
            write_page(runs_dir, output)  # the page left behind doesn't reload
    return interrupt.exit_status

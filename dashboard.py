"""Local runs → one HTML page that opens with no server, no network and no account.

    python dashboard.py                # writes dashboard.html over every run in runs/; open it in a browser
    python dashboard.py --watch True   # keeps it up to date while a run trains

The page answers: how good is a run, which classes fail, what are they taken for, what do those images look like, is its
confidence to be trusted, which run was best and what set it apart.
"""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.base.errors import report_errors

LOOK_SECONDS = 2.0  # between two looks at the run folders
RELOAD_SECONDS = 10  # between two reloads of a watched page


@dataclass(frozen=True)
class DashboardConfig:
    runs_dir: str = "runs"
    """Folder of the run folders, or one run folder."""
    output: str = "dashboard.html"
    """The page to write. An existing file is replaced only if it is a dashboard."""
    watch: bool = False
    """Build the page again whenever a run changes, until Ctrl-C; an open page reloads itself."""


def main(config: DashboardConfig) -> None:
    from common.dashboard.page import what_is_missing, write_page

    runs_dir, output = Path(config.runs_dir), Path(config.output)
    data = write_page(runs_dir, output, RELOAD_SECONDS if config.watch else 0)
    count, size = len(data["runs"]), output.stat().st_size / 1e6
    print(f"{output.resolve()}: {count} run{'' if count == 1 else 's'}, {size:.1f} MB. Open it in a browser.")
    if hint := what_is_missing(data):
        print(hint)
    if config.watch:
        watch(runs_dir, output)


def watch(runs_dir: Path, output: Path) -> None:
    """Builds the page again whenever a file changes, and while a run trains, which may die without touching one."""
    from common.dashboard.page import write_page
    from common.dashboard.reading import signature

    print("Watching for changes; Ctrl-C ends.", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seen, training, pause = None, True, LOOK_SECONDS
    try:
        while True:
            time.sleep(pause)
            state, began = signature(runs_dir), time.monotonic()
            if state != seen or training:
                data = write_page(runs_dir, output, RELOAD_SECONDS)
                seen, training = state, any(run["status"] == "running" for run in data["runs"])
            pause = max(LOOK_SECONDS, 10 * (time.monotonic() - began))  # the run that trains needs the processor more
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        write_page(runs_dir, output)  # the page left behind doesn't reload


if __name__ == "__main__":
    with report_errors():
        from common.cli import parse

        main(parse(DashboardConfig, description=__doc__))

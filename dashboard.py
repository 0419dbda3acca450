"""Local runs → one HTML page that opens with no server, no network and no account.

    python dashboard.py              # writes dashboard.html over every run in runs/; open it in a browser
    python dashboard.py --watch True # keeps it up to date while a run trains

The page answers: how good is each run, which classes fail, what they are taken for, what those images look like,
whether the confidence is to be trusted, which run was best and what set it apart.
"""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import report_errors

WATCH_SECONDS = 2  # between two looks at the run folders
RELOAD_SECONDS = 10  # between two reloads of a watched page


@dataclass(frozen=True)
class DashboardConfig:
    runs_dir: str = "runs"
    """Folder of the run folders, or a single run folder, which is then shown with all its images."""
    output: str = "dashboard.html"
    """The page to write. An existing file is replaced only if it is a dashboard."""
    watch: bool = False
    """Rebuild the page whenever a run changes, until Ctrl-C; the page reloads itself and keeps its place."""


def main(config: DashboardConfig) -> None:
    from common.dashboard.page import watched, write_page

    runs_dir, output = Path(config.runs_dir), Path(config.output)
    data = write_page(runs_dir, output, cache := {}, RELOAD_SECONDS if config.watch else 0)
    count = len(data["runs"])
    print(
        f"{output}: {count} run{'' if count == 1 else 's'}, {output.stat().st_size / 1e6:.1f} MB. Open it in a browser."
    )
    if not config.watch:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("Watching for changes; Ctrl-C ends.", flush=True)
    seen, training = watched(runs_dir), True
    try:
        while True:
            time.sleep(WATCH_SECONDS)
            state = watched(runs_dir)
            if state != seen or training:  # a run that trains may die without touching a file
                data = write_page(runs_dir, output, cache, RELOAD_SECONDS)
                seen, training = state, any(run["status"] == "running" for run in data["runs"])
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        write_page(runs_dir, output, cache)  # the page left behind does not reload


if __name__ == "__main__":
    with report_errors():
        from common.config import parse

        main(parse(DashboardConfig, description=__doc__))

"""Local runs → one HTML page that opens with no server, no network and no account.

    python dashboard.py                # writes dashboard.html over every run in runs/; open it in a browser
    python dashboard.py --watch True   # keeps it up to date while a run trains

The page answers: how good is a run, which classes fail, what are they taken for, what do those images look like, is its
confidence to be trusted, which run was best and what set it apart.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from common.base.checked import PathText
from common.base.errors import report_errors
from common.cli import parse
from common.config import RUNS_DIR


@dataclass(frozen=True)
class DashboardConfig:
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders, or one run folder."""
    output: PathText = "dashboard.html"
    """The page to write. An existing file is replaced only if it is a dashboard."""
    watch: bool = False
    """Build the page again whenever a run changes, until Ctrl-C; an open page reloads itself."""


def main(config: DashboardConfig) -> int:
    """→ exit status: 0, or with `watch` that of Ctrl-C or SIGTERM."""
    from common.dashboard.watch import build, watch

    runs_dir, output = Path(config.runs_dir), Path(config.output)
    build(runs_dir, output, watched=config.watch)
    return watch(runs_dir, output) if config.watch else 0


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse(DashboardConfig, description=__doc__)))

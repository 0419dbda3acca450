"""Sends offline runs to W&B, and checks on the server that everything arrived.

    python sync.py              # every run in runs/ that W&B does not have whole
    python sync.py RUN …        # these runs
    python sync.py --watch True # sends the rows of runs that train as they come, until Ctrl-C

`wandb sync` does the sending. It can say "Finished" while rows or artifacts are missing, as after W&B's process was killed or the run
folders were copied to another machine: what is missing is logged again from the run folder. Exit status 1 while anything is missing.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from common.base.checked import PathText
from common.base.errors import report_errors
from common.cli import parse
from common.config import RUNS_DIR


@dataclass(frozen=True)
class SyncConfig:
    runs: Annotated[tuple[PathText, ...], tyro.conf.Positional] = ()
    """Ids or folders of the runs. None given: all in runs_dir."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""
    watch: bool = False
    """Go on sending until Ctrl-C, each row once: for runs that train where there is no network, from a machine that has one."""


def main(config: SyncConfig) -> int:
    """→ exit status."""
    from common.tracking.sync import sync, watch

    return (watch if config.watch else sync)(config.runs, config.runs_dir)


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse(SyncConfig, description=__doc__)))

"""Sends offline runs to W&B, and checks on the server that everything arrived.

    python sync.py              # every run in runs/ that W&B does not have whole
    python sync.py RUN …        # these runs

`wandb sync` does the sending. It can say "Finished" while artifacts are missing, as after the run folders were copied to
another machine: what is missing is logged again from the run folder. Exit status 1 while anything is missing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.base.errors import report_errors
from common.cli import parse


@dataclass(frozen=True)
class SyncConfig:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Ids or folders of the runs. None given: all in runs_dir."""
    runs_dir: str = "runs"
    """Folder of the run folders."""


def main(config: SyncConfig) -> int:
    from common.base.errors import UserError
    from common.runs.find import find_run, list_runs
    from common.tracking.mode import logged_in
    from common.tracking.sync import markdown_table, sync_run

    folders = [find_run(config.runs_dir, run, "run") for run in config.runs] or list_runs(config.runs_dir)
    if not folders:
        raise UserError(f"there are no runs in {config.runs_dir}; name the folder with --runs_dir")
    if not logged_in():
        raise UserError("not logged in to W&B; run `wandb login`, or set WANDB_API_KEY")

    rows = [row for folder in folders for row in sync_run(folder)]
    print(markdown_table(rows))
    missing = sum(not row.complete for row in rows)
    if missing:
        print(f"{missing} of {len(rows)} W&B runs are not whole on the server; run this again later", file=sys.stderr)
        return 1
    print(f"all {len(rows)} W&B runs of {len(folders)} run folders in {Path(config.runs_dir)} are whole on the server")
    return 0


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse(SyncConfig, description=__doc__)))

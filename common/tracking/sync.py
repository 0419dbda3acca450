"""What `sync.py` does: compares what a run told W&B with what the server has, sends, compares again, and logs again."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.base.errors import UserError
from common.base.terminal import progress_bar
from common.base.text import markdown_table
from common.runs.find import find_run, list_runs
from common.runs.folder import RunFolder
from common.runs.records import TrackedRun
from common.tracking import server
from common.tracking.artifacts import LocalArtifact, local_artifacts
from common.tracking.logs import logged_rows, media_files
from common.tracking.mode import logged_in


@dataclass(frozen=True)
class Synced:
    """One W&B run after syncing."""

    run: str
    job_type: str
    rows: tuple[int, int]
    """rows of history that the server has, and that there are"""
    artifacts: tuple[int, int]
    """artifacts that the server has, and that there are"""
    files: tuple[int, int]
    """images and tables that the server has, and that there are"""
    state: str

    @property
    def complete(self) -> bool:
        return self.state in ("already there", "sent")


@dataclass(frozen=True)
class Wanted:
    """What the server should have of a run."""

    steps: frozenset[int]
    artifacts: list[LocalArtifact]
    files: frozenset[str]

    def missing_in(self, there: server.OnServer | None) -> bool:
        if there is None:
            return True
        arrived = all(artifact.is_among(there.artifacts) for artifact in self.artifacts)
        return not (arrived and self.steps <= there.steps and self.files <= there.files)


def sync(runs: Sequence[str], runs_dir: str) -> int:
    """Sends what W&B lacks of these runs (ids or folders; none: all in `runs_dir`), and prints how it then stands → exit status.

    Errors: `UserError` when there is no such run, or no account."""
    folders = [find_run(runs_dir, run, "run") for run in runs] or list_runs(runs_dir)
    if not folders:
        raise UserError(f"there are no runs in {runs_dir}; name the folder with --runs_dir")
    if not logged_in():
        raise UserError("not logged in to W&B; run `wandb login`, or set WANDB_API_KEY")
    rows = [row for folder in folders for row in sync_run(folder)]
    print(table(rows))
    missing = sum(not row.complete for row in rows)
    if missing:
        print(f"{missing} of {len(rows)} W&B runs are not whole on the server; run this again later", file=sys.stderr)
        return 1
    print(f"all {len(rows)} W&B runs of {len(folders)} run folders in {Path(runs_dir)} are whole on the server")
    return 0


def sync_run(folder: RunFolder) -> list[Synced]:
    """Sends all W&B runs that `folder` holds logs of: the training, its evaluations and its visualizations."""
    runs = [run for run in folder.read_tracking().runs if run.dirs]
    return [
        _sync_one(folder, run, local_artifacts(folder, run.id))
        for run in progress_bar(runs, desc=folder.id, unit=" runs")
    ]


def _sync_one(folder: RunFolder, run: TrackedRun, artifacts: list[LocalArtifact]) -> Synced:
    directories = [path for path in (folder.path / directory for directory in run.dirs) if path.is_dir()]
    logs = {directory: logged_rows([directory]) for directory in directories}
    rows = {step: row for log in logs.values() for step, row in log.items()}
    files = media_files(directories)
    wanted = Wanted(frozenset(rows), artifacts, frozenset(files))

    there, state = server.on_server(run), "already there"
    if wanted.missing_in(there):
        state, last = "sent", max(there.steps, default=-1) if there else -1
        # `wandb sync` appends all rows of a log, also those that had arrived before: a log that broke off goes on row by row.
        broken_off = any(min(log) <= last < max(log) for log in logs.values() if log)
        is_new = {directory: there is None or min(log, default=-1) > last for directory, log in logs.items()}
        unsent = [directory for directory in directories if is_new[directory] and not broken_off]
        if unsent:
            server.send(unsent)
            there = _settled(run, wanted)
        if there is not None and wanted.missing_in(there):
            tail = [] if unsent else [rows[step] for step in sorted(rows) if step > last]
            lost = {name: path for name, path in files.items() if name not in there.files}
            server.log_again(run, [a for a in artifacts if not a.is_among(there.artifacts)], tail, lost)
            there = _settled(run, wanted)
        if wanted.missing_in(there):
            state = "missing" if there is None else "incomplete"
    return Synced(
        run.id,
        run.job_type,
        (len(wanted.steps & there.steps) if there else 0, len(wanted.steps)),
        (sum(artifact.is_among(there.artifacts) for artifact in artifacts) if there else 0, len(artifacts)),
        (len(wanted.files & there.files) if there else 0, len(files)),
        state,
    )


def _settled(run: TrackedRun, wanted: Wanted) -> server.OnServer | None:
    """What the server has, once it has counted what was sent, which can take it a moment."""
    for wait in (0, 1, 3):
        time.sleep(wait)
        there = server.on_server(run)
        if not wanted.missing_in(there):
            break
    return there


def table(rows: Sequence[Synced]) -> str:
    """Markdown: a row for each W&B run."""
    lines = []
    for row in rows:
        counts = [f"{there} of {wanted}" for there, wanted in (row.rows, row.files, row.artifacts)]
        lines.append([row.run, row.job_type, *counts, row.state])
    return markdown_table(["run", "job", "rows", "files", "artifacts", "state"], lines)

"""What `sync.py` does: compares what a run told W&B with what the server has, sends, compares again, and logs again."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.base.errors import RunError, UserError
from common.base.signals import interruptible
from common.base.terminal import progress_bar
from common.base.text import counted, markdown_table, printable
from common.runs.find import find_run, list_runs
from common.runs.folder import RunFolder, config_values, run_state
from common.runs.records import TrackedRun, best_in_summary
from common.tracking import server
from common.tracking.artifacts import LocalArtifact, LocalFiles, LostFiles, local_artifacts
from common.tracking.logs import log_folders, logged_rows, may_be_sent, measured_rows, media_files
from common.tracking.mode import logged_in
from common.tracking.registry import remember_registered

LOOK_SECONDS = 10.0  # between two looks at the run folders


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
    new_rows: int = 0
    """rows that it did not have before"""

    @property
    def complete(self) -> bool:
        return self.state in ("already there", "sent", "training")


@dataclass(frozen=True)
class Wanted:
    """What the server should have of a run."""

    steps: frozenset[int]
    artifacts: list[LocalArtifact]
    files: frozenset[str]
    row_count: int = 0
    """rows at least, where more were logged than is known of what they said"""

    @property
    def rows(self) -> int:
        return max(len(self.steps), self.row_count)

    def rows_in(self, there: server.OnServer | None) -> int:
        if there is None:
            return 0
        return len(there.steps) if self.row_count > len(self.steps) else len(self.steps & there.steps)

    def missing_in(self, there: server.OnServer | None) -> bool:
        if there is None:
            return True
        arrived = all(artifact.is_among(there.artifacts) for artifact in self.artifacts)
        all_rows = self.steps <= there.steps and len(there.steps) >= self.row_count
        return not (arrived and all_rows and self.files <= there.files)


def sync(runs: Sequence[str], runs_dir: str) -> int:
    """Sends what W&B lacks of these runs (ids or folders; none: all in `runs_dir`), and prints how it then stands → exit status.

    Errors: `UserError` when there is no such run, or no account."""
    folders = [find_run(runs_dir, run, "run") for run in runs] or list_runs(runs_dir)
    if not folders:
        raise UserError(f"there are no runs in {runs_dir}; name the folder with --runs_dir")
    check_logged_in()
    rows, damaged = list[Synced](), 0
    for folder in folders:
        try:
            lines = folder.read_tracking().damaged
            rows += sync_run(folder)
        except UserError as error:  # of a damaged run, which costs the others nothing
            lines = [str(error)]
        damaged += bool(lines)
        print(*(f"W&B: {printable(line, 500)}\n" for line in lines), sep="", end="", file=sys.stderr)
    print(table(rows))
    if damaged:
        print(
            f"{damaged} of {len(folders)} run folders are damaged; what can't be read was passed over", file=sys.stderr
        )
        return 1
    missing = sum(not row.complete for row in rows)
    if missing:
        print(f"{missing} of {len(rows)} W&B runs are not whole on the server; run this again later", file=sys.stderr)
        return 1
    print(f"all {len(rows)} W&B runs of {len(folders)} run folders in {Path(runs_dir)} are whole on the server")
    return 0


def check_logged_in() -> None:
    """Errors: `UserError`."""
    if not logged_in():
        raise UserError("not logged in to W&B; run `wandb login`, or set WANDB_API_KEY")


def sync_run(folder: RunFolder, live: bool = False) -> list[Synced]:
    """Sends all W&B runs that `folder` holds logs of: the training, its evaluations and its visualizations. live: the training goes on."""
    runs = [run for run in folder.read_tracking().runs if run.dirs]
    return [
        _sync_one(folder, run, local_artifacts(folder, run.id), live and run.job_type == "train")
        for run in progress_bar(runs, desc=printable(folder.id), unit=" runs")
    ]


def _sync_one(folder: RunFolder, run: TrackedRun, artifacts: list[LocalArtifact], live: bool) -> Synced:
    """live: it is offline and goes on, so that its rows are sent one by one: of a whole log the server would think that it had ended."""
    directories, all_of_them = log_folders(folder, run)
    logs = {directory: logged_rows([directory]) for directory in directories}
    # The run folder is the truth: when W&B's process is killed, no log has the rows that it was told since. Those that a log has
    # say more: which figures belong to them.
    measured = measured_rows(folder) if run.job_type == "train" else {}
    rows = {**measured, **{step: row for log in logs.values() for step, row in log.items()}}
    files = media_files(folder, directories)
    wanted = Wanted(frozenset(rows), artifacts, frozenset(files), run.rows)

    there, state = server.on_server(run), "already there"
    before = wanted.rows_in(there)
    unended = there is not None and not there.ended and run.exit_code is not None
    if wanted.missing_in(there) and measured and run.mode == "online" and run_state(folder) == "running":
        state = "running"  # and sending: the rows of a second process would get in the way
    elif wanted.missing_in(there) or unended:
        state, last = "sent", max(there.steps, default=-1) if there else -1
        # `wandb sync` appends all rows of a log, also those that had arrived before: a log that broke off goes on row by row.
        broken_off = any(min(log) <= last < max(log) for log in logs.values() if log)
        is_new = {directory: there is None or min(log, default=-1) > last for directory, log in logs.items()}
        unsent = [d for d in directories if is_new[d] and not broken_off and not live and may_be_sent(folder, d)]
        if unsent:
            server.send(unsent)
            there = _settled(run, wanted)
        if wanted.missing_in(there) or (unended and not unsent):
            known = there or server.OnServer(frozenset(), frozenset(), frozenset())
            sent = {step for directory in unsent for step in logs[directory]}
            # W&B takes no row behind its last one: what was sent and has not arrived must come before what follows it.
            after = math.inf if there and sent - there.steps else max(known.steps, default=-1)
            tail = [rows[step] for step in sorted(rows) if step > after]
            if there or tail:
                lost = {name: path for name, path in files.items() if name not in known.files}
                again = [a for a in artifacts if not isinstance(a, LostFiles) and not a.is_among(known.artifacts)]
                summary = _summary(folder) if (tail or unended) and measured else {}
                options = None if there else _options(folder, run)
                server.log_again(run, again, tail, lost, summary, options, ends=not live)
                there = _settled(run, wanted)
        if wanted.missing_in(there):
            state = "missing" if there is None else "incomplete"
        elif live:
            state = "training"
    if not wanted.missing_in(there) and not all(_registered(folder, run, artifact) for artifact in artifacts):
        state = "incomplete"
    if not all_of_them:
        state = "incomplete"
    return Synced(
        run.id,
        run.job_type,
        (wanted.rows_in(there), wanted.rows),
        (sum(artifact.is_among(there.artifacts) for artifact in artifacts) if there else 0, len(artifacts)),
        (len(wanted.files & there.files) if there else 0, len(files)),
        state,
        wanted.rows_in(there) - before,
    )


def _registered(folder: RunFolder, run: TrackedRun, artifact: LocalArtifact) -> bool:
    """Whether what is to be in W&B's Registry is there: an offline run can't link it. It is linked now, where it was not."""
    if not isinstance(artifact, LocalFiles) or artifact.logged.register is None or artifact.logged.registered:
        return True
    linked = server.link(run, artifact.logged)
    if linked:
        remember_registered(folder, artifact.logged)
    return linked


def _summary(folder: RunFolder) -> dict[str, Any]:
    """What W&B's summary says of how a run ended."""
    known = folder.read_summary()
    best = best_in_summary(known.best_epoch, known.best_validation_accuracy, known.best_by, known.best_score)
    if known.stopped_early is not None:
        best["stopped_early"] = known.stopped_early
    ended = {"status": known.status} if known.status in ("finished", "interrupted", "failed") else {}
    return {**best, **ended}


def _options(folder: RunFolder, run: TrackedRun) -> dict[str, Any]:
    """What `wandb.init` is told of a run that the server does not know."""
    if run.job_type != "train":
        return {"job_type": run.job_type, "group": run.group or folder.id}
    config = config_values(folder)
    return {"job_type": run.job_type, "group": run.group or config["group"], "name": folder.id, "config": config}


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
        lines.append([printable(row.run), printable(row.job_type), *counts, row.state])
    return markdown_table(["run", "job", "rows", "files", "artifacts", "state"], lines)


# --- --watch ---------------------------------------------------------------------------------------------------------


def watch(runs: Sequence[str], runs_dir: str) -> int:
    """Looks at these runs (ids or folders; none: all in `runs_dir`, also those that begin later) until Ctrl-C or SIGTERM → exit status.

    Errors: `UserError` when there is no such run, or no account."""
    chosen = [find_run(runs_dir, run, "run") for run in runs]
    check_logged_in()
    sent: dict[str, int] = {}
    seen: dict[Path, object] = {}
    with interruptible("ending after this run; once more ends at once", "stopped at once") as interrupt:
        print("Watching for rows to send; Ctrl-C ends.", flush=True)
        pause = 0.0
        while interrupt.sleep(pause):
            for folder in chosen or list_runs(runs_dir):
                state = _signature(folder)
                if state != seen.get(folder.path) and not interrupt.stopped():
                    rows, whole = send_new(folder)
                    for row in rows:
                        sent[row.run] = sent.get(row.run, 0) + row.new_rows
                        if row.new_rows:
                            print(f"{time.strftime('%H:%M:%S')}  {printable(row.run)}: {_counted(row)}", flush=True)
                    if whole:  # else the server is asked again
                        seen[folder.path] = state
            pause = LOOK_SECONDS
    total, count = sum(sent.values()), sum(map(bool, sent.values()))
    print(f"sent {counted(total, 'row')} of {counted(count, 'W&B run')}; `python sync.py` checks what arrived")
    return interrupt.exit_status


def send_new(folder: RunFolder) -> tuple[list[Synced], bool]:
    """What was sent of a run folder, and whether that is all there was to send. W&B's trouble is said."""
    try:
        rows = sync_run(folder, live=run_state(folder) == "running")
    except (UserError, RunError) as error:
        print(f"W&B: {printable(folder.id)}: {printable(error, 300)}", file=sys.stderr)
        return [], False
    return rows, all(row.complete for row in rows)


def _counted(row: Synced) -> str:
    return f"{counted(row.new_rows, 'row')} sent, {row.rows[0]} of {row.rows[1]} there ({row.state})"


def _signature(folder: RunFolder) -> object:
    """Changes with whatever there is to send."""
    files = (folder.metrics, folder.tracking, folder.summary)
    return [(file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files]

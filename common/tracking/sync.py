"""What `sync.py` does: compares what a run told W&B with what the server has, sends, compares again, and logs again."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.base.files import sha256_of
from common.runs.folder import RunFolder
from common.tracking import server


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


def sync_run(folder: RunFolder) -> list[Synced]:
    """Sends all W&B runs that `folder` holds logs of: the training, its evaluations and its visualizations."""
    record = folder.read_tracking()
    runs = [run for run in record["runs"] if run["dirs"]]
    return [
        _sync_one(folder, run, expected_artifacts(folder, run["id"])) for run in tqdm(runs, desc=folder.id, unit="run")
    ]


def _sync_one(folder: RunFolder, run: dict[str, Any], artifacts: list[dict[str, Any]]) -> Synced:
    directories = [path for path in (folder.path / directory for directory in run["dirs"]) if path.is_dir()]
    logs = {directory: server.logged_rows([directory]) for directory in directories}
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
            server.log_again(run, [a for a in artifacts if not _arrived(a, there)], tail, lost)
            there = _settled(run, wanted)
        if wanted.missing_in(there):
            state = "missing" if there is None else "incomplete"
    return Synced(
        run["id"],
        run["job_type"],
        (len(wanted.steps & there.steps) if there else 0, len(wanted.steps)),
        (sum(_arrived(artifact, there) for artifact in artifacts) if there else 0, len(artifacts)),
        (len(wanted.files & there.files) if there else 0, len(files)),
        state,
    )


@dataclass(frozen=True)
class Wanted:
    """What the server should have of a run."""

    steps: frozenset[int]
    artifacts: list[dict[str, Any]]
    files: frozenset[str]

    def missing_in(self, there: server.OnServer | None) -> bool:
        if there is None:
            return True
        arrived = all(_arrived(artifact, there) for artifact in self.artifacts)
        return not (arrived and self.steps <= there.steps and self.files <= there.files)


def _settled(run: dict[str, Any], wanted: Wanted) -> server.OnServer | None:
    """What the server has, once it has counted what was sent, which can take it a moment."""
    for wait in (0, 1, 3):
        time.sleep(wait)
        there = server.on_server(run)
        if not wanted.missing_in(there):
            break
    return there


def media_files(directories: list[Path]) -> dict[str, Path]:
    """The images and tables that W&B's logs of a run hold, by the names that they have on the server."""
    roots = [directory / "files" for directory in directories]
    return {
        path.relative_to(root).as_posix(): path for root in roots for path in root.glob("media/**/*") if path.is_file()
    }


def expected_artifacts(folder: RunFolder, run_id: str) -> list[dict[str, Any]]:
    """What the W&B run logged and the folder still holds: each with `name`, `type`, `aliases`, `metadata` and its `paths`.

    Weights that later ones of the same run have replaced are not there to be sent.
    """
    record = folder.read_tracking()
    found = []
    for artifact in record["artifacts"]:
        paths = [folder.path / file for file in artifact["files"]]
        if artifact["run_id"] == run_id and all(p.exists() for p in paths) and sha256_of(*paths) == artifact["digest"]:
            found.append({**artifact, "paths": paths})
    for table in record["tables"]:
        path = folder.path / table["file"]
        if table["run_id"] == run_id and path.exists():
            found.append({"name": server.table_artifact_name(run_id, table["key"]), "table": path, "key": table["key"]})
    return found


def _arrived(artifact: dict[str, Any], there: server.OnServer) -> bool:
    """Whether a version of that name holds these very files; of a Table, whether it is there at all."""
    if "table" in artifact:
        return artifact["name"] in {name for name, _ in there.artifacts}
    return (artifact["name"], frozenset(map(server.content_digest, artifact["paths"]))) in there.artifacts


def markdown_table(rows: list[Synced]) -> str:
    header = ["run", "job", "rows", "files", "artifacts", "state"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        counts = [f"{there} of {wanted}" for there, wanted in (row.rows, row.files, row.artifacts)]
        lines.append([row.run, row.job_type, *counts, row.state])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

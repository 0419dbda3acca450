"""What `sync.py` does: compares what a run told W&B with what the server has, sends, compares again, and logs again."""

from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from common import tracking
from common.files import sha256_of
from common.runs import RunFolder


@dataclass(frozen=True)
class Synced:
    """One W&B run after syncing."""

    run: str
    job_type: str
    rows: tuple[int, int]
    """rows of history that the server has, and that there are"""
    artifacts: tuple[int, int]
    """artifacts that the server has, and that there are"""
    files: int
    """files of the run on the server"""
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
    steps = tracking.logged_steps(directories)
    there = tracking.on_server(run)
    state = "already there"
    if not _whole(there, steps, artifacts):
        state = "sent"
        tracking.send(directories)
        there = tracking.on_server(run)
        if there is not None and (missing := [a for a in artifacts if not _arrived(a, there)]):
            tracking.log_again(run, missing)
            there = tracking.on_server(run)
        if not _whole(there, steps, artifacts):
            state = "missing" if there is None else "incomplete"
    rows = len(steps & there.steps) if there else 0
    arrived = sum(_arrived(artifact, there) for artifact in artifacts) if there else 0
    files = there.files if there else 0
    return Synced(run["id"], run["job_type"], (rows, len(steps)), (arrived, len(artifacts)), files, state)


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
            found.append(
                {"name": tracking.table_artifact_name(run_id, table["key"]), "table": path, "key": table["key"]}
            )
    return found


def _whole(there: tracking.OnServer | None, steps: set[int], artifacts: list[dict[str, Any]]) -> bool:
    return there is not None and steps <= there.steps and all(_arrived(artifact, there) for artifact in artifacts)


def _arrived(artifact: dict[str, Any], there: tracking.OnServer) -> bool:
    """Whether a version of that name holds these very files; of a Table, whether it is there at all."""
    if "table" in artifact:
        return artifact["name"] in {name for name, _ in there.artifacts}
    return (artifact["name"], frozenset(map(tracking.content_digest, artifact["paths"]))) in there.artifacts


def markdown_table(rows: list[Synced]) -> str:
    header = ["run", "job", "rows", "files", "artifacts", "state"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        rows_there, artifacts_there = (f"{a} of {b}" for a, b in (row.rows, row.artifacts))
        lines.append([row.run, row.job_type, rows_there, str(row.files), artifacts_there, row.state])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

"""What the W&B server has of a run, and giving it what it lacks."""

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from common.base.errors import RunError
from common.tracking.mode import PROJECT, SETTINGS, choose_mode, server_answers


def logged_rows(directories: Iterable[Path]) -> dict[int, dict[str, Any]]:
    """The history rows in W&B's local logs by step, nested values under keys with dots; those that a crash tore, too, are read
    as far as they go."""
    rows = {}
    for directory in directories:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory)]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
            for line in shown.splitlines():
                if '"type":"history"' in line:
                    row = json.loads(line)["history"]["item"]
                    rows[row["_step"]] = row
    return rows


def download(reference: str, into: Path, project: str | None = None, entity: str | None = None) -> Path | None:
    """The weights of an artifact in W&B, in a folder of their own under `into`; None offline, or where W&B has no such artifact."""
    if choose_mode() != "online" or not server_answers():
        return None
    name = reference if ":" in reference else f"{reference}:latest"
    project = project or os.environ.get("WANDB_PROJECT") or PROJECT
    prefix = f"{entity}/" * bool(entity) + f"{project}/" if "/" not in name else ""
    try:
        artifact = wandb.Api().artifact(prefix + name, type="model")
        folder = Path(artifact.download(root=str(into / artifact.name.replace(":", "-"))))
    except Exception as error:
        print(f"W&B: {prefix + name} can't be downloaded ({' '.join(str(error).split())[:200]})", file=sys.stderr)
        return None
    return next(folder.glob("*.safetensors"), None)


# After the runs: what sync.py needs.
@dataclass(frozen=True)
class OnServer:
    """What the server has of a run."""

    steps: frozenset[int]
    artifacts: frozenset[tuple[str, frozenset[str]]]
    """name without version, and the digests of the files"""
    files: frozenset[str]
    """names"""


def on_server(record: dict[str, Any]) -> OnServer | None:
    """What the server has of the run that `record`, of tracking.json, is about; None when it does not know it.

    Errors: `RunError` when the server can't be asked."""
    try:
        api = wandb.Api(timeout=60)
        run = api.run(_path_of(record, api))
        logged = [*run.logged_artifacts(), *run.used_artifacts()]
        return OnServer(
            frozenset(row["_step"] for row in run.scan_history()),
            frozenset((artifact.name.partition(":")[0], _digests(artifact)) for artifact in logged),
            frozenset(file.name for file in run.files()),
        )
    except Exception as error:
        if "could not find" in str(error).lower():
            return None
        raise RunError(
            f"W&B can't be asked what it has of run {record['id']} ({error}); run sync.py again later"
        ) from None


def _path_of(record: dict[str, Any], api: wandb.Api) -> str:
    return f"{record['entity'] or api.default_entity}/{record['project']}/{record['id']}"


def _digests(artifact: wandb.Artifact) -> frozenset[str]:
    return frozenset(entry.digest for entry in artifact.manifest.entries.values())


def content_digest(path: Path) -> str:
    """As W&B names a file's content: base64 of its MD5."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.md5(file.read(), usedforsecurity=False).digest()).decode()


def table_artifact_name(run_id: str, key: str) -> str:
    """The artifact that the client makes of a Table logged as `key`; with a checksum where an artifact may not be named so."""
    name = f"run-{run_id}-{key}"
    allowed = re.sub(r"[^a-zA-Z0-9_.-]+", "", name)
    if allowed == name:
        return name
    checksum = base64.urlsafe_b64encode(zlib.crc32(name.encode()).to_bytes(4, "big"))
    return f"{allowed}-{checksum.decode().rstrip('=')}"


def send(directories: Sequence[Path]) -> None:
    """`wandb sync`, for logs of one run, whatever the client believes to have sent already."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", "--include-synced"]
    done = subprocess.run([*command, *map(str, directories)], capture_output=True, text=True)
    if done.returncode:
        print(f"W&B: wandb sync says: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)


def log_again(
    record: dict[str, Any], artifacts: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], files: dict[str, Path]
) -> None:
    """Gives to a run that the server knows what it lacks, and waits until it is there: artifacts, as
    `common.sync.expected_artifacts` gives them, rows from `logged_rows` that come after all of its own, and files by name. The run
    then ends as it ended here; one that was killed as failed."""
    if artifacts or rows:
        options = {"id": record["id"], "project": record["project"], "entity": record["entity"], "resume": "must"}
        settings = wandb.Settings(silent=True, console="off", finish_timeout=SETTINGS["finish_timeout"])
        with tempfile.TemporaryDirectory() as scratch, _said(record):
            run = wandb.init(**options, mode="online", dir=scratch, settings=settings)
            for row in rows:
                run.log(_nested(row), step=row["_step"], commit=True)
            for wanted in artifacts:
                with _said(record):
                    _log_one_again(run, wanted)
            run.finish(exit_code=record.get("exit_code", 1))
    api = wandb.Api(timeout=60)
    for name, path in files.items():
        with _said(record):
            root = path.parents[len(Path(name).parts) - 1]
            api.run(_path_of(record, api)).upload_file(str(path), root=str(root))


def _log_one_again(run: Any, wanted: dict[str, Any]) -> None:
    if "table" in wanted:
        artifact = wandb.Artifact(wanted["name"], "table")  # the client keeps its own type, run_table, to itself
        table = json.loads(wanted["table"].read_text())
        artifact.add(wandb.Table(columns=table["columns"], data=table["rows"]), wanted["key"])
        run.log_artifact(artifact).wait()
        return
    artifact = wandb.Artifact(wanted["name"], wanted["type"], metadata=wanted["metadata"])
    for path in wanted["paths"]:
        artifact.add_file(str(path.resolve()), name=path.name, policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=wanted["aliases"]).wait()


@contextlib.contextmanager
def _said(record: dict[str, Any]) -> Iterator[None]:
    """What the server refuses is said; the next comparison finds it missing."""
    try:
        yield
    except Exception as error:
        print(f"W&B: {record['id']}: {' '.join(str(error).split())[:300]}", file=sys.stderr)


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `logged_rows` as it was logged: {"loss.path": p} → {"loss": {"path": p}}."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        *parents, last = key.split(".")
        inner = result
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if key not in ("_step", "_runtime"):
            inner[last] = value
    return result

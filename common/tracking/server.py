"""What the W&B server has of a run, and giving it what it lacks."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from common.base.errors import RunError
from common.base.text import one_line
from common.runs.records import LoggedArtifact, TrackedRun
from common.tracking.artifacts import SendableArtifact
from common.tracking.axes import define_axes
from common.tracking.logs import nested
from common.tracking.mode import PROJECT, SETTINGS, choose_mode, server_answers
from common.tracking.registry import registry_path


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
        print(f"W&B: {prefix + name} can't be downloaded ({one_line(error, 200)})", file=sys.stderr)
        return None
    return next(folder.glob("*.safetensors"), None)


@dataclass(frozen=True)
class OnServer:
    """What the server has of a run."""

    steps: frozenset[int]
    artifacts: frozenset[tuple[str, frozenset[str]]]
    """name without version, and the digests of the files"""
    files: frozenset[str]
    """names"""
    ended: bool = True
    """whether it takes the run for one that has come to an end"""


def on_server(record: TrackedRun) -> OnServer | None:
    """What the server has of the run that `record` is about; None when it does not know it.

    Errors: `RunError` when the server can't be asked."""
    try:
        api = wandb.Api(timeout=60)
        run = api.run(_path_of(record, api))
        logged = [*run.logged_artifacts(), *run.used_artifacts()]
        return OnServer(
            frozenset(row["_step"] for row in run.scan_history(use_cache=False)),  # what it has now
            frozenset((artifact.name.partition(":")[0], _digests(artifact)) for artifact in logged),
            frozenset(file.name for file in run.files()),
            run.state not in ("running", "crashed"),
        )
    except Exception as error:
        if "could not find" in str(error).lower():
            return None
        raise RunError(
            f"W&B can't be asked what it has of run {record.id} ({error}); run sync.py again later"
        ) from None


def _path_of(record: TrackedRun, api: "wandb.Api") -> str:  # in quotes: W&B imports half a second of code for it
    return f"{record.entity or api.default_entity}/{record.project}/{record.id}"


def _digests(artifact: wandb.Artifact) -> frozenset[str]:
    return frozenset(entry.digest for entry in artifact.manifest.entries.values())


def send(directories: Sequence[Path]) -> None:
    """`wandb sync`, for logs of one run, whatever the client believes to have sent already."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", "--include-synced"]
    # Each log says which run it is of.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_RUN_ID"}
    logs = [str(path.absolute()) for path in directories]
    done = subprocess.run([*command, *logs], capture_output=True, encoding="utf-8", errors="replace", env=env)
    if done.returncode:
        print(f"W&B: wandb sync says: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)


def log_again(
    record: TrackedRun,
    artifacts: Sequence[SendableArtifact],
    rows: Sequence[dict[str, Any]],
    files: dict[str, Path],
    summary: dict[str, Any] | None = None,
    new: dict[str, Any] | None = None,
    ends: bool = True,
) -> None:
    """Gives to a run what the server lacks of it, and waits until it is there. The run then ends as it ended here; one that was
    killed as failed.

    Bytes that a collection holds already stay the artifact of the run that logged them first (wandb#5359): this run is then said
    to use them.

    Args:
        rows: of `common.tracking.logs`; they come after all that the server has.
        files: images and tables by their names on the server.
        summary: what the run's summary says in the end.
        new: options of `wandb.init` for a run that the server does not know. None: it knows the run.
        ends: False for a run that goes on, and is then not taken for one that has ended.
    """
    if artifacts or rows or summary:
        settings = wandb.Settings(
            silent=True, console="off", finish_timeout=SETTINGS["finish_timeout"], x_update_finish_state=ends
        )
        with tempfile.TemporaryDirectory() as scratch, _said(record):
            run = wandb.init(
                id=record.id,
                project=record.project,
                entity=record.entity,
                mode="online",
                dir=scratch,
                settings=settings,
                **({"resume": "must"} if new is None else {"resume": "allow", **new}),
            )
            if record.job_type == "train":
                define_axes(run)
            for row in rows:
                run.log(nested(row), step=row["_step"], commit=True)
            for artifact in artifacts:
                with _said(record):
                    logged = run.log_artifact(artifact.made(), aliases=artifact.aliases).wait()
                    maker = logged.logged_by()
                    if maker is None or maker.id != record.id:
                        run.use_artifact(logged)
            run.summary.update(summary or {})
            run.finish(exit_code=1 if record.exit_code is None else record.exit_code)
    api = wandb.Api(timeout=60)
    for name, path in files.items():
        with _said(record):
            root = path.parents[len(Path(name).parts) - 1]
            api.run(_path_of(record, api)).upload_file(str(path), root=str(root))


def link(record: TrackedRun, logged: LoggedArtifact) -> bool:
    """Links what a run logged into W&B's Registry → whether that went well; what the server refuses is said."""
    assert logged.register is not None
    with _said(record):
        api = wandb.Api(timeout=60)
        there = [a for a in api.run(_path_of(record, api)).logged_artifacts() if a.name.startswith(f"{logged.name}:")]
        there[-1].link(registry_path(logged.register))
        return True
    print(
        f"W&B: {record.id}: {logged.name} is not in the Registry as {logged.register}; run sync.py again later",
        file=sys.stderr,
    )
    return False


@contextlib.contextmanager
def _said(record: TrackedRun) -> Iterator[None]:
    """What the server refuses is said; the next comparison finds it missing."""
    try:
        yield
    except Exception as error:
        print(f"W&B: {record.id}: {one_line(error, 300)}", file=sys.stderr)

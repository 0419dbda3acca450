"""The run folder, and finding one: by id, by path, by artifact name, or as the newest. Imports no torch."""

import contextlib
import dataclasses
import os
import secrets
import socket
import string
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.config import TrainConfig, as_dict
from common.errors import UserError
from common.files import read_json, read_json_lines, safe_name, write_atomic, write_json


@dataclass(frozen=True)
class RunFolder:
    """`runs/<run-id>/`, all that a run leaves."""

    path: Path

    id = property(lambda self: self.path.name)
    config = property(lambda self: self.path / "config.yaml")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    summary = property(lambda self: self.path / "summary.json")
    split = property(lambda self: self.path / "split.json")
    tracking = property(lambda self: self.path / "tracking.json")
    loss_figure = property(lambda self: self.path / "loss.png")
    last = property(lambda self: self.path / "checkpoints" / "last.pt")
    best = property(lambda self: self.path / "checkpoints" / "best.safetensors")
    evaluation = property(lambda self: self.path / "evaluation")
    visualization = property(lambda self: self.path / "visualization")
    wandb = property(lambda self: self.path / "wandb")

    def read_summary(self) -> dict[str, Any]:
        """Empty where there is none."""
        return read_json(self.summary) if self.summary.exists() else {}

    def update_summary(self, **values: Any) -> None:
        """Adds to summary.json; it always says when it was last true."""
        write_json(self.summary, {**self.read_summary(), **values, "updated": time.time()})

    def read_tracking(self) -> dict[str, list[dict[str, Any]]]:
        """What W&B was told of this run: `runs`, `artifacts` and `tables`."""
        known = read_json(self.tracking) if self.tracking.exists() else {}
        return {"runs": [], "artifacts": [], "tables": [], **known}

    def _remove_leftovers(self) -> None:
        """Removes what processes that were killed were writing: temporary files, which have the process's id in their name."""
        for path in (*self.path.glob(".*.tmp*"), *self.last.parent.glob(".*.tmp*")):
            owner = path.name.split(".")[-3 if path.suffix != ".tmp" else -2].partition("-")[0]
            if owner.isdigit() and not _alive(int(owner)):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process a run. Errors: `UserError` when another holds it. The lock ends with the process, however it ends."""
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"run {self.id} is in use by another process; wait for it, or choose another --run_id"
                ) from None
            self._remove_leftovers()
            yield


def new_run_id() -> str:
    """Date, time and four letters: sorts by age, and two that start in one second differ."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    return time.strftime("%Y%m%d-%H%M%S-") + letters


def plan_run(runs_dir: str, run_id: str | None) -> RunFolder:
    """The folder of a new run, not made yet. Errors: `UserError` when the id is taken or can't be a folder's name,
    or `runs_dir` can't be written."""
    chosen = safe_name(run_id or os.environ.get("WANDB_RUN_ID") or new_run_id(), "--run_id")
    folder = RunFolder(Path(runs_dir) / chosen)
    if folder.config.exists():
        raise UserError(
            f"--run_id {chosen} is taken: {folder.path} holds a run; go on with --resume {chosen}, or choose another id"
        )
    check_writable(Path(runs_dir), "--runs_dir")
    return folder


def open_run(config: TrainConfig) -> RunFolder:
    """The folder of a new run, or of the one to go on with. Errors: as `plan_run` and `find_run`."""
    if config.resume is None:
        return plan_run(config.runs_dir, config.run_id)
    return find_run(config.runs_dir, config.resume, "--resume")


def check_same_data(folder: RunFolder, digest: str) -> None:
    """Errors: `UserError` when a run to go on with was trained on other data."""
    if read_json(folder.split).get("digest") != digest:
        raise UserError(f"--resume {folder.id}: the training data has changed since; restore it, or begin a new run")


def check_writable(folder: Path, flag: str) -> None:
    """Errors: `UserError` when nothing can be written under `folder`. Leaves nothing behind."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{flag} is {str(folder)!r}, but {existing} is not a folder")
    probe = existing / f".write-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag} is {str(folder)!r}, which can't be written: {error.strerror}") from None


def create_run(folder: RunFolder, config: TrainConfig, split: dict[str, Any]) -> None:
    """Writes split.json, summary.json and, last, config.yaml: with it the run can be seen, and its id is taken."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.split, split)
    folder.update_summary(run_id=folder.id, job_type="train", started=time.time(), seconds=0.0)
    mark_running(folder)
    save_config(folder, config)


def mark_running(folder: RunFolder) -> None:
    """A run that is `running` and whose process is gone has crashed."""
    folder.update_summary(status="running", error=None, pid=os.getpid(), host=socket.gethostname())


def save_config(folder: RunFolder, config: TrainConfig) -> None:
    values = as_dict(dataclasses.replace(config, run_id=folder.id, resume=None))
    write_atomic(folder.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_config(folder: RunFolder) -> TrainConfig:
    """config.yaml as a `TrainConfig`. Errors: `UserError` naming the file."""
    try:
        values = yaml.safe_load(folder.config.read_text())
        names = {field.name for field in dataclasses.fields(TrainConfig)}
        if not isinstance(values, dict) or not set(values) <= names:
            raise ValueError(
                f"unknown keys {sorted(set(values) - names)}" if isinstance(values, dict) else "not a mapping"
            )
        return TrainConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder.config} can't be read as a run's config: {error}") from None


def list_runs(runs_dir: str | Path) -> list[RunFolder]:
    """Every folder with a config, a summary or weights, oldest first."""
    root = Path(runs_dir)
    folders = [RunFolder(path) for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    runs = [folder for folder in folders if any(p.exists() for p in (folder.config, folder.summary, folder.best))]
    return sorted(runs, key=_age)


def _age(folder: RunFolder) -> tuple[float, str]:
    with contextlib.suppress(UserError):
        return float(folder.read_summary().get("started", 0.0)), folder.id
    return 0.0, folder.id


def find_run(runs_dir: str | Path, reference: str, flag: str) -> RunFolder:
    """A run by id or folder. Errors: `UserError` naming `flag` and the ids there are."""
    for path in (Path(runs_dir) / reference, Path(reference)):
        folder = RunFolder(path.resolve())
        if path.is_dir() and (folder.config.exists() or folder.best.exists()):
            return RunFolder(path)
    known = [folder.id for folder in list_runs(runs_dir)][-5:]
    there = f"the newest there: {', '.join(reversed(known))}" if known else "there are no runs in it"
    raise UserError(f"{flag} {reference} is no run in {runs_dir} and no run's folder; {there}")


def find_artifact(runs_dir: str | Path, reference: str) -> tuple[RunFolder, dict[str, Any]] | None:
    """`[entity/project/]name[:alias]` among the artifacts that the runs in `runs_dir` logged, as W&B would resolve it: versions
    count up in order of logging, and an alias is with the version that had it last. None: no such artifact."""
    name, _, alias = reference.rpartition("/")[2].partition(":")
    logged = []
    for folder in list_runs(runs_dir):
        with contextlib.suppress(UserError):
            logged += [(a["time"], folder, a) for a in folder.read_tracking()["artifacts"] if a["name"] == name]
    logged.sort(key=lambda entry: (entry[0], entry[1].id))
    versions: list[tuple[RunFolder, dict[str, Any]]] = []
    for _, folder, artifact in logged:  # bytes that were logged before are no new version, as with W&B
        same = next((i for i, (_, known) in enumerate(versions) if known["digest"] == artifact["digest"]), None)
        if same is None:
            versions.append((folder, artifact))
    aliases = {f"v{number}": version for number, version in enumerate(versions)}
    for _, folder, artifact in logged:
        for given in (*artifact["aliases"], "latest"):
            aliases[given] = (folder, artifact)
    return aliases.get(alias or "latest")


def run_state(folder: RunFolder) -> str:
    """`finished`, `interrupted`, `failed`, `running`, `crashed`, or `unknown` for a folder without a summary."""
    summary = folder.read_summary()
    status = summary.get("status", "unknown")
    if status == "running" and summary.get("host") == socket.gethostname() and not _alive(summary.get("pid", 0)):
        return "crashed"
    return status


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError, TypeError):
        pass
    return True


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, oldest first."""
    return read_json_lines(folder.metrics)


def resolve_checkpoint(
    reference: str | None, runs_dir: str | Path, download: Callable[[str], Path | None] | None = None
) -> tuple[Path, str | None]:
    """The weights that `--checkpoint` names, and the artifact they are, if it was named.

    A file; a run's id or folder; an artifact, looked up by `download` in W&B and, where that gives None, among the local runs.
    None is the newest run that has weights. Errors: `UserError` that says what there is.
    """
    if reference is None:
        runs = [folder for folder in list_runs(runs_dir) if folder.best.exists()]
        if not runs:
            raise UserError(
                f"no run with weights in {runs_dir}; train one with train.py, or give --checkpoint or --runs_dir"
            )
        return runs[-1].best, None
    if Path(reference).is_file():
        return Path(reference), None
    is_run = ":" not in reference and any((root / reference).is_dir() for root in (Path(runs_dir), Path()))
    if is_run:
        folder = find_run(runs_dir, reference, "--checkpoint")
        if not folder.best.exists():
            raise UserError(
                f"--checkpoint {reference}: {folder.best} does not exist; the run has not finished an epoch"
            )
        return folder.best, None
    looks_like_file = "." in reference.rpartition("/")[2]
    if download and not looks_like_file and (path := download(reference)):
        return path, reference
    if found := find_artifact(runs_dir, reference):
        folder, artifact = found
        return folder.path / artifact["files"][0], reference
    names = {
        f"{a['name']}:latest"
        for folder in list_runs(runs_dir)
        for a in folder.read_tracking()["artifacts"]
        if a["type"] == "model"
    }
    there = [folder.id for folder in list_runs(runs_dir)][-3:] + sorted(names)[:3]
    known = f"; there are {', '.join(there)}" if there else "; there are no runs"
    raise UserError(f"--checkpoint {reference} is no file, and no run or artifact in {runs_dir}{known}")


def code_version() -> str | None:
    """The commit of this code, `-dirty` when files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None

"""The run folder: its files' names, what they say of the run, and its lock. Imports no torch."""

import contextlib
import os
import secrets
import shlex
import socket
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.base.errors import UserError
from common.base.files import read_json, read_json_lines, safe_name, write_atomic, write_json
from common.config import RUNS_DIR, TrainConfig, as_dict


@dataclass(frozen=True)
class EvaluationFolder:
    """All that evaluate.py leaves of one part of the data."""

    path: Path

    report = property(lambda self: self.path / "report.json")
    text = property(lambda self: self.path / "report.txt")
    predictions = property(lambda self: self.path / "predictions.npz")
    thumbnails = property(lambda self: self.path / "thumbnails.jpg")


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
    shown = property(lambda self: self.visualization / "predictions.json")
    wandb = property(lambda self: self.path / "wandb")

    def evaluated(self, split: str = "test") -> EvaluationFolder:
        """The test set's evaluation is the run's; another's lies within it, and takes nothing of it away."""
        return EvaluationFolder(self.evaluation if split == "test" else self.evaluation / split)

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

    def command(self, script: str, *words: str) -> str:
        """A command for a person, quoted for the shell, with `--runs_dir` where it is needed."""
        place = [] if self.path.parent == Path(RUNS_DIR) else ["--runs_dir", str(self.path.parent)]
        return shlex.join(["python", script, *words, *place])

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
    values = as_dict(config.replace(run_id=folder.id, resume=None))
    write_atomic(folder.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_config(folder: RunFolder) -> TrainConfig:
    """config.yaml as a `TrainConfig`. Errors: `UserError` naming the file."""
    try:
        values = yaml.safe_load(folder.config.read_text())
        if not isinstance(values, dict):
            raise ValueError("not a mapping")
        return TrainConfig.of(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        )
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder.config} can't be read as a run's config: {error}") from None


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

"""The run folder: its files' names, what they say of the run, and its lock. Imports no torch."""

import contextlib
import math
import os
import secrets
import socket
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.base.errors import UserError
from common.base.files import direct, lies_in, read_end, read_json, read_json_lines, safe_name, write_atomic, write_json
from common.base.locks import lives, locked
from common.base.records import LARGEST_INTEGER, read_record, read_yaml, write_record
from common.base.text import command_line, path_word, with_values
from common.config import RUNS_DIR, TrainConfig, as_dict
from common.runs.records import SUMMARY_KEYS, Split, Summary, Tracking
from common.runs.told import read_tracking, write_tracking

SWEEPS = "sweeps"  # in runs_dir, beside the runs
LONGEST_SYSTEM = 1 << 24  # bytes of system.jsonl: a month has 2 million
END_OF_CONSOLE = 1 << 16  # bytes of console.log that are read


class Name:
    """The path of something in a folder. `config = Name("config.yaml")` in a class with a `path` gives `folder.config`."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __get__(self, folder: Any, owner: type) -> Path:
        return folder.path.joinpath(*self.parts)


@dataclass(frozen=True)
class EvaluationFolder:
    """All that evaluate.py leaves of one part of the data."""

    path: Path

    report = Name("report.json")
    text = Name("report.txt")
    predictions = Name("predictions.npz")
    label_issues = Name("label_issues.csv")
    thumbnails = Name("thumbnails.jpg")


@dataclass(frozen=True)
class RunFolder:
    """`runs/<run-id>/`, all that a run leaves. No other place knows what a file in it is called."""

    path: Path

    config = Name("config.yaml")
    metrics = Name("metrics.jsonl")
    summary = Name("summary.json")
    split = Name("split.json")
    label_fixes = Name("label_fixes.csv")
    tracking = Name("tracking.json")
    loss_figure = Name("loss.png")
    console = Name("console.log")
    system = Name("system.jsonl")
    lock = Name(".lock")
    tracking_lock = Name(".tracking.lock")
    checkpoints = Name("checkpoints")
    last = Name("checkpoints", "last.pt")
    best = Name("checkpoints", "best.safetensors")
    evaluation = Name("evaluation")
    tables = Name("evaluation", "tables")
    visualization = Name("visualization")
    shown = Name("visualization", "predictions.json")
    code = Name("code")
    wandb = Name("wandb")
    staging = Name("wandb", "staging")

    @property
    def id(self) -> str:
        return self.path.name

    def evaluated(self, split: str = "test") -> EvaluationFolder:
        """The test set's evaluation is the run's; another's lies within it, and takes nothing of it away."""
        return EvaluationFolder(self.evaluation if split == "test" else self.evaluation / split)

    def command(self, script: str, *words: str) -> str:
        """A command about this run for a person to paste: quoted for the shell, with `--runs_dir` where it isn't `runs`."""
        return command(self.path.parent, script, *words)

    def read_summary(self) -> Summary:
        """Where there is none, nothing is known. Errors: `UserError` naming the file."""
        return read_record(self.summary, Summary) if self.summary.exists() else Summary()

    def update_summary(self, **values: Any) -> None:
        """Adds to summary.json, by its keys; it always says when it was last true."""
        assert values.keys() <= SUMMARY_KEYS, f"Summary has no {values.keys() - SUMMARY_KEYS}"
        known = read_json(self.summary) if self.summary.exists() else {}
        write_json(self.summary, {**known, **values, "updated": time.time()})

    def read_split(self) -> Split:
        """Errors: `UserError` naming the file, also when there is none."""
        return read_record(self.split, Split)

    def evaluate_command(self, *words: str) -> str:
        """evaluate.py on what there is to evaluate. words: the checkpoint, where it is not this run's. Errors: as `read_split`."""
        evaluated = self.read_split().evaluated if self.split.exists() else ()
        return self.command("evaluate.py", "--checkpoint", *(words or [self.id]), *evaluated)

    def read_tracking(self) -> Tracking:
        """As `common.runs.told`."""
        return read_tracking(self.tracking)

    def write_tracking(self, tracking: Tracking) -> None:
        """As `common.runs.told`."""
        write_tracking(self.tracking, tracking)

    @contextlib.contextmanager
    def changed_tracking(self) -> Iterator[Tracking]:
        """tracking.json, to change within the block; then it is written. Scripts that do so at once wait for each other, so that
        no record is lost. Errors: as `read_tracking`."""
        with locked(self.tracking_lock):
            tracking = self.read_tracking()
            yield tracking
            self.write_tracking(tracking)

    def _remove_leftovers(self) -> None:
        """Removes what processes that were killed were writing: temporary files, which have the process's id in their name."""
        for path in (*self.path.glob(".*.tmp*"), *self.last.parent.glob(".*.tmp*")):
            owner = path.name.split(".")[-3 if path.suffix != ".tmp" else -2].partition("-")[0]
            if owner.isdigit() and not lives(int(owner)):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process a run. Errors: `UserError` when another holds it. The lock ends with the process, however it ends."""
        in_use = f"run {self.id} is in use by another process; wait for it, or choose another --run_id"
        with locked(self.lock, in_use):
            self._remove_leftovers()
            yield


@dataclass(frozen=True)
class SweepFolder:
    """`runs/sweeps/<sweep-id>/`, what an offline sweep leaves beside its runs."""

    path: Path

    settings = Name("sweep.yaml")
    study = Name("study.db")
    trials = Name("trials.json")
    lock = Name(".lock")

    def log(self, number: int) -> Path:
        """What the trial printed."""
        return self.path / f"{number}.log"


def command(runs_dir: Path, script: str, *words: str) -> str:
    """A command about the runs in `runs_dir`, as `RunFolder.command`."""
    runs_dir = direct(runs_dir)
    place = [] if runs_dir == Path(RUNS_DIR) else ["--runs_dir", path_word(runs_dir)]
    return command_line(["python", script, *with_values([*words, *place])])


def sweep_folder(runs_dir: Path, sweep_id: str) -> SweepFolder:
    return SweepFolder(runs_dir / SWEEPS / sweep_id)


def new_run_id() -> str:
    """Date, time and four letters: sorts by age, and two that start in one second differ."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    return time.strftime("%Y%m%d-%H%M%S-") + letters


def plan_run(runs_dir: str, run_id: str | None) -> RunFolder:
    """The folder of a new run, not made yet. Errors: `UserError` when the id is taken or can't be a folder's name,
    or `runs_dir` can't be written."""
    chosen = safe_name(run_id or os.environ.get("WANDB_RUN_ID") or new_run_id(), "--run_id")
    folder = RunFolder(direct(Path(runs_dir)) / chosen)
    if chosen == SWEEPS:
        raise UserError(f"--run_id is {SWEEPS}, but {folder.path} is the folder of the sweeps; choose another id")
    require_free(folder)
    check_writable(Path(runs_dir), "--runs_dir")
    return folder


def require_free(folder: RunFolder) -> None:
    """Errors: `UserError` when the folder holds a run. Only under its lock does the answer last."""
    if folder.config.exists():
        raise UserError(
            f"--run_id {folder.id} is taken: {folder.path} holds a run; go on with --resume {folder.id}, or choose another id"
        )


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


def check_results(folder: RunFolder, *places: Path) -> None:
    """Errors: `UserError` when results can't be written to these places in the run's folder, or a link in it, which may be a stranger's,
    leads one of them out of it."""
    check_writable(places[0], "--runs_dir")
    for place in (*places, folder.wandb):
        if not lies_in(place, folder.path):
            raise UserError(f"{place} is a link that leads out of {folder.path}; nothing is written there: remove it")


def create_run(folder: RunFolder, config: TrainConfig, split: Split) -> None:
    """Writes split.json, summary.json and, last, config.yaml: with it the run can be seen, and its id is taken."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_record(folder.split, split)
    folder.update_summary(run_id=folder.id, job_type="train", started=time.time(), seconds=0.0)
    mark_running(folder)
    save_config(folder, config)


def mark_running(folder: RunFolder) -> None:
    """A run that is `running` and whose process is gone has crashed."""
    folder.update_summary(status="running", error=None, pid=os.getpid(), host=socket.gethostname())


def save_config(folder: RunFolder, config: TrainConfig) -> None:
    values = as_dict(config.replace(run_id=folder.id, resume=None, max_minutes=None))  # a process's, not the run's
    write_atomic(folder.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_config(folder: RunFolder, values: dict[str, Any] | None = None) -> TrainConfig:
    """config.yaml as a `TrainConfig`. values: what is in it, where it is read already. Errors: `UserError` naming the file."""
    values = read_yaml(folder.config) if values is None else values
    try:
        return TrainConfig.of(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder.config} can't be read as a run's config: {error}") from None


def config_values(folder: RunFolder) -> dict[str, Any]:
    """config.yaml by the flags' names, as W&B is told it. Errors: as `load_config`."""
    return as_dict(load_config(folder))


def run_state(folder: RunFolder, summary: Summary | None = None) -> str:
    """`finished`, `interrupted`, `failed`, `running`, `crashed`, or `unknown` for a folder without a summary. summary: the run's, where
    it is read already."""
    summary = summary or folder.read_summary()
    if summary.status == "running" and summary.host == socket.gethostname() and not lives(summary.pid or 0):
        return "crashed"
    return summary.status


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, oldest first: finite numbers under their names, of which one is the step. What else may stand in the file
    was not logged by a run, and is left out. Errors: `UserError` naming the file when it can't be read."""
    rows = [{key: value for key, value in row.items() if _is_logged(value)} for row in read_json_lines(folder.metrics)]
    return [row for row in rows if type(row.get("step")) is int]


def read_system(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of system.jsonl as `common.base.monitor` writes them, as far as they are numbers. Errors: `UserError` naming the file when
    it can't be read, is longer than any that a run writes, or lies elsewhere."""
    _check_own(folder.system, folder)
    rows = read_json_lines(folder.system, LONGEST_SYSTEM)
    return [{key: value for key, value in row.items() if _is_logged(value)} for row in rows]


def read_console(folder: RunFolder) -> str:
    """The end of console.log, which may be a stranger's text; empty where there is none. Errors: `UserError` naming the file when it
    can't be read, or lies elsewhere."""
    _check_own(folder.console, folder)
    try:
        return read_end(folder.console, END_OF_CONSOLE).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{folder.console} can't be read: {error.strerror or error}") from error


def _check_own(path: Path, folder: RunFolder) -> None:
    """Errors: `UserError` for a link that leads out of the folder: a page that is passed on would show what it leads to."""
    if not lies_in(path, folder.path):
        raise UserError(f"{path} is a link that leads out of {folder.path}, and is not read")


def _is_logged(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= LARGEST_INTEGER)

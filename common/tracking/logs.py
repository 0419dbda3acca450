"""W&B's own logs in the run folder, which hold what was not sent."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.base.files import lies_in, sha256_of
from common.base.text import printable
from common.runs.folder import RunFolder, read_metrics
from common.runs.records import TrackedRun


def log_folders(folder: RunFolder, run: TrackedRun) -> tuple[list[Path], bool]:
    """The folders of W&B's logs of `run`, and whether that is all: what tracking.json names within the run folder, or where `WANDB_DIR`
    has put them. An entry that leads elsewhere is said, and left out: what lies there is not the run's."""
    places = [folder.path / name for name in run.dirs]
    own = [path for path in places if lies_in(path, folder.path) or _is_in_wandb_dir(path, run.id)]
    for path in places:
        if path not in own:
            hint = "if it is W&B's log of that run, set WANDB_DIR to where it lies"
            _say(folder, f"{_leads_to(path)} is not in the run folder and not sent; {hint}")
    return [path for path in own if path.is_dir()], own == places


def _is_in_wandb_dir(path: Path, run_id: str) -> bool:
    """Whether it is the log of that very run, where the user lets W&B put its logs."""
    chosen = os.environ.get("WANDB_DIR")
    return bool(chosen and lies_in(path, Path(chosen) / "wandb") and (path / f"run-{run_id}.wandb").is_file())


def may_be_sent(folder: RunFolder, directory: Path) -> bool:
    """Whether `wandb sync` would send nothing of the log but what is the run's: the client follows links, and uploads whatever file
    a log names. Says why not."""
    files, own = directory / "files", [folder.path, directory]
    records = list(_records(directory))
    staging = [Path(chosen) / "artifacts" / "staging" for chosen in [os.environ.get("WANDB_DATA_DIR")] if chosen]
    linked = [
        *directory.glob("*.wandb"),
        *files.rglob("*"),
        *(files / name for name in _named(records, "files", "path")),
    ]
    staged = list(map(Path, _named(records, "artifact", "local_path", "manifest_file_path")))
    elsewhere = [path for path in linked if not lies_in(path, *own)]
    elsewhere += [path for path in staged if not lies_in(path, *own, *staging) and not _has_copy_of(folder, path)]
    for path in filter(os.path.exists, elsewhere):
        _say(
            folder,
            f"{printable(directory.name)} is not sent: it leads to {_leads_to(path)}, out of the run folder",
        )
        return False
    return True


def _has_copy_of(folder: RunFolder, path: Path) -> bool:
    """Whether a file in the run folder has the same bytes: the logs of a run folder that was copied speak of the first one."""
    size = path.stat().st_size if path.is_file() else -1
    inside = (file for file in folder.path.rglob("*") if file.is_file() and lies_in(file, folder.path))
    return any(sha256_of(file) == sha256_of(path) for file in inside if file.stat().st_size == size)


def _leads_to(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        path = Path(os.path.realpath(path))
    return printable(path, 200)


def _named(records: Iterable[dict[str, Any]], kind: str, *keys: str) -> Iterator[str]:
    """What a log's records of a kind name under these keys, however deep."""
    for record in records:
        inner = [record.get(kind)]
        while inner:
            value = inner.pop()
            if isinstance(value, dict):
                yield from (value[key] for key in keys if isinstance(value.get(key), str))
                inner += value.values()
            elif isinstance(value, list):
                inner += value


def _say(folder: RunFolder, what: str) -> None:
    print(f"W&B: {printable(folder.path, 200)}: {what}", file=sys.stderr)


def _records(directory: Path) -> Iterator[dict[str, Any]]:
    """Of W&B's local log; of one that a crash tore, too, as far as they go."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory.absolute())]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120)
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def logged_rows(directories: Iterable[Path]) -> dict[int, dict[str, Any]]:
    """The history rows in W&B's local logs by step, nested values under keys with dots; those that a crash tore, too, are read
    as far as they go."""
    rows = {}
    for directory in directories:
        for record in _records(directory):
            history = record.get("history")
            row = history.get("item") if isinstance(history, dict) else None
            if isinstance(row, dict) and isinstance(row.get("_step"), int):
                rows[row["_step"]] = row
    return rows


def measured_rows(folder: RunFolder) -> dict[int, dict[str, Any]]:
    """The rows of metrics.jsonl by step, as `logged_rows` gives those that W&B was told: without the figures, which are logged as
    they are drawn. What is no row of ours is left out."""
    rows = {}
    for row in read_metrics(folder):
        numbers = {key: value for key, value in row.items() if key not in ("step", "time")}
        if row["step"] >= 0 and numbers:
            rows[row["step"]] = {"_step": row["step"], **numbers}
    return rows


def nested(row: dict[str, Any]) -> dict[str, Any]:
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


def media_files(folder: RunFolder, directories: Sequence[Path]) -> dict[str, Path]:
    """The images and tables that W&B's logs of a run hold, by the names that they have on the server; no link that leads elsewhere."""
    return {
        path.relative_to(directory / "files").as_posix(): path
        for directory in directories
        for path in (directory / "files").glob("media/**/*")
        if path.is_file() and lies_in(path, folder.path, directory)
    }

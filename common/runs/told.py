"""tracking.json, read entry by entry: what this version can't read of it costs nothing else, and stays in the file."""

import json
from pathlib import Path
from typing import Any

from common.base.errors import UserError
from common.base.files import write_json
from common.base.records import as_json, parse_record, read_record
from common.runs.records import LoggedArtifact, LoggedTable, TrackedRun, Tracking, TrackingFile

KINDS: dict[str, Any] = {"runs": TrackedRun, "artifacts": LoggedArtifact, "tables": LoggedTable}


def read_tracking(path: Path) -> Tracking:
    """An entry that can't be read is in none of the lists, and a line in `damaged`. Where there is no file, W&B was told nothing.

    Errors: `UserError` naming the file."""
    if not path.exists():
        return Tracking()
    file, lists, damaged = read_record(path, TrackingFile), dict[str, list[Any]](), list[str]()
    for name in KINDS:
        entries = [_read(path, name, number, entry) for number, entry in enumerate(getattr(file, name))]
        lists[name] = [entry for entry in entries if not isinstance(entry, UserError)]
        damaged += [str(entry) for entry in entries if isinstance(entry, UserError)]
    return Tracking(**lists, damaged=damaged)


def write_tracking(path: Path, tracking: Tracking) -> None:
    """Replaces the lists. What the file holds beside them stays: keys that no field has, and entries that can't be read."""
    file = read_record(path, dict[str, Any]) if path.exists() else {}
    for name in KINDS:
        known, unread = dict[str, Any](), list[Any]()
        for number, raw in enumerate(file.get(name, [])):
            entry = _read(path, name, number, raw)
            if isinstance(entry, UserError):
                unread.append(raw)
            else:
                known[_identity(entry)] = raw
        entries = getattr(tracking, name)
        file[name] = [{**known.get(_identity(entry), {}), **as_json(entry)} for entry in entries] + unread
    write_json(path, file)


def _read(path: Path, name: str, number: int, entry: Any) -> Any:
    """The entry as its kind, or why it can't be."""
    try:
        return parse_record(json.dumps(entry).encode(), KINDS[name], f"{path}: {name}.{number}")
    except UserError as error:
        return error


def _identity(entry: Any) -> str:
    """A run's entry is replaced by what is known of the run later; others never change."""
    return entry.id if isinstance(entry, TrackedRun) else repr(entry)

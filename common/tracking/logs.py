"""W&B's own logs in the run folder, which hold what was not sent."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def logged_rows(directories: Iterable[Path]) -> dict[int, dict[str, Any]]:
    """The history rows in W&B's local logs by step, nested values under keys with dots; those that a crash tore, too, are read
    as far as they go."""
    rows = {}
    for directory in directories:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory.absolute())]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120).stdout
            for line in shown.splitlines():
                if '"type":"history"' in line:
                    row = json.loads(line)["history"]["item"]
                    rows[row["_step"]] = row
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


def media_files(directories: Sequence[Path]) -> dict[str, Path]:
    """The images and tables that W&B's logs of a run hold, by the names that they have on the server."""
    roots = [directory / "files" for directory in directories]
    return {
        path.relative_to(root).as_posix(): path for root in roots for path in root.glob("media/**/*") if path.is_file()
    }

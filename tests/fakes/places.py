"""What may lie where a file is to be written."""

import os
from pathlib import Path

IN_THE_WAY = ("no folder", "a folder", "a pipe", "a link")


def blocked(path: Path, kind: str) -> Path:
    """A path like this one with what `kind` names in its place; a link leads to `elsewhere` beside it, which is not there."""
    if kind == "no folder":
        return path.parent / "gone" / path.name
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link":
        path.symlink_to(path.parent / "elsewhere")
    return path

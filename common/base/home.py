"""The home folder: `~` in a path, and a stand-in where there is none, as in a container whose user is in no list."""

import os
import stat
import sys
import tempfile
from pathlib import Path

from common.base.errors import UserError
from common.base.text import printable


def expanded(path: str, flag: str) -> str:
    """`path` with `~` and `~user` as the folders they mean, as a shell does it where it sees them: not after `=`, nor in quotes.

    Errors: `UserError` naming `flag` when there is no such user."""
    found = os.path.expanduser(path)
    if found.startswith("~") and path.startswith("~") and not os.path.lexists(path):
        user = printable(path.partition(os.sep)[0])
        raise UserError(
            f"{flag} is {printable(path)!r}, but {user} is the home of no user here; write the folder's path"
        )
    return found


def provide_home() -> None:
    """Where there is no home folder, and none can be made, PyTorch, W&B and matplotlib would each fail in a way of its own, or make a
    folder named `~` here: they get one among the temporary files, and a line says so."""
    home = os.path.expanduser("~")
    if home.startswith("~") or not _can_be(Path(home)):
        os.environ["HOME"] = str(_stand_in())
        print(
            f"note: this user has no home folder; caches go to {os.environ['HOME']}. Set HOME, or TORCH_HOME and FINETUNE_CACHE, to keep "
            "them elsewhere",
            file=sys.stderr,
        )


def _can_be(home: Path) -> bool:
    """Whether it is there, even if read-only, or can be made."""
    if home.is_dir():
        return True
    above = next(parent for parent in home.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def _stand_in() -> Path:
    """The user's own folder among the temporary files, the same each time. Errors: `UserError` when it is another's."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"resnext-finetuning-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    others = found.st_uid != user or stat.S_IMODE(found.st_mode) & 0o022
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and others):
        raise UserError(f"HOME is not set, and {folder}, which would stand in for it, is another user's; set HOME")
    return folder

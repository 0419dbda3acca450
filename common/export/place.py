"""Where an export is written: whole or not at all, and in the place of nothing but an earlier export."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from common.base.errors import UserError
from common.base.files import disk_errors
from common.export.hub import FILES, read_hub
from common.export.onnx_file import read_onnx
from common.runs.folder import check_writable


def check_place(output: Path, kind: str, overwrite: bool) -> None:
    """Errors: `UserError` when nothing can be written at `output`, or something is there that may not be replaced. kind: onnx or hub."""
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    check_writable(output.parent, "--output")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise UserError(f"--output {output} exists; give another, or --overwrite True")
    what = {"onnx": ("an ONNX file", _check_file), "hub": ("a folder", _check_folder)}
    name, check = what[kind]
    try:
        check(output)
    except UserError as error:
        raise UserError(
            f"--output {output} is not {name} that export.py wrote, so it is not replaced: {error}"
        ) from None


def _check_file(output: Path) -> None:
    if output.is_symlink() or not output.is_file():
        raise UserError("it is no file")
    read_onnx(output)


def _check_folder(output: Path) -> None:
    if output.is_symlink() or not output.is_dir():
        raise UserError("it is no folder")
    read_hub(output)
    others = sorted({path.name for path in output.iterdir()} - set(FILES))
    if others:
        raise UserError(f"it holds {others[0]} as well")


@contextlib.contextmanager
def in_its_place(output: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Yields a temporary path beside `output`, which `make` has been called with; when the block ends well it takes its place, and what
    was there goes; else nothing is left behind. Errors: `RunError` when the disk is full."""
    name = f".{output.stem}.{os.getpid()}-{secrets.token_hex(3)}.tmp"
    new, old = output.with_name(name + output.suffix), output.with_name(name + "-old")
    try:
        with disk_errors(output):
            make(new)
        yield new
        with disk_errors(output):
            if os.path.lexists(output):
                os.rename(output, old)
            os.rename(new, output)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(output):  # it was about to be replaced
            os.rename(old, output)
        raise
    finally:
        for path in (new, old):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""Files that are whole or absent: written to a temporary name in the same folder, flushed to disk, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs

from common.base.errors import RunError, UserError, first_line
from common.base.home import expanded

READ_SECONDS = 10.0  # that a reader may hold a file which is to be replaced
IN_USE_ON_WINDOWS = (5, 32)  # access denied, sharing violation
LONGEST_TEXT = 1 << 30  # bytes of a file that is read whole


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it takes `path`'s place when the block ends well and is removed when not.

    The suffix stays, since some writers choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        _replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """`os.replace`. Windows refuses it while another process, such as the dashboard, a virus scanner or a backup, has the file open,
    which is soon over: `READ_SECONDS`."""
    until = time.monotonic() + READ_SECONDS
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in IN_USE_ON_WINDOWS or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _flush_folder(folder: Path) -> None:
    """A rename is on disk only once its folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full or read-only disk becomes a `RunError` that says what to free; what was saved before is kept."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error.strerror or error}); what was saved before is kept. "
            f"Free space in {path.parent}, then run it again (train.py: with --resume)"
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces the file at `path`, or leaves what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def direct(path: Path) -> Path:
    """`path` without `..` where that names the same place, which it may not do across a link."""
    shorter = Path(os.path.normpath(path))
    return shorter if shorter == path or shorter.resolve() == path.resolve() else path


def package_file(package: str, *parts: str) -> Path:
    """The path of a file in an installed package, without importing that, which can take a second and more. Errors: `UserError`
    when it isn't installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{package} isn't installed: pip install -r requirements.txt")
    return Path(spec.origin).parent.joinpath(*parts)


def write_json(path: Path, value: Any) -> None:
    """JSON with a stable layout; NaN is refused, since few readers accept it."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def is_no_file(path: Path) -> bool:
    """Whether something else is there, such as a folder, or a pipe, which would keep a reader waiting."""
    return path.exists() and not path.is_file()


def may_append(path: Path) -> bool:
    """Whether what is written there stays there: it is a file, or is to be one, and no link, which may lead anywhere, nor a pipe, which
    would keep a writer waiting."""
    return not path.is_symlink() and not is_no_file(path)


def read_file(path: Path, longest: int) -> bytes:
    """The bytes of a file that may be a stranger's. Errors: `OSError` when it is no file, which a pipe would keep one waiting for,
    or longer than so many bytes."""
    if _size_of_file(path) > longest:
        raise OSError(errno.EFBIG, f"Longer than {longest:,} bytes", str(path))
    return path.read_bytes()


def read_end(path: Path, most: int) -> bytes:
    """The last bytes, so many at most, of a file that may be a stranger's. Errors: `OSError` when it is no file."""
    size = _size_of_file(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - most))
        return file.read(most)


def _size_of_file(path: Path) -> int:
    """In bytes. Errors: `OSError` when it is no file."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(state.st_mode) else "Not a file", str(path))
    return state.st_size


def read_json(path: Path) -> dict[str, Any]:
    """Errors: `UserError` naming the file when it is missing or no JSON object."""
    try:
        value = json.loads(read_file(path, LONGEST_TEXT))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is JSON, and can't be written again
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} can't be read: it holds no JSON object")
    return value


def append_line(path: Path, line: str) -> None:
    """Adds one line in a single write, on disk when this returns. A last line that a crash tore is ended first.

    Errors: `OSError`, the file then ends as before."""
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        data = f"{line}\n".encode()
        if torn:
            data = b"\n" + data
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read_json_lines(path: Path, longest: int = LONGEST_TEXT) -> list[dict[str, Any]]:
    """The whole rows of a JSON-lines file, of which each is an object; a last line that a crash tore is left out. A missing file has
    none. Errors: `UserError` naming the file when it can't be read, or has more bytes than `longest`."""
    rows = []
    if Path(path).exists():
        try:
            text = read_file(Path(path), longest).decode("utf-8", "replace")
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows


def sha256_of(*paths: Path) -> str:
    """Hex SHA-256 over the files' bytes, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def safe_name(text: str, flag: str) -> str:
    """`text` when it can be a single file's name and nothing else. Errors: `UserError` naming `flag`."""
    allowed = text and all(character.isalnum() or character in "._-" for character in text) and text[0] not in ".-"
    if not allowed or len(text) > 120:
        raise UserError(
            f"{flag} is {text!r}: allowed are letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return text


def lies_in(path: Path, *folders: Path) -> bool:
    """Whether `path` is in one of the folders once all links are followed."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that no file can have
        return False


def cache_folder() -> Path:
    """`FINETUNE_CACHE`, or the system's folder for caches: ~/.cache/resnext-finetuning on Linux."""
    given = os.environ.get("FINETUNE_CACHE")
    return (
        Path(expanded(given, "FINETUNE_CACHE"))
        if given
        else platformdirs.user_cache_path("resnext-finetuning", appauthor=False)
    )

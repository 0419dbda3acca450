"""A table that grows a row at a time, as CSV or JSON lines: whole rows only, and it can be gone on with."""

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.base.errors import UserError
from common.base.files import disk_errors, is_no_file
from common.base.text import in_utf8
from common.runs.folder import check_writable

SUFFIXES = (".csv", ".jsonl")
LONGEST_ROW = 1 << 20  # bytes
Row = Mapping[str, Any]
"""a value for each column; None: there is none"""


def name_in_table(path: str) -> str:
    """A file's name as text that any table can hold."""
    return in_utf8(path).replace("\0", "\\x00")


def digest(name: str) -> int:
    """64 bits that stand for a file's name: of a million names, two are alike once in 30 million tables."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def check_output(path: Path, overwrite: bool, resume: bool) -> None:
    """Errors: `UserError` when no table can be written there, or one is there, and neither is to be done with it."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output is {in_utf8(str(path))}, but must end in {' or '.join(SUFFIXES)}")
    if is_no_file(path):
        raise UserError(f"--output is {in_utf8(str(path))}, where something is that is no file")
    if overwrite and resume:
        raise UserError("--overwrite True begins the table anew, and --resume True goes on with it; give one of them")
    if path.exists() and not overwrite and not resume:
        raise UserError(
            f"--output {in_utf8(str(path))} exists; go on with it by --resume True, replace it by --overwrite True, or choose another"
        )
    check_writable(path.parent, "--output")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"--output {in_utf8(str(path))} can't be written: Permission denied")


class Names:
    """A set of names, by their digests: eight bytes each."""

    def __init__(self, names: Iterable[str]) -> None:
        self.sorted: NDArray = np.sort(np.fromiter(map(digest, names), dtype=np.uint64))

    def __contains__(self, name: str) -> bool:
        wanted = np.uint64(digest(name))
        place = int(np.searchsorted(self.sorted, wanted))
        return place < len(self.sorted) and bool(self.sorted[place] == wanted)


class Table:
    """An open table. What is written is whole rows, in a single write each time, and in the file when that returns."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        self.is_csv = path.suffix.lower() == ".csv"
        self.file: BinaryIO | None = None
        self.known = Names(())

    def read(self) -> Iterator[dict[str, Any]]:
        """The whole rows that are there; then a torn one at the end is cut off. Errors: `UserError` naming the file and the line that
        is none of such a table's."""
        whole = 0
        if not self.path.exists():
            return
        with disk_errors(self.path), open(self.path, "rb") as file:
            for number, (line, end) in enumerate(_whole_lines(file, self.is_csv, self.path), 1):
                if not (self.is_csv and number == 1):
                    yield self._parsed(line, number)
                elif line.decode("utf-8", "replace").strip() != _csv_line(self.columns).strip():
                    raise UserError(
                        f"{in_utf8(str(self.path))} has other columns than {', '.join(self.columns)}; go on with the flags that it "
                        "was begun with, or choose another --output"
                    )
                whole = end
        with disk_errors(self.path):
            os.truncate(self.path, whole)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            text = line.decode()
            values = next(csv.reader(io.StringIO(text, newline=""), strict=True)) if self.is_csv else json.loads(text)
            row = dict(zip(self.columns, values, strict=True)) if self.is_csv else values
            if not isinstance(row, dict) or row.keys() != set(self.columns) or not isinstance(row["file"], str):
                raise ValueError
            row["file"].encode()
        except (ValueError, StopIteration, RecursionError, csv.Error):
            raise UserError(
                f"{in_utf8(str(self.path))}: row {number} is none of a table with the columns {', '.join(self.columns)}; go on with the "
                "flags that it was begun with, or choose another --output"
            ) from None
        return row

    @contextlib.contextmanager
    def opened(self, resume: bool, seen: Callable[[Row], object]) -> Iterator["Table"]:
        """For writing: anew, or with `resume` behind the rows that are there, each of which is shown to `seen`.

        Errors: as `read`; `RunError` when it can't be written."""
        if resume:
            self.known = Names(self._shown(seen))
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "ab" if resume else "wb", buffering=0)  # noqa: SIM115
        with file:
            self.file = file
            with disk_errors(self.path):
                if self.is_csv and file.seek(0, os.SEEK_END) == 0:
                    self._append(_csv_line(self.columns))
            yield self

    def _shown(self, seen: Callable[[Row], object]) -> Iterator[str]:
        for row in self.read():
            seen(row)
            yield row["file"]

    def has(self, path: str) -> bool:
        """Whether the file had a row when the table was opened."""
        return name_in_table(path) in self.known

    def write(self, rows: Iterable[Row]) -> None:
        """Errors: `RunError`; the table then ends as before."""
        lines = []
        for row in rows:
            values = {name: row[name] for name in self.columns}
            lines.append(_csv_line(values.values()) if self.is_csv else json.dumps(values, ensure_ascii=False) + "\n")
        with disk_errors(self.path):
            self._append("".join(lines))

    def _append(self, text: str) -> None:
        assert self.file is not None
        end, data = self.file.seek(0, os.SEEK_END), text.encode()
        try:
            written = 0
            while written < len(data):
                written += self.file.write(data[written:])
        except OSError:
            self.file.truncate(end)
            raise


def _csv_line(values: Iterable[Any]) -> str:
    """RFC 4180, but that lines end as everywhere here."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # so that a name with either of the two is quoted
    return text.getvalue()[:-2] + "\n"


def _whole_lines(file: BinaryIO, quoted: bool, path: Path) -> Iterator[tuple[bytes, int]]:
    """Rows that are whole, and where each ends. In CSV a quoted cell may hold line breaks: within it the quotes so far are odd."""
    line, end, quotes = bytearray(), 0, 0
    while part := file.readline(LONGEST_ROW):
        line += part
        quotes += quoted and part.count(b'"')
        if len(line) > LONGEST_ROW:
            raise UserError(
                f"{in_utf8(str(path))} is no table of predict.py: it has a row of more than {LONGEST_ROW:,} bytes"
            )
        if part.endswith(b"\n") and quotes % 2 == 0:
            end += len(line)
            yield bytes(line), end
            line, quotes = bytearray(), 0

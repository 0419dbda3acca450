"""A table that grows: whatever stands in it comes back, it holds whole rows only, and is gone on with or refused in a line."""

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from common.analysis.rows import Names, Table, check_output, name_in_table
from common.base.errors import RunError, UserError

COLUMNS = ["file", "class", "confidence", "problem"]
FILES = [
    "a.jpg",
    "with, comma.jpg",
    'a "quote".jpg',
    "two\nlines.jpg",
    "return\r.jpg",
    "caf\udce9.jpg",
    "猫.jpg",
    "\0",
    " ",
]
suffixes = pytest.mark.parametrize("suffix", ["csv", "jsonl"])


def row(file: str, **values: object) -> dict[str, object]:
    return {"file": name_in_table(file), "class": "cat", "confidence": 0.25, "problem": None, **values}


def written(path: Path, files: list[str], resume: bool = False) -> list[str]:
    """→ the files that were there before."""
    seen: list[str] = []
    with Table(path, COLUMNS).opened(resume, lambda found: seen.append(found["file"])) as table:
        for file in files:
            table.write([row(file)])
    return seen


def files_in(path: Path) -> list[str]:
    """As a plain reader has them."""
    text = path.read_bytes().decode()
    if path.suffix == ".csv":
        return [found["file"] for found in csv.DictReader(text.splitlines(keepends=True))]
    return [json.loads(line)["file"] for line in text.split("\n")[:-1]]


@suffixes
def test_any_name_comes_back_and_is_known_when_it_goes_on(suffix, tmp_path):
    path, names = tmp_path / f"table.{suffix}", list(map(name_in_table, FILES))
    assert written(path, FILES) == [] and files_in(path) == names
    before = path.read_bytes()
    with Table(path, COLUMNS).opened(True, lambda _: None) as table:
        assert all(table.has(file) for file in FILES) and not table.has("b.jpg")
    assert path.read_bytes() == before


@suffixes
def test_wherever_a_table_is_torn_its_whole_rows_stay_and_the_rest_is_written_anew(suffix, tmp_path):
    path = tmp_path / f"table.{suffix}"
    written(path, FILES)
    whole, names = path.read_bytes(), list(map(name_in_table, FILES))
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        seen = written(path, [], resume=True)
        assert seen == names[: len(seen)] and whole.startswith(path.read_bytes())
        written(path, FILES[len(seen) :], resume=True)
        assert path.read_bytes() == whole, length


@suffixes
def test_a_full_disk_leaves_whole_rows(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"table.{suffix}"
    with Table(path, COLUMNS).opened(False, print) as table:
        table.write([row("a.jpg")])
        before, real = path.read_bytes(), table.file

        class Full:
            def __getattr__(self, name):
                return getattr(real, name)

            def write(self, data):
                if len(data) > 5:
                    return real.write(data[:5])
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(table, "file", Full())
        with pytest.raises(RunError, match="No space left"):
            table.write([row("b.jpg")])
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"file,other\na,b\n"), ("t.csv", b"a,b,c\n"), ("t.csv", b"file,class,confidence,problem\na,b\n"),
        ("t.csv", b"file,class,confidence,problem\n\xff,b,c,d\n"), ("t.csv", b"\n"), ("t.csv", bytes(50) + b"\n"), ("t.csv", b'"\n' + b"x\n" * 2**20),
        ("t.jsonl", b"[]\n"), ("t.jsonl", b"{}\n"), ("t.jsonl", b"no json\n"), ("t.jsonl", b"\n"), ("t.jsonl", b"[" * 10**5 + b"\n"), ("t.jsonl", b"x" * (2**20 + 1)),
        ("t.jsonl", b'{"file": 1, "class": "", "confidence": 1, "problem": ""}\n'),
        ("t.jsonl", b'{"file": "\\ud800", "class": "", "confidence": 1, "problem": ""}\n'),
        ("t.jsonl", b'{"file": "a", "class": "", "confidence": 1, "problem": "", "more": 1}\n'),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused_by_its_name_and_stays(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        written(tmp_path / name, [], resume=True)
    assert (tmp_path / name).read_bytes() == content


def test_an_output_that_is_there_or_can_be_none_is_refused_with_its_flag(tmp_path):
    (tmp_path / "there.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, flags in {
        "there.csv": (False, False),
        "new.csv": (True, True),
        "new.txt": (False, False),
        "new": (False, False),
        "folder.csv": (True, False),
        "pipe.jsonl": (True, False),
        "there.csv/below.csv": (False, False),
    }.items():
        with pytest.raises(UserError, match=r"--o(utput|verwrite)"):
            check_output(tmp_path / name, *flags)
    for name, flags in {"there.csv": (True, False), "new.JSONL": (False, True), "a/b/new.csv": (False, False)}.items():
        check_output(tmp_path / name, *flags)


def test_a_set_of_names_knows_all_of_them_and_no_other():
    names = Names(f"{i}.jpg" for i in range(1000))
    assert all(f"{i}.jpg" in names for i in range(1000)) and not any(f"{i}.png" in names for i in range(1000))
    assert "a" not in Names([]) and names.sorted.nbytes == 8000

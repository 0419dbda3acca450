"""A file is whole or absent, whatever happens while it is written."""

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from common.base.errors import UserError
from common.base.files import (
    append_line,
    atomic_path,
    cache_folder,
    read_json,
    read_json_lines,
    safe_name,
    sha256_of,
    write_atomic,
    write_json,
)


def refuse_to_replace(monkeypatch: pytest.MonkeyPatch, times: float, number: int | None) -> list[str]:
    """`os.replace` fails so often, on Windows with that number → what was asked of it."""
    replace, asked = os.replace, list[str]()

    def refuse(source: Path, target: Path) -> None:
        asked.append(str(target))
        if len(asked) <= times:
            error = PermissionError(errno.EACCES, "Access is denied")
            if number is not None:
                error.winerror = number  # type: ignore[attr-defined]
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    return asked


@pytest.mark.parametrize("number", [5, 32])
def test_a_file_that_another_process_reads_on_windows_is_replaced_when_that_is_over(number, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("before")
    asked = refuse_to_replace(monkeypatch, 3, number)
    write_atomic(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "after" and len(asked) == 4


@pytest.mark.parametrize("number, seconds", [(None, 10.0), (17, 10.0), (5, 0.05)])
def test_what_stays_refused_is_an_error_and_leaves_the_file_as_it_was(number, seconds, tmp_path, monkeypatch):
    monkeypatch.setattr("common.base.files.READ_SECONDS", seconds)
    (tmp_path / "file").write_text("before")
    asked = refuse_to_replace(monkeypatch, float("inf"), number)
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "file", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"
    assert (len(asked) == 1) == (number != 5)


def with_files_limited_to(size: int, code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` where the kernel refuses to let a file grow beyond `size` bytes, as a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [sys.executable, "-c", f"from common.base.files import *\n{code}"]
    return subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("data", [b"\x00\xff", "text, größer"])
def test_a_file_is_written_with_the_folders_it_needs(data, tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(path, data)
    assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_file_is_a_hidden_neighbour_with_the_same_suffix(tmp_path):
    with atomic_path(tmp_path / "loss.png") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path and temporary.name[0] == "." and temporary.suffix == ".png"
        assert not (tmp_path / "loss.png").exists()
    assert (tmp_path / "loss.png").read_bytes() == b"new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_file_and_nothing_else(failure, tmp_path):
    (tmp_path / "file").write_bytes(b"earlier")
    with pytest.raises(failure):
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise failure
    assert (tmp_path / "file").read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(b"earlier")
    done = with_files_limited_to(1000, f"write_atomic({str(tmp_path / 'file')!r}, b'x' * 1001)")
    assert "OSError" in done.stderr
    assert (tmp_path / "file").read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_sees_the_earlier_or_the_later_file_and_never_a_part(tmp_path):
    path, size = tmp_path / "file", 1 << 20
    path.write_bytes(b"0" * size)
    writer = multiprocessing.get_context("spawn").Process(target=_write_many, args=(path, size))
    writer.start()
    while writer.is_alive():
        data = path.read_bytes()
        assert len(data) == size and data.count(data[:1]) == size
    writer.join()
    assert path.read_bytes() == b"9" * size and writer.exitcode == 0


def _write_many(path: Path, size: int) -> None:
    for digit in b"0123456789":
        write_atomic(path, bytes([digit]) * size)


def test_lines_are_appended(tmp_path):
    for step in range(3):
        append_line(tmp_path / "metrics.jsonl", json.dumps({"step": step, "größe": "\u2028"}, ensure_ascii=False))
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_line_that_does_not_fit_leaves_the_file_as_before(room, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' * 10)
    done = with_files_limited_to(120 + room, f"append_line({str(path)!r}, 'x' * 100)")
    assert "OSError" in done.stderr
    assert path.read_bytes() == b'{"step": 1}\n' * 10


def test_a_torn_last_line_and_what_is_no_object_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n[2]\n\n{"step": 3}\n{"step": 4, "na\xc3')
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]
    assert read_json_lines(tmp_path / "missing") == []


def test_a_line_after_a_torn_one_is_not_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    append_line(path, '{"step": 2}')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_json_comes_back_and_nan_is_refused(tmp_path):
    value = {"accuracy": 0.1 + 0.2, "classes": ["Käfer", None], "n": 1}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff\xfe"])
def test_what_is_missing_or_no_json_is_refused_by_name(content, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / 'a.json'} can't be read as JSON"):
        read_json(tmp_path / "a.json")


def test_the_hash_is_that_of_the_bytes_in_order(tmp_path):
    big = os.urandom((1 << 20) + 1)
    (tmp_path / "a").write_bytes(big)
    (tmp_path / "b").write_bytes(b"b")
    assert sha256_of(tmp_path / "a", tmp_path / "b") == hashlib.sha256(big + b"b").hexdigest()


@pytest.mark.parametrize("name", ["run-1", "20250101-120000-abcd", "a", "v1.0_b", "größe"])
def test_a_name_that_can_be_a_files_is_taken_as_it_is(name):
    assert safe_name(name, "--run_id") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-flag", "a/b", "../a", "a\\b", "a b", "a\n", "a\0", "x" * 121]
)
def test_a_name_that_leads_elsewhere_is_refused_with_its_flag(name):
    with pytest.raises(UserError, match="^--run_id is "):
        safe_name(name, "--run_id")


@pytest.mark.skipif(sys.platform != "linux", reason="each system has a folder of its own")
def test_the_cache_is_where_it_always_was_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "resnext-finetuning"
    monkeypatch.setenv("FINETUNE_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("FINETUNE_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "resnext-finetuning"

"""What a command's words stand for, one photo after the other."""

import io
import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from common.base.errors import UserError
from common.data import stream
from common.data.photos import find_photos
from common.data.stream import Found, check_words, find_photos_of, not_used


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "p/b.JPG",
        "p/a.png",
        "p/in/c.webp",
        "p/in/notes.txt",
        "p/.hidden/d.png",
        "p/._a.png",
        "p/Thumbs.db",
        "q/[1].png",
        "q/e.heic",
        "t.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "p" / "loop").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "self.png").symlink_to("self.png")
    (tmp_path / "p" / "z.png").symlink_to("nothing")
    return tmp_path


def found(*words: str, listed: bytes = b"") -> list[str]:
    return [photo.path for photo in find_photos_of(words, Counter(), io.BytesIO(listed))]


IN_P = ["p/a.png", "p/b.JPG", "p/in/c.webp", "p/self.png", "p/z.png"]


def test_folders_files_patterns_and_lists_stand_for_their_photos_in_their_order(here):
    assert found("p") == IN_P and found("p/loop") == [name.replace("p/", "p/loop/") for name in IN_P]
    assert found("t.txt", "p/in") == ["t.txt", "p/in/c.webp"]
    assert sorted(found("p/*.p*g", "q/**/e.*")) == ["p/a.png", "p/self.png", "p/z.png", "q/e.heic"]
    assert found("q/[1].png") == ["q/[1].png"]  # a file of that name, before a pattern
    listed = b"p/in\r\n\nt.txt\ngone.png\ncaf\xe9.png\np/a.png"
    assert found("-", "t.txt", listed=listed) == [
        "p/in/c.webp",
        "t.txt",
        "gone.png",
        "caf\udce9.png",
        "p/a.png",
        "t.txt",
    ]


def test_the_photos_of_a_folder_are_those_that_training_takes(here):
    assert sorted(found("p")) == sorted(f"p/{name.split('/', 1)[1]}" for name in find_photos(here, ["p"]).names)


def test_what_is_not_used_is_counted_by_its_reason(here):
    unused: Counter[str] = Counter()
    list(find_photos_of(["p"], unused, None))
    assert unused == {"hidden or of a system": 3, ".txt": 1, "links to folders": 1}
    assert not_used(unused) == ["not used in the folders: 3 hidden or of a system, 1 .txt, 1 links to folders"]
    many: Counter[str] = Counter()
    for i in range(1000):
        stream._count(many, f".{i}")
    assert len(many) == stream.REASONS + 1 and many.total() == 1000 and "1000 in all" in not_used(many)[0]


def test_a_folder_that_is_closed_is_one_problem_and_the_others_are_found(here, monkeypatch):
    real = os.scandir

    def scandir(path):
        if path == "p/in":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    photos = list(find_photos_of(["p"], Counter(), None))
    assert Found("p/in", "can't be read (Permission denied)") in photos and len(photos) == len(IN_P)


@pytest.mark.parametrize("words", [[], ["gone.png"], ["p/*.tiff"], ["p", "gone"], ["a\0b"], ["[1].png"]])
def test_a_word_that_stands_for_nothing_is_refused_by_name(here, words):
    with pytest.raises(
        UserError,
        match=words[-1].replace("\0", ".").replace("[", r"\[").replace("*", r"\*") if words else "nothing to predict",
    ):
        check_words(words)
    check_words(["p", "-", "p/*.png", "p/z.png"])


def test_a_deep_tree_and_a_huge_folder_are_a_stream(here, monkeypatch):
    monkeypatch.setattr(stream, "SORTED", 3)
    deep = here.joinpath("deep", *["d"] * 300)
    deep.mkdir(parents=True)
    for i in range(10):
        (deep / f"{i}.png").touch()
    taken = list(itertools.islice(find_photos_of(["deep"], Counter(), None), 4))
    assert len(taken) == 4
    assert sorted(Path(name).name for name in found("deep")) == [f"{i}.png" for i in range(10)]

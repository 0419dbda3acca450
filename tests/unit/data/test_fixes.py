"""--label_fixes: labels that a person has put right."""

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from common.base.errors import UserError
from common.data.dataset import Dataset
from common.data.fixes import read_label_fixes, recorded_fixes

NAMES = ("train/cat/a.jpg", "train/cat/b, c.jpg", "train/dog/é.jpg", "train/dog/d.jpg", "train/owl/e.jpg")
CLASSES = ("cat", "dog", "owl")


def data_of(names: tuple[str, ...] | None = NAMES) -> Dataset:
    labels = torch.tensor([0, 0, 1, 1, 2])
    return Dataset("folder", torch.zeros(5, 3, 4, 4, dtype=torch.uint8), labels, CLASSES, None, None, True, names=names)


def write(path: Path, rows: list[list[object]], **style: str) -> Path:
    with open(path, "w", encoding=style.pop("encoding", "utf-8"), newline="") as file:
        csv.writer(file, **style).writerows(rows)
    return path


ROWS = [
    ["image", "label", "fix"],
    ["train/cat/b, c.jpg", "cat", "owl"],
    ["train/dog/e\u0301.jpg", "dog", "drop"],
    ["train/dog/d.jpg", "dog", ""],
    ["train/owl/e.jpg", "owl", "owl"],
]


@pytest.mark.parametrize("style", [{}, {"delimiter": ";"}, {"delimiter": "\t"}, {"lineterminator": "\n"}, {"encoding": "utf-8-sig"}], ids=str)  # fmt: skip
def test_labels_are_changed_and_images_dropped_as_the_file_says(tmp_path, style):
    data = data_of()
    fixes = read_label_fixes(write(tmp_path / "fixes.csv", ROWS, **style), data)
    assert (fixes.labels, fixes.dropped) == ({1: 2}, (2,))
    assert fixes.applied(data).labels.tolist() == [0, 2, 1, 1, 2] and data.labels.tolist() == [0, 0, 1, 1, 2]
    assert fixes.kept(torch.tensor([0, 2, 4])).tolist() == [0, 4]
    assert fixes.content == (tmp_path / "fixes.csv").read_bytes()
    assert fixes.in_words() == "--label_fixes changes 1 label and drops 1 image"


def test_images_without_files_are_called_by_their_indices(tmp_path):
    fixes = read_label_fixes(write(tmp_path / "f.csv", [["fix", "image"], ["dog", 0], ["drop", 4]]), data_of(None))
    assert (fixes.labels, fixes.dropped) == ({0: 1}, (4,))


def test_a_run_without_a_copy_has_no_fixes(tmp_path):
    fixes = recorded_fixes(tmp_path / "none.csv", data_of())
    assert not fixes.content and fixes.kept(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_a_run_s_copy_is_about_more_images_than_its_validation_folder_has(tmp_path):
    names = ("val/cat/a.jpg", *NAMES[1:])
    path = write(tmp_path / "fixes.csv", [*ROWS, ["train/cat/a.jpg", "cat", "drop"], ["val/cat/a.jpg", "cat", "owl"]])
    assert recorded_fixes(path, data_of(names)).labels == {0: 2, 1: 2}
    with pytest.raises(UserError, match="names image 'train/cat/a.jpg'"):
        read_label_fixes(path, data_of(names))


def test_a_name_s_unicode_form_does_not_matter(tmp_path):
    """macOS gives names in another form than a spreadsheet writes."""
    names = [unicodedata.normalize("NFD", name) for name in NAMES]
    for form in ("NFC", "NFD"):
        path = write(tmp_path / "fixes.csv", [["image", "fix"], [unicodedata.normalize(form, NAMES[2]), "drop"]])
        assert read_label_fixes(path, data_of(tuple(names))).dropped == (2,)


@pytest.mark.parametrize(
    "rows, said",
    [
        ([["fix", "image"], ["dog"]], "line 2 names image ''"),
        ([["image", "fix"], ["train/cat/z.jpg", "dog"]], "line 2 names image 'train/cat/z.jpg', which is not in train"),
        ([["image", "fix"], ["", "dog"]], "line 2 names image ''"),
        ([["image", "fix"], ["train/cat/a.jpg", "wolf"]], "line 2: fix is 'wolf', but must be a class, 'drop', or empty"),
        ([["image", "label"], ["train/cat/a.jpg", "cat"]], "lacks the column fix"),
        ([["a", "b"]], "lacks the column fix and image"),
        ([], "lacks the column"),
        ([["image", "label", "fix"], ["train/cat/a.jpg", "dog", "owl"]], "labelled 'cat', not 'dog'"),
        ([["image", "fix"], ["train/cat/a.jpg", "dog"], ["train/cat/a.jpg", "owl"]], "line 3: .* another fix"),
        ([["image", "split", "fix"], ["3", "test", "dog"]], "line 2 is about image '3' of the test set"),
        ([["image", "fix"], ["x" * 200_000, "dog"]], "field larger than field limit"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_unknown_is_refused_in_a_line(tmp_path, rows, said):
    path = write(tmp_path / "fixes.csv", rows)
    with pytest.raises(UserError, match=said) as refused:
        read_label_fixes(path, data_of())
    assert str(refused.value).startswith(f"--label_fixes {path}") and "\n" not in str(refused.value)


def test_what_is_no_such_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.csv").write_bytes("image,fix\nétage,cat\n".encode("latin-1"))
    for name in ("none.csv", "folder", "pipe", "latin.csv"):
        with pytest.raises(UserError, match=name):
            read_label_fixes(tmp_path / name, data_of())


def test_any_bytes_are_read_or_refused_in_a_line(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "fixes.csv"
    whole = write(path, ROWS).read_bytes()
    for _ in range(500):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged[: random.integers(0, len(whole) + 1)])
        try:
            fixes = read_label_fixes(path, data_of())
        except UserError as error:
            assert "\n" not in str(error) and "fixes.csv" in str(error)
        else:
            assert set(fixes.labels) | set(fixes.dropped) <= set(range(5)) and set(fixes.labels.values()) <= {0, 1, 2}

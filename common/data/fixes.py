"""Labels of train that a person has put right: `--label_fixes`, a CSV such as evaluate.py's label_issues.csv.

A row names an image in the column `image`, by its file within --data_dir or, where the data has no files of one's own, by its index in train.
Its column `fix` is a class, or `drop` for an image that is not to be used, or empty for a label that is right. Other columns are for the person
who reads it; only a `label` that is not the image's tells that the file is about other data.
"""

import csv
import io
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.base.errors import UserError, first_line
from common.base.files import read_file
from common.base.text import counted
from common.data.dataset import Dataset

DROP = "drop"
LONGEST = 64 << 20  # bytes


@dataclass(frozen=True)
class LabelFixes:
    labels: dict[int, int]
    """index in train → its right label"""
    dropped: tuple[int, ...]
    """indices in train"""
    content: bytes
    """of the file"""

    def applied(self, data: Dataset) -> Dataset:
        """`data`, which is train, with the labels as they should be; what is dropped is still in it."""
        labels = data.labels.clone()
        for index, label in self.labels.items():
            labels[index] = label
        return replace(data, labels=labels)

    def kept(self, indices: Tensor) -> Tensor:
        """`indices` without those that are dropped."""
        return indices[~torch.isin(indices, torch.tensor(self.dropped, dtype=torch.int64))]

    def in_words(self) -> str:
        changed, dropped = counted(len(self.labels), "label"), counted(len(self.dropped), "image")
        return f"--label_fixes changes {changed} and drops {dropped}"


NONE = LabelFixes({}, (), b"")


def read_label_fixes(path: Path, data: Dataset, flag: str = "--label_fixes") -> LabelFixes:
    """data: train, with the labels as they are. Errors: `UserError` naming the file and the line that is unknown or contradicts another."""
    return _read(path, data, flag, whole=True)


def recorded_fixes(path: Path, data: Dataset) -> LabelFixes:
    """A run's own copy, of which `data` may lack images, as a validation folder does those of train; without one it has none.

    Errors: as `read_label_fixes`."""
    return _read(path, data, "the run's", whole=False) if path.exists() else NONE


def _read(path: Path, data: Dataset, flag: str, whole: bool) -> LabelFixes:
    content = _content(path, flag)
    try:
        return _parsed(content, data, whole)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{flag} {path}: {first_line(error)}") from None


def _content(path: Path, flag: str) -> bytes:
    try:
        return read_file(path, LONGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {path} can't be read ({getattr(error, 'strerror', None) or error})") from None


def _parsed(content: bytes, data: Dataset, whole: bool) -> LabelFixes:
    """whole: whether all images are in `data`. Errors: `ValueError` that says what is wrong in which line."""
    try:
        text = content.decode("utf-8-sig")  # spreadsheets begin a file with a mark
    except UnicodeDecodeError:
        raise ValueError("it is not written in UTF-8; save it as CSV in UTF-8") from None
    header = text.partition("\n")[0]
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count)
    )  # as spreadsheets of any country write
    columns = [name.strip() for name in next(rows, [])]
    if missing := {"image", "fix"} - set(columns):
        raise ValueError(f"it lacks the column {' and '.join(sorted(missing))}; its first line must name its columns")
    index_of = {_key(name): index for index, name in enumerate(data.names or map(str, range(len(data.labels))))}
    label_of = {_key(name): label for label, name in enumerate(data.classes)}
    fixes: dict[int, str] = {}
    for cells in rows:
        line = rows.line_num
        row = dict(zip(columns, map(str.strip, cells), strict=False))
        if not (fix := _key(row.get("fix", ""))):
            continue
        image = _key(row.get("image", ""))
        if row.get("split") == "test":
            raise ValueError(
                f"line {line} is about image {image!r} of the test set, which is not trained on; evaluate.py --split validation "
                "lists images of train"
            )
        if image not in index_of and not whole:
            continue
        if image not in index_of:
            raise ValueError(f"line {line} names image {image!r}, which is not in train")
        index = index_of[image]
        given = data.classes[int(data.labels[index])]
        if row.get("label") and _key(row["label"]) != _key(given):
            raise ValueError(
                f"line {line}: image {image!r} is labelled {given!r}, not {row['label']!r}: the file is about other data"
            )
        if fix not in label_of and fix != DROP:
            raise ValueError(f"line {line}: fix is {fix!r}, but must be a class, {DROP!r}, or empty")
        if fixes.setdefault(index, fix) != fix:
            raise ValueError(f"line {line}: image {image!r} has another fix in a line before")
    changed = {index: label_of[fix] for index, fix in fixes.items() if fix in label_of}
    dropped = tuple(sorted(index for index, fix in fixes.items() if fix not in label_of))
    before = data.labels.tolist()
    return LabelFixes({i: label for i, label in changed.items() if label != before[i]}, dropped, content)


def _key(name: str) -> str:
    """What is equal for the Unicode forms of a name, which spreadsheets change."""
    return unicodedata.normalize("NFC", name)

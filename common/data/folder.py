"""One's own photos, in folders named after their classes."""

import os
from pathlib import Path

import torch

from common.base.errors import UserError
from common.data import decode
from common.data.dataset import Dataset, Split
from common.data.photos import find_photos, is_no_class
from common.data.pixels import Decoding


def load_folder(root: Path | None, split: Split, how: Decoding) -> Dataset:
    """The photos in `root/<split>/<class>/`. The classes are train's, in the order of their names.

    Errors: `UserError` naming the folder or photo when one is missing or can't be read, or train's and test's classes differ.
    """
    if root is None:
        raise UserError("--dataset folder needs --data_dir, the folder with train/<class>/ and test/<class>/")
    classes = class_names(root / "train")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has one class only ({classes[0]!r}); add a folder for each other class")
    if split == "test" or (root / "test").exists():  # a mismatch is better known before training than after
        _check_same_classes(root, classes, class_names(root / "test"))
    images, photos = decode.load(find_photos(root / split, classes), how)
    labels = torch.tensor(photos.labels, dtype=torch.int64)
    return Dataset("folder", images, labels, classes, None, None, flip=True, photos=photos)


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders within `folder`, hidden ones and a system's aside, in the order of their code points (the same on any machine)."""
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; --data_dir must be a folder with train/<class>/ and test/<class>/")
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not is_no_class(entry.name) and entry.is_dir())
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); see --data_dir") from error
    if not names:
        raise UserError(
            f"{folder} has no class folders; --data_dir must be a folder with train/<class>/ and test/<class>/"
        )
    for name in names:
        if not name.isprintable():  # control characters, or bytes that are no UTF-8
            raise UserError(f"the class folder {name!r} in {folder} has characters that can't be printed; rename it")
    return tuple(names)


def _check_same_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    missing, extra = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    problems = [f"lacks {missing}"] * bool(missing) + [f"has {extra}, which train lacks"] * bool(extra)
    if problems:
        raise UserError(f"{root / 'test'} must have the classes of {root / 'train'}, but it {' and '.join(problems)}")

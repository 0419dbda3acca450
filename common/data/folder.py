"""One's own photos, in folders named after their classes."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from common.base.errors import UserError
from common.data.dataset import Dataset, Split
from common.data.decode import load_photos

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


def load_folder(root: Path | None, split: Split, image_size: int) -> Dataset:
    """The photos in `root/<split>/<class>/`, at `image_size` px. The classes are train's, in the order of their names.

    Errors: `UserError` naming the folder or photo when one is missing or can't be read, or train's and test's classes differ.
    """
    if root is None:
        raise UserError("--dataset folder needs --data_dir, the folder with train/<class>/ and test/<class>/")
    classes = class_names(root / "train")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has one class only ({classes[0]!r}); add a folder for each other class")
    if split == "test" or (root / "test").exists():  # a mismatch is better known before training than after
        _check_same_classes(root, classes, class_names(root / "test"))
    names, labels = list_photos(root / split, classes)
    images = load_photos(root / split, names, image_size)
    return Dataset("folder", images, torch.tensor(labels, dtype=torch.int64), classes, None, None, flip=True)


def list_photos(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The photos of all `classes`, as paths relative to `folder`, and their labels, in the order that they are loaded in."""
    names, labels = [], []
    for label, class_name in enumerate(classes):
        photos = _photo_names(folder, class_name)
        names += photos
        labels += [label] * len(photos)
    return names, labels


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders within `folder`, hidden ones aside, in the order of their code points (the same on any machine)."""
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; --data_dir must be a folder with train/<class>/ and test/<class>/")
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "." and entry.is_dir())
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


def _photo_names(folder: Path, class_name: str) -> list[str]:
    """The photos of a class, sorted, as paths relative to `folder`; in nested folders too, hidden ones aside.

    Links to folders are not followed, save the class folder itself: they could lead round in a circle.
    """
    names = []
    for path, folders, files in os.walk(folder / class_name):
        folders[:] = [name for name in folders if name[0] != "."]
        found = [Path(path, name) for name in files if name[0] != "."]
        names += [photo.relative_to(folder).as_posix() for photo in found if photo.suffix.lower() in PHOTO_SUFFIXES]
    if not names:
        kinds = " ".join(sorted(suffix[1:] for suffix in PHOTO_SUFFIXES))
        raise UserError(f"the class folder {folder / class_name} has no photos ({kinds}); add some, or remove it")
    return sorted(names)

"""One's own photos, in folders named after their classes: which folder is which part of the data, and what is in it."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.base.errors import UserError
from common.base.text import counted
from common.data import decode
from common.data.dataset import Dataset, Split
from common.data.duplicates import pixel_digests
from common.data.photos import Photos, find_photos, is_no_class
from common.data.pixels import Decoding
from common.data.split import split_indices

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}  # what their folders may be called, in letters of any case
PARTED = "one with train/<class>/ and test/<class>/"
LAYOUTS = f"a folder of class folders, or {PARTED}"
TEST_FRACTION = 0.2  # of one folder of class folders
# px: whatever --image_size, the same photos are drawn. Not a usual one: the cache keeps one set of a size.
_DIGEST_SIZE = 65


# --- which folder is what ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Which folder in `root` is which part of the data."""

    root: Path
    parts: dict[str, Path]
    """by the names of `PARTS`; none in one folder of class folders, of which a part is drawn for the test set"""
    unused: tuple[str, ...] = ()
    """folders beside those"""

    @property
    def is_one_folder(self) -> bool:
        return not self.parts

    def has(self, part: Split) -> bool:
        """Whether there are images for it; those of a validation may be a part of train all the same."""
        return part in self.parts or (self.is_one_folder and part != "validation")

    def folder(self, part: Split) -> Path:
        """The part's folder, or where it would be."""
        return self.parts.get(part, self.root / part)


def find_layout(root: Path) -> Layout:
    """Errors: `UserError` when two folders would be the same part."""
    folders = _folders(root)
    found = {part: [name for name in folders if name.casefold() in names] for part, names in PARTS.items()}
    others = tuple(name for name in folders if not any(name in names for names in found.values()))
    # A class may be called "train": beside other classes, and with photos in it instead of class folders.
    in_parts = any(_folders(root / name) for names in found.values() for name in names)
    if others and not in_parts:
        return Layout(root, {})
    for part, names in found.items():
        if len(names) > 1:
            raise UserError(f"{root} has {names}, each of which would be the {part} part; keep or rename one of them")
    parts = {part: root / names[0] for part, names in found.items() if names}
    # Photos without classes, as competitions have them for test, teach and measure nothing.
    unlabelled = tuple(folder.name for part, folder in parts.items() if part != "train" and not _folders(folder))
    parts = {part: folder for part, folder in parts.items() if folder.name not in unlabelled}
    named = root / "train" if root.is_dir() else root  # by what is missing
    return Layout(root, parts or {"train": named}, others + unlabelled)


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders within `folder`, hidden ones and a system's aside, in the order of their code points (the same on any machine)."""
    if not os.path.isdir(folder):
        problem = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UserError(f"{folder} {problem}; --data_dir must be {LAYOUTS}")
    names = _folders(folder)
    if not names:
        raise UserError(f"{folder} has no class folders; --data_dir must be {LAYOUTS}")
    for name in names:
        if not name.isprintable():  # control characters, or bytes that are no UTF-8
            raise UserError(f"the class folder {name!r} in {folder} has characters that can't be printed; rename it")
    return tuple(names)


def _folders(folder: Path) -> list[str]:
    """Names of the folders within, hidden ones and a system's aside, sorted; none where there is no such folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not is_no_class(entry.name) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); see --data_dir") from error


# --- a part as a dataset ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What a run has recorded of its photos, which they are then matched with."""

    classes: Sequence[str] | None = None
    """None: train's"""
    test_files: Collection[str] | None = None
    """what was drawn for the test set from one folder of class folders. None: draw it; (): nothing was"""
    train_size: int | None = None
    """how many photos were the others"""


NOTHING = Known()


def load_folder(root: Path | None, split: Split, how: Decoding, known: Known = NOTHING) -> Dataset:
    """The photos of a part of `root`, by label and name. `train` ends with those of the validation folder. The classes are train's, in
    the order of their names, unless they are known; folders are matched with them by name.

    Errors: `UserError` naming the folder or photo when one is missing or can't be read, or a folder is no known class.
    """
    if root is None:
        raise UserError(f"--dataset folder needs --data_dir, {LAYOUTS}")
    layout = find_layout(root)
    if layout.is_one_folder:
        return _of_one_folder(root, split, how, known)
    if split == "train":
        return _train(layout, how, known)
    folder, train = layout.folder(split), layout.folder("train")
    classes = known.classes or _train_classes(train)
    images, photos = decode.load(matched_photos(folder, classes, None if known.classes else train), how)
    remarks = _lacking(folder, classes)
    if split == "test" and known.test_files:
        remarks.append(f"{root} has a folder for test now: it is evaluated, and not what was drawn when the run began")
    return _dataset(f"{folder.name}/", images, photos, classes, remarks)


def _train(layout: Layout, how: Decoding, known: Known) -> Dataset:
    """The photos to train on, and after them those of the validation folder. Looks at test, too: a mismatch is better known before
    training than after."""
    root, folder = layout.root, layout.folder("train")
    classes = known.classes or _train_classes(folder)
    train = matched_photos(folder, classes, folder)
    remarks = []
    for part in ("validation", "test"):
        if layout.has(part):
            match_classes(layout.folder(part), classes, folder)
            remarks += _lacking(layout.folder(part), classes)
    if layout.unused:
        what = "that are not used, being no train, val or test with class folders"
        remarks.append(f"{root} has folders {what}: {_some(layout.unused)}")
    test_files = None if layout.has("test") else ()
    if not layout.has("validation"):
        images, photos = decode.load(train, how)
        return replace(_dataset(f"{folder.name}/", images, photos, classes, remarks), test_files=test_files)
    validation = matched_photos(layout.folder("validation"), classes, folder)
    remarks.append(f"{validation.folder} is the validation set: --validation_fraction is not used")
    images, photos = decode.load(train.in_parent() + validation.in_parent(), how)  # one file in the cache
    start = sum(name.startswith(f"{folder.name}/") for name in photos.names)
    return replace(
        _dataset("", images, photos, classes, remarks),
        validation_folder=validation.folder.name,
        validation=range(start, len(photos.names)),
        test_files=test_files,
    )


def _of_one_folder(root: Path, split: Split, how: Decoding, known: Known) -> Dataset:
    """A folder of class folders, of which some photos are test's and the others train's."""
    classes = known.classes or _train_classes(root)
    listed = matched_photos(root, classes, None if known.classes else root)
    drawn = frozenset(_draw_test(listed, how) if known.test_files is None else known.test_files)
    there = [_key(name) for name in listed.names]
    in_order = sorted(
        range(len(there)), key=lambda i: there[i] in drawn
    )  # test's last: for both parts one file in the cache
    images, photos = decode.load(listed.at(in_order), how)
    start = sum(_key(name) not in drawn for name in photos.names)
    rest, test = range(start), range(start, len(photos.names))
    if split == "train":
        counts = f"{len(test)} of the {len(photos.names)} photos in {root}"
        are = "are" if len(test) > 1 else "is"
        remark = f"{counts} {are} its test set, as split.json records; the others are train"
        files = tuple(key for key in there if key in drawn)
        return replace(_dataset("", images[:start], photos.at(rest), classes, [remark]), test_files=files)
    if not test:
        remark = (
            f"all {len(photos.names)} photos in {root} are evaluated: none of them was set apart when the run began"
        )
        return _dataset("", images, photos, classes, [remark])
    if missing := sorted(drawn - set(there)):
        raise UserError(f"{root} lacks {len(missing)} of the run's {len(drawn)} test photos, such as {missing[0]}")
    remarks = []
    if known.test_files is None:
        remarks.append(
            f"{len(test)} of the {len(there)} photos in {root} {'are' if len(test) > 1 else 'is'} evaluated, as a training sets apart"
        )
    if known.train_size is not None and len(rest) > known.train_size:
        added = len(rest) - known.train_size
        they = "they are" if added > 1 else "it is"
        remarks.append(f"{counted(added, 'photo')} came to {root} since the run began: {they} not in its test set")
    return _dataset("", images[start:], photos.at(test), classes, remarks)


def _draw_test(photos: Photos, how: Decoding) -> list[str]:
    """The test set of one folder of class folders: the same for all runs, whatever their --seed, --image_size and --fit."""
    images, photos = decode.load(photos, Decoding(_DIGEST_SIZE, unreadable=how.unreadable))
    try:
        _, test = split_indices(np.array(photos.labels), TEST_FRACTION, 0, pixel_digests(images))
    except UserError:
        raise UserError(
            f"{photos.folder} has too few photos to set some apart for a test: add some, or make it {PARTED}"
        ) from None
    return [_key(photos.names[i]) for i in test.tolist()]


def _dataset(place: str, images: Tensor, photos: Photos, classes: Sequence[str], remarks: Sequence[str]) -> Dataset:
    labels = torch.tensor(photos.labels, dtype=torch.int64)
    names = tuple(_key(f"{place}{name}") for name in photos.names)
    data = Dataset("folder", images, labels, tuple(classes), None, None, flip=True)
    return replace(data, names=names, photos=photos, remarks=tuple(remarks))


# --- classes and photos -----------------------------------------------------------------------------------------------


def matched_photos(folder: Path, classes: Sequence[str], train: Path | None = None) -> Photos:
    """The photos in the class folders of `folder`, by label and name. Errors: as `match_classes`."""
    found = match_classes(folder, classes, train)
    photos = find_photos(folder, [name for _, name in found])
    return replace(photos, labels=[found[position][0] for position in photos.labels])


def match_classes(folder: Path, classes: Sequence[str], train: Path | None = None) -> list[tuple[int, str]]:
    """Labels and names of the class folders in `folder`, which may be some of `classes`, in any Unicode form.

    train: where the classes are from; None: from a checkpoint. Errors: `UserError` when a folder is none of them.
    """
    labels = {_key(name): label for label, name in enumerate(classes)}
    labels |= {name: label for label, name in enumerate(classes)}  # a run of before may have two forms as two classes
    names = class_names(folder)
    if strange := [name for name in names if name not in labels and _key(name) not in labels]:
        if train is not None:
            raise UserError(
                f"{folder} must have no other classes than {train}, but it has {strange}, which train lacks"
            )
        raise UserError(
            f"the checkpoint tells {len(classes)} classes ({_some(classes)}) apart, but --dataset folder has {len(strange)} "
            f"class{'es' * (len(strange) > 1)} that it doesn't know ({_some(strange)}): {folder / strange[0]}"
        )
    return sorted((labels.get(name, labels.get(_key(name), -1)), name) for name in names)


def _train_classes(folder: Path) -> tuple[str, ...]:
    """The classes that a training learns: two forms of one name are one. Errors: `UserError` when they are fewer than two."""
    classes: dict[str, str] = {}
    for name in class_names(folder):
        classes.setdefault(_key(name), name)
    if len(classes) < 2:
        raise UserError(
            f"{folder} has one class only ({next(iter(classes.values()))!r}); add a folder for each other class"
        )
    return tuple(classes.values())


def _lacking(folder: Path, classes: Sequence[str]) -> list[str]:
    """A line on the classes that have no folder there, if there are any."""
    there = {label for label, _ in match_classes(folder, classes)}
    missing = [name for label, name in enumerate(classes) if label not in there]
    line = f"{folder} has no photos of {len(missing)} of the {len(classes)} classes: {_some(missing)}"
    return [line] if missing else []


def _key(name: str) -> str:
    """What is equal for the Unicode forms of a name, as file systems and archives change them, and can be written."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)

"""One's own photos, in folders named after their classes: which folder is which part of the data, and what is in it."""

import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from common.base.errors import UserError
from common.data.dataset import Dataset, Split
from common.data.decode import load_photos
from common.data.duplicates import pixel_digests
from common.data.split import split_indices

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}  # what their folders may be called, in letters of any case
LAYOUTS = "a folder of class folders, or one with train/<class>/ and test/<class>/"
TEST_FRACTION = 0.2  # of one folder of class folders
_DIGEST_SIZE = (
    65  # px: the same photos are drawn for any --image_size. Not a usual one: the cache keeps one set of a size
)


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
    return Layout(root, parts or {"train": root / "train"}, others + unlabelled)


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders within `folder`, hidden ones aside, in the order of their code points (the same on any machine)."""
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; --data_dir must be {LAYOUTS}")
    names = _folders(folder)
    if not names:
        raise UserError(f"{folder} has no class folders; --data_dir must be {LAYOUTS}")
    for name in names:
        if not name.isprintable():  # control characters, or bytes that are no UTF-8
            raise UserError(f"the class folder {name!r} in {folder} has characters that can't be printed; rename it")
    return tuple(names)


def _folders(folder: Path) -> list[str]:
    """Names of the folders within, sorted; none where there is no such folder. macOS leaves `__MACOSX` in archives."""
    if not folder.is_dir():
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); see --data_dir") from error
    return [name for name in names if name != "__MACOSX"]


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


@dataclass(frozen=True)
class Photos:
    """Photos of several classes."""

    folder: Path
    names: list[str]
    """relative to `folder`"""
    labels: list[int]

    def at(self, indices: Sequence[int]) -> "Photos":
        return Photos(self.folder, [self.names[i] for i in indices], [self.labels[i] for i in indices])

    def load(self, image_size: int) -> torch.Tensor:
        return load_photos(self.folder, self.names, image_size)

    def dataset(self, root: Path, images: torch.Tensor, classes: Sequence[str], notes: Sequence[str] = ()) -> Dataset:
        labels = torch.tensor(self.labels, dtype=torch.int64)
        names = tuple(_key((self.folder / name).relative_to(root).as_posix()) for name in self.names)
        return Dataset("folder", images, labels, tuple(classes), None, None, flip=True, names=names, notes=tuple(notes))


def load_folder(root: Path | None, split: Split, image_size: int, known: Known = NOTHING) -> Dataset:
    """The photos of a part of `root` at `image_size` px, by label and name. `train` ends with those of the validation folder. The classes
    are train's, in the order of their names, unless they are known; folders are matched with them by name.

    Errors: `UserError` naming the folder or photo when one is missing or can't be read, or a folder is no known class.
    """
    if root is None:
        raise UserError(f"--dataset folder needs --data_dir, {LAYOUTS}")
    layout = find_layout(root)
    if layout.is_one_folder:
        return _of_one_folder(root, split, image_size, known)
    if split == "train":
        return _train(layout, image_size, known)
    classes = known.classes or _train_classes(layout.folder("train"))
    photos = find_photos(layout.folder(split), classes, None if known.classes else layout.folder("train"))
    notes = [_lacking(layout.folder(split), classes)]
    if split == "test" and known.test_files:
        notes.append(f"{root} has a folder for test now: it is evaluated, and not what was drawn when the run began")
    return photos.dataset(root, photos.load(image_size), classes, list(filter(None, notes)))


def _train(layout: Layout, image_size: int, known: Known) -> Dataset:
    """The photos to train on, and after them those of the validation folder. Looks at test, too: a mismatch is better known before
    training than after."""
    root, folder = layout.root, layout.folder("train")
    classes = known.classes or _train_classes(folder)
    train = find_photos(folder, classes, folder)
    others = [layout.folder(part) for part in ("validation", "test") if layout.has(part)]
    for other in others:
        match_classes(other, classes, folder)
    notes = [_lacking(other, classes) for other in others]
    if layout.unused:
        notes.append(
            f"{root} has folders that are not used, being no train, val or test with class folders: {_some(layout.unused)}"
        )
    test_files = None if layout.has("test") else ()
    if not layout.has("validation"):
        return replace(
            train.dataset(root, train.load(image_size), classes, list(filter(None, notes))), test_files=test_files
        )
    validation = find_photos(layout.folder("validation"), classes, folder)
    notes.append(f"{validation.folder} is the validation set: --validation_fraction is not used")
    names = [f"{part.folder.name}/{name}" for part in (train, validation) for name in part.names]
    both = Photos(root, names, train.labels + validation.labels)  # one file in the cache
    return replace(
        both.dataset(root, both.load(image_size), classes, list(filter(None, notes))),
        validation_folder=validation.folder.name,
        validation=range(len(train.names), len(names)),
        test_files=test_files,
    )


def _of_one_folder(root: Path, split: Split, image_size: int, known: Known) -> Dataset:
    """A folder of class folders, of which some photos are test's and the others train's."""
    classes = known.classes or _train_classes(root)
    photos = find_photos(root, classes, None if known.classes else root)
    drawn = frozenset(_draw_test(photos) if known.test_files is None else known.test_files)
    keys = [_key(name) for name in photos.names]
    test = [i for i, key in enumerate(keys) if key in drawn]
    rest = [i for i, key in enumerate(keys) if key not in drawn]
    images = photos.at(rest + test).load(image_size)  # the same for both parts: one file in the cache
    if split == "train":
        note = f"{len(test)} of the {len(keys)} photos in {root} are its test set, as split.json records; the others are train"
        files = tuple(key for key in keys if key in drawn)
        return replace(photos.at(rest).dataset(root, images[: len(rest)], classes, [note]), test_files=files)
    if not test:
        note = f"all {len(keys)} photos in {root} are evaluated: none of them was set apart when the run began"
        return photos.dataset(root, images, classes, [note])
    if missing := sorted(drawn - set(keys)):
        raise UserError(f"{root} lacks {len(missing)} of the run's {len(drawn)} test photos, such as {missing[0]}")
    notes = []
    if known.train_size is not None and len(rest) > known.train_size:
        added = len(rest) - known.train_size
        notes.append(f"{added} photos came to {root} since the run began: they are not in its test set")
    return photos.at(test).dataset(root, images[len(rest) :], classes, notes)


def _draw_test(photos: Photos) -> list[str]:
    """The test set of one folder of class folders: the same for all runs, whatever their --seed."""
    same = pixel_digests(photos.load(_DIGEST_SIZE))
    try:
        _, test = split_indices(np.array(photos.labels), TEST_FRACTION, 0, same)
    except UserError:
        raise UserError(
            f"{photos.folder} has too few photos to set some apart for a test: add some, or make it {LAYOUTS.split(', or ')[1]}"
        ) from None
    return [_key(photos.names[i]) for i in test.tolist()]


# --- classes and photos -----------------------------------------------------------------------------------------------


def find_photos(folder: Path, classes: Sequence[str], train: Path | None = None) -> Photos:
    """The photos in the class folders of `folder`, by label and name. Errors: as `match_classes`."""
    found = match_classes(folder, classes, train)
    names, positions = list_photos(folder, [name for _, name in found])
    return Photos(folder, names, [found[position][0] for position in positions])


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


def _lacking(folder: Path, classes: Sequence[str]) -> str | None:
    """A line on the classes that have no folder there."""
    there = {label for label, _ in match_classes(folder, classes)}
    missing = [name for label, name in enumerate(classes) if label not in there]
    return (
        f"{folder} has no photos of {len(missing)} of the {len(classes)} classes: {_some(missing)}" if missing else None
    )


def _key(name: str) -> str:
    """What is equal for the Unicode forms of a name, as file systems and archives change them, and can be written."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def list_photos(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The photos of all `classes`, as paths relative to `folder`, and their labels, in the order that they are loaded in."""
    names, labels = [], []
    for label, class_name in enumerate(classes):
        photos = _photo_names(folder, class_name)
        names += photos
        labels += [label] * len(photos)
    return names, labels


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

"""Which files in a folder of photos are photos, and what becomes of the others: nothing is passed over in silence.

A photo is told by its suffix, and read by its content. The suffixes are those of the formats that Pillow reads.
"""

import contextlib
import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from PIL import Image

from common.base.errors import UserError
from common.base.text import counted, in_utf8, printable

# Pillow knows these by name, and leaves drawing them to another program, such as Ghostscript, or to nobody.
NO_PHOTOS = frozenset({"EPS", "WMF", "MPEG", "IPTC", "HDF5", "GRIB", "BUFR"})
COMMON = (
    "JPEG",
    "PNG",
    "WEBP",
    "TIFF",
    "GIF",
    "BMP",
    "AVIF",
    "HEIF",
)  # looked for first: some others must be tried to be told
HEIC_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
# What macOS, Windows, a NAS and notebooks leave among files. `._cat.jpg` is none of the photos, for all its suffix.
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", ".ipynb_checkpoints"})
NO_USERS_OWN = "hidden or of a system"  # why, where it is neither a photo nor a folder of such
LINKS = "links to folders"
NAMED = 3  # of the files of a reason that are named
Stamp = tuple[int, int, int]
"""size in bytes, time of the last modification and of the last change of any kind in ns; all -1 for what is not there"""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read; HEIF, iPhones' own, is among them when pillow-heif is installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(sorted(set(Image.ID) - NO_PHOTOS, key=lambda name: (name not in COMMON, Image.ID.index(name))))


@cache
def photo_suffixes() -> frozenset[str]:
    """In lower case, with their dots. HEIC's are always among them, so that a missing pillow-heif is said."""
    read = {*formats(), "MPO"}  # which is read as a JPEG
    return HEIC_SUFFIXES | {suffix for suffix, name in Image.registered_extensions().items() if name in read}


@dataclass(frozen=True)
class Photos:
    """Photos in a folder, and all that lies beside them. Names are paths relative to the folder."""

    folder: Path
    names: list[str]
    """in the order of the images"""
    labels: list[int] = field(default_factory=list)
    """one for each name"""
    unused: dict[str, list[str]] = field(default_factory=dict)
    """why → files and folders that are not taken for photos"""
    unreadable: dict[str, str] = field(default_factory=dict)
    """photos and folders that can't be read → why"""
    stamps: list[Stamp] = field(default_factory=list)
    """one for each name: how the file was when it was read"""

    def at(self, places: Sequence[int]) -> "Photos":
        """Some of them."""
        stamps = [self.stamps[i] for i in places] if self.stamps else []
        return replace(
            self, names=[self.names[i] for i in places], labels=[self.labels[i] for i in places], stamps=stamps
        )

    def in_parent(self) -> "Photos":
        """The same, by their paths relative to the folder above."""

        def moved(names: Iterable[str]) -> list[str]:
            return [f"{self.folder.name}/{name}" for name in names]

        return replace(
            self,
            folder=self.folder.parent,
            names=moved(self.names),
            unused={why: moved(names) for why, names in self.unused.items()},
            unreadable=dict(zip(moved(self.unreadable), self.unreadable.values(), strict=True)),
        )

    def __add__(self, other: "Photos") -> "Photos":
        """Those of two, before they are read."""
        unused = {why: self.unused.get(why, []) + other.unused.get(why, []) for why in {**self.unused, **other.unused}}
        unreadable = self.unreadable | other.unreadable
        return Photos(self.folder, self.names + other.names, self.labels + other.labels, unused, unreadable)

    def changed(self) -> list[str]:
        """The photos that are no longer what was read."""
        return [
            name for name, before in zip(self.names, self.stamps, strict=True) if stamp_of(self.folder / name) != before
        ]

    def counts(self) -> dict[str, int]:
        """Why → how many files and folders are not taken for photos."""
        return {why: len(names) for why, names in self.unused.items()}

    def skipped(self) -> list[str]:
        """What can't be read, as text that any file can hold."""
        return [in_utf8(name) for name in self.unreadable]

    def said(self) -> list[str]:
        """A line for what is not used, and one for what can't be read; none where there is nothing to say."""
        lines = []
        if self.unused:
            parts = [f"{len(names)} {why} ({_some(names)})" for why, names in self.unused.items()]
            lines.append(f"not used in {printable(self.folder, 200)}: {'; '.join(parts)}")
        if self.unreadable:
            some = "; ".join(f"{printable(in_utf8(n), 200)} {why}" for n, why in list(self.unreadable.items())[:NAMED])
            more = f"; … {len(self.unreadable)} in all" * (len(self.unreadable) > NAMED)
            lines.append(f"skipped in {printable(self.folder, 200)}, for they can't be read: {some}{more}")
        return lines


def find_photos(folder: Path, classes: Sequence[str]) -> Photos:
    """The photos of all `classes`, class after class, each sorted by name, nested folders included; and what is there besides.

    Links to folders are not followed, save the class folder itself: they could lead round in a circle.

    Errors: `UserError` naming a class folder without photos, or that can't be read.
    """
    found = Photos(folder, [])
    _sort_out(found, folder, [entry.name for entry in os.scandir(folder) if entry.is_file()], inside=False)
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and is_no_class(entry.name)):
        _add(found.unused, NO_USERS_OWN, name)
    for label, class_name in enumerate(classes):
        names = _photos_in(found, folder / class_name)
        found.names.extend(names)
        found.labels.extend([label] * len(names))
    return found


def list_photos(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names and labels of `find_photos`."""
    found = find_photos(folder, classes)
    return found.names, found.labels


def is_no_class(name: str) -> bool:
    """Whether a folder of this name is hidden, or was left by a system, and holds no photos."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def stamp_of(path: Path) -> Stamp:
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1, -1
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _photos_in(found: Photos, class_folder: Path) -> list[str]:
    """The photos of a class, sorted; what else is there is noted in `found`."""
    names: list[str] = []
    closed: list[OSError] = []
    before = sum(map(len, found.unused.values()))
    for path, folders, files in os.walk(class_folder, onerror=closed.append):
        place = Path(path)
        for name in folders:
            if is_no_class(name):
                _add(found.unused, NO_USERS_OWN, _relative(found, place / name))
            elif (place / name).is_symlink():
                _add(found.unused, LINKS, _relative(found, place / name))
        folders[:] = [name for name in folders if not is_no_class(name)]
        names += _sort_out(found, place, files)
    if not names and closed:
        raise UserError(
            f"{closed[0].filename} can't be read ({closed[0].strerror}); change its permissions, or remove it"
        )
    for error in closed:
        found.unreadable[_relative(found, Path(error.filename))] = f"can't be read ({error.strerror})"
    if not names:
        others = sum(map(len, found.unused.values())) - before
        besides = f", but {counted(others, 'other file')}" * bool(others)
        raise UserError(
            f"the class folder {class_folder} has no photos (jpg png webp tif gif avif and what else Pillow reads)"
            f"{besides}; add some, or remove it"
        )
    return sorted(names)


def _sort_out(found: Photos, place: Path, files: Sequence[str], inside: bool = True) -> list[str]:
    """Those of the files that are photos; the others are noted in `found`, and so are all that are not in a class folder."""
    photos = []
    for name in sorted(files):
        path = _relative(found, place / name)
        if why := why_no_photo(name):
            _add(found.unused, why, path)
        elif not inside:
            _add(found.unused, "in no class folder", path)
        else:
            photos.append(path)
    return photos


def why_no_photo(name: str) -> str:
    """Why a file of this name, in a folder of photos, is not taken for one; empty when it is."""
    suffix = os.path.splitext(name)[1].lower()
    if name.lower() in SYSTEM_FILES or name[0] == ".":
        return NO_USERS_OWN
    if suffix not in photo_suffixes():
        return printable(suffix, 20) if suffix else "without a suffix"
    return ""


def _relative(found: Photos, path: Path) -> str:
    return path.relative_to(found.folder).as_posix()


def _add(groups: dict[str, list[str]], key: str, name: str) -> None:
    groups.setdefault(key, []).append(name)


def _some(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(printable(in_utf8(name), 100) for name in names[:NAMED]) + ", …" * (len(names) > NAMED)

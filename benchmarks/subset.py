"""A fixed random choice of each class's images of a folder data set, as a folder data set of its own.

    python -m benchmarks.subset CIFAR-100-dataset cifar100-14000 --train 140 --test 100

makes cifar100-14000/{train,test}/<class>/ of links to images that their names' digests choose, so that a reader has the very images that docs/
speaks of, and fewer are always some of more: of CIFAR-100 as PNG (github.com/cyizhuo/CIFAR-100-dataset), 140 a class with `--validation_fraction
0.357142` are 9,000 to train on and 5,000 to validate on; 100 a class with 0.1 are 9,000 and 1,000. Where the file system can't link, images are
copied.
"""

import contextlib
import filecmp
import hashlib
import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge

from common.base.checked import Checked
from common.base.errors import UserError, report_errors
from common.cli import parse
from common.data.folder import class_names
from common.data.photos import list_photos


@dataclass(frozen=True)
class SubsetConfig(Checked):
    source: tyro.conf.Positional[str]
    """Photos in train/<class>/ and test/<class>/."""
    target: tyro.conf.Positional[str]
    """The folder to make."""
    train: tuple[Annotated[int, Ge(1)], ...] = (140,)
    """Images a class of train; several numbers: of the first class, of the second, …, and round again, which makes classes unequal."""
    test: Annotated[int, Ge(1)] = 100
    """Images a class of test."""


def digest_of(photo: str) -> bytes:
    return hashlib.sha256(photo.encode("utf-8", "surrogateescape")).digest()


def some_photos(source: Path, split: str, counts: Sequence[int]) -> dict[str, Path]:
    """Of each class the photos whose `<class>/<name>` have the lowest SHA-256, as many as `counts` say in turn: path within the data set → file.

    The first by name would be no fair sample: CIFAR-100's names begin with the word that each image was found by, so the first hundred of
    "cattle" are all "bos_taurus", while the test images are of four words.

    Errors: `UserError` where a class has fewer."""
    photos: dict[str, Path] = {}
    for name, count in zip(class_names(source / split), itertools.cycle(counts), strict=False):
        found, _ = list_photos(source / split, [name])
        if len(found) < count:
            raise UserError(f"{source / split / name} has {len(found)} photos, but --{split} is {count}; take fewer")
        photos |= {f"{split}/{photo}": source / split / photo for photo in sorted(found, key=digest_of)[:count]}
    return photos


def make_folder(target: Path, files: Mapping[str, Path]) -> None:
    """Makes `target` whole or not at all: a link to each of `files` at its path within `target`, or a copy.

    Errors: `UserError` where `target` is there and holds anything else; one that holds the same is left as it is."""
    if target.exists() or target.is_symlink():
        check_same(target, files)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for place, file in files.items():
            link(file, temporary / place)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_same(target: Path, files: Mapping[str, Path]) -> None:
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    for place in sorted(there ^ files.keys()):
        problem = "has" if place in there else "lacks"
        raise UserError(f"{target} is there and {problem} {place}; remove it, or choose another folder")
    for place, file in files.items():
        if not filecmp.cmp(target / place, file, shallow=False):
            raise UserError(f"{target / place} differs from {file}; remove {target}, or choose another folder")


def link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another file system, or one without links
        place.hardlink_to(file.resolve())
        return
    shutil.copy2(file, place)


def main(config: SubsetConfig) -> None:
    source, target = Path(config.source), Path(config.target)
    files = some_photos(source, "train", config.train) | some_photos(source, "test", [config.test])
    make_folder(target, files)
    train = sum(place.startswith("train/") for place in files)
    print(f"{target}: {train} images to train and validate on, {len(files) - train} to test on")


if __name__ == "__main__":
    with report_errors():
        main(parse(SubsetConfig, description=__doc__))

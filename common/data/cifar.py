"""CIFAR-100 and CIFAR-10: downloaded once, their checksums compared before anything is read.

Through torchvision, which knows addresses and checksums. pooch would save no line: it, too, is one call that downloads,
compares and shows a bar, and it would overwrite a damaged archive, which is refused here and kept.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.base.download import network_timeout
from common.base.errors import UserError
from common.base.locks import locked
from common.base.terminal import own_bars
from common.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

# The 20 superclasses of CIFAR-100 with their five classes each: Krizhevsky, "Learning Multiple Layers of Features from
# Tiny Images", 2009, and https://www.cs.toronto.edu/~kriz/cifar.html; spelled as in the archive's own `meta` file.
CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def load_cifar(name: str, folder: Path, split: Split) -> Dataset:
    """`cifar100` or `cifar10`, 32 px; downloaded into `folder` where it isn't there.

    Errors: `UserError` naming the file or address when an archive is damaged or can't be had, or `folder` can't be written.
    """
    source = _source(name)
    try:
        if not _is_whole(source, folder):
            _install(source, folder)
        # torchvision compares every file's checksum before it reads the pickle.
        cifar = source(os.fspath(folder), train=split == "train")
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} can't be read or written ({error.strerror or error}); free some space, or choose "
            "another folder with --data_dir"
        ) from error
    images = torch.from_numpy(np.ascontiguousarray(cifar.data)).permute(0, 3, 1, 2)
    labels = torch.tensor(cifar.targets, dtype=torch.int64)
    classes = tuple(cifar.classes)
    superclasses, superclass_of = _superclasses(classes) if name == "cifar100" else (None, None)
    return Dataset(name, images, labels, classes, superclasses, superclass_of, flip=True)


def is_unpacked(name: str, folder: Path) -> bool:
    """Whether `folder` has what `load_cifar` would download, whole or not."""
    return (folder / _source(name).base_folder).is_dir()


def _source(name: str) -> type[CIFAR10]:
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR100 if name == "cifar100" else CIFAR10


def _superclasses(classes: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """CIFAR-100's superclasses, and the index of each class's own."""
    index_of = {member: i for i, members in enumerate(CIFAR100_SUPERCLASSES.values()) for member in members}
    return tuple(CIFAR100_SUPERCLASSES), tuple(index_of[member] for member in classes)


def _files(source: type[CIFAR10]) -> dict[str, str]:
    """The files torchvision reads → their MD5 checksums."""
    return dict(source.train_list) | dict(source.test_list) | {source.meta["filename"]: source.meta["md5"]}


def _is_whole(source: type[CIFAR10], folder: Path) -> bool:
    """Is every unpacked file there, and what its checksum says?"""
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(folder / source.base_folder / name, md5) for name, md5 in _files(source).items())


def _install(source: type[CIFAR10], folder: Path) -> None:
    """Unpacks the archive in `folder`, which is downloaded when it is not there.

    Everything is written to a temporary folder within `folder` and moved into place once its checksum is right.
    """
    from torchvision.datasets.utils import check_integrity

    archive = folder / source.filename
    if archive.exists() and not check_integrity(archive, source.tgz_md5):
        raise UserError(
            f"{archive} is damaged (its MD5 is not {source.tgz_md5}); delete it, and it is downloaded again"
        )
    with _alone_in(folder), tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder) as temporary:
        if _is_whole(source, folder):  # another process has just done it
            return
        if not archive.exists():
            _download(source, folder, Path(temporary))
            os.replace(Path(temporary) / source.filename, archive)
        _unpack(source, archive, Path(temporary))
        (folder / source.base_folder).mkdir(exist_ok=True)
        for name in _files(source):
            os.replace(Path(temporary) / name, folder / source.base_folder / name)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of several processes that install into `folder`, which is made, one at a time is in the block."""
    lock = folder / ".installing.lock"
    with locked(lock):
        try:
            yield
        finally:
            # Who waits for it may then be there with one that makes a new one: each still moves whole files into place.
            with contextlib.suppress(OSError):
                lock.unlink()


def _download(source: type[CIFAR10], folder: Path, temporary: Path) -> None:
    """Downloads the archive into `temporary` with a progress bar, its checksum compared."""
    from torchvision.datasets import utils

    print(f"downloading {source.url} into {folder}", flush=True)
    try:
        with network_timeout(), own_bars(utils):
            utils.download_url(source.url, temporary, source.filename, source.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"{source.url} can't be downloaded ({error}), and {folder.resolve()} has neither a {source.filename} nor a "
            f"whole {source.base_folder} unpacked from it; put one of them there, or name the folder that has it with "
            "--data_dir; `--preset digits` needs no download"
        ) from error


def _unpack(source: type[CIFAR10], archive: Path, target: Path) -> None:
    """Writes the files that are needed, and no others, into `target`, under names that are not the archive's to choose."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name, md5 in _files(source).items():
                member = tar.extractfile(f"{source.base_folder}/{name}")
                content = member.read() if member else b""
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                    raise UserError(f"{archive} holds a damaged {source.base_folder}/{name}; delete the archive")
                (target / name).write_bytes(content)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(f"{archive} can't be unpacked ({error}); delete it, and it is downloaded again") from error

"""Datasets → uint8 images and integer labels in memory; the stratified split of train into train and validation.

`cifar100` and `cifar10` come through torchvision into `data_dir`, `digits` is part of scikit-learn, `folder` is one's
own photos in `data_dir/train/<class>/` and `data_dir/test/<class>/`.
"""

import gzip
import hashlib
import http.client
import json
import os
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import package_file
from common.network import network_timeout
from common.photos import load_photos, release

DATASETS = ("cifar100", "cifar10", "digits", "folder")
Split = Literal["train", "test"]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

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

_DIGEST_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset, whole. K classes, N images."""

    name: str
    """one of `DATASETS`"""
    images: Tensor
    """uint8 (N, 3, H, W), channels_last; may be backed by a memory-mapped file"""
    labels: Tensor
    """int64 (N,), values in [0, K)"""
    classes: tuple[str, ...]
    """length K; a class's index is its label"""
    superclasses: tuple[str, ...] | None
    """CIFAR-100's 20 names, None for the others"""
    superclass_of: tuple[int, ...] | None
    """length K: class index → superclass index, None without superclasses"""
    flip: bool
    """may images be mirrored without changing their class (not so for digits)"""


def load_dataset(name: str, data_dir: str | None, split: Split, image_size: int) -> Dataset:
    """Loads one split. `image_size`, in pixels, is what `folder` decodes its photos at; the others have a size of their own.

    `data_dir` None means ./data for CIFAR and is an error for `folder`; `digits` needs none.

    Errors: `UserError` for a dataset that is unknown, missing, damaged or malformed, naming the file or the flag.
    """
    if name in ("cifar100", "cifar10"):
        return _load_cifar(name, Path(data_dir or "data").expanduser(), split)
    if name == "digits":
        return _load_digits(split)
    if name == "folder":
        if data_dir is None:
            raise UserError("--dataset folder needs --data_dir, the folder with train/<class>/ and test/<class>/")
        return _load_folder(Path(data_dir).expanduser(), split, image_size)
    raise UserError(f"--dataset is {name!r}: allowed are {', '.join(DATASETS)}")


def split_indices(labels: Tensor | np.ndarray, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """A seeded, stratified split → indices of train and of validation, both int64 and sorted.

    Validation takes `fraction` of every class, rounded so that the total is `round(fraction * N)` (largest remainder
    method). A class of two or more samples is in both parts, even where that makes the total larger; a class of one
    sample is in train. `fraction` 0 leaves validation empty.

    Errors: `UserError` naming --validation_fraction when it is outside [0, 1) or would leave a part empty.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"--validation_fraction is {fraction}: allowed are values from 0 to below 1")
    labels = np.asarray(labels)
    total = round(fraction * len(labels))
    if fraction > 0 and (total == 0 or total == len(labels)):
        part = "validation" if total == 0 else "train"
        raise UserError(f"--validation_fraction {fraction} of {len(labels)} images leaves {part} empty; choose another")
    sizes = np.bincount(labels)
    shares = _stratified_shares(sizes, fraction, total)
    if fraction > 0 and shares.sum() == 0:
        raise UserError(
            f"--validation_fraction {fraction} needs a class with two images or more; add images, or set it to 0"
        )
    random = np.random.default_rng(seed)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])  # each class's indices, ascending
    chosen = [random.permutation(indices)[:share] for indices, share in zip(members, shares, strict=True)]
    validation = np.sort(np.concatenate(chosen))
    train = np.setdiff1d(np.arange(len(labels)), validation, assume_unique=True)
    return torch.from_numpy(train.astype(np.int64)), torch.from_numpy(validation.astype(np.int64))


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 hex over images, labels and classes: changes with any pixel, label, name or their order."""
    digest = hashlib.sha256(json.dumps([list(dataset.images.shape), dataset.classes]).encode())
    per_chunk = max(1, _DIGEST_CHUNK_BYTES // max(1, dataset.images[:1].numel()))
    for start in range(0, len(dataset.images), per_chunk):
        digest.update(dataset.images[start : start + per_chunk].contiguous().numpy())
        release(dataset.images)
    digest.update(dataset.labels.numpy().astype("<i8"))
    return digest.hexdigest()


def _stratified_shares(sizes: np.ndarray, fraction: float, total: int) -> np.ndarray:
    """How many samples of each class go to validation, by the largest remainder method within the limits a class has."""
    if fraction == 0:
        return np.zeros_like(sizes)
    quotas = fraction * sizes
    lower, upper = (sizes >= 2).astype(np.int64), np.maximum(sizes - 1, 0)
    shares = np.clip(np.floor(quotas + 1e-9).astype(np.int64), lower, upper)
    while shares.sum() < total and (shares < upper).any():
        remainders = np.where(shares < upper, quotas - shares, -np.inf)
        shares[np.argmax(remainders)] += 1
    return shares


# CIFAR


def _load_cifar(name: str, folder: Path, split: Split) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100

    source = CIFAR100 if name == "cifar100" else CIFAR10
    try:
        if not _cifar_is_whole(source, folder):
            _install_cifar(source, folder)
        # torchvision compares every file's checksum before it reads the pickle.
        cifar = source(os.fspath(folder), train=split == "train")
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} can't be read or written ({error.strerror or error}); free some space, or choose "
            "another folder with --data_dir"
        ) from error
    images = torch.from_numpy(np.ascontiguousarray(cifar.data)).permute(0, 3, 1, 2)
    classes = tuple(cifar.classes)
    superclasses = superclass_of = None
    if name == "cifar100":
        superclasses = tuple(CIFAR100_SUPERCLASSES)
        index_of = {member: i for i, members in enumerate(CIFAR100_SUPERCLASSES.values()) for member in members}
        superclass_of = tuple(index_of[member] for member in classes)
    labels = torch.tensor(cifar.targets, dtype=torch.int64)
    return Dataset(name, images, labels, classes, superclasses, superclass_of, flip=True)


def _cifar_files(source: type) -> dict[str, str]:
    """The files torchvision reads → their MD5 checksums."""
    return dict(source.train_list) | dict(source.test_list) | {source.meta["filename"]: source.meta["md5"]}


def _cifar_is_whole(source: type, folder: Path) -> bool:
    """Is every unpacked file there, and what its checksum says?"""
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(folder / source.base_folder / name, md5) for name, md5 in _cifar_files(source).items())


def _install_cifar(source: type, folder: Path) -> None:
    """Unpacks the archive in `folder`, which is downloaded when it is not there.

    Everything is written to a temporary folder within `folder` and moved into place once its checksum is right.
    """
    from torchvision.datasets.utils import check_integrity

    archive = folder / source.filename
    if archive.exists() and not check_integrity(archive, source.tgz_md5):
        raise UserError(
            f"{archive} is damaged (its MD5 is not {source.tgz_md5}); delete it, and it is downloaded again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder) as temporary:
        if not archive.exists():
            _download_cifar(source, folder, Path(temporary))
            os.replace(Path(temporary) / source.filename, archive)
        _unpack_cifar(source, archive, Path(temporary))
        (folder / source.base_folder).mkdir(exist_ok=True)
        for name in _cifar_files(source):
            os.replace(Path(temporary) / name, folder / source.base_folder / name)


def _download_cifar(source: type, folder: Path, temporary: Path) -> None:
    """Downloads the archive into `temporary` with a progress bar, its checksum compared."""
    from torchvision.datasets.utils import download_url

    print(f"downloading {source.url} into {folder}", flush=True)
    try:
        with network_timeout():
            download_url(source.url, temporary, source.filename, source.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"{source.url} can't be downloaded ({error}), and {folder.resolve()} has neither a {source.filename} nor a "
            f"whole {source.base_folder} unpacked from it; put one of them there, or name the folder that has it with "
            "--data_dir; `--preset digits` needs no download"
        ) from error


def _unpack_cifar(source: type, archive: Path, target: Path) -> None:
    """Writes the files that are needed, and no others, into `target`, under names that are not the archive's to choose."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name, md5 in _cifar_files(source).items():
                member = tar.extractfile(f"{source.base_folder}/{name}")
                content = member.read() if member else b""
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                    raise UserError(f"{archive} holds a damaged {source.base_folder}/{name}; delete the archive")
                (target / name).write_bytes(content)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(f"{archive} can't be unpacked ({error}); delete it, and it is downloaded again") from error


# digits


def _load_digits(split: Split) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed stratified fifth of them is the test set."""
    # Not by load_digits: importing scikit-learn takes longer than all else that is done here.
    file = package_file("sklearn", "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    labels = torch.from_numpy(table[:, -1].copy())
    train, test = split_indices(labels, fraction=0.2, seed=0)
    indices = train if split == "train" else test
    grey = torch.from_numpy(np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))  # 0..16 → 0..255
    images = grey[indices].unsqueeze(3).repeat(1, 1, 1, 3).permute(0, 3, 1, 2)
    return Dataset("digits", images, labels[indices], tuple("0123456789"), None, None, flip=False)


# folder


def _load_folder(root: Path, split: Split, image_size: int) -> Dataset:
    classes = _class_names(root / "train")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has one class only ({classes[0]!r}); add a folder for each other class")
    if split == "test" or (root / "test").exists():  # a mismatch is better known before training than after
        _check_same_classes(root, classes, _class_names(root / "test"))
    names, labels = [], []
    for label, class_name in enumerate(classes):
        photos = _photo_names(root / split, class_name)
        names += photos
        labels += [label] * len(photos)
    images = load_photos(root / split, names, image_size)
    return Dataset("folder", images, torch.tensor(labels, dtype=torch.int64), classes, None, None, flip=True)


def _class_names(folder: Path) -> tuple[str, ...]:
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

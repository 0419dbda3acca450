"""A dataset by its name.

`cifar100` and `cifar10` come through torchvision into `data_dir`, `digits` is part of scikit-learn, `folder` is one's
own photos in `data_dir/train/<class>/` and `data_dir/test/<class>/`. CONTRIBUTING.md says how to add one.
"""

from collections.abc import Callable
from pathlib import Path

from common.base.errors import UserError
from common.base.home import expanded
from common.data.cifar import is_unpacked, load_cifar
from common.data.dataset import Dataset, Split
from common.data.digits import load_digits
from common.data.folder import load_folder

# What gives a dataset by its name: from the folder --data_dir, if one was given, a split, and the size to decode photos at.
LOADERS: dict[str, Callable[[Path | None, Split, int], Dataset]] = {
    "cifar100": lambda folder, split, _: load_cifar("cifar100", folder or Path("data"), split),
    "cifar10": lambda folder, split, _: load_cifar("cifar10", folder or Path("data"), split),
    "digits": lambda _, split, __: load_digits(split),
    "folder": lambda folder, split, image_size: load_folder(folder, split, image_size),
}

DOWNLOADED = ("cifar100", "cifar10")


def is_there(name: str, data_dir: str) -> bool:
    """Whether nothing would be downloaded into `data_dir` to load the dataset."""
    return name not in DOWNLOADED or is_unpacked(name, Path(expanded(data_dir, "--data_dir")))


def load_dataset(name: str, data_dir: str | None, split: Split, image_size: int) -> Dataset:
    """Loads one split. `image_size`, in pixels, is what `folder` decodes its photos at; the others have a size of their own.

    `data_dir` None means ./data for CIFAR and is an error for `folder`; `digits` needs none.

    Errors: `UserError` for a dataset that is unknown, missing, damaged or malformed, naming the file or the flag.
    """
    if name not in LOADERS:
        raise UserError(f"--dataset is {name!r}: allowed are {', '.join(LOADERS)}")
    return LOADERS[name](None if data_dir is None else Path(expanded(data_dir, "--data_dir")), split, image_size)

"""A dataset by its name.

`cifar100` and `cifar10` come through torchvision into `data_dir`, `digits` is part of scikit-learn, `folder` is one's
own photos in `data_dir/train/<class>/` and `data_dir/test/<class>/`. CONTRIBUTING.md says how to add one.
"""

from collections.abc import Callable
from pathlib import Path

from common.base.errors import UserError
from common.base.home import expanded
from common.data.cifar import load_cifar
from common.data.dataset import Dataset, Split
from common.data.digits import load_digits
from common.data.folder import load_folder
from common.data.pixels import Decoding, Fit, Unreadable

# What gives a dataset by its name: from the folder --data_dir, if one was given, a split, and how to decode photos.
LOADERS: dict[str, Callable[[Path | None, Split, Decoding], Dataset]] = {
    "cifar100": lambda folder, split, _: load_cifar("cifar100", folder or Path("data"), split),
    "cifar10": lambda folder, split, _: load_cifar("cifar10", folder or Path("data"), split),
    "digits": lambda _, split, __: load_digits(split),
    "folder": load_folder,
}

UNPACKED = {
    "cifar100": "cifar-100-python",
    "cifar10": "cifar-10-batches-py",
}  # torchvision's folders of what is downloaded


def is_there(name: str, data_dir: str) -> bool:
    """Whether nothing would be downloaded into `data_dir` to load the dataset."""
    return name not in UNPACKED or Path(expanded(data_dir, "--data_dir"), UNPACKED[name]).is_dir()


def load_dataset(
    name: str,
    data_dir: str | None,
    split: Split,
    image_size: int,
    fit: Fit = "crop",
    unreadable: Unreadable = "stop",
) -> Dataset:
    """Loads one split. `image_size`, in pixels, is what `folder` decodes its photos at; the others have a size of their own.
    `fit` and `unreadable` are about photos, too: `Decoding`.

    `data_dir` None means ./data for CIFAR and is an error for `folder`; `digits` needs none.

    Errors: `UserError` for a dataset that is unknown, missing, damaged or malformed, naming the file or the flag.
    """
    if name not in LOADERS:
        raise UserError(f"--dataset is {name!r}: allowed are {', '.join(LOADERS)}")
    folder = None if data_dir is None else Path(expanded(data_dir, "--data_dir"))
    return LOADERS[name](folder, split, Decoding(image_size, fit, unreadable))

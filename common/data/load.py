"""A dataset by its name.

`cifar100` and `cifar10` come through torchvision into `data_dir`, `digits` is part of scikit-learn, `folder` is one's
own photos in `data_dir`, whose layout `common/data/folder.py` finds out. CONTRIBUTING.md says how to add one.
"""

from collections.abc import Callable
from pathlib import Path

from common.base.errors import UserError
from common.base.home import expanded
from common.data.cifar import is_unpacked, load_cifar
from common.data.dataset import Dataset, Split
from common.data.digits import load_digits
from common.data.folder import NOTHING, Known, find_layout, load_folder
from common.data.pixels import Decoding, Fit, Unreadable

# What gives a dataset by its name: from the folder --data_dir, if one was given, a split, and how to decode photos. Photos also take what
# is known of them.
LOADERS: dict[str, Callable[..., Dataset]] = {
    "cifar100": lambda folder, split, _: load_cifar("cifar100", folder or Path("data"), split),
    "cifar10": lambda folder, split, _: load_cifar("cifar10", folder or Path("data"), split),
    "digits": lambda _, split, __: load_digits(split),
    "folder": load_folder,
}

DOWNLOADED = ("cifar100", "cifar10")


def is_there(name: str, data_dir: str) -> bool:
    """Whether nothing would be downloaded into `data_dir` to load the dataset."""
    return name not in DOWNLOADED or is_unpacked(name, Path(expanded(data_dir, "--data_dir")))


def has_part(name: str, data_dir: str | None, part: Split) -> bool:
    """Whether the dataset has it as a part of its own. Only photos may lack a test set, or have a validation set."""
    if name != "folder" or data_dir is None:
        return part != "validation"
    return find_layout(Path(expanded(data_dir, "--data_dir"))).has(part)


def load_dataset(
    name: str,
    data_dir: str | None,
    split: Split,
    image_size: int,
    fit: Fit = "crop",
    unreadable: Unreadable = "stop",
    known: Known = NOTHING,
) -> Dataset:
    """Loads one split. `image_size`, in pixels, is what `folder` decodes its photos to; the others have a size of their own.
    `fit` and `unreadable` are about photos, too: `Decoding`; and so is what is `known` of them from a run.

    `data_dir` None means ./data for CIFAR and is an error for `folder`; `digits` needs none.

    Errors: `UserError` for a dataset that is unknown, missing, damaged or malformed, naming the file or the flag.
    """
    if name not in LOADERS:
        raise UserError(f"--dataset is {name!r}: allowed are {', '.join(LOADERS)}")
    folder = None if data_dir is None else Path(expanded(data_dir, "--data_dir"))
    of_photos = [known] if name == "folder" else []
    return LOADERS[name](folder, split, Decoding(image_size, fit, unreadable), *of_photos)

"""A dataset by its name.

`cifar100` and `cifar10` come through torchvision into `data_dir`, `digits` is part of scikit-learn, `folder` is one's
own photos in `data_dir/train/<class>/` and `data_dir/test/<class>/`. CONTRIBUTING.md says how to add one.
"""

from pathlib import Path

from common.base.errors import UserError
from common.data.cifar import load_cifar
from common.data.dataset import Dataset, Split
from common.data.digits import load_digits
from common.data.folder import load_folder

# As in `common.config`, which imports nothing of `data`.
DATASETS = ("cifar100", "cifar10", "digits", "folder")


def load_dataset(name: str, data_dir: str | None, split: Split, image_size: int) -> Dataset:
    """Loads one split. `image_size`, in pixels, is what `folder` decodes its photos at; the others have a size of their own.

    `data_dir` None means ./data for CIFAR and is an error for `folder`; `digits` needs none.

    Errors: `UserError` for a dataset that is unknown, missing, damaged or malformed, naming the file or the flag.
    """
    if name in ("cifar100", "cifar10"):
        return load_cifar(name, Path(data_dir or "data").expanduser(), split)
    if name == "digits":
        return load_digits(split)
    if name == "folder":
        if data_dir is None:
            raise UserError("--dataset folder needs --data_dir, the folder with train/<class>/ and test/<class>/")
        return load_folder(Path(data_dir).expanduser(), split, image_size)
    raise UserError(f"--dataset is {name!r}: allowed are {', '.join(DATASETS)}")

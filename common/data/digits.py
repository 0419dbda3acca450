"""scikit-learn's handwritten digits, which need no download."""

import numpy as np
import torch

from common.base.files import package_file
from common.data.dataset import Dataset, Split
from common.data.split import split_indices


def load_digits(split: Split) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, grey, 8 px; a fixed stratified fifth of them is the test set."""
    # Not by load_digits: importing scikit-learn takes longer than all else that is done here.
    file = package_file("sklearn", "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    labels = torch.from_numpy(table[:, -1].copy())
    train, test = split_indices(labels, fraction=0.2, seed=0)
    indices = train if split == "train" else test
    grey = torch.from_numpy(np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))  # 0..16 → 0..255
    images = grey[indices].unsqueeze(3).repeat(1, 1, 1, 3).permute(0, 3, 1, 2)
    return Dataset("digits", images, labels[indices], tuple("0123456789"), None, None, flip=False)

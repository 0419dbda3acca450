"""The seeded, stratified split of train into train and validation."""

import numpy as np
import torch
from torch import Tensor

from common.base.errors import UserError


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

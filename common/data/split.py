"""The seeded, stratified split of train into train and validation."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from common.base.errors import UserError
from common.data.dataset import Dataset


def split_train(data: Dataset, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which images of `data` are trained on and which are validated on: its validation folder's, or `split_indices`, in which photos
    that are the same pixel by pixel stay together."""
    if data.validation_folder is not None:
        return torch.arange(data.validation.start), torch.tensor(data.validation)
    same = data.digests if fraction and data.name == "folder" else None
    return split_indices(data.labels, fraction, seed, same)


def split_indices(
    labels: Tensor | np.ndarray, fraction: float, seed: int, same: Sequence[Hashable] | None = None
) -> tuple[Tensor, Tensor]:
    """A seeded, stratified split → indices of train and of validation, both int64 and sorted.

    Validation takes `fraction` of every class, rounded so that the total is `round(fraction * N)` (largest remainder
    method). A class of two or more samples is in both parts, even where that makes the total larger; a class of one
    sample is in train. `fraction` 0 leaves validation empty.

    same: for each sample a value that is equal where two are duplicates. They count as one sample, are on one side, and are in
    train where their labels differ or they are more than half of their class.

    Errors: `UserError` naming --validation_fraction when it is outside [0, 1) or would leave a part empty.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"--validation_fraction is {fraction}: allowed are values from 0 to below 1")
    every = np.asarray(labels)
    first_of = _first_of(range(len(every)) if same is None else same)
    samples = np.flatnonzero(first_of == np.arange(len(every)))
    bound = _bound_to_train(every, first_of)[samples]
    labels = every[samples]
    total = round(fraction * len(labels))
    if fraction > 0 and (total == 0 or total == len(labels)):
        part = "validation" if total == 0 else "train"
        raise UserError(f"--validation_fraction {fraction} of {len(labels)} images leaves {part} empty; choose another")
    sizes = np.bincount(labels)
    free = sizes - np.bincount(labels[bound], minlength=len(sizes))
    shares = _stratified_shares(sizes, free, fraction, total)
    if fraction > 0 and shares.sum() == 0:
        raise UserError(
            f"--validation_fraction {fraction} needs a class with two images or more; add images, or set it to 0"
        )
    random = np.random.default_rng(seed)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])  # each class's indices, ascending
    drawn = [random.permutation(indices) for indices in members]
    chosen = [order[~bound[order]][:share] for order, share in zip(drawn, shares, strict=True)]
    in_validation = np.isin(first_of, samples[np.concatenate(chosen)])
    train, validation = np.flatnonzero(~in_validation), np.flatnonzero(in_validation)
    return torch.from_numpy(train.astype(np.int64)), torch.from_numpy(validation.astype(np.int64))


def _first_of(same: Sequence[Hashable]) -> np.ndarray:
    """For each sample the first one that it is a duplicate of: itself where there is none before it."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(value, index) for index, value in enumerate(same)], dtype=np.int64)


def _bound_to_train(labels: np.ndarray, first_of: np.ndarray) -> np.ndarray:
    """bool, whether a sample can't be held out: with one answer of two nobody can be right, and what is most of a class can't be
    spared."""
    several_labels = np.zeros(len(labels), dtype=bool)
    several_labels[first_of[labels != labels[first_of]]] = True
    too_many = 2 * np.bincount(first_of, minlength=len(labels)) > np.bincount(labels)[labels]
    alone = np.bincount(first_of, minlength=len(labels)) == 1
    return (several_labels | (too_many & ~alone))[first_of]


def _stratified_shares(sizes: np.ndarray, free: np.ndarray, fraction: float, total: int) -> np.ndarray:
    """How many samples of each class go to validation, by the largest remainder method within the limits a class has. free: those
    that may."""
    if fraction == 0:
        return np.zeros_like(sizes)
    quotas = fraction * sizes
    upper = np.minimum(free, np.maximum(sizes - 1, 0))
    lower = np.minimum(upper, 1)
    shares = np.clip(np.floor(quotas + 1e-9).astype(np.int64), lower, upper)
    while shares.sum() < total and (shares < upper).any():
        remainders = np.where(shares < upper, quotas - shares, -np.inf)
        shares[np.argmax(remainders)] += 1
    return shares

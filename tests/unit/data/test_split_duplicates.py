"""Photos that are the same pixel by pixel are on one side of the split, which is else what it was."""

from collections import Counter

import numpy as np
import pytest
import torch

from common.data.dataset import Dataset
from common.data.split import split_indices, split_train


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.1, 1 / 3, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_without_duplicates_the_split_is_the_one_of_before(fraction, seed):
    labels = np.random.default_rng(seed).integers(0, 6, 150)
    for plain, aware in zip(
        split_indices(labels, fraction, seed), split_indices(labels, fraction, seed, same=range(150)), strict=True
    ):
        assert torch.equal(plain, aware)


@pytest.mark.parametrize("seed", range(20))
def test_duplicates_are_on_one_side_and_the_split_stays_disjoint_complete_and_stratified(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 400)
    same = [f"{labels[i]}-{random.integers(60)}" for i in range(400)]  # about two of each
    train, validation = (part.tolist() for part in split_indices(labels, 0.2, seed, same))
    assert (
        sorted(train + validation) == list(range(400)) and train == sorted(train) and validation == sorted(validation)
    )
    assert not {same[i] for i in train} & {same[i] for i in validation}
    distinct = Counter(name[0] for name in set(same))
    held_out = Counter(name[0] for name in {same[i] for i in validation})
    assert all(abs(held_out[label] - 0.2 * count) < 1 for label, count in distinct.items())


@pytest.mark.parametrize("seed", range(10))
def test_an_image_under_two_labels_is_in_train(seed):
    labels, same = [0] * 10 + [1] * 10, [*range(10), *range(5, 15)]  # five of the second class are of the first, too
    _, validation = split_indices(np.array(labels), 0.5, seed, same)
    assert len(validation) > 0 and not {same[i] for i in validation.tolist()} & set(range(5, 10))


@pytest.mark.parametrize("seed", range(10))
def test_copies_that_are_most_of_their_class_are_in_train(seed):
    labels, same = [0] * 100 + [1] * 100, [0] * 90 + list(range(1, 111))
    train, validation = split_indices(np.array(labels), 0.1, seed, same)
    assert 0 in train and {same[i] for i in validation.tolist() if labels[i] == 0}
    assert 0 not in {same[i] for i in validation.tolist()}


@pytest.mark.parametrize("seed", range(10))
def test_a_class_of_two_different_images_is_in_both_parts_however_often_they_are_there(seed):
    labels, same = [0] * 4 + [1] * 40, ["a", "a", "b", "b", *range(40)]
    parts = split_indices(np.array(labels), 0.1, seed, same)
    assert sorted(len([i for i in part.tolist() if i < 4]) for part in parts) == [2, 2]


def photos(name: str) -> Dataset:
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 4, 4).clone()
    images[20:] = images[:20]  # each is there twice
    return Dataset(name, images, torch.arange(40) // 10 % 2, ("a", "b"), None, None, flip=True)


def test_photos_are_compared_and_the_makers_data_are_split_as_ever():
    data = photos("folder")
    for seed in range(5):
        train, validation = (set((part % 20).tolist()) for part in split_train(data, 0.3, seed))
        assert not train & validation
        digits = split_train(photos("digits"), 0.3, seed)
        assert torch.equal(digits[1], split_indices(data.labels, 0.3, seed)[1])

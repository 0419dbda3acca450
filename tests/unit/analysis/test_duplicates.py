"""Which evaluated images the training had seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photos import load_photos

from common.analysis import duplicates as module
from common.analysis.duplicates import Seen, find_duplicates, nearest, thumbnails
from common.analysis.predictions import Predictions
from common.data.dataset import Dataset

CPU = torch.device("cpu")


def photos(count: int, seed: int, side: int = 32) -> torch.Tensor:
    """Smooth patches of colour, as photos are: uint8 (count, 3, side, side)."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, side, mode="bilinear").round().to(torch.uint8)


def dataset(images: torch.Tensor, flip: bool = True) -> Dataset:
    return Dataset("folder", images, torch.arange(len(images)) % 2, ("cat", "dog"), None, None, flip)


def predictions_of(data: Dataset, right: object) -> Predictions:
    labels = data.labels.numpy()
    named = np.where(right, labels, 1 - labels)
    return Predictions(np.eye(2, dtype=np.float32)[named], labels, np.arange(len(labels)))


def seen_as(data: Dataset, validation: int = 0) -> Seen:
    """The last images are the validation part."""
    indices = torch.arange(len(data.labels))
    count = len(indices) - validation
    return Seen(data, {"train": indices[:count], "validation": indices[count:]})


@pytest.fixture(scope="module")
def train() -> Dataset:
    return dataset(photos(300, seed=0))


def test_planted_copies_are_found_and_no_others(train):
    images = photos(40, seed=1)
    lighter = (train.images[20].float() * 0.6 + 70).round().to(torch.uint8)  # less contrast, more light
    noise = torch.randint(-6, 7, (3, 32, 32), generator=torch.Generator().manual_seed(3))
    grainy = (train.images[31].int() + noise).clamp(0, 255).to(torch.uint8)
    moved = F.pad(train.images[42][None].float(), (1, 0, 0, 1), mode="replicate")[0, :, 1:, :-1].to(torch.uint8)
    planted = {2: (10, train.images[10]), 3: (295, train.images[295]), 5: (20, lighter), 8: (31, grainy)}
    planted |= {11: (42, moved), 14: (53, train.images[53].flip(2))}
    for place, (_, image) in planted.items():
        images[place] = image
    test = dataset(images)
    right = np.zeros(40, bool)
    right[[2, 3, 5, 8, 0, 1]] = True
    found = find_duplicates(predictions_of(test, right), test, seen_as(train, validation=10), CPU)
    assert {pair.index: pair.seen for pair in found.pairs} == {place: other for place, (other, _) in planted.items()}
    assert {pair.index for pair in found.pairs if pair.exact} == {2, 3} and found.exact == 2 and found.near == 4
    assert {pair.index: pair.part for pair in found.pairs if pair.part == "validation"} == {3: "validation"}
    assert [pair.index for pair in found.pairs if pair.mirrored] == [14]
    assert [pair.exact for pair in found.pairs] == [True, True, False, False, False, False]
    labels = [(place % 2, other % 2) for place, (other, _) in planted.items()]
    assert found.other_label == sum(a != b for a, b in labels) > 0
    assert found.accuracy_without == 2 / 34 and found.accuracy_on_them == 4 / 6 and not found.note
    assert found.accuracy_without_low < 2 / 34 < found.accuracy_without_high


def test_without_copies_the_accuracy_is_the_same(train):
    test = dataset(photos(40, seed=1))
    found = find_duplicates(predictions_of(test, np.arange(40) < 10), test, seen_as(train), CPU)
    assert (found.exact, found.near, found.pairs, found.accuracy_on_them) == (0, 0, [], None)
    assert found.accuracy_without == 10 / 40


def test_a_test_set_that_is_all_in_train_has_no_honest_accuracy(train):
    test = dataset(train.images[:20].clone())
    found = find_duplicates(predictions_of(test, True), test, seen_as(train), CPU)
    assert found.exact == 20 and found.accuracy_without is None and found.accuracy_on_them == 1


def test_the_validation_part_is_compared_with_the_rest_of_its_own_set(train):
    images = train.images.clone()
    images[295] = images[4]
    data = dataset(images)
    validation = replace(predictions_of(data, True), indices=np.arange(290, 300))
    validation = Predictions(validation.logits[290:], validation.labels[290:], validation.indices)
    found = find_duplicates(validation, data, Seen(data, {"train": torch.arange(290)}), CPU)
    assert [(pair.index, pair.seen, pair.exact) for pair in found.pairs] == [(295, 4, True)]


def test_images_that_the_training_did_not_see_are_no_duplicates(train):
    test = dataset(train.images[100:120].clone())
    known = Seen(train, {"train": torch.arange(100), "validation": torch.arange(200, 300)})
    assert find_duplicates(predictions_of(test, True), test, known, CPU).count == 0


def test_where_the_training_images_are_gone_it_is_said(train):
    found = find_duplicates(predictions_of(train, True), train, Seen(None, why="there is no train"), CPU)
    assert found.note == "there is no train" and found.count == 0


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_images_of_one_colour_are_alike_only_where_they_are_equal(train, shade):
    images = photos(10, seed=5)
    images[3] = shade
    data = dataset(torch.cat([train.images, images[3:4] // 2 + 1]))
    test = dataset(images)
    assert find_duplicates(predictions_of(test, True), test, seen_as(data), CPU).count == 0


def test_of_tiny_images_only_equal_ones_count(train):
    small, test = dataset(photos(200, seed=0, side=8)), dataset(photos(20, seed=0, side=8) // 2 * 2)
    found = find_duplicates(predictions_of(test, True), test, seen_as(small), CPU)
    assert found.near is None and found.exact == sum(any(torch.equal(a, b) for b in small.images) for a in test.images)


def test_among_few_images_only_nearly_equal_ones_count():
    few = dataset(photos(20, seed=0))
    images = photos(10, seed=1)
    images[7] = (few.images[3].float() * 0.8 + 20).round().to(torch.uint8)
    test = dataset(images)
    found = find_duplicates(predictions_of(test, True), test, seen_as(few), CPU)
    assert [(pair.index, pair.seen) for pair in found.pairs] == [(7, 3)]


def test_the_nearest_neighbours_are_those_of_a_plain_loop_however_the_set_is_cut(train, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 3)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 7 * 3 * 32 * 32)
    members = torch.arange(0, 300, 2)
    queries = thumbnails(photos(10, seed=1), torch.arange(10))
    closest, position, last = nearest(queries, train, members, CPU)
    small = F.avg_pool2d(train.images[members].double(), 4)
    small -= small.mean(dim=(2, 3), keepdim=True)
    for row, query in enumerate(queries.double()):
        expected = [float(query @ one.flatten() / one.norm()) for one in small]
        order = np.argsort(expected)[::-1]
        assert float(closest[row]) == pytest.approx(expected[order[0]], abs=1e-5) and int(position[row]) == order[0]
        assert float(last[row]) == pytest.approx(expected[order[15]], abs=1e-5)


def test_a_mapped_set_gives_the_same(tmp_path, monkeypatch, train):
    from PIL import Image

    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("common.data.decode.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 3 * 3 * 32 * 32)
    names = [f"{i}.png" for i in range(20)]
    for name, image in zip(names, train.images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    mapped = load_photos(tmp_path, names, 32)
    torch.testing.assert_close(
        thumbnails(mapped, torch.arange(20)), thumbnails(train.images, torch.arange(20)), rtol=0, atol=1e-6
    )

"""A batch is a function of (seed, epoch, step), and its pixels are those that torchvision would make."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from common.data import decode
from common.data.augment import Draws, augmented, mixing, random_crop_and_flip, seed_for
from common.data.batches import (
    MEAN,
    STD,
    Batches,
    balanced_draws,
    batch_images,
    cut_epoch,
    denormalize,
    normalize,
    progressive_size,
    resized,
)
from common.data.pixels import PAD_COLOUR

CPU = torch.device("cpu")
COUNT = 50


def images(count: int = COUNT, side: int = 16, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def make(pictures: torch.Tensor | None = None, **options) -> Batches:
    """Training batches of at most 8, augmented, whose labels are the images' numbers."""
    pictures = images() if pictures is None else pictures
    count = len(pictures)
    options = {"augment": "basic", "flip": True, "seed": 3, "training": True, **options}
    return Batches(pictures, torch.arange(count), torch.arange(count), 8, 16, CPU, **options)


def assert_same(one, other) -> None:
    for (pixels, labels), (other_pixels, other_labels) in zip(one, other, strict=True):
        assert torch.equal(pixels, other_pixels) and torch.equal(labels, other_labels)


def test_normalize_is_torchvisions():
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.testing.assert_close(normalize(images()), reference(images()))
    assert normalize(images()).is_contiguous(memory_format=torch.channels_last)


def test_denormalize_gives_back_every_byte():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal((denormalize(normalize(levels)) * 255).round().to(torch.uint8), levels)


@pytest.mark.parametrize("size", [8, 24, 33])
def test_resize_is_torchvisions(size):
    assert torch.equal(resized(images(4), size), v2.Resize([size, size], antialias=True)(images(4)))


def test_an_image_of_the_right_size_is_not_touched():
    pictures = images(4)
    assert resized(pictures, 16) is pictures


def test_every_epoch_is_another_permutation_of_all_images():
    orders = [torch.cat(cut_epoch(COUNT, 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(COUNT))
    for one, other in itertools.combinations(orders, 2):
        assert not torch.equal(one, other)


# Classes 0, 2 and 3 with 31, 4 and 2 of 37 images.
UNEQUAL = torch.tensor([0] * 20 + [3, 2, 2, 0, 0, 2, 2, 3] + [0] * 9)


def drawn(seed: int = 0) -> torch.Tensor:
    return balanced_draws(UNEQUAL, torch.Generator().manual_seed(seed))


def test_balanced_draws_show_each_class_and_each_of_its_images_equally_often_but_for_one():
    for seed in range(20):
        positions = drawn(seed)
        assert len(positions) == len(UNEQUAL)
        assert sorted(torch.bincount(UNEQUAL[positions]).tolist()) == [0, 12, 12, 13]
        for label in (0, 2, 3):
            times = torch.bincount(positions, minlength=len(UNEQUAL))[label == UNEQUAL]
            assert times.max() - times.min() <= 1, "an image is shown twice before another is shown once"
    assert set(torch.cat([drawn(seed) for seed in range(20)]).tolist()) == set(range(len(UNEQUAL)))


def test_balanced_draws_have_the_mean_of_torchs_weighted_sampler():
    counts = torch.bincount(UNEQUAL)
    weights = 1 / counts[UNEQUAL]
    sampled = [*torch.utils.data.WeightedRandomSampler(weights, 400 * 37, generator=torch.Generator().manual_seed(0))]
    expected = torch.bincount(torch.tensor(sampled), minlength=37) / 400
    found = torch.bincount(torch.cat([drawn(seed) for seed in range(400)]), minlength=37) / 400
    for label in (0, 2, 3):
        of_class = label == UNEQUAL
        torch.testing.assert_close(found[of_class].mean(), expected[of_class].mean(), rtol=0.05, atol=0)


def unequal(**options) -> Batches:
    return Batches(images(40), torch.cat([UNEQUAL, torch.tensor([1, 1, 1])]), torch.arange(37), 8, 16, CPU,
                   augment="basic", seed=3, training=True, balanced=True, **options)  # fmt: skip


def test_balanced_batches_are_a_function_of_seed_and_epoch_and_go_on_where_they_stopped():
    whole = list(unequal().epoch(1))
    torch.manual_seed(1)
    for start in (0, 3, len(whole)):
        assert_same(whole[start:], unequal().epoch(1, start))
    assert not torch.equal(whole[0][0], next(unequal().epoch(2))[0])
    assert sorted(torch.bincount(torch.cat([labels for _, labels in whole])).tolist()) == [0, 12, 12, 13]
    assert [len(labels) for _, labels in whole] == [unequal().size(step) for step in range(5)]


def test_two_processes_share_the_balanced_batches_of_one():
    parts = [list(unequal(rank=rank, world=2).epoch(1)) for rank in range(2)]
    for (pixels, labels), *shares in zip(unequal().epoch(1), *parts, strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share[0], pixels[rank::2]) and torch.equal(share[1], labels[rank::2])


def test_a_validation_is_never_balanced():
    batches = Batches(images(37), UNEQUAL, torch.arange(37), 8, 16, CPU, balanced=True)
    assert torch.equal(torch.cat([labels for _, labels in batches.epoch(0)]), UNEQUAL)


def test_without_a_seed_the_order_is_the_images_own():
    assert torch.cat(cut_epoch(COUNT, 8)).tolist() == list(range(COUNT))


def test_batches_are_a_function_of_seed_and_epoch_alone():
    batches = make()
    list(batches.epoch(0))  # epochs seen before don't matter
    torch.manual_seed(1)  # nor does the global generator
    first = list(batches.epoch(1))
    state = torch.get_rng_state()
    assert_same(first, make().epoch(1))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first[0][0], next(make(seed=4).epoch(1))[0])
    assert not torch.equal(first[0][0], next(make().epoch(2))[0])


@pytest.mark.parametrize("augment", ["none", "basic", "randaugment", "trivialaugment", "photos"])
def test_a_resumed_epoch_goes_on_with_the_batches_it_would_have_had(augment):
    options = {"augment": augment, "mix": mixing(0.2, 1.0, COUNT)}
    whole = list(make(**options).epoch(1))
    for start in (0, 3, len(whole)):
        assert_same(whole[start:], make(**options).epoch(1, start))


def test_batches_are_equal_to_within_one_image():
    for count, size in itertools.product((1, 31, 32, 33, 50), (2, 8, 32)):
        sizes = [len(part) for part in cut_epoch(count, size, 0)]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1
        odd = size == 2 and count % 2 == 1 and count > 1  # then one has three: BatchNorm can't train on one image
        assert max(sizes) == 3 if odd else max(sizes) <= size
        assert min(sizes) >= 2 or count == 1
        assert sizes == [batch_images(count, size, step) for step in range(len(sizes))]
    assert cut_epoch(0, 8, 0) == ()


def test_a_batch_says_its_length_before_it_comes():
    batches = make()
    sizes = [len(labels) for _, labels in batches.epoch(0)]
    assert len(batches) == len(sizes) and sizes == [batches.size(step) for step in range(len(sizes))]


def test_each_image_is_augmented_by_draws_of_its_own():
    same = images(1).expand(8, -1, -1, -1)
    pixels, _ = next(make(same).epoch(0))
    assert len({picture.numpy().tobytes() for picture in pixels}) > 4


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_what_a_loop_over_images_does(flip):
    pictures = images(12)
    draws = Draws(12, 5, slice(None))
    top, left, mirrored = draws.integers(5), draws.integers(5), draws.integers(2)
    expected = []
    for picture, y, x, mirror in zip(pictures, top, left, mirrored, strict=True):
        cropped = v2.functional.crop(v2.functional.pad(picture, [2, 2, 2, 2]), int(y), int(x), 16, 16)
        expected.append(v2.functional.horizontal_flip(cropped) if flip and mirror else cropped)
    assert 0 < mirrored.sum() < 12
    assert torch.equal(random_crop_and_flip(pictures, flip, Draws(12, 5, slice(None))), torch.stack(expected))


def test_data_that_may_not_be_mirrored_is_not():
    ramp = torch.arange(16, dtype=torch.uint8).expand(64, 3, 16, 16) + 1  # brighter from left to right
    unmirrored = random_crop_and_flip(ramp, False, Draws(64, 0, slice(None)))[:, 0, 8].int()
    assert (unmirrored[:, 8] > unmirrored[:, 7]).all()
    mirrored = random_crop_and_flip(ramp, True, Draws(64, 0, slice(None)))[:, 0, 8].int()
    assert 16 < (mirrored[:, 8] < mirrored[:, 7]).sum() < 48


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "photos"])
def test_a_policy_depends_on_the_seed_and_is_another_for_each_image(policy):
    same = images(1).expand(8, -1, -1, -1)
    pixels, _ = next(make(same, augment=policy).epoch(0))
    assert_same(make(same, augment=policy).epoch(0), [(pixels, torch.cat(cut_epoch(8, 8, 3, 0)))])
    basic, _ = next(make(same).epoch(0))
    assert (pixels != basic).flatten(1).any(dim=1).sum() > 3
    assert not torch.equal(pixels, next(make(same, augment=policy, seed=4).epoch(0))[0])


@pytest.mark.parametrize("flip", [False, True])
def test_photos_are_cropped_from_all_of_their_pixels_mirrored_jittered_and_erased(flip):
    count, side = 400, 96
    ramps = torch.linspace(20, 220, side).byte()
    across = ramps.expand(count, 3, side, side)
    pixels = augmented(across, "photos", flip, Draws(count, 0, slice(None)), 48).float()
    assert pixels.shape == (count, 3, 48, 48)
    grey = torch.tensor(PAD_COLOUR).view(3, 1, 1)
    erased = (pixels == grey).all(dim=1).flatten(1).sum(dim=1) > 0.01 * 48**2
    assert 0.15 < erased.float().mean() < 0.35
    whole = pixels[~erased]
    assert (whole - whole[:, :1]).abs().max() < 2  # grey stays grey: no other hue
    row = whole[:, 0].mean(dim=1)
    mirrored = row[:, 0] > row[:, -1]
    assert mirrored.any() == flip and not flip or 0.4 < mirrored.float().mean() < 0.6
    assert whole.flatten(1).mean(dim=1).std() > 10  # brightness

    # How much of a photo is seen, by how much brighter its right is than its left: 0.35 of its area, at 4:3 or 3:4, to all of it.
    torch.manual_seed(0)
    plain = torch.stack([v2.RandomResizedCrop(48, scale=(0.35, 1.0))(picture) for picture in across]).float()
    contrast = (row[:, -1] - row[:, 0]).abs() / row.mean(dim=1)
    expected = plain[:, 0].mean(dim=1)
    expected = (expected[:, -1] - expected[:, 0]) / expected.mean(dim=1)
    assert float(contrast.median()) == pytest.approx(float(expected.median()), rel=0.1)


def test_photos_kept_larger_are_cropped_sharper():
    """A crop of half the side has as many pixels as it shows where they were kept at twice the size."""
    fine = (torch.arange(96) % 2 * 200 + 20).byte().expand(64, 3, 96, 96)
    coarse = resized(fine, 48)  # the stripes are gone
    contrasts = [
        augmented(kept, "photos", False, Draws(64, 0, slice(None)), 48).float().std(dim=3).mean()
        for kept in (coarse, fine)
    ]
    assert contrasts[1] > 3 * contrasts[0]


@pytest.mark.parametrize("mix", [None, mixing(0.4, 1.0, COUNT)], ids=["unmixed", "mixed"])
@pytest.mark.parametrize("augment", ["none", "basic", "randaugment", "trivialaugment", "photos"])
def test_two_processes_share_the_batches_of_one(augment, mix):
    alone = list(make(augment=augment, mix=mix).epoch(1))
    shares = [list(make(augment=augment, mix=mix, rank=rank, world=2).epoch(1)) for rank in (0, 1)]
    for step, (pixels, labels) in enumerate(alone):
        for rank in (0, 1):
            assert torch.equal(shares[rank][step][0], pixels[rank::2])
            assert torch.equal(shares[rank][step][1], labels[rank::2])


def mapped_set(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """A file of zeros, mapped as `common.data.decode` maps one. shape: (N, 3, H, W)."""
    count, channels, height, width = shape
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, height, width, channels))
    return decode._as_tensor(file)


def test_a_mapped_set_gives_the_batches_of_one_in_memory(tmp_path):
    mapped = mapped_set(tmp_path / "images.npy", images().shape)
    mapped.copy_(images())
    assert make(mapped).file and not make().file
    assert_same(make().epoch(1, 2), make(mapped).epoch(1, 2))
    assert_same(make(images()[20:]).epoch(0), make(mapped[20:]).epoch(0))
    assert list(make(mapped).epoch(0, len(make()))) == []
    with pytest.raises(ValueError, match="channels_last"):
        make(mapped.permute(0, 1, 3, 2))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_a_mapped_set_keeps_it_out_of_memory(tmp_path):
    mapped = mapped_set(tmp_path / "images.npy", (20_000, 3, 64, 64))  # 246 MB
    batches = Batches(mapped, torch.zeros(20_000), torch.arange(20_000), 500, 64, CPU, training=True)

    def resident_megabytes() -> float:
        return int(Path("/proc/self/status").read_text().partition("RssFile:")[2].split()[0]) / 1024

    before = resident_megabytes()
    assert max(resident_megabytes() for _ in batches.epoch(0)) - before < 50


def test_images_are_brought_to_the_size_asked_for():
    assert next(make().epoch(0))[0].shape == (8, 3, 16, 16)
    smaller, _ = next(make(progressive_from=12, epochs=range(4)).epoch(0))
    assert smaller.shape == (8, 3, 12, 12)
    untouched, labels = next(make(augment="none", progressive_from=12, epochs=range(4)).epoch(0))
    torch.testing.assert_close(untouched, normalize(v2.Resize([12, 12], antialias=True)(images()[labels])))


@pytest.mark.parametrize(("mixup", "cutmix", "kind"), [(0.4, 0.0, v2.MixUp), (0.0, 1.0, v2.CutMix)])
def test_mixing_is_torchvisions(mixup, cutmix, kind):
    pixels, labels = normalize(images(8)), torch.arange(8)
    mixed, soft = mixing(mixup, cutmix, 10)(pixels, labels, 7)
    torch.manual_seed(7)
    expected, expected_soft = v2.RandomChoice([kind(alpha=mixup or cutmix, num_classes=10)])(pixels, labels)
    assert torch.equal(mixed, expected) and torch.equal(soft, expected_soft)
    assert not torch.equal(mixed, pixels)


def test_mixed_labels_are_distributions_and_both_kinds_are_used():
    mix, pixels, kinds = mixing(1.0, 1.0, 10), normalize(images(8)), set()
    for seed in range(20):
        mixed, soft = mix(pixels, torch.arange(8), seed)
        assert soft.dtype == torch.float32 and (soft >= 0).all()
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(8))
        corner_kept = (mixed == pixels).all(dim=1).flatten(1).any(dim=1).all()  # only cutmix keeps whole pixels
        kinds.add(bool(corner_kept))
    assert kinds == {True, False}


def test_batches_are_mixed_in_training_only_and_by_their_own_seed():
    mix = mixing(0.4, 0.0, COUNT)
    plain, labels = next(make().epoch(2, 1))
    assert_same([mix(plain, labels, seed_for(3, 2, 1, 1))], itertools.islice(make(mix=mix).epoch(2, 1), 1))
    assert next(make(mix=mix, training=False).epoch(0))[1].dtype == torch.int64


def test_without_alphas_nothing_is_mixed():
    assert mixing(0.0, 0.0, 10) is None


def test_progressive_size_grows_in_multiples_of_16_over_the_first_half():
    assert [progressive_size(epoch, 10, 128, 224) for epoch in range(10)] == [128, 144, 160, 176, 192] + [224] * 5
    assert [progressive_size(epoch, 4, None, 224) for epoch in range(4)] == [224] * 4
    assert [progressive_size(epoch, 2, 64, 70) for epoch in range(2)] == [64, 70]

"""Random changes to training images, each image's its own and a function of (seed, epoch, step) alone."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


def seed_for(*parts: int) -> int:
    """A seed that is a function of its parts alone, such as (seed, epoch, step): what a resumed run needs no state for."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "little")


class Draws:
    """Random numbers of one batch: drawn for the whole batch, so that they don't depend on the number of processes.

    part: the images that this process augments.
    """

    def __init__(self, count: int, seed: int, part: slice) -> None:
        self.count, self.part = count, part
        self.generator = torch.Generator().manual_seed(seed)

    def integers(self, high: int) -> Tensor:
        """int64, one for each image of this process, from 0 to high - 1."""
        return torch.randint(high, (self.count,), generator=self.generator)[self.part]


def augmented(images: Tensor, augment: str, flip: bool, draws: Draws) -> Tensor:
    """Augments uint8 (b, 3, h, w), every image by draws of its own.

    `basic`: a random crop after padding by an eighth of the side, and a mirror image half of the time where `flip` allows;
    the others: the same, then torchvision's policy of that name.
    """
    if augment == "none":
        return images
    images = random_crop_and_flip(images, flip, draws)
    if augment in POLICIES:
        images = by_policy(images, POLICIES[augment](), draws)
    return images


def random_crop_and_flip(images: Tensor, flip: bool, draws: Draws) -> Tensor:
    """uint8 (b, 3, h, w) → the same shape, in channels_last layout."""
    height, width = images.shape[-2:]
    pad = max(1, round(height / 8))
    drawn = torch.stack([draws.integers(2 * pad + 1), draws.integers(2 * pad + 1), draws.integers(2) * flip])
    # The draws alone go to the device, three numbers an image: a GPU would be waited for to copy every pixel's place.
    top, left, mirrored = drawn.to(images.device, non_blocking=True)[:, :, None]
    down, across, number = (torch.arange(n, device=images.device) for n in (height, width, len(images)))
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    # By each pixel's place among all of the batch: index_select takes less than half the time of indexing by three axes.
    rows = number[:, None] * padded.shape[2] + top + down
    columns = left + torch.where(mirrored.bool(), across.flip(0), across)
    places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten()
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    return pixels.index_select(0, places).view(len(images), height, width, -1).permute(0, 3, 1, 2)


def by_policy(images: Tensor, transform: v2.Transform, draws: Draws) -> Tensor:
    """`transform` of torchvision, image by image, since it draws once for a whole batch."""
    seeds = draws.integers(2**31).tolist()
    with torch.random.fork_rng(devices=[]):
        return torch.stack(
            [transform(image) for image, seed in zip(images, seeds, strict=True) if torch.manual_seed(seed)]
        )


def mixing(mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> Mix | None:
    """torchvision's mixup or cutmix, one of the two for each batch; None when both are off."""
    chosen = [(v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha)]
    kinds = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in chosen if alpha > 0]
    if not kinds:
        return None

    def mix(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            images, labels = v2.RandomChoice(kinds)(images, labels)
        return images.contiguous(memory_format=torch.channels_last), labels

    return mix

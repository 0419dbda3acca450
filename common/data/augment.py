"""Random changes to training images, each image's its own and a function of (seed, epoch, step) alone."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from common.data.pixels import PAD_COLOUR

Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
SMALLEST_CROP = 0.35  # of a photo's area. fastai's; torchvision's and timm's 0.08 is for training from nothing
JITTER = 0.4  # of brightness, contrast and saturation, as timm's
ERASED = 0.25  # of the images, as in Zhong et al. 2020


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


def augmented(images: Tensor, augment: str, flip: bool, draws: Draws, size: int) -> Tensor:
    """Augments uint8 (b, 3, h, w), every image by draws of its own → the same shape, or with `photos` (b, 3, size, size).

    `basic`: a random crop after padding by an eighth of the side, and a mirror image half of the time where `flip` allows;
    `photos`: as `for_photos`; the others: as `basic`, then torchvision's policy of that name.
    """
    if augment == "none":
        return images
    if augment == "photos":
        return by_policy(images, for_photos(size, flip), draws)
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


def for_photos(size: int, flip: bool) -> v2.Transform:
    """A random part of a photo, resized; a mirror image half of the time where `flip` allows; other brightness, contrast and
    saturation; sometimes a rectangle erased: uint8 (3, h, w) → uint8 (3, size, size).

    Hue stays: it takes longer than all the rest, and tells classes apart.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(SMALLEST_CROP, 1.0)),
            v2.RandomHorizontalFlip(0.5 * flip),
            v2.ColorJitter(JITTER, JITTER, JITTER),
            v2.RandomErasing(ERASED, value=list(PAD_COLOUR)),
        ]
    )


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

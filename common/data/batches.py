"""Device-resident batches: order, augmentation, resize and normalization, each a function of (seed, epoch, step).

Nothing is drawn from a global generator, so a resumed run, or one with another number of processes, sees the batches that
an uninterrupted one would have seen, and no random state has to be saved.
"""

import copy
import io
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from common.data.augment import Draws, Mix, augmented, seed_for
from common.data.decode import mapped_file
from common.data.pixels import MEAN, STD

# `normalize` for images in [0, 255], as x * SCALE + OFFSET.
SCALE = tuple(1 / (255 * std) for std in STD)
OFFSET = tuple(-mean / std for mean, std in zip(MEAN, STD, strict=True))


def normalize(images: Tensor) -> Tensor:
    """uint8 (b, 3, h, w) → float32 of the same shape, (x / 255 - MEAN) / STD, channels_last."""
    scale, offset = (values.expand(images.shape[3], 3).flatten() for values in _affine(images.device))
    images = images.to(torch.float32, memory_format=torch.channels_last)
    # In place, on a view of its rows (b, h, 3 w): over three channels at a time it takes eight times as long.
    rows = images.permute(0, 2, 3, 1).flatten(2)
    torch.addcmul(offset, rows, scale, out=rows)
    return images


def denormalize(images: Tensor) -> Tensor:
    """Undoes `normalize`: float (…, 3, h, w) → float in [0, 1]; times 255 and rounded, the very uint8 it came from."""
    scale, offset = (values.view(3, 1, 1) for values in _affine(images.device))
    return ((images - offset) / (255 * scale)).clamp(0, 1)


def _affine(device: torch.device) -> tuple[Tensor, Tensor]:
    scale, offset = (torch.tensor(values).to(device, non_blocking=True) for values in (SCALE, OFFSET))
    return scale, offset


def steps_per_epoch(images: int, batch_size: int) -> int:
    """As few as hold all images; where they are an odd number in batches of two, one batch has three: BatchNorm can't train on one."""
    steps = math.ceil(images / batch_size)
    return min(steps, max(1, images // 2)) if batch_size == 2 else steps


def cut_epoch(
    count: int, batch_size: int, seed: int | None = None, epoch: int = 0, classes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Positions 0 … count - 1 in batches, int64, in `epoch`'s permutation by `seed` (None: in order).

    The batches are equal, sizes differing by at most one, so that no last batch is too small for BatchNorm.
    classes: int64 (count,), the label at each position; the positions are then drawn so that classes are equally frequent.
    """
    if count == 0:
        return ()
    generator = None if seed is None else torch.Generator().manual_seed(seed_for(seed, epoch))
    if classes is not None and generator is not None:
        order = balanced_draws(classes, generator)
    else:
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator)
    return torch.tensor_split(order, steps_per_epoch(count, batch_size))


def balanced_draws(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many positions of `labels` as it has, int64 (N,), at random, those of each class that occurs equally often but for one.

    A class gives all of its images before it gives one a second time: the images of a frequent one appear at most once, and
    those of a rare one equally often but for one. torch's WeightedRandomSampler has the same mean, and more chance in it.
    """
    members = [(labels == label).nonzero().flatten() for label in labels.unique()]
    # Which classes get the one more that does not go round is drawn anew in every epoch.
    members = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    drawn = []
    for own, places in zip(members, torch.arange(len(labels)).tensor_split(len(members)), strict=True):
        rounds = [torch.randperm(len(own), generator=generator) for _ in range(math.ceil(len(places) / len(own)))]
        drawn.append(own[torch.cat(rounds)[: len(places)]])
    return torch.cat(drawn)[torch.randperm(len(labels), generator=generator)]


def batch_images(count: int, batch_size: int, step: int) -> int:
    """Images in batch `step` of an epoch, as `cut_epoch` cuts it."""
    steps = steps_per_epoch(count, batch_size)
    return count // steps + (step < count % steps)


class Batches:
    """Cuts the images at `indices` into batches, ready for the network.

    With `world` processes each takes every `world`-th image of a batch. Where a batch is mixed, an image's partner may be
    another process's, so each prepares the whole batch before it takes its part.

    images: uint8 (N, 3, H, W); labels: int64 (N,); indices: int64, those to use, in this order unless `training`.
    progressive_from: side that the images of the first of `epochs` have, of `progressive_size`.
    balanced: while `training`, whether an epoch's images are `balanced_draws`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        image_size: int,
        device: torch.device,
        *,
        augment: str = "none",
        flip: bool = False,
        seed: int = 0,
        training: bool = False,
        mix: Mix | None = None,
        progressive_from: int | None = None,
        epochs: range = range(1),
        balanced: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.indices, self.batch_size, self.image_size, self.device = indices, batch_size, image_size, device
        self.augment, self.flip, self.seed, self.training, self.mix = augment, flip, seed, training, mix
        self.progressive_from, self.epochs, self.rank, self.world = progressive_from, epochs, rank, world
        self.classes = labels[indices].cpu() if balanced and training else None
        # A set larger than memory stays a file, of which a batch is read while the last one computes.
        mapped = mapped_file(images)
        self.images = images.to(device, memory_format=torch.channels_last) if mapped is None else images
        if not self.images.is_contiguous(memory_format=torch.channels_last):
            raise ValueError("images that are a mapped file must be channels_last")
        path, self.start = mapped or (None, 0)
        self.file = None if path is None else io.FileIO(path)
        self.labels = labels.to(device)

    def __len__(self) -> int:
        """Batches an epoch."""
        return steps_per_epoch(len(self.indices), self.batch_size)

    def size(self, step: int) -> int:
        """Images of batch `step` of an epoch, those of all processes."""
        return batch_images(len(self.indices), self.batch_size, step)

    def plain(self) -> "Batches":
        """The same, each image once, at full size and not mixed: what features are computed of."""
        plain = copy.copy(self)
        plain.mix = plain.progressive_from = plain.classes = None
        return plain

    @property
    def order_seed(self) -> int | None:
        """What `cut_epoch` permutes by; None: in order."""
        return self.seed if self.training else None

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `epoch` from `start_step` on: images float32 (b, 3, s, s), normalized, channels_last, and labels
        int64 (b,), or float32 (b, classes) once mixed."""
        since = epoch - self.epochs.start
        size = progressive_size(since, len(self.epochs), self.progressive_from, self.image_size)
        cut = cut_epoch(len(self.indices), self.batch_size, self.order_seed, epoch, self.classes)[start_step:]
        mine, everyone = slice(self.rank, None, self.world), slice(None)
        mix = self.mix if self.training else None
        prepared = everyone if mix else mine
        parts = [self.indices[positions[prepared]] for positions in cut]
        for step, (whole, indices, images) in enumerate(zip(cut, parts, self._read(parts), strict=True), start_step):
            if self.training:
                draws = Draws(len(whole), seed_for(self.seed, epoch, step), prepared)
                images = augmented(images, self.augment, self.flip, draws, size)
            images = normalize(resized(images, size))
            labels = self.labels[indices.to(self.device, non_blocking=True)]
            if mix:
                images, labels = mix(images, labels, seed_for(self.seed, epoch, step, 1))
                images, labels = images[mine], labels[mine]
            yield images, labels

    def _read(self, batches: list[Tensor]) -> Iterator[Tensor]:
        """uint8 images of each batch, on the device."""
        file = self.file
        if file is None:
            stored = self.images.permute(0, 2, 3, 1)  # an image lies in one piece: a batch of 32 takes 5 µs, not 70
            for indices in batches:
                yield stored.index_select(0, indices.to(self.device, non_blocking=True)).permute(0, 3, 1, 2)
            return

        channels, height, width = self.images.shape[1:]

        # Not through the mapping: a page that is touched there can bring 2 MB around it into resident memory. And by NumPy
        # alone: a second thread in torch would start a second team.
        def read(indices: np.ndarray, images: np.ndarray) -> None:
            for image, index in zip(images, indices.tolist(), strict=True):
                file.seek(self.start + index * image.nbytes)
                if file.readinto(image.data) != image.nbytes:
                    raise OSError(f"{file.name} ends too early")

        def begin(indices: Tensor) -> tuple[Future[None], Tensor]:
            # Pinned for a GPU: from other memory, a copy of this size waits until the last step is done.
            pinned = self.device.type == "cuda"
            images = torch.empty(len(indices), height, width, channels, dtype=torch.uint8, pin_memory=pinned)
            return reader.submit(read, indices.numpy(), images.numpy()), images

        with ThreadPoolExecutor(1) as reader:
            ahead = [begin(indices) for indices in batches[:1]]
            for following in [*batches[1:], None][: len(batches)]:
                done, images = ahead.pop()
                done.result()
                if following is not None:
                    ahead.append(begin(following))
                yield images.permute(0, 3, 1, 2).to(self.device, non_blocking=True)


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 (b, 3, h, w) → uint8 (b, 3, size, size), bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    # In channels_last, which `Batches` keeps them in, it takes a third of the time.
    return F.resize(images.contiguous(memory_format=torch.channels_last), [size, size], antialias=True)


def progressive_size(epoch: int, epochs: int, start: int | None, end: int) -> int:
    """Side in pixels during `epoch`: grows linearly from `start` to `end` over the first half of the epochs, in multiples of
    16. After Howard's progressive resizing (fastai, DAWNBench 2018)."""
    share = min(1.0, epoch / (epochs // 2)) if epochs > 1 else 1.0
    return end if start is None or share == 1 else start + int(share * (end - start)) // 16 * 16

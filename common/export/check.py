"""Is the export the run? Both are asked about the same images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.analysis.inference import load_part
from common.base.errors import RunError, UserError
from common.base.terminal import progress_bar
from common.data.batches import Batches, denormalize
from common.data.pixels import Unreadable
from common.export.about import About
from common.model.load import Loaded

NOISE_IMAGES = 64
CPU = torch.device("cpu")
Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Compared:
    """How far two networks' answers to the same images are apart."""

    images: int
    largest: float
    """difference of two logits, or of two probabilities"""
    scale: float
    """the largest logit's size, at least 1; of probabilities 1"""
    others: int
    """images that get another class"""
    what: str
    """logits or probabilities"""

    def within(self, tolerance: float) -> bool:
        return self.largest <= tolerance * self.scale  # also False where it is no number

    def in_words(self, tolerance: float) -> str:
        of = f", of {self.what} up to {self.scale:.3g}" if self.what == "logits" else ""
        return (
            f"largest difference of {self.what}: {self.largest:.2g}{of} (allowed: {tolerance * self.scale:.2g}); "
            f"{self.others} of {self.images} classes differ"
        )


def images_of(
    loaded: Loaded, dataset: str | None, data_dir: str | None, unreadable: Unreadable | None, batch_size: int
) -> tuple[Batches, str]:
    """The run's test images, or else its validation images, or else noise, and what they are in words.

    Errors: `UserError` when the data that was asked for is not to be had.
    """
    why = ""
    for split in ("test", "validation"):
        try:
            data, indices = load_part(loaded, split, dataset, data_dir, unreadable)
        except UserError as error:
            if (dataset or data_dir) and split == "validation":
                raise
            why = why or str(error)
            continue
        batches = Batches(data.images, data.labels, indices, batch_size, loaded.metadata.image_size, CPU)
        return batches, f"{len(indices)} {split} images of {data.name}"
    size = loaded.metadata.image_size
    noise = torch.randint(0, 256, (NOISE_IMAGES, 3, size, size), generator=torch.Generator().manual_seed(0))
    images = noise.to(torch.uint8, memory_format=torch.channels_last)
    labels = torch.zeros(NOISE_IMAGES, dtype=torch.int64)
    batches = Batches(images, labels, torch.arange(NOISE_IMAGES), batch_size, size, CPU)
    return batches, f"{NOISE_IMAGES} images of noise, as there are no others ({why})"


@torch.inference_mode()
def compare(source: Answer, export: Answer, batches: Batches, about: About) -> Compared:
    """source: normalized images → logits; export: as `about` says."""
    count, largest, scale, others = 0, torch.zeros(()), torch.ones(()), 0
    bar = progress_bar(batches.epoch(0), total=len(batches), desc="comparing", unit="batch", leave=False)
    for images, _ in bar:
        expected = source(images).float()
        if about.preprocessing:
            expected = (expected / (about.temperature or 1)).softmax(1)
            images = (255 * denormalize(images)).round().to(torch.uint8)
        found = export(images).float()
        if found.shape != expected.shape:
            raise RunError(f"the export gives {tuple(found.shape)} for {tuple(expected.shape)}; it was not kept")
        largest = torch.maximum(largest, (found - expected).abs().max())
        scale = torch.maximum(scale, expected.abs().max())
        others += int((found.argmax(1) != expected.argmax(1)).sum())
        count += len(images)
    what = "probabilities" if about.preprocessing else "logits"
    return Compared(count, float(largest), float(scale), others, what)

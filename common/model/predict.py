"""A network's logits for batches of images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from common.base.terminal import progress_bar


class Mirrored(nn.Module):
    """Flip at test time: the mean of the logits that `model` gives for an image and for its mirror image.

    Of logits, not of probabilities, so that a mean is again what a temperature divides: it is fitted to the means, and it makes
    no difference whether it divides them or the logits of each image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """images: float (b, 3, s, s) → logits float32 (b, classes)"""
        return (self.model(images).float() + self.model(images.flip(3)).float()) / 2


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    amp: torch.dtype | None = None,
    total: int | None = None,
    description: str | None = None,
) -> tuple[Tensor, Tensor]:
    """logits float32 (N, classes) and labels int64 (N,), on the CPU and in the batches' order. A bar of `total` batches, if
    it has a description."""
    model.eval()
    logits, labels = [], []
    hidden = description is None
    bar = progress_bar(batches, total=total, desc=description, unit="batch", leave=False, disable=hidden)
    for images, targets in bar:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            logits.append(model(images).float())
        labels.append(targets)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()

"""A network's logits for batches of images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm


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
    bar = tqdm(batches, total=total, desc=description, unit="batch", leave=False, dynamic_ncols=True, disable=hidden)
    for images, targets in bar:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            logits.append(model(images).float())
        labels.append(targets)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()

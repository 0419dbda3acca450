"""One training step, and the scores of a validation: numbers in, numbers out. Nothing here logs, and a step never waits for the
device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def train_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    amp: torch.dtype | None = None,
    weight: float = 1.0,
) -> Tensor:
    """One optimizer step → float (3,) on the device: summed loss, images that are right, images.

    `weight` scales the loss's gradient: with several processes, this one's share of the batch times their number. A mixed
    image counts as right when its larger part is named.
    """
    with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
        logits = model(images)
    loss = loss_fn(logits.float(), labels)
    scaler.scale(loss * weight).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        named = labels if labels.ndim == 1 else labels.argmax(dim=1)
        right = (logits.argmax(dim=1) == named).sum()
        return torch.stack([loss.detach() * len(images), right, torch.full_like(loss, len(images))])


def scores(logits: Tensor, labels: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Mean loss, top-1 and top-5 accuracy of logits (N, classes) against labels (N,)."""
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return {
        "validation/loss": float(loss_fn(logits, labels)),
        "validation/accuracy": float(top[:, 0].double().mean()),
        "validation/top5_accuracy": float(top.any(dim=1).double().mean()),
    }

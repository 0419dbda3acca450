"""One training step, and predictions: numbers in, numbers out. Nothing here logs, and a step never waits for the device."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm


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


def scores(logits: Tensor, labels: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Mean loss, top-1 and top-5 accuracy of logits (N, classes) against labels (N,)."""
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return {
        "validation/loss": float(loss_fn(logits, labels)),
        "validation/accuracy": float(top[:, 0].double().mean()),
        "validation/top5_accuracy": float(top.any(dim=1).double().mean()),
    }

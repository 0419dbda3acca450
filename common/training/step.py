"""One training step, and the scores of a validation: numbers in, numbers out. Nothing here logs, and a step never waits for the
device."""

import contextlib
from collections.abc import Callable, Sequence

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
    parts: Sequence[int] = (),
) -> Tensor:
    """One optimizer step → float (3,) on the device: summed loss, images that are right, images.

    `weight` scales the loss's gradient: with several processes, this one's share of the batch times their number. `parts` are
    the numbers of images whose gradients are computed one after the other, for less memory, and added; none: all at once. A mixed image
    counts as right when its larger part is named.
    """
    sums = torch.zeros(3, device=images.device)
    sizes = list(parts) or [len(images)]
    pieces = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    for number, piece in enumerate(pieces, start=1):
        # Several processes add their gradients up once, with the last part's.
        with contextlib.nullcontext() if number == len(pieces) else apart(model):
            share = weight * len(piece[0]) / len(images)
            sums += add_gradient(model, *piece, loss_fn, scaler, amp, share)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return sums


def add_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    scaler: torch.amp.GradScaler,
    amp: torch.dtype | None,
    weight: float,
) -> Tensor:
    """Forward and backward, without a step → the sums of `train_step`."""
    with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
        logits = model(images)
    loss = loss_fn(logits.float(), labels)
    scaler.scale(loss * weight).backward()
    with torch.no_grad():
        named = labels if labels.ndim == 1 else labels.argmax(dim=1)
        right = (logits.argmax(dim=1) == named).sum()
        return torch.stack([loss.detach() * len(images), right, torch.full_like(loss, len(images))])


def apart(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within it, a process's gradients stay its own."""
    no_sync = getattr(model, "no_sync", contextlib.nullcontext)  # of DistributedDataParallel
    return no_sync()


def scores(logits: Tensor, labels: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Mean loss, top-1 accuracy and, of more than five classes, top-5 accuracy of logits (N, classes) against labels (N,); and means over
    classes, in which each counts the same: of F1, where one that neither occurs nor is predicted counts 0, and of recall, over those
    that occur (balanced accuracy)."""
    count = logits.shape[1]
    ranked = logits.topk(min(5, count), dim=1).indices
    top = ranked == labels[:, None]
    confusion = torch.bincount(labels * count + ranked[:, 0], minlength=count**2).view(count, count).double()
    hits, support, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
    return {
        "validation/loss": float(loss_fn(logits, labels)),
        "validation/accuracy": float(top[:, 0].double().mean()),
        **({"validation/top5_accuracy": float(top.any(dim=1).double().mean())} if count > 5 else {}),
        "validation/macro_f1": float((2 * hits / (support + predicted).clamp(min=1)).mean()),
        "validation/balanced_accuracy": float((hits / support)[support > 0].mean()),
    }

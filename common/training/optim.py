"""Losses, parameter groups, SGD, the learning-rate schedule, and averaging of weights."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(
    name: str, label_smoothing: float = 0.0, focal_gamma: float = 2.0, class_weights: Tensor | None = None
) -> Loss:
    """logits (b, classes) and labels, int64 (b,) or float (b, classes), → the mean loss, a scalar.

    class_weights: float (classes,), such as `balanced_weights`; each class's term of the loss is multiplied by its own. The sum is
    divided by the number of images, as torch does for soft targets; its mean for hard ones divides by their weights, and then the
    parts of a batch, of several processes or of --accumulate, would not add up to the whole."""
    if name == "focal":
        return lambda logits, labels: focal_loss(logits, labels, focal_gamma, class_weights)
    if class_weights is None:
        return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    summed = partial(F.cross_entropy, weight=class_weights, reduction="sum", label_smoothing=label_smoothing)
    return lambda logits, labels: summed(logits, labels) / len(logits)


def balanced_weights(counts: Tensor) -> Tensor:
    """counts: images of each class (classes,) → float32 (classes,), N / (classes that occur · count): scikit-learn's
    `class_weight="balanced"` (King & Zeng 2001). Over the images their mean is 1. A class without images weighs 0."""
    weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0).float()


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """-Σ_k w_k y_k (1 - p_k)^gamma log p_k, averaged over images: Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5,
    over a softmax; without class weights w, eq. 4. gamma 0 is cross-entropy."""
    targets = F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    if class_weights is not None:
        targets = targets * class_weights
    log_p = F.log_softmax(logits, dim=1)
    miss = -torch.expm1(log_p)  # 1 - p
    # At 0 exactly, a power below 1 has an infinite slope, and its product with log p = 0 is no number.
    return -(targets * miss.clamp(min=1e-12) ** gamma * log_p).sum(dim=1).mean()


STAGES_BEFORE_HEAD = {"layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "bn1": 5, "conv1": 5}


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, backbone_lr_scale: float = 1.0, layer_decay: float = 1.0
) -> list[dict]:
    """What is trained, in groups of one learning rate and one decay each: norms and biases, the vectors, don't decay. The head has
    the rate `lr`, and a stage that lies n stages before it `lr * backbone_lr_scale * layer_decay**n`; the first convolution is a stage."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = STAGES_BEFORE_HEAD.get(name.split(".")[0], 0)
            rate = lr * (backbone_lr_scale if depth else 1.0) * layer_decay**depth
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def build_sgd(groups: list[dict], lr: float, momentum: float, nesterov: bool, device: torch.device) -> torch.optim.SGD:
    # The fused kernel updates all tensors in one pass: on a CPU too, it takes 0.6 of the time of a loop over them.
    fused = device.type in ("cuda", "cpu")
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


def build_scaler(
    optimizer: torch.optim.Optimizer, amp: torch.dtype | None, device: torch.device
) -> torch.amp.GradScaler:
    """Scales the loss in fp16, whose small gradients would vanish; in another precision it does nothing."""
    scaler = torch.amp.GradScaler(device.type, enabled=amp is torch.float16)
    if scaler.is_enabled():
        # The first step often overflows and is skipped. Fused SGD has then made momenta of uninitialized memory, which the next one
        # trains with (torch 2.11 and 2.14): they begin at zero, from which a first step is the same.
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return scaler


def lr_factor(step: int, total_steps: int, warmup_steps: int, schedule: str) -> float:
    """The share of the base learning rate at `step`, counted from 0: linear warm-up, then constant or half a cosine to 0
    (Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's learning rate → the largest, the head's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


class Average(AveragedModel):
    """An exponential moving average of weights and BatchNorm statistics, warmed up: the decay is at most (1 + n) / (10 + n) after n
    steps, as in TensorFlow's ExponentialMovingAverage, so that the random beginning is soon forgotten. torch's own copies the number of
    updates to the device in every one of them, and that waits for a GPU: here it stays on the CPU."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        self.n_averaged = self.n_averaged.cpu()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averages, current = ([*part.parameters(), *part.buffers()] for part in (self.module, model))
        n = int(self.n_averaged)
        average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)) if n else 0.0)
        for real in (True, False):  # BatchNorm's counters of batches are whole numbers
            chosen = [i for i, tensor in enumerate(averages) if tensor.is_floating_point() == real]
            if chosen:  # a head alone has no counters
                average([averages[i] for i in chosen], [current[i] for i in chosen], n)
        self.n_averaged += 1

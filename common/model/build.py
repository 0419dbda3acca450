"""ResNeXt from torchvision: build it, load pretrained weights, swap the head, choose what is trained."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from common.model.pretrained import load_backbone, read_weights

# A table, so that a test can put tiny models of the same family in the large ones' place.
ARCHITECTURES: dict[str, Callable[..., models.ResNet]] = {
    "resnext50_32x4d": models.resnext50_32x4d,
    "resnext101_32x8d": models.resnext101_32x8d,
    "resnext101_64x4d": models.resnext101_64x4d,
    "resnet50": models.resnet50,
}
FROZEN_PREFIX = {
    "full": (),
    "partial": ("conv1", "bn1", "layer1", "layer2"),
    "head": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
}


def build_model(name: str, num_classes: int, weights: str, seed: int = 0) -> models.ResNet:
    """`name` with `weights` and a new head for `num_classes`, on the CPU.

    `weights`: an ImageNet weights' name, `none`, or a path; a file's own head is left out. The new head, and random weights,
    depend on `seed` alone. Errors: `UserError` for unknown weights, or a file that is missing, damaged or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[name](zero_init_residual=True)
        if weights == "none":
            _calm_features(model)
        else:
            load_backbone(model, read_weights(name, weights), weights)
        # torchvision refuses weights and another number of classes together, so the head is swapped after loading.
        model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def _calm_features(model: models.ResNet) -> None:
    """Scales the last stage's shortcut to a tenth. On small images the features aren't averaged over many positions, have a
    norm of about 30, and SGD at a usual learning rate then diverges in the head."""
    nn.init.constant_(model.layer4[0].downsample[1].weight, 0.1)


def set_trainable(model: models.ResNet, finetune: str) -> models.ResNet:
    """Freezes what `finetune` does not train: parameters get no gradient, and `train()` leaves frozen BatchNorm in eval mode,
    since its statistics would change with every batch."""
    for prefix in FROZEN_PREFIX[finetune]:
        getattr(model, prefix).requires_grad_(False)
    model.train = MethodType(_train, model)  # bound, so that a deep copy gets its own
    return model.train()


def _train(model: models.ResNet, mode: bool = True) -> models.ResNet:
    nn.Module.train(model, mode)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and not module.weight.requires_grad:
            module.eval()
    return model


def describe(model: models.ResNet, image_size: int) -> dict[str, Any]:
    """Cardinality, width a group, parameters, and GFLOPs an image: torch's own counter, a multiplication and an addition
    being two operations."""
    on_meta = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(torch.empty(1, 3, image_size, image_size, device="meta"))
    convolution = model.layer1[0].conv2
    return {
        "cardinality": convolution.groups,
        "width_per_group": convolution.out_channels // convolution.groups,
        "parameters_total": sum(p.numel() for p in model.parameters()),
        "parameters_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gflops_per_image": round(counter.get_total_flops() / 1e9, 3),
    }

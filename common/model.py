"""ResNeXt from torchvision: build it, load pretrained weights, swap the head, choose what is trained."""

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from common.checkpoint import first_line, load_into
from common.errors import UserError
from common.network import network_timeout

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
            load_backbone(model, _read_weights(name, weights), weights)
        # torchvision refuses weights and another number of classes together, so the head is swapped after loading.
        model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def _calm_features(model: models.ResNet) -> None:
    """Scales the last stage's shortcut to a tenth. On small images the features aren't averaged over many positions, have a
    norm of about 30, and SGD at a usual learning rate then diverges in the head."""
    nn.init.constant_(model.layer4[0].downsample[1].weight, 0.1)


def load_backbone(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Loads all but the head, which belongs to other classes. Errors: `UserError` when the rest does not fit.

    BatchNorm's counters of batches may be absent, as they are from files older than PyTorch 0.4.1; nothing reads them.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith("fc.") or k.endswith(".num_batches_tracked")}
    backbone = {k: v for k, v in state.items() if not k.startswith("fc.")}
    load_into(model, {**own, **backbone}, f"--weights {source}")


def _read_weights(name: str, weights: str) -> dict[str, torch.Tensor]:
    if weights.endswith((".pth", ".pt", ".safetensors")) or os.path.sep in weights:
        return _read_weights_file(Path(weights).expanduser())
    published = models.get_model_weights(name)
    allowed = [entry.name for entry in published]
    if weights not in allowed:
        raise UserError(
            f"--weights is {weights!r}, but for {name} must be {', '.join(allowed)}, none, or a path ending in .pth or "
            ".safetensors"
        )
    entry = published[weights]
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    file = os.path.join(folder, os.path.basename(entry.url))
    try:
        with network_timeout():
            return entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that isn't a state dict
        if os.path.exists(file):
            raise UserError(
                f"--weights {weights}: {file} is damaged ({first_line(error)}); delete it and run again"
            ) from None
        raise UserError(
            f"--weights {weights} are neither in {file} nor could they be downloaded ({first_line(error)}); put {entry.url} "
            "there, or use --weights none or a path; --preset digits needs no download"
        ) from None


def _read_weights_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(
            f"--weights {path} does not exist; give a .pth or .safetensors file, IMAGENET1K_V2, IMAGENET1K_V1 or none"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange pickle: the message below is enough
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a file that isn't theirs
        raise UserError(
            f"--weights {path} can't be read: truncated, damaged, or more than plain weights ({first_line(error)})"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # torchvision's reference scripts save it so
        state = state["model"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise UserError(f"--weights {path} holds no weights: expected a mapping of names to tensors")
    return state


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

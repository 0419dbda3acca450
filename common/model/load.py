"""From a checkpoint reference to a network that predicts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet

from common.base.errors import UserError
from common.base.files import sha256_of
from common.model.build import ARCHITECTURES
from common.model.predict import Mirrored
from common.model.weights import load_into, load_weights
from common.runs.find import resolve_checkpoint
from common.runs.folder import RunFolder


@dataclass(frozen=True)
class Loaded:
    """A network ready to predict, and where it came from."""

    model: nn.Module
    metadata: dict[str, Any]
    """what best.safetensors says of itself: model, classes, dataset, image_size, run_id, …"""
    path: Path
    folder: RunFolder
    """where results about it belong: the folder of its run"""
    sha256: str
    artifact: str | None
    """the artifact that the reference named, or that the run logged these weights as"""
    tta: str = "none"
    """what `model` does at test time with each image: `none` or `flip`"""

    def with_tta(self, tta: str, flip: bool) -> "Loaded":
        """The same network, to which `tta` is done. flip: `Dataset.flip`, whether images may be mirrored. Errors: `UserError`
        when they may not."""
        if tta == "none":
            return self
        if not flip:
            raise UserError(
                f"--tta is {tta}, but must be none for {self.metadata['dataset']}: mirrored, they are other things"
            )
        return replace(self, model=Mirrored(self.model), tta=tta)


def load_model(
    reference: str | None,
    runs_dir: str,
    device: torch.device,
    download: Callable[[str], Path | None] | None = None,
) -> Loaded:
    """Loads the weights that `reference` names (`common.runs.find.resolve_checkpoint`), in eval mode, channels_last, convolutions
    and BatchNorm fused. Errors: `UserError` when there is no such checkpoint, or it is damaged."""
    path, artifact = resolve_checkpoint(reference, runs_dir, download)
    state, metadata = load_weights(path)
    model = network_for(metadata, path)
    load_into(model, state, path)
    in_run = RunFolder(path.parent.parent)
    folder = in_run if in_run.checkpoints == path.parent else RunFolder(Path(runs_dir) / metadata["run_id"])
    network = fused(model.eval()).to(device).to(memory_format=torch.channels_last)
    return Loaded(network, metadata, path, folder, sha256_of(path), artifact)


def network_for(metadata: dict[str, Any], path: Path) -> ResNet:
    """The network that the weights in `path`, of which `metadata` is the header, belong into: on the CPU, without values yet.
    Errors: `UserError` when the header does not say which."""
    try:
        build, classes, _ = ARCHITECTURES[metadata["model"]], metadata["classes"], metadata["run_id"]
    except KeyError as error:
        raise UserError(f"{path} names no known {error} in its header; it can't be used") from None
    with torch.device("meta"):
        model = build(num_classes=len(classes))
    return model.to_empty(device="cpu")


def fused(model: nn.Module) -> nn.Module:
    """`model`, in eval mode, with every BatchNorm folded into the convolution before it: the same function, in fewer passes
    over memory. Changes `model`."""
    for module in list(model.modules()):
        for (name, before), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
                setattr(module, norm_name, nn.Identity())
    return model

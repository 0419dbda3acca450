"""From a checkpoint reference to a network that predicts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet

from common.base.errors import UserError
from common.base.files import lies_in, sha256_of
from common.base.text import printable
from common.model.build import ARCHITECTURES
from common.model.device import on_device
from common.model.predict import Mirrored
from common.model.weights import load_into, load_weights
from common.runs.find import resolve_checkpoint
from common.runs.folder import SWEEPS, RunFolder
from common.runs.records import Metadata


@dataclass(frozen=True)
class Loaded:
    """A network ready to predict, and where it came from."""

    model: nn.Module
    metadata: Metadata
    """what best.safetensors says of itself"""
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
                f"--tta is {tta}, but must be none for {self.metadata.dataset}: mirrored, they are other things"
            )
        return replace(self, model=Mirrored(self.model), tta=tta)


def load_model(
    reference: str | None,
    runs_dir: str,
    device: torch.device,
    download: Callable[[str], Path | None] | None = None,
    flag: str = "--checkpoint",
) -> Loaded:
    """Loads the weights that `reference`, the value of `flag`, names (`common.runs.find.resolve_checkpoint`), in eval mode, channels_last, convolutions
    and BatchNorm fused. Errors: `UserError` when there is no such checkpoint, or it is damaged."""
    path, artifact = resolve_checkpoint(reference, runs_dir, download, flag)
    model, metadata = read_network(path)
    in_run = RunFolder(path.parent.parent)
    folder = in_run if in_run.checkpoints == path.parent else folder_of_run(runs_dir, metadata.run_id, path)
    network = on_device(fused(model), device)
    return Loaded(network, metadata, path, folder, sha256_of(path), artifact)


def read_network(path: Path) -> tuple[ResNet, Metadata]:
    """The network as torchvision has it, in eval mode, on the CPU, and what its file says. Errors: as `load_model`."""
    state, header = load_weights(path)
    metadata = Metadata.of(header, path)
    model = network_for(metadata, path)
    load_into(model, state, path)
    return model.eval(), metadata


def folder_of_run(runs_dir: str, run_id: str, source: Path) -> RunFolder:
    """Where the results of weights that lie in no run folder belong. Errors: `UserError` when that is no folder for a run's files,
    whatever the weights in `source` say."""
    folder = RunFolder(Path(runs_dir) / run_id)
    if run_id == SWEEPS or not lies_in(folder.path, Path(runs_dir)):
        raise UserError(f"{source} says that it is of run {run_id}, but {folder.path} is no place for a run's results")
    return folder


def network_for(metadata: Metadata, path: Path) -> ResNet:
    """The network that the weights in `path`, of which `metadata` is the header, belong into: on the CPU, without values yet.
    Errors: `UserError` when the header names no known one."""
    if metadata.model not in ARCHITECTURES:
        raise UserError(f"{path} is of the unknown model {printable(metadata.model)!r}; it can't be used")
    with torch.device("meta"):
        model = ARCHITECTURES[metadata.model](num_classes=len(metadata.classes))
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

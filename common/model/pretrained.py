"""The weights that a network starts from: ImageNet's, or a file's, without their head."""

import os
import re
import sys
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torchvision import models

from common.base.download import network_timeout
from common.base.errors import UserError, first_line
from common.base.files import sha256_of
from common.base.home import expanded
from common.base.terminal import own_bars
from common.model.weights import load_into


def load_backbone(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Loads all but the head, which belongs to other classes. Errors: `UserError` when the rest does not fit.

    BatchNorm's counters of batches may be absent, as they are from files older than PyTorch 0.4.1; nothing reads them.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith("fc.") or k.endswith(".num_batches_tracked")}
    backbone = {k: v for k, v in state.items() if not k.startswith("fc.")}
    load_into(model, {**own, **backbone}, f"--weights {source}")


def read_weights(name: str, weights: str) -> dict[str, torch.Tensor]:
    if weights.endswith((".pth", ".pt", ".safetensors")) or os.path.sep in weights:
        return _read_weights_file(Path(expanded(weights, "--weights")))
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
        with network_timeout(), own_bars(torch.hub):
            if os.path.exists(file) and not has_its_hash(file):  # torch.hub compares it after the download alone
                print(f"{file} is damaged: it is downloaded anew", file=sys.stderr)
                torch.hub.download_url_to_file(entry.url, file, hash_in_name(file))
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


def hash_in_name(file: str) -> str | None:
    """The first hexadecimal digits of the content's SHA-256, which torchvision has in its files' names; None where there are none."""
    found = re.search(r"-([a-f0-9]{8,})\.", os.path.basename(file))
    return found and found.group(1)


def has_its_hash(file: str) -> bool:
    return sha256_of(Path(file)).startswith(hash_in_name(file) or "")


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

"""The two files of a run: `last.pt`, everything needed to go on, and `best.safetensors`, weights that describe themselves.

Neither can execute anything when it is loaded.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from common.errors import UserError
from common.files import atomic_path

FORMAT = "resnext-finetuning 1"


def save_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    """Weights alone, with `metadata` in the header: each value as JSON, since the format holds only strings."""
    header = {"format": FORMAT, **{key: json.dumps(value) for key, value in metadata.items()}}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights and their metadata. Errors: `UserError` naming the file when it is missing, damaged or not ours."""
    metadata = read_metadata(path)
    try:
        return safetensors.torch.load_file(path), metadata
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} can't be read: it is damaged ({error})") from None


def read_metadata(path: Path) -> dict[str, Any]:
    """The header of a `best.safetensors`, without its weights. Errors: as `load_weights`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} can't be read as safetensors: truncated, damaged, or another format ({error})"
        ) from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path} holds weights, but was not written by train.py: its header does not say {FORMAT!r}")
    try:
        return {key: json.loads(value) for key, value in header.items() if key != "format"}
    except ValueError as error:
        raise UserError(f"{path} has a damaged header: {error}") from None


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Everything needed to go on, of plain types and tensors only."""
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load_training_state(path: Path) -> dict[str, Any]:
    """What `save_training_state` saved, on the CPU; every record's checksum is verified, since a flipped bit in a weight
    would otherwise pass. Errors: `UserError` naming the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(
                f"{path} is damaged: {damaged} has a wrong checksum; the weights in best.safetensors may be whole"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: this run has no saved state to go on from; begin a new run") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} can't be read: truncated, damaged, or not a training state ({_first_line(error)})"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a training state of train.py")
    return state


def load_into(model: nn.Module, state: dict[str, torch.Tensor], source: str | Path) -> None:
    """Copies `state` into `model`. Errors: `UserError` naming `source` and the first name or shape that differs."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state or name not in wanted:
            word = "lacks" if name not in state else "has an unknown"
            raise UserError(
                f"{source} is of another architecture: it {word} {name}; choose the --model it was made for"
            )
        if wanted[name].shape != state[name].shape:
            came, allowed = tuple(state[name].shape), tuple(wanted[name].shape)
            raise UserError(f"{source} does not fit: {name} has shape {came}, the model's is {allowed}")
    model.load_state_dict(state)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

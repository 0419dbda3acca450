"""`best.safetensors`: weights that describe and check themselves. Loading them executes nothing."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from common.base.errors import UserError, first_line
from common.base.files import atomic_path, disk_errors, is_no_file

FORMAT = "resnext-finetuning 1"


def save_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    """Weights alone, with `metadata` in the header: each value as JSON, since the format holds only strings, and a
    checksum over all of it, since the format has none."""
    header = {"format": FORMAT, **{key: json.dumps(value) for key, value in metadata.items()}}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header["sha256"] = _checksum(tensors, header)
    with disk_errors(path), atomic_path(path) as temporary, as_os_error():
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights and their metadata. Errors: `UserError` naming the file when it is missing, damaged or not ours."""
    header = _read_header(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except Exception as error:  # torch knows fewer types than the format
        raise UserError(f"{path} can't be read: it is damaged ({first_line(error)})") from None
    if header.pop("sha256", None) != _checksum(tensors, header):
        raise UserError(f"{path} is damaged: its checksum is not the one in its header")
    return tensors, _decoded(path, header)


def read_metadata(path: Path) -> dict[str, Any]:
    """The header of a `best.safetensors`, without reading its weights, hence unverified. Errors: as `load_weights`."""
    header = _read_header(path)
    header.pop("sha256", None)
    return _decoded(path, header)


def _read_header(path: Path) -> dict[str, str]:
    try:
        if is_no_file(path):
            raise OSError("it is no file")
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except Exception as error:  # of what kind it is for a header that is none is not said
        raise UserError(
            f"{path} can't be read as safetensors: truncated, damaged, or another format ({first_line(error)})"
        ) from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path} holds weights, but was not written by train.py: its header does not say {FORMAT!r}")
    return header


def _decoded(path: Path, header: dict[str, str]) -> dict[str, Any]:
    try:
        return {key: json.loads(value) for key, value in header.items() if key != "format"}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} has a damaged header: {error}") from None


def _checksum(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """SHA-256 hex over the header and every tensor's name, type, shape and bytes."""
    kinds = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([header, kinds], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Both writers of tensors report a full disk as an error of their own."""
    try:
        yield
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise OSError(first_line(error)) from error


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

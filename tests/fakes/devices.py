"""Tests that run on the CPU always, and on a GPU where there is one: `pytest -m gpu` selects those."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def wait_is_an_error(device: str, on: bool) -> None:
    """From here on, whatever waits for the GPU raises; on a CPU nothing is looked at."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error" if on else "default")


@contextlib.contextmanager
def no_waiting(device: str) -> Iterator[None]:
    wait_is_an_error(device, True)
    try:
        yield
    finally:
        wait_is_an_error(device, False)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, in which a GPU's convolutions compute by default with ten bits."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before

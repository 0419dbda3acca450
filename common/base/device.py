"""The device, and the precision it computes in."""

import contextlib
import os
from collections.abc import Iterator

import torch

from common.base.errors import RunError, UserError

# With images up to this size a ResNet's last stage gets one pixel, where bf16 on a CPU can't be trained with: the weight
# gradient of a 3x3 convolution with stride 2 holds uninitialized memory in torch 2.14 (oneDNN), 1e34 and NaN among it.
CPU_BF16_WRONG_UP_TO = 16


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one, and each of `torchrun`'s processes its own. Errors: `UserError` when the device
    isn't there."""
    kind = name
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(kind)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device is {name!r}, but must be auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise UserError(
            f"--device is {name}, but torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu or auto, and at "
            "most a process a device"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device is mps, but torch sees no such device; use --device cpu or auto")
    return device


def device_name(device: torch.device) -> str:
    """As a person would say it: `NVIDIA A100 …`, `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def choose_amp(amp: str, device: torch.device, smallest_image: int | None = None) -> torch.dtype | None:
    """The dtype to autocast to, or None. `auto` takes what the device computes in: bf16 on a CPU without bf16 instructions
    was measured 17 times slower than float32.

    Args:
        smallest_image: side in pixels of the smallest images to be trained on; None where nothing is trained.

    Errors: `UserError` for bf16 training on a CPU with images that it gets wrong gradients for.
    """
    wrong = device.type == "cpu" and smallest_image is not None and smallest_image <= CPU_BF16_WRONG_UP_TO
    if amp == "bf16" and wrong:
        raise UserError(
            f"--amp is bf16, which torch computes wrong gradients in for images of {smallest_image} px on a CPU; use "
            "--amp none, or a larger --image_size or --progressive_from"
        )
    if amp == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() and not wrong else None
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies in bf16: by AMX (Intel since Sapphire Rapids), or AVX-512's instructions (AMD since Zen 4)."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so they may be gone one day
    checks = [check for name in names if (check := getattr(torch.cpu, name, None))]
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and any(check() for check in checks)


# How it is said when it is no `OutOfMemoryError`: by the CPU's allocator, by CUDA itself, by cuBLAS and cuDNN, and by PyTorch when
# cuDNN gets no workspace for any of its algorithms.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
    "unable to find an engine to execute",
)


@contextlib.contextmanager
def memory_errors(batch_size: int, device: torch.device, accumulate: int | None = None) -> Iterator[None]:
    """Out of memory becomes a `RunError` that names the batch size to try. accumulate: in how many parts a batch is trained on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = any(words in str(error) for words in OUT_OF_MEMORY)
        if not (said or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            raise
        parts = 2 * (accumulate or batch_size)  # of two images or more
        tries = [
            f"--batch_size {max(2, batch_size // 2)}",
            *([f"--accumulate {parts}"] if 2 * parts <= batch_size else []),
        ]
        raise RunError(
            f"out of memory on {device} at --batch_size {batch_size}; try {', '.join(tries)}, or a smaller --image_size"
        ) from error

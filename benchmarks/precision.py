"""bf16 beside float32: a training step and inference, in turn.

    python -m benchmarks.precision

What `--amp auto` decides by is what the processor has; this shows whether it decides right.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.lab import CLASSES
from benchmarks.throughput import bare_training
from benchmarks.timing import alternate, ratios, spread, table, turns
from common.base.device import choose_amp, choose_device
from common.cli import parse
from common.model.build import build_model
from common.model.device import on_device

Stream = Callable[[int, int, torch.device, torch.dtype | None], Iterator[None]]
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class PrecisionConfig:
    sizes: tuple[int, ...] = (64, 96, 224)
    """Sides in pixels."""
    batch_size: int = 16
    rounds: int = 7
    device: str = "auto"


def inference(batch_size: int, image_size: int, device: torch.device, amp: torch.dtype | None) -> Iterator[None]:
    """The network on one batch that lies in memory, again and again."""
    model = on_device(build_model("resnext50_32x4d", CLASSES, "none"), device).eval()
    images = torch.randn(batch_size, 3, image_size, image_size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    while True:
        with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            model(images)
        yield


def measure(
    stream: Stream,
    name: str,
    size: int,
    config: PrecisionConfig,
    device: torch.device,
) -> list[str]:
    steps = max(1, round(224 / size))
    sides = {key: turns(stream(config.batch_size, size, device, amp), steps, device) for key, amp in PRECISIONS.items()}
    seconds = alternate(sides, config.rounds)
    speeds = [spread([config.batch_size * steps / taken for taken in seconds[key]], 1) for key in PRECISIONS]
    return [name, str(size), *speeds, spread(ratios(seconds["float32"], seconds["bf16"]))]


def main(config: PrecisionConfig) -> None:
    device = choose_device(config.device)
    auto = str(choose_amp("auto", device, min(config.sizes)) or torch.float32).removeprefix("torch.")
    print(f"### precision, batch {config.batch_size}; --amp auto takes {auto} here\n")
    step = partial(bare_training, wrap=lambda model: on_device(model, device))
    kinds: dict[str, Stream] = {"training step": step, "inference": inference}
    rows = [measure(stream, name, size, config, device) for name, stream in kinds.items() for size in config.sizes]
    print(table(["", "px", "float32, images/s", "bf16", "times as fast"], rows), flush=True)


if __name__ == "__main__":
    main(parse(PrecisionConfig, description=__doc__))

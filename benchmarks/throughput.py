"""Training speed beside the lab's loop and beside the bare step, the ceiling.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --sizes 64 --batch_size 32 --rounds 9

The bare step is forward, backward and optimizer on channels_last tensors that lie in memory. Goals: 0.98 of it at 224 px, 0.95
at 64 px; 1.25 times the lab's loop at 224 px.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from benchmarks.lab import CLASSES, lab_loader, lab_model, lab_training, small_images
from benchmarks.timing import alternate, ratios, spread, table, turns, verdict
from common.base.device import choose_amp, choose_device
from common.data.batches import Batches
from common.model.build import build_model
from common.model.device import on_device
from common.training.optim import build_loss, build_scaler, build_sgd, lr_factor, parameter_groups, set_lr
from common.training.step import train_step

GOALS_CEILING, GOALS_LAB = {224: 0.98, 64: 0.95}, {224: 1.25}


@dataclass(frozen=True)
class ThroughputConfig:
    sizes: tuple[int, ...] = (32, 64, 128, 224)
    """Sides in pixels."""
    batch_size: int = 16
    steps: int = 1
    """Steps a turn at 224 px; at smaller sizes proportionally more."""
    rounds: int = 7
    workers: int = 0
    """Worker processes of the lab's DataLoader."""
    device: str = "auto"
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """The project's and the bare step's precision, as train.py's; the lab's is float32."""


def training_batches(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int, image_size: int, device: torch.device, augment: str
) -> Batches:
    indices = torch.arange(len(images))
    return Batches(images, labels, indices, batch_size, image_size, device, augment=augment, flip=True, training=True)


def project_training(
    images: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    image_size: int,
    device: torch.device,
    amp: torch.dtype | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    augment: str = "none",
    layout: torch.memory_format = torch.channels_last,
) -> Iterator[torch.Tensor]:
    """The project's step after step, as train.py does it → the epoch's sums.

    Args:
        wrap: what is done to the network before it trains, such as `torch.compile`.
        layout: of weights and images; the project's own is channels_last.
    """
    model = on_device(build_model("resnext50_32x4d", CLASSES, "none"), device).to(memory_format=layout).train()
    network = wrap(model)
    optimizer = build_sgd(parameter_groups(model, 0.001, 0.0), 0.001, 0.9, False, device)
    scaler = build_scaler(optimizer, amp, device)
    batches = training_batches(images, labels, batch_size, image_size, device, augment)
    loss_fn, sums, step = build_loss("cross_entropy"), torch.zeros(3, device=device), 0
    while True:
        for inputs, targets in batches.epoch(step // len(batches)):
            set_lr(optimizer, lr_factor(step, 10**6, 0, "constant"))
            inputs = inputs.contiguous(memory_format=layout)  # nothing is done where they are
            sums += train_step(network, inputs, targets, loss_fn, optimizer, scaler, amp)
            step += 1
            yield sums


def bare_training(
    batch_size: int,
    image_size: int,
    device: torch.device,
    amp: torch.dtype | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Iterator[None]:
    """Nothing but torchvision's network and the optimizer, on one batch that lies in memory."""
    model = build_model("resnext50_32x4d", CLASSES, "none").to(device, memory_format=torch.channels_last).train()
    network = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)
    inputs = torch.randn(batch_size, 3, image_size, image_size, device=device)
    inputs, targets = (
        inputs.contiguous(memory_format=torch.channels_last),
        torch.arange(batch_size, device=device) % CLASSES,
    )
    while True:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            loss = torch.nn.functional.cross_entropy(network(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def measure(config: ThroughputConfig, size: int, device: torch.device, amp: torch.dtype | None) -> list[str]:
    steps = max(1, round(config.steps * 224 / size))
    images, labels = small_images(2 * config.batch_size * steps * (config.rounds + 1))
    loader = lab_loader(images, labels, config.batch_size, size, workers=config.workers)
    streams = {
        "project": project_training(images, labels, config.batch_size, size, device, amp),
        "lab": lab_training(lab_model(), loader, device),
        "bare": bare_training(config.batch_size, size, device, amp),
    }
    seconds = alternate({name: turns(stream, steps, device) for name, stream in streams.items()}, config.rounds)
    of_ceiling, of_lab = (ratios(seconds[other], seconds["project"]) for other in ("bare", "lab"))
    goals = (
        [f"of the ceiling {verdict(statistics.median(of_ceiling), GOALS_CEILING[size])}"]
        if size in GOALS_CEILING
        else []
    )
    goals += [f"of the lab {verdict(statistics.median(of_lab), GOALS_LAB[size])}"] if size in GOALS_LAB else []
    speeds = [f"{config.batch_size * steps / statistics.median(seconds[name]):.1f}" for name in streams]
    return [str(size), *speeds, spread(of_ceiling, 3), spread(of_lab), "; ".join(goals)]


def main(config: ThroughputConfig) -> None:
    header = ["px", "project, images/s", "lab", "bare step", "of the ceiling", "times the lab", "goal"]
    device = choose_device(config.device)
    amp = choose_amp(config.amp, device, min(config.sizes))
    print(f"### throughput, batch {config.batch_size}, {str(amp or torch.float32).removeprefix('torch.')}\n")
    print(table(header, [measure(config, size, device, amp) for size in config.sizes]), flush=True)


if __name__ == "__main__":
    from common.cli import parse  # benchmarks.gpu has this file where there may be no tyro

    main(parse(ThroughputConfig, description=__doc__))

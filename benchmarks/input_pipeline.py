"""Images made ready for the network per second, on one thread, beside the lab's pipeline.

    python -m benchmarks.input_pipeline

The lab: a PIL image from the array, Resize, ToTensor, Normalize, image by image; with augmentation, RandomCrop and
RandomHorizontalFlip before. Goals: 3 times as many at 224 px, 10 times at 64 px.
"""

import itertools
import statistics
from dataclasses import dataclass

import torch

from benchmarks.lab import lab_loader, small_images
from benchmarks.timing import alternate, ratios, spread, table, verdict
from common.cli import parse
from common.data.batches import Batches

GOALS = {224: 3, 64: 10}


@dataclass(frozen=True)
class InputPipelineConfig:
    sizes: tuple[int, ...] = (32, 64, 128, 224)
    """Sides in pixels."""
    batch_size: int = 32
    batches: int = 8
    """Batches a turn."""
    rounds: int = 7


def measure(config: InputPipelineConfig, size: int, augment: bool) -> list[str]:
    images, labels = small_images(config.batch_size * config.batches)
    kind = "basic" if augment else "none"
    mine = Batches(
        images,
        labels,
        torch.arange(len(images)),
        config.batch_size,
        size,
        torch.device("cpu"),
        augment=kind,
        flip=True,
        training=True,
    )
    loader = lab_loader(images, labels, config.batch_size, size, augment=augment)
    epochs = itertools.count()
    sides = {
        "project": lambda: [None for _ in mine.epoch(next(epochs))],
        "lab": lambda: [None for _ in loader],
    }
    seconds = alternate(sides, config.rounds)
    faster = ratios(seconds["lab"], seconds["project"])
    speeds = [f"{len(images) / statistics.median(seconds[name]):,.0f}" for name in sides]
    goal = verdict(statistics.median(faster), GOALS[size]) if size in GOALS else ""
    return [str(size), kind, *speeds, spread(faster, 1), goal]


def main(config: InputPipelineConfig) -> None:
    torch.set_num_threads(1)
    rows = [measure(config, size, augment) for size in config.sizes for augment in (False, True)]
    print("### input_pipeline, one thread\n")
    print(table(["px", "augmentation", "project, images/s", "lab", "times the lab", "goal"], rows), flush=True)


if __name__ == "__main__":
    main(parse(InputPipelineConfig, description=__doc__))

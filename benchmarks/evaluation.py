"""Speed of evaluate.py's inference beside the lab's evaluation loop.

    python -m benchmarks.evaluation

Project: convolution and BatchNorm fused, channels_last, `inference_mode`. Lab: `model.eval()`, `no_grad`, a DataLoader. Both have the
same weights, and their answers are compared. Goal: 1.6 times as fast at 224 px.
"""

import copy
import statistics
from dataclasses import dataclass

import torch

from benchmarks.lab import CLASSES, lab_evaluation, lab_loader, lab_model, small_images
from benchmarks.timing import alternate, ratios, spread, table, verdict
from common.base.device import choose_device
from common.data.batches import Batches
from common.model.device import on_device
from common.model.load import fused
from common.model.predict import predict

GOALS = {224: 1.6}


@dataclass(frozen=True)
class EvaluationConfig:
    sizes: tuple[int, ...] = (64, 224)
    """Sides in pixels."""
    batch_size: int = 32
    rounds: int = 7
    """One batch a turn."""
    device: str = "auto"


def measure(config: EvaluationConfig, size: int) -> list[str]:
    device = choose_device(config.device)
    images, labels = small_images(config.batch_size)
    reference = lab_model()
    reference.fc.weight.data.mul_(10)  # random weights answer all alike; this sets the answers apart
    mine = on_device(fused(copy.deepcopy(reference).eval()), device)
    batches = Batches(images, labels, torch.arange(len(images)), config.batch_size, size, device)
    theirs = lab_evaluation(reference, lab_loader(images, labels, config.batch_size, size, shuffle=False), device)
    answers: dict[str, list[int]] = {}

    def project() -> None:
        answers["project"] = predict(mine, batches.epoch(0), device)[0].argmax(dim=1).tolist()

    def lab() -> None:
        answers["lab"] = next(theirs)

    seconds = alternate({"project": project, "lab": lab}, config.rounds)
    faster = ratios(seconds["lab"], seconds["project"])
    same = sum(a == b for a, b in zip(answers["project"], answers["lab"], strict=True)) / len(images)
    speeds = [f"{len(images) / statistics.median(seconds[name]):.1f}" for name in seconds]
    goal = verdict(statistics.median(faster), GOALS[size]) if size in GOALS else ""
    return [str(size), *speeds, spread(faster), f"{same:.0%} of {len(images)}, {CLASSES} classes", goal]


def main(config: EvaluationConfig) -> None:
    print(f"### evaluation, batch {config.batch_size}\n")
    header = ["px", "project, images/s", "lab", "times the lab", "same answers", "goal"]
    print(table(header, [measure(config, size) for size in config.sizes]), flush=True)


if __name__ == "__main__":
    from common.cli import parse  # benchmarks.gpu has this file where there may be no tyro

    main(parse(EvaluationConfig, description=__doc__))

"""Feature extraction: ten epochs on cached features, beside one inference pass and beside the lab's loop with a frozen backbone.

    python -m benchmarks.features

The lab's ten epochs are ten times one epoch that is measured, over the same images: each of its epochs does the same work. Goals:
at most 1.15 times one inference pass over the same images; 9 times as fast as the lab.
"""

import statistics
from dataclasses import dataclass

import torch

from benchmarks.lab import CLASSES, lab_loader, lab_model, lab_training, small_images
from benchmarks.timing import alternate, ratios, spread, table, verdict
from common.base.device import choose_device
from common.base.processes import Processes
from common.cli import parse
from common.data.batches import Batches
from common.model.build import build_model, set_trainable
from common.model.device import on_device
from common.model.predict import predict
from common.training.features import FeatureBatches, extract
from common.training.optim import build_loss, build_sgd, parameter_groups
from common.training.step import train_step


@dataclass(frozen=True)
class FeaturesConfig:
    image_size: int = 224
    images: int = 64
    batch_size: int = 32
    epochs: int = 10
    rounds: int = 3
    device: str = "auto"


def main(config: FeaturesConfig) -> None:
    device, cpu = choose_device(config.device), torch.device("cpu")
    images, labels = small_images(config.images)
    model = set_trainable(build_model("resnext50_32x4d", CLASSES, "none"), "head")
    on_device(model, device)
    batches = Batches(
        images, labels, torch.arange(len(images)), config.batch_size, config.image_size, device, training=True
    )
    loader = lab_loader(images, labels, config.batch_size, config.image_size)
    lab_steps, lab_stream = len(loader), lab_training(lab_model(frozen_backbone=True), loader, device)
    loss_fn, scaler = build_loss("cross_entropy"), torch.amp.GradScaler(cpu.type, enabled=False)

    def project() -> None:
        """As train.py does with `--finetune head`: the features once, then the head alone."""
        features = extract(model, batches, 1, None, Processes(), lambda: False, "features").to(device)
        optimizer = build_sgd(parameter_groups(model.fc, 0.1, 0.0), 0.1, 0.9, False, device)
        cached = FeatureBatches(features, labels.to(device), config.batch_size, batches.order_seed, Processes())
        for epoch in range(config.epochs):
            for inputs, targets in cached.epoch(epoch):
                train_step(model.fc, inputs, targets, loss_fn, optimizer, scaler)

    sides = {
        "project": project,
        "inference": lambda: predict(model, batches.epoch(0), device),
        "lab": lambda: [next(lab_stream) for _ in range(lab_steps)],
    }
    seconds = alternate(sides, config.rounds)
    lab = [config.epochs * epoch for epoch in seconds["lab"]]
    of_pass, faster = ratios(seconds["project"], seconds["inference"]), ratios(lab, seconds["project"])
    taken = [f"{statistics.median(values):.1f}" for values in (seconds["project"], seconds["inference"], lab)]
    print(f"### features, {config.images} images at {config.image_size} px, {config.epochs} epochs\n")
    print(
        table(
            ["project, s", "one inference pass", "lab (estimated)", "of one pass", "times the lab", "goal"],
            [
                [
                    *taken,
                    spread(of_pass),
                    spread(faster, 1),
                    f"of one pass {verdict(statistics.median(of_pass), 1.15, at_least=False)}; "
                    f"of the lab {verdict(statistics.median(faster), 9)}",
                ]
            ],
        )
    )


if __name__ == "__main__":
    main(parse(FeaturesConfig, description=__doc__))

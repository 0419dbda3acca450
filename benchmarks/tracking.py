"""What logging and checkpointing cost a training step.

    python -m benchmarks.tracking

Times each call that train.py makes for the record, in turn with a training step, W&B offline: after every step, every `log_every`
steps, and at the end of every epoch. The sum, spread over the steps of an epoch of CIFAR-100, as a share of a step. Goal:
less than 1 % at 64 px. What W&B's own process computes meanwhile is not in it.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

from benchmarks.timing import alternate, spread, table, verdict
from common.cli import parse, parse_train
from common.config import TrackingSettings


@dataclass(frozen=True)
class TrackingConfig:
    image_size: int = 64
    batch_size: int = 32
    rounds: int = 7
    log_every: int = TrackingSettings.log_every
    epoch_images: int = 45_000
    """Training images of CIFAR-100 when a tenth is validated on."""


def main(config: TrackingConfig) -> None:
    os.environ.setdefault("WANDB_MODE", "offline")
    with tempfile.TemporaryDirectory() as folder:
        measure(config, folder)


def measure(config: TrackingConfig, folder: str) -> None:
    import torch

    from benchmarks.lab import CLASSES, small_images
    from common.data.dataset import Dataset
    from common.model.weights import save_weights
    from common.training import prepare
    from common.training.optim import build_loss
    from common.training.step import train_step

    images, labels = small_images(1000)
    names = tuple(f"class {i}" for i in range(CLASSES))
    data = Dataset("cifar100", images, labels, names, None, None, flip=True)
    flags = [
        "--weights",
        "none",
        "--image_size",
        config.image_size,
        "--batch_size",
        config.batch_size,
        "--device",
        "cpu",
    ]
    train_config = parse_train([*map(str, flags), "--runs_dir", folder])
    with patch.object(prepare, "load_dataset", lambda *_: data), prepare.open_run(train_config) as run:
        state, log, files = run.state, run.log, run.folder
        loss_fn = build_loss("cross_entropy")
        inputs, targets = next(iter(run.batches.epoch(0)))
        counter = iter(range(1, 10**9))

        def step() -> None:
            train_step(state.model, inputs, targets, loss_fn, state.optimizer, state.scaler)

        def after_step() -> None:
            sums = torch.tensor([1.0, 1.0, 32.0])
            state.add(sums)
            log.add_step(next(counter), 0.001, sums, 32)

        def batch_row() -> None:
            log.write({"epoch": 0.5, **log.read()}, next(counter))

        def epoch_row() -> None:
            row = {"epoch": 1.0, "lr": 0.001, "train/loss": 1.0, "train/accuracy": 0.5}
            validation = {"validation/loss": 1.0, "validation/accuracy": 0.5, "validation/top5_accuracy": 0.9}
            log.write(row | validation, next(counter))

        step()  # momentum exists from the first step on, and is in the checkpoint
        sides: dict[str, Callable[[], object]] = {
            "step": step,
            "after each step": after_step,
            "batch row": batch_row,
            "epoch row, loss figure": epoch_row,
            "last.pt": lambda: state.save(files.last, state.sums),
            "best.safetensors": lambda: save_weights(
                files.best, state.weights(), {**run.about, "epoch": 1.0, "step": 1, "metrics": {}}
            ),
        }
        seconds = alternate(sides, config.rounds)
        with open(files.metrics) as lines:
            assert all(json.loads(line) for line in lines)

    steps = -(-config.epoch_images // config.batch_size)
    per_epoch = {name: 1 for name in sides} | {"after each step": steps, "batch row": steps // config.log_every}
    step_seconds = seconds.pop("step")
    total, rows = [0.0] * config.rounds, []
    for name, values in seconds.items():
        share = [
            100 * per_epoch[name] * value / steps / whole for value, whole in zip(values, step_seconds, strict=True)
        ]
        total = [before + more for before, more in zip(total, share, strict=True)]
        milliseconds = [1000 * value for value in values]
        rows.append([name, spread(milliseconds, 3), f"{per_epoch[name]:,}", spread(share, 4), ""])
    rows.append(["all", "", "", spread(total, 3), verdict(statistics.median(total), 1, at_least=False)])
    step_ms = spread([1000 * value for value in step_seconds], 0)
    print(f"### tracking, {config.image_size} px, batch {config.batch_size}: a step takes {step_ms} ms\n")
    print(table(["", "ms", "times an epoch", "% of a step", "goal"], rows), flush=True)


if __name__ == "__main__":
    main(parse(TrackingConfig, description=__doc__))

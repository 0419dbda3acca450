"""What W&B draws over what."""

import wandb

# Measured once an epoch: over optimizer steps, runs of other batch sizes would not line up. Their last value stays the summary's.
BY_EPOCH = ("validation/*", "train/loss", "train/accuracy")


def define_axes(run: wandb.Run) -> None:
    """The epoch is the axis of a training's validation and of its means over an epoch."""
    for name in BY_EPOCH:
        run.define_metric(name, step_metric="epoch")

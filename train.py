"""Fine-tunes a ResNeXt-50 (32x4d), tracked with Weights & Biases.

    python train.py                       # the lab: CIFAR-100 from ImageNet weights, both downloaded
    python train.py --preset digits       # handwritten digits: three minutes on two CPU cores, no download, no account
    python train.py --seeds 3 --run_id A  # three runs that differ in their seeds alone: group A
    python train.py --resume RUN          # goes on with a run as if it had never stopped

Leaves a run folder in runs/: config, metrics.jsonl, loss.png and checkpoints. Next: `python evaluate.py`.
"""

import sys
from typing import TYPE_CHECKING

from common.base.errors import report_errors
from common.cli import parse_train
from common.config import TrainConfig

if TYPE_CHECKING:
    from common.training.run import Run


# What computes is imported where it is used: `--help` answers without waiting for torch.
def start(config: TrainConfig) -> int:
    """One run, or one for each of `--seeds` → exit status."""
    from common.training.seeds import train_seeds

    return main(config) if config.identity.seeds == 1 else train_seeds(config, main)


def main(config: TrainConfig) -> int:
    """→ exit status: 0, or 130, 143, 129 or 124 when Ctrl-C, SIGTERM, SIGHUP or --max_minutes ended the run early, its state saved."""
    from common.training.prepare import open_run

    with open_run(config) as run:
        if not run.ended:
            fit(run)
    return run.exit_status


def fit(run: "Run") -> None:
    """Trains until the last step, a signal, or the limit in time; in each case `last.pt` is then up to date."""
    with run.saved_when_interrupted():
        while not run.ended:
            train_epoch(run)
            row = run.epoch_row() | validate(run)
            run.keep_if_best(row)
            run.end_epoch(row)
            run.save()


def train_epoch(run: "Run") -> None:
    """A pass over the training images, or over those that an interrupted one has left."""
    from common.training.step import train_step

    run.network.train()
    for images, labels in run.rest_of_epoch():
        lr, state, share = run.set_lr(), run.state, run.share(images)
        sums = train_step(
            run.network, images, labels, run.loss_fn, state.optimizer, state.scaler, run.amp, share, run.parts
        )
        run.after_step(sums, lr, len(images))


def validate(run: "Run") -> dict[str, float]:
    """Loss, accuracies and means over classes on the validation images; nothing where there are none."""
    from common.model.predict import predict
    from common.training.step import scores

    if len(run.validation) == 0:
        return {}
    batches, title = run.validation_batches(), "validation" if run.processes.main else None
    logits, labels = predict(run.state.evaluated, batches, run.device, run.amp, len(run.validation), title)
    return scores(run.processes.gather(logits), run.processes.gather(labels), run.validation_loss_fn)


if __name__ == "__main__":
    with report_errors():
        sys.exit(start(parse_train(description=__doc__)))

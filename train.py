"""Fine-tunes a ResNeXt-50 (32x4d), tracked with Weights & Biases.

    python train.py                     # the lab: CIFAR-100 from ImageNet weights, both downloaded
    python train.py --preset digits     # handwritten digits: three minutes on two CPU cores, no download, no account
    python train.py --resume RUN        # goes on with a run as if it had never stopped

Leaves a run folder in runs/: config, metrics.jsonl, loss.png and checkpoints. Next: `python evaluate.py`.
"""

import sys
from contextlib import nullcontext
from itertools import islice

from common.base.errors import report_errors
from common.cli import parse_train
from common.config import TrainConfig


def main(config: TrainConfig) -> int:
    """→ exit status: 0, or 130 or 143 when Ctrl-C or SIGTERM ended the run early, its state saved."""
    from common.base import processes
    from common.base.device import choose_device, memory_errors
    from common.base.signals import interruptible
    from common.training.prepare import describe_task, prepare
    from common.training.run import has_ended, recorded

    device = choose_device(config.device)
    with processes.processes(device) as team, interruptible() as interrupt:
        task = prepare(config, team, device)  # all that can be refused is, before anything is written
        if team.main:
            print(describe_task(config, task), flush=True)
        with task.folder.locked() if team.main else nullcontext():
            if config.resume:
                task.trainer.load(task.folder.last, device, team)
                if has_ended(task, team):
                    return 0
            with recorded(config, task, team) as recorder, memory_errors(config.batch_size, device):
                fit(config, task, team, recorder, stopped=lambda: team.any(interrupt.signal is not None))
                return recorder.end(task.trainer, interrupt)


def fit(config: TrainConfig, task, team, recorder, stopped) -> None:
    """Trains until the last step, or until `stopped()`; in either case `last.pt` is then up to date."""
    import torch

    from common.base.signals import Interrupted, watched
    from common.data.batches import progressive_size
    from common.model.predict import predict
    from common.model.weights import save_weights
    from common.training.features import with_cached_features
    from common.training.log import progress_bar
    from common.training.optim import build_loss, lr_factor, set_lr
    from common.training.state import require_finite
    from common.training.step import scores, train_step

    trainer, progress, device, folder = task.trainer, task.trainer.progress, task.device, task.folder
    steps, total_steps = len(task.batches), task.total_steps  # of an epoch, and of the run
    warmup_steps = round(config.warmup_epochs * steps)
    loss_fn = build_loss(config.loss, config.label_smoothing, config.focal_gamma)
    plain_loss_fn = build_loss(config.loss, focal_gamma=config.focal_gamma)
    network = team.wrap(trainer.network, device)
    network = torch.compile(network) if config.compile else network

    def save() -> None:
        progress.latest.update(recorder.read())  # raises on a loss that is not finite: such a state is not saved
        sums = team.sum(trainer.sums)
        if team.main:
            trainer.save(folder.last, sums)

    try:
        batches, validation = (
            with_cached_features(config, task, team, stopped) if task.cached else (task.batches, task.validation)
        )
        while progress.measured < total_steps:
            first = progress.step - progress.epoch * steps
            size = progressive_size(progress.epoch, config.epochs, config.progressive_from, config.image_size)
            network.train()
            recorder.start_clock()
            with progress_bar(progress.epoch, config.epochs, batches, first, hidden=not team.main) as bar:
                left = islice(batches.epoch(progress.epoch, first, size), total_steps - progress.step)
                for images, labels in watched(left, stopped):
                    lr = set_lr(trainer.optimizer, lr_factor(progress.step, total_steps, warmup_steps, config.schedule))
                    share = len(images) * team.world / batches.size(progress.step - progress.epoch * steps)
                    sums = train_step(
                        network, images, labels, loss_fn, trainer.optimizer, trainer.scaler, task.amp, share
                    )
                    trainer.add(sums)
                    progress.step += 1
                    recorder.add_step(progress.step, lr, sums, len(images) * team.world)
                    bar.update(len(images) * team.world)
                    ended = progress.step % steps == 0 or progress.step == total_steps
                    if progress.step % config.log_every == 0 and not ended:  # at the end, the epoch's row has it
                        progress.latest.update(recorder.read())
                        recorder.write({"epoch": progress.step / steps, **progress.latest}, progress.step)
                        bar.set_postfix(trainer.running())
                    if config.checkpoint_every and progress.step % config.checkpoint_every == 0:
                        save()

            # The epoch has ended, or max_steps has.
            progress.latest.update(recorder.read())
            row = {"epoch": progress.step / steps, **progress.latest, **trainer.epoch_means(team)}
            if len(task.validation.indices):
                seen, title = watched(validation.epoch(0), stopped), "validation" if team.main else None
                logits, labels = predict(trainer.evaluated(), seen, device, task.amp, len(validation), title)
                row |= scores(team.gather(logits), team.gather(labels), plain_loss_fn)
                require_finite("validation/loss", row["validation/loss"], progress.step, row["lr"])
            accuracy = row.get("validation/accuracy")
            if accuracy is None or progress.best_accuracy is None or accuracy > progress.best_accuracy:
                progress.best_epoch, progress.best_accuracy = row["epoch"], accuracy
                if team.main:
                    measured = {key: value for key, value in row.items() if key.startswith(("train/", "validation/"))}
                    about = {**task.about, "epoch": row["epoch"], "step": progress.step, "metrics": measured}
                    save_weights(folder.best, trainer.weights(), about)
            recorder.write(row, progress.step)
            progress.measured = progress.step
            if progress.step % steps == 0:
                progress.epoch += 1
                trainer.sums.zero_()
            save()
    except Interrupted:  # left in mid-epoch or in a validation, which is then done anew
        save()


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse_train(description=__doc__)))

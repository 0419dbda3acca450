"""What a run says of itself: what it is about, how it ended, and what to do next."""

import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torchvision.models import ResNet

from common.base.device import device_name
from common.base.processes import Processes
from common.base.signals import TIME_IS_UP
from common.base.text import counted, duration, in_utf8, printable
from common.base.version import code_version
from common.config import TrainConfig
from common.data.batches import MEAN, STD
from common.data.dataset import Dataset, dataset_digest
from common.data.photos import Photos
from common.model.build import describe
from common.runs.folder import RunFolder
from common.runs.records import Split
from common.runs.rules import unequal_classes
from common.training.run import Run
from common.training.state import TrainState

COUNTS_LISTED = 10  # classes whose images are told one by one
BEST_BY_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "loss": "loss",
}


def data_facts(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """What is learned, and how its validation part is drawn."""
    return {
        "dataset": config.data.dataset,
        "data_dir": config.place.data_dir,
        "classes": data.classes,
        "superclasses": data.superclasses,
        "superclass_of": data.superclass_of,
        "seed": config.compute.seed,
        "validation_fraction": config.data.validation_fraction,
    }


def split_record(config: TrainConfig, data: Dataset, validation_part: Tensor, digest: str | None = None) -> Split:
    """Which images are validated on, and of which data: what split.json holds and the dataset artifact is. digest: of `data`, where it
    is known."""
    return Split(
        **data_facts(config, data),
        digest=digest or dataset_digest(data),
        train_size=len(data.labels) - len(validation_part),
        validation=validation_part.tolist(),
        validation_folder=data.validation_folder,
        test_files=data.test_files,
    )


def run_facts(
    config: TrainConfig,
    data: Dataset,
    split: Split,
    model: ResNet,
    amp: torch.dtype | None,
    device: torch.device,
    processes: Processes,
) -> dict[str, Any]:
    """What the config does not say, for the summary."""
    return {
        "device": device_name(device),
        "amp": str(amp or "none").removeprefix("torch."),
        "model": config.model.model,
        **describe(model, config.images.image_size),
        "train_size": split.train_size,
        "validation_size": len(split.validation),
        "classes": len(data.classes),
        "processes": processes.world,
        "version": code_version(),
        **({"unused": data.photos.counts(), "skipped": data.photos.skipped()} if data.photos else {}),
    }


def weights_metadata(config: TrainConfig, data: Dataset, folder: RunFolder) -> dict[str, Any]:
    """What makes best.safetensors describe itself."""
    return {
        **data_facts(config, data),
        "model": config.model.model,
        "image_size": config.images.image_size,
        "decode_size": config.images.decode_size,
        "fit": config.images.fit,
        "unreadable": config.data.unreadable,
        "mean": MEAN,
        "std": STD,
        "finetune": config.model.finetune,
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "run_id": folder.id,
    }


def description(run: Run) -> str:
    """What is printed before training."""
    config, facts = run.config, run.facts
    counts = [int(count) for count in run.class_counts]
    best_by = config.recipe.best_by if facts["validation_size"] else None
    return "\n".join(
        [
            f"device   {facts['device']}, mixed precision: {facts['amp']}",
            f"model    {facts['model']}, weights {config.model.weights}: cardinality {facts['cardinality']}, width "
            f"{facts['width_per_group']} per group, {facts['gflops_per_image']} GFLOPs per image at {config.images.image_size} px",
            f"         {facts['parameters_total']:,} parameters, {facts['parameters_trainable']:,} of them trained "
            f"(finetune {config.model.finetune})",
            f"data     {config.data.dataset}: {facts['train_size']:,} training and {counted(facts['validation_size'], 'validation image')}, "
            f"{facts['classes']} classes, {counted(len(run.batches), 'step')} an epoch",
            *(f"note     {note}" for note in run.notes),
            f"classes  {class_counts(run.about['classes'], counts)}",
            *of_validation(run.about["classes"], counts, run.validation_counts.tolist()),
            *unequal(run.about["classes"], counts, config.recipe.balance, best_by),
            f"run      {run.folder.path}",
        ]
    )


def say_what_changed(photos: Photos | None) -> None:
    """That photos are no longer those that the run has learned from, which are in memory or in the cache."""
    if photos and (changed := photos.changed()):
        print(
            f"note     {counted(len(changed), 'photo')} in {photos.folder} changed or vanished while the run trained, among them "
            f"{printable(in_utf8(changed[0]), 200)}: it has learned from them as they were when it began, and --resume and the "
            "validation part of an evaluation need them so",
            file=sys.stderr,
        )


def class_counts(classes: Sequence[str], counts: Sequence[int]) -> str:
    """How many training images each class has, and what always naming the largest would give."""
    ordered = sorted(zip(counts, map(printable, classes), strict=True), key=lambda pair: -pair[0])
    (most, largest), (least, smallest) = ordered[0], ordered[-1]
    if most == least:
        return f"{counted(most, 'image')} each; guessing gives {1 / len(counts):.1%}"
    listed = ", ".join(f"{name}: {count:,}" for count, name in ordered)
    if len(ordered) > COUNTS_LISTED:
        listed = f"from {most:,} ({largest}) to {least:,} ({smallest}), median {median(counts):,.0f}"
    return f"{listed}; always {largest!r} would be right on {most / sum(counts):.1%}"


def of_validation(classes: Sequence[str], trained: Sequence[int], validated: Sequence[int]) -> list[str]:
    """What always naming the largest class would give on the validation images, where that is not what it gives in training: a folder of
    one's own may have other shares, and it is with this that the validation accuracy is to be compared."""
    if not sum(validated):
        return []
    most, share = max(validated), max(validated) / sum(validated)
    if f"{share:.1%}" == f"{max(trained) / sum(trained):.1%}":
        return []
    largest = printable(classes[list(validated).index(most)])
    return [
        f"         always {largest!r} would be right on {share:.1%} of the {counted(sum(validated), 'validation image')}"
    ]


def unequal(classes: Sequence[str], counts: Sequence[int], balance: str, best_by: str | None) -> list[str]:
    """A warning, as `unequal_classes` has it."""
    found = unequal_classes(classes, counts, balance, best_by)
    if found is None:
        return []
    what, advice = found
    look = "validation/macro_f1 and validation/balanced_accuracy" if best_by else "the macro F1 of an evaluation"
    return [f"warning  the {what}, and the accuracy flatters; look at {look}; {advice.replace('`', '')}"]


def early(state: TrainState) -> str:
    """How --patience ended a run."""
    count, what = state.epochs_without_better, BEST_BY_NAMES[state.recipe.best_by]
    return f"early, after {counted(count, 'epoch')} without a better validation {what} (--patience)"


def ending(run: Run, seconds: float) -> list[str]:
    """What is printed at the end: how it went, where everything is, what to do next."""
    folder, state, exit_status = run.folder, run.state, run.exit_status
    stopped, why = exit_status != 0, " by --max_minutes" * (exit_status == TIME_IS_UP)
    finished = f"finished {early(state)}," if run.stopped_early else "finished"
    lines = [
        f"{f'interrupted{why}' if stopped else finished} after step {state.step} and {duration(seconds)} of training"
    ]
    if state.best_accuracy is not None:
        line = f"best validation accuracy {state.best_accuracy:.4f} in epoch {state.best_epoch:g}"
        if state.recipe.best_by != "accuracy" and state.best_score is not None:
            what = BEST_BY_NAMES[state.recipe.best_by]
            line = f"best validation {what} {state.best_score:.4f} in epoch {state.best_epoch:g}, accuracy {state.best_accuracy:.4f}"
        lines.append(f"{line}, of {counted(int(run.validation_counts.sum()), 'image')}")
    lines.append(f"everything is in {folder.path}")
    if stopped:
        return [*lines, f"go on with: {folder.command('train.py', '--resume', folder.id)}"]
    return [*lines, *folder.read_split().advice, f"next: {folder.evaluate_command()}"]

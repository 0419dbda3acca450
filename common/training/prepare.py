"""From a config to all that a run trains with. Whatever can be refused is refused here, before anything is written."""

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.base.device import choose_amp, device_name
from common.base.errors import UserError
from common.base.processes import Team
from common.config import TrainConfig
from common.data.augment import mixing
from common.data.batches import MEAN, STD, Batches
from common.data.dataset import Dataset, dataset_digest
from common.data.load import load_dataset
from common.data.split import split_indices
from common.model.build import build_model, describe, set_trainable
from common.runs.find import find_run
from common.runs.folder import RunFolder, plan_run
from common.runs.records import Split
from common.training.optim import averaged, build_sgd, parameter_groups
from common.training.state import Trainer


def code_version() -> str | None:
    """The commit of this code, `-dirty` when files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None


def run_folder(config: TrainConfig) -> RunFolder:
    """The folder of a new run, or of the one to go on with. Errors: as `plan_run` and `find_run`."""
    if config.resume is None:
        return plan_run(config.runs_dir, config.run_id)
    return find_run(config.runs_dir, config.resume, "--resume")


def check_same_data(folder: RunFolder, digest: str) -> None:
    """Errors: `UserError` when a run to go on with was trained on other data."""
    if folder.read_split().digest != digest:
        raise UserError(f"--resume {folder.id}: the training data has changed since; restore it, or begin a new run")


@dataclass
class Task:
    """A run's parts."""

    folder: RunFolder
    device: torch.device
    data: Dataset
    batches: Batches
    validation: Batches
    trainer: Trainer
    amp: torch.dtype | None
    total_steps: int
    """optimizer steps after which the run ends"""
    cached: bool
    """whether the frozen backbone's features are computed once, and the head alone is trained"""
    facts: dict[str, Any]
    """what the config does not say: device, parameters, sizes"""
    split: Split
    """what split.json holds"""
    about: dict[str, Any]
    """what best.safetensors says of itself, aside from its metrics"""


def prepare(config: TrainConfig, team: Team, device: torch.device) -> Task:
    """Errors: `UserError` for whatever does not fit: flags, data, weights, a run that is taken."""
    amp = choose_amp(config.amp, device, config.progressive_from or config.image_size)
    folder = team.agree(lambda: run_folder(config))
    with team.main_first():
        data = load_dataset(config.dataset, config.data_dir, "train", config.image_size)
        train_part, validation_part = split_indices(data.labels, config.validation_fraction, config.seed)
        if not 2 * team.world <= config.batch_size <= len(train_part):
            raise UserError(
                f"--batch_size is {config.batch_size}, but must be from {2 * team.world} to the number of training images, "
                f"{len(train_part)}"
            )
        split = split_record(config, data, validation_part)
        if config.resume:
            check_same_data(folder, split.digest)
        # A resumed run's weights are in its last.pt.
        model = build_model(config.model, len(data.classes), "none" if config.resume else config.weights, config.seed)
    model = set_trainable(model, config.finetune).to(device, memory_format=torch.channels_last)
    place = {"image_size": config.image_size, "device": device, "rank": team.rank, "world": team.world}
    mix = mixing(config.mixup_alpha, config.cutmix_alpha, len(data.classes))
    batches = Batches(
        data.images,
        data.labels,
        train_part,
        config.batch_size,
        augment=config.augment,
        flip=data.flip,
        seed=config.seed,
        training=True,
        mix=mix,
        **place,
    )
    validation = Batches(data.images, data.labels, validation_part, config.batch_size, **place)
    total_steps = min(config.epochs * len(batches), config.max_steps or config.epochs * len(batches))
    cached = config.finetune == "head" and config.feature_views > 0 and mix is None and config.progressive_from is None
    facts = {
        "device": device_name(device),
        "amp": str(amp or "none").removeprefix("torch."),
        "model": config.model,
        **describe(model, config.image_size),
        "train_size": len(train_part),
        "validation_size": len(validation_part),
        "classes": len(data.classes),
        "processes": team.world,
        "version": code_version(),
    }
    trainer = build_trainer(config, model, model.fc if cached else model, amp, device)
    about = weights_metadata(config, data, folder)
    return Task(folder, device, data, batches, validation, trainer, amp, total_steps, cached, facts, split, about)


def build_trainer(
    config: TrainConfig, model: nn.Module, network: nn.Module, amp: torch.dtype | None, device: torch.device
) -> Trainer:
    groups = parameter_groups(network, config.lr, config.weight_decay, config.backbone_lr_scale)
    return Trainer(
        model,
        network,
        build_sgd(groups, config.lr, config.momentum, config.nesterov, device),
        torch.amp.GradScaler(device.type, enabled=amp is torch.float16),
        averaged(network, config.ema_decay) if config.ema_decay else None,
        sums=torch.zeros(3, device=device),
    )


def data_facts(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """What is learned, and how its validation part is drawn."""
    return {
        "dataset": config.dataset,
        "data_dir": config.data_dir,
        "classes": data.classes,
        "superclasses": data.superclasses,
        "superclass_of": data.superclass_of,
        "seed": config.seed,
        "validation_fraction": config.validation_fraction,
    }


def split_record(config: TrainConfig, data: Dataset, validation_part: Tensor) -> Split:
    """Which images are validated on, and of which data: what split.json holds and the dataset artifact is."""
    return Split(
        **data_facts(config, data),
        digest=dataset_digest(data),
        train_size=len(data.labels) - len(validation_part),
        validation=validation_part.tolist(),
    )


def weights_metadata(config: TrainConfig, data: Dataset, folder: RunFolder) -> dict[str, Any]:
    """What makes best.safetensors describe itself."""
    return {
        **data_facts(config, data),
        "model": config.model,
        "image_size": config.image_size,
        "mean": MEAN,
        "std": STD,
        "finetune": config.finetune,
        "project": config.project,
        "entity": config.entity,
        "run_id": folder.id,
    }


def describe_task(config: TrainConfig, task: Task) -> str:
    """What is printed before training."""
    facts = task.facts
    return "\n".join(
        [
            f"device   {facts['device']}, mixed precision: {facts['amp']}",
            f"model    {config.model}, weights {config.weights}: cardinality {facts['cardinality']}, width "
            f"{facts['width_per_group']} per group, {facts['gflops_per_image']} GFLOPs per image at {config.image_size} px",
            f"         {facts['parameters_total']:,} parameters, {facts['parameters_trainable']:,} of them trained "
            f"(finetune {config.finetune})",
            f"data     {config.dataset}: {facts['train_size']:,} training and {facts['validation_size']:,} validation images, "
            f"{facts['classes']} classes, {len(task.batches)} steps an epoch",
            f"run      {task.folder.path}",
        ]
    )

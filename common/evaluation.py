"""What evaluate.py and visualize.py share: which images, the model's answers to them, and the W&B run they are told to."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from common import tracking
from common.batches import Batches
from common.config import EvaluateConfig, VisualizeConfig, as_dict
from common.data import Dataset, dataset_digest, load_dataset, split_indices
from common.engine import predict
from common.errors import UserError
from common.files import read_json
from common.inference import Loaded
from common.photos import cache_folder
from common.report import Predictions
from common.runs import RunFolder, load_config
from common.trainer import memory_errors


def downloader(config: EvaluateConfig | VisualizeConfig) -> Callable[[str], Path | None]:
    """Fetches an artifact's weights from W&B into the cache folder."""
    return lambda name: tracking.download(name, cache_folder() / "artifacts", config.project, config.entity)


def evaluation_folder(folder: RunFolder, split: str) -> Path:
    """The test set's evaluation is the run's; another's lies within it, and takes nothing of it away."""
    return folder.evaluation if split == "test" else folder.evaluation / split


def load_part(loaded: Loaded, split: str, dataset: str | None, data_dir: str | None) -> tuple[Dataset, Tensor]:
    """The images to evaluate on, as a dataset and int64 indices into it: the test set, or the part of train that the run
    validated on. None: what and where the run's own were.

    Errors: `UserError` when the data is missing, has other classes, or has no such part.
    """
    metadata = loaded.metadata
    if dataset in (None, metadata["dataset"]):
        data_dir = data_dir or metadata["data_dir"]
    name, source = dataset or metadata["dataset"], "test" if split == "test" else "train"
    data = load_dataset(name, data_dir, source, metadata["image_size"])
    if list(data.classes) != metadata["classes"]:
        raise UserError(
            f"{loaded.path} tells {_some(metadata['classes'])} apart, but --dataset {name} has {_some(data.classes)}; "
            "give the --dataset and --data_dir it was trained on"
        )
    return data, torch.arange(len(data.labels)) if split == "test" else _validation_indices(loaded, data)


def _validation_indices(loaded: Loaded, data: Dataset) -> Tensor:
    """As split.json says, or for weights without their run folder, from the seed. Errors: `UserError` when there are none, or
    the images are not those of the run, where a validation image could be one that was trained on."""
    fraction, seed = loaded.metadata["validation_fraction"], loaded.metadata["seed"]
    if not fraction:
        raise UserError(f"{loaded.path} was trained with --validation_fraction 0, so there is no validation part")
    if not loaded.folder.split.exists():
        return split_indices(data.labels, fraction, seed)[1]
    split = read_json(loaded.folder.split)
    if split["digest"] != dataset_digest(data):
        raise UserError(
            f"the training images are not those of run {loaded.folder.id}, so its validation part is unknown"
        )
    return torch.tensor(split["validation"])


def _some(classes: list[str] | tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}, …)"


def answers(
    loaded: Loaded,
    data: Dataset,
    indices: Tensor,
    batch_size: int,
    device: torch.device,
    amp: torch.dtype | None = None,
    description: str = "",
) -> Predictions:
    """The model's answers to the images at `indices`, in that order. Errors: `UserError` when they are not finite."""
    batches = Batches(data.images, data.labels, indices, batch_size, loaded.metadata["image_size"], device)
    with memory_errors(batch_size, device):
        logits, labels = predict(loaded.model, batches.epoch(0), device, amp, len(batches), description)
    if not logits.isfinite().all():
        raise UserError(f"{loaded.path} gives numbers that are not finite; try --amp none, or another --checkpoint")
    return Predictions(logits.numpy(), labels.numpy(), indices.numpy())


@contextlib.contextmanager
def tracked(loaded: Loaded, job_type: str, config: EvaluateConfig | VisualizeConfig) -> Iterator[tracking.Run]:
    """A W&B run of its own about the checkpoint, in the training run's project and group; ends as the block ends."""
    metadata, folder = loaded.metadata, loaded.folder
    group = load_config(folder).group if folder.config.exists() else None
    run = tracking.start(
        folder,
        job_type,
        as_dict(config),
        name=f"{folder.id}-{job_type}",
        project=config.project or metadata["project"],
        entity=config.entity or metadata["entity"],
        group=group or folder.id,
    )
    run.use_model(loaded.artifact, metadata["run_id"])
    try:
        yield run
    except BaseException:
        run.finish(1)
        raise
    run.finish(0)

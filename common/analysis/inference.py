"""A checkpoint and data → `Predictions`."""

import torch
from torch import Tensor

from common.analysis.predictions import Predictions, comparable
from common.analysis.report import Report
from common.base.device import memory_errors
from common.base.errors import UserError
from common.data.batches import Batches
from common.data.dataset import Dataset, Split, dataset_digest
from common.data.load import is_there, load_dataset
from common.data.pixels import Unreadable
from common.data.split import split_indices
from common.model.load import Loaded
from common.model.predict import predict
from common.runs.find import find_run


def load_part(
    loaded: Loaded, split: str, dataset: str | None, data_dir: str | None, unreadable: Unreadable | None = None
) -> tuple[Dataset, Tensor]:
    """The images to evaluate on, as a dataset and int64 indices into it: the test set, or the part of train that the run
    validated on. None: what and where the run's own were, and what it did with photos that can't be read.

    Errors: `UserError` when the data is missing, has other classes, or has no such part.
    """
    metadata = loaded.metadata
    if dataset in (None, metadata.dataset) and data_dir is None and metadata.data_dir is not None:
        data_dir = metadata.data_dir
        if not is_there(metadata.dataset, data_dir):  # a download would be written where a file says
            raise UserError(
                f"{loaded.path} was trained on {metadata.dataset} in {data_dir}, where it is not; give --data_dir"
            )
    name: str = dataset or metadata.dataset
    source: Split = "test" if split == "test" else "train"
    unreadable = unreadable or metadata.unreadable
    data = load_dataset(name, data_dir, source, metadata.image_size, metadata.fit, unreadable)
    if list(data.classes) != metadata.classes:
        raise UserError(
            f"{loaded.path} tells {_some(metadata.classes)} apart, but --dataset {name} has {_some(data.classes)}; "
            "give the --dataset and --data_dir it was trained on"
        )
    return data, torch.arange(len(data.labels)) if split == "test" else _validation_indices(loaded, data)


def _validation_indices(loaded: Loaded, data: Dataset) -> Tensor:
    """As split.json says, or for weights without their run folder, from the seed. Errors: `UserError` when there are none, or
    the images are not those of the run, where a validation image could be one that was trained on."""
    fraction, seed = loaded.metadata.validation_fraction, loaded.metadata.seed
    if not fraction:
        raise UserError(f"{loaded.path} was trained with --validation_fraction 0, so there is no validation part")
    if not loaded.folder.split.exists():
        return split_indices(data.labels, fraction, seed)[1]
    split = loaded.folder.read_split()
    if split.digest != dataset_digest(data):
        raise UserError(
            f"the training images are not those of run {loaded.folder.id}, so its validation part is unknown"
        )
    return torch.tensor(split.validation_of(len(data.labels), loaded.folder.split), dtype=torch.int64)


def _some(classes: list[str] | tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}, …)"


def predict_images(
    loaded: Loaded,
    data: Dataset,
    indices: Tensor,
    batch_size: int,
    device: torch.device,
    amp: torch.dtype | None = None,
    description: str = "",
) -> Predictions:
    """What the model says of the images at `indices`, in that order. Errors: `UserError` when they are not finite."""
    batches = Batches(data.images, data.labels, indices, batch_size, loaded.metadata.image_size, device)
    with memory_errors(batch_size, device):
        logits, labels = predict(loaded.model, batches.epoch(0), device, amp, len(batches), description)
    if not logits.isfinite().all():
        raise UserError(f"{loaded.path} gives numbers that are not finite; try --amp none, or another --checkpoint")
    return Predictions(logits.numpy(), labels.numpy(), indices.numpy())


def predict_validation(
    loaded: Loaded,
    split: str,
    dataset: str | None,
    data_dir: str | None,
    unreadable: Unreadable | None,
    batch_size: int,
    device: torch.device,
    amp: torch.dtype | None,
) -> tuple[Predictions | None, str]:
    """What the temperature is fitted on, and a note on it: the validation images, if any are there beside the evaluated."""
    if split == "validation":
        return None, "no temperature: it would be fitted on the very images that are evaluated"
    try:
        data, indices = load_part(loaded, "validation", dataset, data_dir, unreadable)
    except UserError as error:
        return None, f"no temperature: {error}"
    predictions = predict_images(loaded, data, indices, batch_size, device, amp, "validation")
    return predictions, f"fitted on {len(indices)} validation images"


def predictions_of(
    runs_dir: str, other: str | None, split: str, data: Dataset, indices: Tensor
) -> tuple[Predictions, str, str] | None:
    """What run `other` predicted of the same images, its id and `--tta`; None where there is no other. Errors: `UserError`."""
    if other is None:
        return None
    folder = find_run(runs_dir, other, "--compare")
    evaluated, labels = folder.evaluated(split), data.labels[indices].numpy()
    predictions = comparable(evaluated, labels, indices.numpy(), data.classes)
    return predictions, folder.id, Report.load(evaluated.report).tta

"""A checkpoint and data → `Predictions`."""

from dataclasses import replace

import torch
from torch import Tensor

from common.analysis.duplicates import Seen, find_duplicates
from common.analysis.predictions import Predictions, comparable
from common.analysis.report import Duplicates, Report
from common.base.device import memory_errors
from common.base.errors import UserError
from common.data.batches import Batches
from common.data.dataset import Dataset, Split, dataset_digest
from common.data.fixes import recorded_fixes
from common.data.folder import Known
from common.data.load import has_part, is_there, load_dataset
from common.data.pixels import Unreadable
from common.data.split import split_train
from common.model.load import Loaded
from common.model.predict import predict
from common.runs.find import find_run
from common.runs.records import Split as Recorded


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
    needed = split == "validation" or name == "folder"
    recorded = loaded.folder.read_split() if needed and loaded.folder.split.exists() else None
    if split == "test" and not has_part(name, data_dir, "test"):
        raise UserError(f"{data_dir} has no test set: {_instead(loaded, name, data_dir, recorded)}")
    own_folder = recorded.validation_folder is not None if recorded else has_part(name, data_dir, "validation")
    source: Split = "test" if split == "test" else "validation" if own_folder else "train"
    unreadable, known = unreadable or metadata.unreadable, known_of(loaded, recorded)
    data = load_dataset(name, data_dir, source, metadata.decoded_size, metadata.fit, unreadable, known)
    if list(data.classes) != metadata.classes:
        raise UserError(
            f"{loaded.path} tells {_some(metadata.classes)} apart, but --dataset {name} has {_some(data.classes)}; "
            "give the --dataset and --data_dir it was trained on"
        )
    if source == "test":
        return data, torch.arange(len(data.labels))
    data = data.train_alone()
    indices = _validation_indices(loaded, data, recorded) if source == "train" else torch.arange(len(data.labels))
    fixes = recorded_fixes(loaded.folder.label_fixes, data)
    if fixes.content:
        said = "the run's label_fixes.csv holds for these images, too: their labels are as it says, and what it drops is left out"
        data = replace(data, remarks=(*data.remarks, said))
    return fixes.applied(data), fixes.kept(indices)


def _validation_indices(loaded: Loaded, data: Dataset, recorded: Recorded | None) -> Tensor:
    """As split.json says, or for weights without their run folder, from the seed. Errors: `UserError` when there are none, or
    the images are not those of the run, where a validation image could be one that was trained on."""
    fraction, seed = loaded.metadata.validation_fraction, loaded.metadata.seed
    if not fraction:
        raise UserError(f"{loaded.path} was trained with --validation_fraction 0, so there is no validation part")
    if recorded is None:
        return split_train(data, fraction, seed)[1]
    if recorded.digest != dataset_digest(data):
        raise UserError(
            f"the training images are not those of run {loaded.folder.id}, so its validation part is unknown"
        )
    return torch.tensor(recorded.validation_of(len(data.labels), loaded.folder.split), dtype=torch.int64)


def known_of(loaded: Loaded, recorded: Recorded | None) -> Known:
    """What photos are matched with."""
    if recorded is None:  # weights without their run folder: the photos are drawn once more
        return Known(loaded.metadata.classes)
    return Known(loaded.metadata.classes, recorded.test_files or (), recorded.train_size + len(recorded.validation))


def _instead(loaded: Loaded, dataset: str, data_dir: str | None, recorded: Recorded | None) -> str:
    """What works where there is no test set."""
    validated = recorded.validation if recorded else loaded.metadata.validation_fraction
    if validated or has_part(dataset, data_dir, "validation"):
        return "--split validation evaluates on the validation images"
    return f"add {data_dir}/test/<class>/; there are no validation images either"


def _some(classes: list[str] | tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}, …)"


def duplicates_of(
    predictions: Predictions,
    loaded: Loaded,
    data: Dataset,
    split: str,
    dataset: str | None,
    data_dir: str | None,
    unreadable: Unreadable | None,
    device: torch.device,
) -> tuple[Duplicates, Dataset | None]:
    """Which of the predicted images, of `data`, the run had seen, and train, which they point into; None where it is not to be had."""
    seen = load_seen(loaded, split, dataset, data_dir, unreadable)
    return find_duplicates(predictions, data, seen, device), seen.data


def load_seen(
    loaded: Loaded, split: str, dataset: str | None, data_dir: str | None, unreadable: Unreadable | None = None
) -> Seen:
    """What the run was trained on and, where its test set is evaluated, validated on: from where the evaluated images are, or else from
    where its own were."""
    for place in dict.fromkeys([(dataset or loaded.metadata.dataset, data_dir), (loaded.metadata.dataset, None)]):
        try:
            seen = _seen_in(loaded, *place, unreadable)
        except UserError as error:
            why = str(error)
        else:
            return seen if split == "test" else replace(seen, parts={"train": seen.parts["train"]})
    return Seen(None, why=why)


def _seen_in(loaded: Loaded, dataset: str, data_dir: str | None, unreadable: Unreadable | None) -> Seen:
    """Errors: `UserError` when train is not there, or is not what the run was trained on."""
    about, folder = loaded.metadata, loaded.folder
    if dataset == about.dataset and data_dir is None and about.data_dir is not None:
        data_dir = about.data_dir
    if not is_there(dataset, data_dir or "data"):
        raise UserError(f"there is no {dataset} in {data_dir or 'data'}")
    recorded = folder.read_split() if folder.split.exists() else None
    unreadable, known = unreadable or about.unreadable, known_of(loaded, recorded)
    data = load_dataset(dataset, data_dir, "train", about.decoded_size, about.fit, unreadable, known)
    if recorded and recorded.validation_folder is None:
        data = data.train_alone()
    if list(data.classes) != about.classes:
        raise UserError("the training images have other classes than the run")
    if recorded is None:
        train, validation = split_train(data, about.validation_fraction, about.seed)
        return Seen(data, {"train": train, "validation": validation})
    if recorded.digest != dataset_digest(data):
        raise UserError(f"the training images are not those of run {folder.id} any more")
    validation = torch.tensor(recorded.validation_of(len(data.labels), folder.split), dtype=torch.int64)
    train = torch.ones(len(data.labels), dtype=torch.bool).index_fill(0, validation, False).nonzero().flatten()
    fixes = recorded_fixes(folder.label_fixes, data)
    return Seen(fixes.applied(data), {"train": fixes.kept(train), "validation": fixes.kept(validation)})


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

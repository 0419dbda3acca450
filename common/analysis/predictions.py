"""A model's predictions on a set of images: made once, kept in predictions.npz, and all else derived from them."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.analysis import metrics
from common.base.device import memory_errors
from common.base.errors import UserError
from common.base.files import atomic_path, read_json
from common.data.batches import Batches
from common.data.dataset import Dataset, dataset_digest
from common.data.load import load_dataset
from common.data.split import split_indices
from common.model.load import Loaded
from common.model.predict import predict
from common.runs.folder import RunFolder


@dataclass(frozen=True)
class Predictions:
    """A model's answers to N images: what `predictions.npz` holds."""

    logits: NDArray
    """float32 (N, K)"""
    labels: NDArray
    """int64 (N,)"""
    indices: NDArray
    """int64 (N,): which images of the dataset"""

    @property
    def answers(self) -> NDArray:
        """int64 (N,): the predicted classes."""
        return self.logits.argmax(axis=1)

    @property
    def confidences(self) -> NDArray:
        """float64 (N,): the probability of the predicted class."""
        return metrics.softmax(self.logits).max(axis=1)

    @property
    def digest(self) -> str:
        """SHA-256 over labels and indices: the same for two models that were asked about the same images."""
        return labels_digest(self.labels, self.indices)

    def save(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, logits=self.logits, labels=self.labels, indices=self.indices)

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Errors: `UserError` naming the file when it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                return Predictions(saved["logits"], saved["labels"], saved["indices"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} can't be read as predictions ({error}); run evaluate.py on that run again"
            ) from None


def labels_digest(labels: NDArray, indices: NDArray) -> str:
    return hashlib.sha256(np.stack([labels, indices]).astype("<i8").tobytes()).hexdigest()


def saved_answers(folder: Path, sha256: str, digest: str) -> Predictions | None:
    """What evaluate.py left in `folder`, if it is of these very weights and images, else None."""
    try:
        report = read_json(folder / "report.json")
        same = report["checkpoint"]["sha256"] == sha256 and report["dataset"]["digest"] == digest
        return Predictions.load(folder / "predictions.npz") if same else None
    except (UserError, KeyError, TypeError):
        return None


def comparable(folder: Path, labels: NDArray, indices: NDArray, classes: Sequence[str]) -> Predictions:
    """What evaluate.py left in `folder`. Errors: `UserError` when nothing, or answers to other images or of other classes."""
    if not (folder / "report.json").exists():
        raise UserError(f"--compare: {folder} holds no evaluation; run evaluate.py on that run first")
    predictions = Predictions.load(folder / "predictions.npz")
    same_classes = read_json(folder / "report.json").get("classes") == list(classes)
    if not same_classes or predictions.digest != labels_digest(labels, indices):
        raise UserError(
            f"--compare: {folder} is about other images or classes ({len(predictions.labels)} images, here {len(labels)}); "
            "evaluate both runs with the same --dataset, --data_dir and --split"
        )
    return predictions


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

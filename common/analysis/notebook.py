"""What one imports in a notebook: a run's network, and what it says of photos.

from common import load_model, predict

model = load_model("RUN")
for answer in predict(model, ["a.jpg", "b.jpg"]):
    print(answer.photo, answer.name, answer.confidence)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from common.analysis.fitted import temperature_of
from common.analysis.metrics import softmax
from common.base.device import choose_device, memory_errors
from common.data.batches import normalize, resized
from common.data.pixels import read_photo
from common.model import load
from common.model.load import Loaded
from common.runs.folder import RUNS_DIR
from common.runs.records import Metadata

BATCH_SIZE = 64


@dataclass(frozen=True)
class Classifier:
    """A run's network, ready to predict."""

    loaded: Loaded
    device: torch.device
    temperature: float | None
    """that evaluate.py fitted; None: there is none, and confidences are not calibrated"""
    why: str
    """there is no temperature; empty where there is"""

    @property
    def classes(self) -> list[str]:
        return self.loaded.metadata.classes

    @property
    def metadata(self) -> Metadata:
        """What its weights say of themselves: image size, dataset, run and more."""
        return self.loaded.metadata


@dataclass(frozen=True)
class Answer:
    """What a network says of a photo."""

    photo: Path
    name: str
    """of its class"""
    confidence: float
    """the probability of that class, calibrated where there is a temperature"""


def load_model(
    reference: str | Path | None = None, runs_dir: str | Path = RUNS_DIR, device: str = "auto"
) -> Classifier:
    """The network that `reference` names: a run's id or folder, a file of weights, an artifact of a local run; None: the newest run.

    Errors: `UserError` when there is none, or it is damaged.
    """
    chosen = choose_device(device)
    loaded = load.load_model(None if reference is None else str(reference), str(runs_dir), chosen, flag="load_model:")
    temperature, why = temperature_of(loaded)
    return Classifier(loaded, chosen, temperature, why)


def predict(model: Classifier, photos: Iterable[str | Path], batch_size: int = BATCH_SIZE) -> list[Answer]:
    """Each photo's class and confidence, in order. Errors: `UserError` naming a photo that can't be read."""
    return list(_answers(model, iter(map(Path, photos)), batch_size))


@torch.inference_mode()
def _answers(model: Classifier, photos: Iterator[Path], batch_size: int) -> Iterator[Answer]:
    about, network = model.metadata, model.loaded.model
    while paths := list(islice(photos, batch_size)):
        pixels = np.stack([read_photo(path, about.decoded_size, about.fit) for path in paths])
        images = torch.from_numpy(pixels).to(model.device, memory_format=torch.channels_last)
        with memory_errors(batch_size, model.device):
            logits = network(normalize(resized(images, about.image_size))).float().cpu().numpy()
        yield from _named(model, paths, softmax(logits / (model.temperature or 1.0)))


def _named(model: Classifier, paths: Sequence[Path], probabilities: np.ndarray) -> Iterator[Answer]:
    for path, row in zip(paths, probabilities, strict=True):
        yield Answer(path, model.classes[int(row.argmax())], float(row.max()))

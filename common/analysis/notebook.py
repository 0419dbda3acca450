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

from common.analysis.metrics import softmax
from common.analysis.report import Report
from common.base.device import choose_device, memory_errors
from common.base.errors import UserError
from common.data.batches import normalize, resized
from common.data.pixels import read_photo
from common.model import load
from common.model.load import Loaded
from common.runs.folder import RUNS_DIR, RunFolder
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


# --- what evaluate.py knows of the very weights -----------------------------------------------------------------------


def report_about(folder: RunFolder, sha256: str) -> tuple[Report | None, str]:
    """The report of these very weights in a run's folder, of the test set or else of the validation images; or None, and why."""
    why = (
        f"{folder.id} was not evaluated; run {folder.evaluate_command()}"
        if folder.path.exists()
        else "it was not evaluated"
    )
    for split in ("test", "validation"):
        file = folder.evaluated(split).report
        if not file.exists():
            continue
        try:
            report = Report.load(file)
        except UserError as error:
            why = str(error)
            continue
        if report.checkpoint.sha256 == sha256:
            return report, ""
        why = f"{file} is about other weights of the run; run {folder.evaluate_command()}"
    return None, why


def temperature_of(loaded: Loaded) -> tuple[float | None, str]:
    """What the logits are divided by for calibrated probabilities; or None, and why."""
    report, why = report_about(loaded.folder, loaded.sha256)
    if report is None:
        return None, why
    if report.tta != loaded.tta:
        return None, f"the temperature is of logits with --tta {report.tta}; run evaluate.py without it"
    return report.calibration.temperature, "" if report.calibration.temperature else report.calibration.note

"""Which images to show, what the network sees and says of them, and the sheets that show it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from common.analysis import figures
from common.analysis.inference import predict_images
from common.analysis.metrics import softmax
from common.analysis.predictions import Predictions, saved_predictions
from common.base import drawing
from common.base.terminal import progress_bar
from common.base.text import counted, in_utf8
from common.data.batches import Batches, denormalize
from common.data.dataset import Dataset, dataset_digest
from common.data.pixels import read_photo
from common.model.gradcam import grad_cam
from common.model.load import Loaded
from common.runs.records import Metadata

BATCH_SIZE = 64
COLUMNS = 8
ROWS_A_PAGE = 6  # which a screen shows at a readable size


def own_photos(files: Sequence[str], about: Metadata) -> tuple[Dataset, Tensor]:
    """The photos as a dataset whose labels, all 0, mean nothing, and the indices of all.

    about: of the weights. Errors: `UserError` naming an unreadable file.
    """
    images = np.stack([read_photo(Path(file), about.decoded_size, about.fit) for file in files])
    labels = torch.zeros(len(files), dtype=torch.int64)
    return Dataset(
        "photos", torch.from_numpy(images), labels, tuple(about.classes), None, None, flip=True
    ), torch.arange(len(files))


def choose(
    which: str, loaded: Loaded, data: Dataset, part: Tensor, count: int, seed: int, split: str, device: torch.device
) -> Tensor:
    """Indices of the images to show, `random`, `errors` or of each `class`, out of those at `part`, which are of `split`."""
    if which == "random":
        return random_images(part, count, seed)
    if which == "class":
        return images_of_each_class(data.labels, part, count, seed)
    return confident_mistakes(loaded, data, part, count, split, device)


def random_images(indices: Tensor, count: int, seed: int) -> Tensor:
    """`count` of `indices`, or all when there are fewer."""
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:count]]


def images_of_each_class(labels: Tensor, indices: Tensor, count: int, seed: int) -> Tensor:
    """`count` random ones of each class, class after class. labels: of the whole dataset."""
    shuffled = random_images(indices, len(indices), seed)
    return torch.cat([shuffled[labels[shuffled] == label][:count] for label in labels.unique()])


def confident_mistakes(
    loaded: Loaded, data: Dataset, indices: Tensor, count: int, split: str, device: torch.device
) -> Tensor:
    """The `count` mistakes that the network is surest of, by evaluate.py's predictions where those are there."""
    saved = saved_predictions(loaded.folder.evaluated(split), loaded.sha256, dataset_digest(data))
    if saved and not saved.are_about(data.labels[indices].numpy(), indices.numpy(), data.classes):
        saved = None
    predictions = saved or predict_images(loaded, data, indices, BATCH_SIZE, device, description=split)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    surest = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")][:count]
    return torch.from_numpy(predictions.indices[surest])


def look(
    loaded: Loaded, data: Dataset, indices: Tensor, device: torch.device, explain: bool
) -> tuple[Predictions, NDArray]:
    """What the network says, and what it saw: uint8 (n, 3, s, s), or with the explanation beside it, wider, as `figures.overlay`."""
    batches = Batches(data.images, data.labels, indices, BATCH_SIZE, loaded.metadata.image_size, device)
    logits, pictures = [], []
    for images, _ in progress_bar(batches.epoch(0), total=len(batches), desc="predictions", unit="batch", leave=False):
        with torch.no_grad():
            logits.append(loaded.model(images).float())
        shown = denormalize(images).cpu().numpy()
        if explain:
            heat = grad_cam(loaded.model, images, logits[-1].argmax(dim=1)).numpy()
            shown = np.stack([figures.overlay(image, its_heat) for image, its_heat in zip(shown, heat, strict=True)])
        pictures.append((shown * 255).round().astype(np.uint8))
    predictions = Predictions(torch.cat(logits).cpu().numpy(), data.labels[indices].numpy(), indices.numpy())
    return predictions, np.concatenate(pictures)


def records(
    predictions: Predictions, classes: Sequence[str], files: Sequence[str] = (), names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """What predictions.json says of each image. files: one's own photos, whose true class is unknown; names: of all images of a dataset of
    photos."""
    rows = []
    for i, probabilities in enumerate(softmax(predictions.logits)):
        top = np.argsort(-probabilities, kind="stable")[:5]
        rows.append(
            {
                "index": None if files else int(predictions.indices[i]),
                "file": files[i] if files else in_utf8(names[predictions.indices[i]]) if names else None,
                "true": None if files else classes[predictions.labels[i]],
                "predicted": classes[top[0]],
                "confidence": float(probabilities[top[0]]),
                "top5": [[classes[label], float(probabilities[label])] for label in top],
            }
        )
    return rows


@drawing.own_style()
def pages(rows: Sequence[dict[str, Any]], pictures: NDArray, title: str, by_class: bool) -> list[Figure]:
    """The records with their pictures as sheets; `by_class` begins a row with each true class, and a page with a class that would not
    be whole on the one before."""
    explained = pictures.shape[3] > pictures.shape[2]
    columns = max(1, round(COLUMNS * pictures.shape[2] / pictures.shape[3]))
    groups: dict[str, list[figures.Tile]] = {}
    for row, picture in zip(rows, pictures, strict=True):
        groups.setdefault(row["true"] if by_class else "", []).append(_tile(row, picture, explained))
    sheets: list[list[tuple[str, Sequence[figures.Tile]]]] = [[]]
    for name, members in groups.items():
        for part in figures.chunks(list(figures.chunks(members, columns)), ROWS_A_PAGE):
            if len(sheets[-1]) + len(part) > ROWS_A_PAGE:
                sheets.append([])
            sheets[-1] += [(name if position == 0 else "", line) for position, line in enumerate(part)]
    titles = [f"{title}, page {number} of {len(sheets)}" for number in range(1, len(sheets) + 1)]
    titled = zip(sheets, titles if len(sheets) > 1 else [title], strict=True)
    return [figures.sheet(lines, heading, with_maps=explained) for lines, heading in titled]


def save_pages(pages: Sequence[Figure], folder: Path, name: str) -> list[Path]:
    """`name`.png, or `name`-01.png, …; what an earlier call left under these names is removed."""
    earlier = [path for path in folder.glob(f"{name}*.png") if re.fullmatch(r"(-\d+)?", path.stem[len(name) :])]
    for stale in filter(drawing.is_ours, earlier):
        stale.unlink(missing_ok=True)
    digits = max(2, len(str(len(pages))))
    numbers = [""] if len(pages) == 1 else [f"-{number:0{digits}d}" for number in range(1, len(pages) + 1)]
    files = [folder / f"{name}{number}.png" for number in numbers]
    for page, file in zip(pages, files, strict=True):
        drawing.save(page, file)
    return files


def described(row: dict[str, Any]) -> str:
    """One's own photo, in a line."""
    return f"{row['file']}: " + ", ".join(f"{label} ({probability:.1%})" for label, probability in row["top5"])


def in_words(rows: Sequence[dict[str, Any]], which: str, split: str) -> str:
    """How many of the images shown are right, which of mistakes goes without saying."""
    if which == "errors":
        order = ", the most confident first" * (len(rows) > 1)
        return f"{counted(len(rows), 'mistake')} on the {split} images{order}"
    return f"{sum(row['true'] == row['predicted'] for row in rows)} of {counted(len(rows), 'image')} right"


def _tile(row: dict[str, Any], picture: NDArray, explained: bool) -> figures.Tile:
    true, predicted = row["true"], drawing.shortened(row["predicted"])
    of_the_map = [f"map: for {predicted}"] * explained
    if true is None:
        guesses = [f"{drawing.shortened(name)}: {probability:.0%}" for name, probability in row["top5"][:3]]
        return figures.Tile(picture, "\n".join([drawing.shortened(Path(row["file"]).name), *guesses, *of_the_map]))
    caption = [f"true: {drawing.shortened(true)}", f"predicted: {predicted}", f"confidence: {row['confidence']:.0%}"]
    return figures.Tile(picture, "\n".join(caption + of_the_map), true == row["predicted"])

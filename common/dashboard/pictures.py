"""Images inside the page: saved grids as data addresses, and a sheet of thumbnails behind the confusion matrix.

Everything is bounded in bytes, because a page over 200 runs must still open.
"""

from __future__ import annotations

import base64
import zipfile
from collections import defaultdict
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.dashboard.reading import read_mapping

MAX_PICTURES = 16  # saved PNGs shown of a run
MAX_WIDTH = 1200  # pixels of a PNG that had to be shrunk
IMAGES_PER_CELL = 8
# What torchvision's downloads leave behind: their presence means that loading needs no network.
DOWNLOADED = {"cifar100": "cifar-100-python/test", "cifar10": "cifar-10-batches-py/test_batch"}


def data_address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ---------------------------------------------------------------------------------------------- saved PNGs


def saved_pictures(folder: Path, budget: int) -> tuple[list[dict[str, Any]], list[str]]:
    """`visualization/*.png`, then `evaluation/*.png`, as `{"title", "src", "width", "height"}`; and what was left out.

    A file that fits its share of `budget` (bytes) goes in unchanged, a larger one is shrunk to a JPEG.
    """
    paths = [*sorted(folder.glob("visualization/*.png")), *sorted(folder.glob("evaluation/*.png"))]
    notes = []
    if len(paths) > MAX_PICTURES:
        notes.append(f"{len(paths) - MAX_PICTURES} more pictures lie in the run's folder.")
        paths = paths[:MAX_PICTURES]
    pictures, left = [], budget
    for index, path in enumerate(paths):
        share = left // (len(paths) - index)
        name = f"{path.parent.name}/{path.name}"
        try:
            picture = embed(path, share)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            notes.append(f"{name} cannot be shown: it is damaged or was cut short.")
            continue
        if picture is None:
            notes.append(f"{name} is too large for this page: open it in the run's folder.")
            continue
        left -= len(picture["src"])
        pictures.append({"title": name, **picture})
    return pictures, notes


def embed(path: Path, budget: int) -> dict[str, Any] | None:
    """One PNG as `{"src", "width", "height"}` in at most `budget` bytes, None when it does not fit even shrunk."""
    data = path.read_bytes()
    if data[-8:-4] != b"IEND":
        raise ValueError(f"{path} is cut short")
    with Image.open(BytesIO(data)) as image:
        width, height = image.size
        if len(data) * 4 / 3 + 30 <= budget:
            return {"src": data_address(data, "png"), "width": width, "height": height}
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image.convert("RGBA"), mask=image.convert("RGBA").getchannel("A"))
    for limit, quality in ((MAX_WIDTH, 80), (MAX_WIDTH * 2 // 3, 65)):
        small = flat.copy()
        small.thumbnail((limit, limit * 3), reducing_gap=2.0)
        source = jpeg(small, quality)
        if len(source) <= budget:
            return {"src": source, "width": small.width, "height": small.height}
    return None


def jpeg(image: Image.Image, quality: int) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_address(buffer.getvalue(), "jpeg")


# ---------------------------------------------------------------------------------------------- thumbnails


def thumbnail_sheet(folder: Path, run: dict[str, Any], budget: int) -> tuple[dict[str, Any] | None, str]:
    """`(sheet, note)`: the images behind the confusion matrix, or why there are none.

    A sheet is `{"src", "cell", "columns", "items": [[true, predicted, confidence, index], …]}`: item `n` is the
    thumbnail in column `n % columns`, row `n // columns`, of `cell` × `cell` pixels.
    """
    report = run["report"]
    again = f"`python evaluate.py --checkpoint {run['id']}`"
    try:
        with np.load(folder / "evaluation" / "predictions.npz") as saved:
            logits, labels = saved["logits"], saved["labels"].astype(np.int64)
            indices = saved["indices"].astype(np.int64) if "indices" in saved else np.arange(len(labels))
        if logits.ndim != 2 or labels.shape != (len(logits),) or indices.shape != labels.shape or not len(labels):
            raise ValueError("shapes do not fit")
    except FileNotFoundError:
        return None, f"The images need evaluation/predictions.npz, which is missing: {again} writes it."
    except (OSError, ValueError, KeyError, EOFError, AttributeError, NotImplementedError, zipfile.BadZipFile):
        return None, f"evaluation/predictions.npz is damaged: {again} writes it anew."
    dataset, note = load_images(source_of(folder, run), "test" if report.get("split", "test") == "test" else "train")
    if dataset is None:
        return None, note
    if indices.min() < 0 or indices.max() >= len(dataset.labels) or logits.shape[1] != len(dataset.classes):
        return None, "The data set on this machine is not the one that was evaluated, so its images are not shown."
    if not np.array_equal(np.asarray(dataset.labels)[indices], labels):
        return (
            None,
            "The data set on this machine has other labels than the one evaluated, so its images are not shown.",
        )
    cell = 32 if max(dataset.images.shape[2:]) <= 32 else 96
    limit = max(1, budget // (700 if cell == 32 else 3500))  # bytes a thumbnail, as measured
    predictions, confidences = predict(logits)
    doubted = [row["index"] for row in report["label_issues"] if type(row.get("index")) is int]
    chosen = choose(labels, predictions, confidences, np.flatnonzero(np.isin(indices, doubted)), limit)
    while chosen:
        for quality in (85, 65):
            sheet, columns = draw_sheet([dataset.images[int(indices[n])] for n in chosen], cell)
            source = jpeg(sheet, quality)
            if len(source) <= budget:
                items = [[int(labels[n]), int(predictions[n]), round(float(confidences[n]), 3), int(indices[n])]
                         for n in chosen]  # fmt: skip
                return {"src": source, "cell": cell, "columns": columns, "items": items}, ""
        chosen = chosen[: len(chosen) // 2]
    return None, "There was no room for images on this page."


def predict(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) → predicted classes (N,) and the softmax's largest value (N,)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits.argmax(axis=1), 1 / shifted.sum(axis=1)


def choose(
    labels: np.ndarray, predictions: np.ndarray, confidences: np.ndarray, first: np.ndarray, limit: int
) -> list[int]:
    """Rows to show, at most `limit`: `first`, then mistakes (largest cells first, surest first), a fifth left for hits.

    Of every class that has hits, up to two are shown: the surest and the least sure.
    """
    wrong, right = defaultdict(list), defaultdict(list)
    for row in np.argsort(-confidences, kind="stable").tolist():
        true, predicted = int(labels[row]), int(predictions[row])
        (right if true == predicted else wrong)[true, predicted].append(row)
    hits = [row for rows in right.values() for row in dict.fromkeys((rows[0], rows[-1]))][: max(1, limit // 5)]
    cells = sorted(wrong, key=lambda cell: (-len(wrong[cell]), cell))
    mistakes = [row for cell in cells for row in wrong[cell][:IMAGES_PER_CELL]]
    chosen = list(dict.fromkeys([*first.tolist(), *mistakes]))[: max(0, limit - len(hits))]
    return list(dict.fromkeys([*chosen, *hits]))


def draw_sheet(images: list[Any], cell: int) -> tuple[Image.Image, int]:
    """uint8 (3, height, width) images → a sheet of `cell` × `cell` thumbnails, and its number of columns.

    `cell` is a multiple of JPEG's 16-pixel block, so neighbours do not bleed into each other.
    """
    columns = max(1, min(len(images), 4096 // cell, int(len(images) ** 0.5) + 1))
    sheet = Image.new("RGB", (columns * cell, -(-len(images) // columns) * cell), "white")
    for position, image in enumerate(images):
        thumbnail = Image.fromarray(np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)))
        if thumbnail.size != (cell, cell):
            thumbnail = thumbnail.resize((cell, cell), Image.Resampling.BILINEAR, reducing_gap=2.0)
        sheet.paste(thumbnail, (position % columns * cell, position // columns * cell))
    return sheet, columns


def source_of(folder: Path, run: dict[str, Any]) -> tuple[str, str | None, int]:
    """`(dataset, data_dir, image_size)` that was evaluated: the report's word, else the split's, else the settings'."""
    split = read_mapping(folder / "split.json", [])
    places = (run["report"], split, run["config"])

    def first(key: str, default: Any) -> Any:
        return next((place[key] for place in places if place.get(key) not in (None, "")), default)

    size = first("image_size", 32)
    data_dir = first("data_dir", None)
    return str(first("dataset", "")), None if data_dir is None else str(data_dir), size if type(size) is int else 32


def load_images(source: tuple[str, str | None, int], split: str) -> tuple[Any, str]:
    """`(dataset, note)`: the data set if it can be had without a download, else None and the reason."""
    name, data_dir, _ = source
    place = Path(data_dir or "data").expanduser()
    if name in DOWNLOADED and not (place / DOWNLOADED[name]).exists():
        return None, f"The images of {name} are not on this machine (looked in {place})."
    if name == "folder" and not (place / split).is_dir():
        return None, f"The photos are not on this machine (looked in {place / split})."
    try:
        return load_cached(source, split), ""
    except Exception as error:  # whatever is wrong with someone's data, the page without images is still wanted
        reason = str(error).split("\n")[0] or type(error).__name__
        return None, f"The images of {name or 'an unnamed data set'} cannot be loaded: {reason}"


@lru_cache(maxsize=4)
def load_cached(source: tuple[str, str | None, int], split: str) -> Any:
    from common.data import load_dataset

    name, data_dir, image_size = source
    return load_dataset(name, data_dir, split, image_size)

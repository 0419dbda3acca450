"""Photos on disk → a row for each: its class, how sure that is, and whether it should be answered at all. As many as there are: they are
decoded by worker processes, a chunk ahead of the network."""

import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from common.analysis.answers import energies
from common.analysis.fitted import Fitted
from common.analysis.metrics import softmax
from common.analysis.rows import Row, Table, name_in_table
from common.base.device import memory_errors
from common.base.errors import RunError, UserError
from common.base.terminal import progress_bar
from common.base.text import printable
from common.data.batches import normalize, resized
from common.data.pixels import Decoding
from common.data.stream import Found
from common.data.workers import FILES_WORTH_WORKERS, decoded, photos_a_task, workers_for
from common.model.load import Loaded
from common.model.predict import predict

CLASSES_SHOWN = 10
UNSURE = "unsure"
Chunk = tuple[list[Found], NDArray, dict[int, str]]
"""photos; the images of those that can be read, uint8 (n, s, s, 3); why the others can't, by their positions"""


@dataclass(frozen=True)
class Predictor:
    """A network, and what is said of its answers."""

    loaded: Loaded
    fitted: Fitted
    device: torch.device
    amp: torch.dtype | None
    batch_size: int
    top: int
    """classes that are named, at most"""
    answers: bool = False
    """whether there is a column `answer`"""
    least: float | None = None
    """the confidence from which on there is one; None: none is enough"""

    @property
    def columns(self) -> list[str]:
        others = [name for k in range(2, self._named + 1) for name in (f"class_{k}", f"confidence_{k}")]
        answer, unlike = ["answer"] * self.answers, ["unlike"] * (self.fitted.energy_limit is not None)
        return ["file", "class", "confidence", *answer, *unlike, "entropy", *others, "problem"]

    @property
    def _named(self) -> int:
        return min(self.top, len(self.loaded.metadata.classes))

    def rows(self, found: Iterable[Found]) -> Iterator[list[Row]]:
        """A row for each photo, in their order, about a batch at a time. Errors: `UserError`, `RunError`."""
        about = self.loaded.metadata
        for photos, images, problems in _batched(
            decoded_photos(found, Decoding(about.decoded_size, about.fit)), self.batch_size
        ):
            said = iter(self._said(self.logits(images)) if len(images) else [])
            empty = dict.fromkeys(self.columns)
            yield [
                {
                    **empty,
                    "file": name_in_table(photo.path),
                    **({"problem": problems[i]} if i in problems else next(said)),
                }
                for i, photo in enumerate(photos)
            ]

    def logits(self, images: NDArray) -> NDArray:
        """images: uint8 (n, s, s, 3) → float32 (n, classes), as evaluate.py has them. Errors: `UserError` when they are not finite."""
        parts = torch.from_numpy(images).permute(0, 3, 1, 2).tensor_split(-(-len(images) // self.batch_size))
        size, none = self.loaded.metadata.image_size, torch.empty(0)
        batches = ((normalize(resized(part.to(self.device), size)), none) for part in parts)
        with memory_errors(self.batch_size, self.device):
            logits, _ = predict(self.loaded.model, batches, self.device, self.amp)
        if not logits.isfinite().all():
            raise UserError(
                f"{self.loaded.path} gives numbers that are not finite; try --amp none, or another --checkpoint"
            )
        return logits.numpy()

    def _said(self, logits: NDArray) -> list[dict[str, Any]]:
        """What the row of each image has."""
        classes, limit = self.loaded.metadata.classes, self.fitted.energy_limit
        probabilities = softmax(logits.astype(np.float64) / (self.fitted.temperature or 1.0))
        entropies, energy = special.entr(probabilities).sum(axis=1), energies(logits)
        order = np.argsort(-logits, axis=1, kind="stable")[:, : self._named]
        rows = []
        for i, (first, *others) in enumerate(order.tolist()):
            confidence = probabilities[i].max()
            row = {"class": classes[first], "confidence": _rounded(confidence), "entropy": _rounded(entropies[i])}
            if self.answers:
                sure = self.least is not None and confidence >= self.least
                row["answer"] = classes[first] if sure else UNSURE
            if limit is not None:
                row["unlike"] = "yes" if energy[i] > limit else "no"
            for k, label in enumerate(others, 2):
                row |= {f"class_{k}": classes[label], f"confidence_{k}": _rounded(probabilities[i, label])}
            rows.append(row)
        return rows


def _rounded(value: float) -> float:
    return round(float(value), 6)


def decoded_photos(found: Iterable[Found], how: Decoding) -> Iterator[Chunk]:
    """The photos in their order, decoded ahead. Errors: `RunError` when the system killed a process that does so."""
    stream = iter(found)
    first = list(itertools.islice(stream, FILES_WORTH_WORKERS))
    ahead: deque[list[Found]] = deque()

    def tasks() -> Iterator[list[Path]]:
        everything = itertools.chain(first, stream)
        while photos := list(itertools.islice(everything, photos_a_task(how))):
            ahead.append(photos)
            yield [Path(photo.path) for photo in photos if not photo.problem]

    try:
        for images, reasons in decoded(tasks(), how, workers_for(len(first))):
            photos = ahead.popleft()
            tried = [i for i, photo in enumerate(photos) if not photo.problem]
            known = {i: photo.problem for i, photo in enumerate(photos) if photo.problem}
            yield photos, images, known | {tried[place]: why for place, why in reasons.items()}
    except BrokenProcessPool as error:
        raise RunError(
            "a process that decoded photos was killed, by the system if memory ran out; free some, and go on with --resume True: what has "
            "a row is kept"
        ) from error


def _batched(chunks: Iterable[Chunk], batch_size: int) -> Iterator[Chunk]:
    """Several chunks as one, until there is a batch of images or more."""
    waiting: list[Chunk] = []
    for chunk in chunks:
        waiting.append(chunk)
        if sum(len(photos) for photos, _, _ in waiting) >= batch_size:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(chunks: list[Chunk]) -> Chunk:
    photos: list[Found] = []
    problems: dict[int, str] = {}
    for some, _, reasons in chunks:
        problems |= {len(photos) + place: why for place, why in reasons.items()}
        photos += some
    return photos, np.concatenate([images for _, images, _ in chunks]), problems


# --- what came of it --------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Of a table's rows."""

    classes: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    unlike: int = 0
    problems: int = 0
    least_sure: tuple[float, str] | None = None
    """the confidence and the file of one that was predicted now"""

    @property
    def rows(self) -> int:
        return self.classes.total() + self.problems

    def add(self, row: Mapping[str, Any]) -> None:
        if row["problem"]:
            self.problems += 1
        else:
            self.classes[str(row["class"])] += 1
            self.unsure += row.get("answer") == UNSURE
            self.unlike += row.get("unlike") == "yes"

    def lines(self, predictor: Predictor) -> list[str]:
        """What there is of which class, in a few lines."""
        total = max(1, self.classes.total())
        width = max((len(printable(name, 40)) for name, _ in self.classes.most_common(CLASSES_SHOWN)), default=0)
        lines = [
            f"  {printable(name, 40):<{width}}  {count} ({count / total:.1%})"
            for name, count in self.classes.most_common(CLASSES_SHOWN)
        ]
        if len(self.classes) > CLASSES_SHOWN:
            lines.append(f"  … and {len(self.classes) - CLASSES_SHOWN} more classes")
        if predictor.answers:
            lines.append(f"unsure: {self.unsure} ({self.unsure / total:.1%})")
        if predictor.fitted.energy_limit is not None:
            lines.append(f"unlike anything seen in training: {self.unlike} ({self.unlike / total:.1%})")
        if self.problems:
            lines.append(f"{self.problems} could not be read: the column `problem` says why")
        return lines


@contextlib.contextmanager
def _unless(stopped: Callable[[], bool]) -> Iterator[None]:
    """A Ctrl-C reaches the processes that decode as well, and ends those that have only just started: no error then."""
    try:
        yield
    except RunError:
        if not stopped():
            raise


def fill(table: Table, predictor: Predictor, found: Iterable[Found], tally: Tally, stopped: Callable[[], bool]) -> None:
    """Writes the photos' rows, a batch at a time, until there are no more, or it is told to stop."""
    with progress_bar(desc="predicting", unit=" photos") as bar, _unless(stopped):
        for rows in predictor.rows(photo for photo in found if not table.has(photo.path)):
            table.write(rows)
            for row in rows:
                tally.add(row)
                if not row["problem"] and (tally.least_sure is None or row["confidence"] < tally.least_sure[0]):
                    tally.least_sure = row["confidence"], row["file"]
            bar.update(len(rows))
            if stopped():
                return

"""Which of the evaluated images the training had seen: their accuracy flatters.

Exact duplicates have equal pixels. Near ones are found on thumbnails of 8 x 8 pixels in colour, each channel's mean taken out and the whole
scaled to length 1, so that brightness and contrast don't count: an image is a near duplicate of its nearest neighbour when that is less than
half as far away as the sixteenth, and correlates by 0.9 at least. The rule is relative, since all photos of sky, or on white, are close to
each other. It was chosen by looking at pairs of CIFAR-100, where a limit for the correlation alone mostly finds skies and apples: with this
rule about nine pairs in ten are one photo, another crop or shade of it, or two of one scene. It finds fewer than Barz & Denzler 2020
("Do we train on test data?"), who looked through pairs by hand. Perceptual hashes see too little in images of 32 px.

Cost: a product of two matrices of 192 numbers an image, in bounded memory. CIFAR-100, 10,000 images against 50,000: exact ones take half a
second of one CPU core and near ones twelve; it finds 10 and 374, of which 40 are mirror images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.analysis.metrics import wilson_interval
from common.analysis.predictions import Predictions
from common.analysis.report import DuplicatePair, Duplicates
from common.data.dataset import Dataset
from common.data.decode import release

THUMBNAIL = 8  # pixels a side
SMALLEST = (
    16  # images of fewer pixels a side are little more than their thumbnails: one writer's digits would count as copies
)
NEIGHBOURS = 16
NEARER = 0.5  # than the last of the neighbours, by this factor
CORRELATION = 0.9
SAME = 0.995  # the correlation that is enough where there are too few images to compare distances, or many copies
FEWEST_TO_COMPARE = 100  # images
LONGEST_LIST = 1000
_CHUNK_BYTES = 16 << 20
_ROWS = 1024  # thumbnails at a time


@dataclass(frozen=True, eq=False)
class Seen:
    """What a run had seen."""

    data: Dataset | None
    """train; None when it is not to be had"""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """name → int64 indices of `data`: `train`, and `validation`"""
    why: str = ""
    """it is not to be had"""


def find_duplicates(predictions: Predictions, data: Dataset, known: Seen, device: torch.device) -> Duplicates:
    """Compares the evaluated images, `data.images[predictions.indices]`, with what the run had seen."""
    seen, parts = known.data, known.parts
    if seen is None:
        return Duplicates(note=known.why)
    indices = torch.from_numpy(predictions.indices)
    found = {pair.index: pair for pair in _exact(data, indices, seen, parts)}
    exact = len(found)
    side = min(data.images.shape[2:])
    if side >= SMALLEST:
        for pair in _near(data, indices, seen, parts, device):
            found.setdefault(pair.index, pair)
    pairs = sorted(found.values(), key=lambda pair: (not pair.exact, -pair.similarity))
    right = predictions.predicted == predictions.labels
    were_seen = np.isin(predictions.indices, list(found))
    new, old = right[~were_seen], right[were_seen]
    low, high = wilson_interval(int(new.sum()), len(new))
    return Duplicates(
        exact=exact,
        near=len(pairs) - exact if side >= SMALLEST else None,
        other_label=sum(pair.label != pair.seen_label for pair in pairs),
        accuracy_without=float(new.mean()) if len(new) else None,
        accuracy_without_low=float(low) if len(new) else None,
        accuracy_without_high=float(high) if len(new) else None,
        accuracy_on_them=float(old.mean()) if len(old) else None,
        pairs=pairs[:LONGEST_LIST],
    )


def _exact(data: Dataset, indices: Tensor, seen: Dataset, parts: dict[str, Tensor]) -> Iterator[DuplicatePair]:
    if data.images.shape[1:] != seen.images.shape[1:]:
        return
    digests = data.digests
    seen_digests = digests if seen.images is data.images else seen.digests
    where = {
        seen_digests[i]: (part, i) for part, members in reversed(parts.items()) for i in reversed(members.tolist())
    }
    for index in indices.tolist():
        if (same := where.get(digests[index])) is not None:
            part, other = same
            yield _pair(data, index, seen, other, part, exact=True)


def _near(
    data: Dataset, indices: Tensor, seen: Dataset, parts: dict[str, Tensor], device: torch.device
) -> Iterator[DuplicatePair]:
    members = torch.cat(list(parts.values()))
    part_of = [name for name, some in parts.items() for _ in range(len(some))]
    if len(members) == 0:
        return
    queries = thumbnails(data.images, indices)
    closest, position, last = nearest(queries, seen, members, device)
    mirrored = torch.zeros(len(indices), dtype=torch.bool)
    if data.flip:  # a set that was augmented before it was divided has mirror images
        other, its_position, its_last = nearest(_mirrored(queries), seen, members, device)
        mirrored, last = other > closest, torch.maximum(last, its_last)
        closest, position = torch.maximum(closest, other), torch.where(mirrored, its_position, position)
    for row in torch.nonzero(is_near(closest, last, len(members))).flatten().tolist():
        at = int(position[row])
        index, seen_index, alike = int(indices[row]), int(members[at]), float(closest[row])
        yield _pair(data, index, seen, seen_index, part_of[at], False, alike, bool(mirrored[row]))


def is_near(closest: Tensor, last: Tensor, among: int) -> Tensor:
    """bool (n,): whether correlations with the nearest neighbour, and with the last of `NEIGHBOURS`, are those of near duplicates."""
    same = closest >= SAME
    if among < FEWEST_TO_COMPARE:
        return same
    distance, far = (2 - 2 * closest).clamp(min=0).sqrt(), (2 - 2 * last).clamp(min=0).sqrt()
    return same | ((closest >= CORRELATION) & (distance < NEARER * far))


def thumbnails(images: Tensor, indices: Tensor) -> Tensor:
    """float32 (n, 192): uint8 (N, 3, H, W) at `indices`, small, without each channel's mean, of length 1 (0 for one colour)."""
    per_chunk = max(1, _CHUNK_BYTES // max(1, images[:1].numel()))
    rows = []
    for some in indices.split(per_chunk):
        small = F.adaptive_avg_pool2d(images[some].float(), THUMBNAIL)
        rows.append(F.normalize((small - small.mean(dim=(2, 3), keepdim=True)).flatten(1), dim=1))
        release(images)
    return torch.cat(rows) if rows else torch.empty(0, 3 * THUMBNAIL**2)


def _mirrored(rows: Tensor) -> Tensor:
    return rows.unflatten(1, (3, THUMBNAIL, THUMBNAIL)).flip(3).flatten(1)


def nearest(queries: Tensor, seen: Dataset, members: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each query: the largest correlation with a thumbnail of `seen` at `members`, its position in them, and the correlation with the
    last of `NEIGHBOURS`. A block of `seen` at a time, so that no more than a block and the queries are in memory."""
    count = min(NEIGHBOURS, len(members))
    best = torch.full((len(queries), 0), 0.0)
    positions = torch.zeros((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(members), 16 * _ROWS):
        block = thumbnails(seen.images, members[start : start + 16 * _ROWS]).to(device)
        some = [(part.to(device) @ block.T).topk(min(count, len(block)), dim=1) for part in queries.split(_ROWS)]
        best = torch.cat([best, torch.cat([top.values.cpu() for top in some])], dim=1)
        positions = torch.cat([positions, torch.cat([top.indices.cpu() + start for top in some])], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        positions = positions.gather(1, order)
    return best[:, 0], positions[:, 0], best[:, -1]


def _pair(
    data: Dataset,
    index: int,
    seen: Dataset,
    other: int,
    part: str,
    exact: bool,
    similarity: float = 1.0,
    mirrored: bool = False,
) -> DuplicatePair:
    labels = int(data.labels[index]), int(seen.labels[other])
    files = [some.names[i] if some.names else None for some, i in ((data, index), (seen, other))]
    return DuplicatePair(index, other, part, exact, mirrored, round(similarity, 4), *labels, *files)

"""Images that are the same pixel by pixel: whether one of train is in test, or on both sides of a split."""

import hashlib
from collections.abc import Hashable, Sequence

from torch import Tensor

from common.base.text import in_utf8, printable
from common.data.decode import release

_CHUNK_BYTES = 64 << 20
_NAMED = 3  # groups


def pixel_digests(images: Tensor) -> list[bytes]:
    """16 bytes for each of uint8 (N, 3, H, W), in their order: equal where every pixel is equal.

    Reads a chunk at a time and lets a mapped set's pages go again, so that memory stays bounded. Hashing takes microseconds an image of 32 px.
    """
    digests: list[bytes] = []
    per_chunk = max(1, _CHUNK_BYTES // max(1, images[:1].numel()))
    for start in range(0, len(images), per_chunk):
        # Channels last, as the images lie in memory: a view of the mapped file, not a copy.
        chunk = images[start : start + per_chunk].permute(0, 2, 3, 1).contiguous().numpy()
        digests += [hashlib.blake2b(image.data, digest_size=16).digest() for image in chunk]
        release(images)
    return digests


def contradictions(same: Sequence[Hashable], labels: Sequence[int], indices: Sequence[int]) -> list[list[int]]:
    """Those of `indices` whose images are equal and whose labels are not, group by group. same: for each image a value, such as
    `pixel_digests`; labels: of each image."""
    groups: dict[Hashable, list[int]] = {}
    for index in indices:
        groups.setdefault(same[index], []).append(index)
    return [group for group in groups.values() if len({labels[index] for index in group}) > 1]


def of_contradictions(groups: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """A line that names some of `contradictions`, of which at most one label each can be right; none where there are none."""
    if not groups:
        return []
    some = "; ".join(" = ".join(printable(in_utf8(names[index]), 100) for index in group) for group in groups[:_NAMED])
    more = f"; … {len(groups)} in all" * (len(groups) > _NAMED)
    return [f"the same photo is in several classes: {some}{more}; remove the wrong ones, or drop them by --label_fixes"]

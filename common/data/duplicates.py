"""Images that are the same pixel by pixel: whether one of train is in test, or on both sides of a split."""

import hashlib

from torch import Tensor

from common.data.decode import release

_CHUNK_BYTES = 64 << 20


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

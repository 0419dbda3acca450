"""A dataset: uint8 images and integer labels, whole, in memory or mapped."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from common.base.text import counted, in_utf8
from common.data.decode import release
from common.data.duplicates import pixel_digests
from common.data.photos import Photos

Split = Literal["train", "validation", "test"]
_DIGEST_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset, whole. K classes, N images."""

    name: str
    """one of `DATASETS`"""
    images: Tensor
    """uint8 (N, 3, H, W), channels_last; may be backed by a memory-mapped file"""
    labels: Tensor
    """int64 (N,), values in [0, K)"""
    classes: tuple[str, ...]
    """length K; a class's index is its label"""
    superclasses: tuple[str, ...] | None
    """CIFAR-100's 20 names, None for the others"""
    superclass_of: tuple[int, ...] | None
    """length K: class index → superclass index, None without superclasses"""
    flip: bool
    """may images be mirrored without changing their class (not so for digits)"""
    photos: Photos | None = None
    """the images' files, where they are one's own photos"""
    validation_folder: str | None = None
    """train of one's own photos: the folder whose images are the validation set; None where there is none"""
    validation: range = range(0)
    """the images from that folder, which come last"""
    test_files: tuple[str, ...] | None = None
    """train of one's own photos: what was drawn for the test set; () where there is none, None where it has a folder"""
    names: tuple[str, ...] | None = None
    """one's own photos: their files, relative to data_dir"""
    remarks: tuple[str, ...] = ()
    """what a person should know of how it came together, a line each"""

    def in_words(self, images: int, split: str) -> str:
        """`120 test images of digits`, or of one's own photos' folder."""
        place = in_utf8(str(self.photos.folder)) if self.photos else self.name
        return f"{counted(images, f'{split} image')} of {place}"

    @cached_property
    def digests(self) -> list[bytes]:
        """`pixel_digests` of the images."""
        return pixel_digests(self.images)

    def said(self) -> list[str]:
        """The remarks, and what is to be said of files that are not among the images, a line each."""
        return [*self.remarks, *(self.photos.said() if self.photos else [])]

    @property
    def notes(self) -> str:
        """The same, each in a line of its own behind a line break."""
        return "".join(f"\n{line}" for line in self.said())

    def train_alone(self) -> "Dataset":
        """Without the images of the validation folder."""
        if self.validation_folder is None:
            return self
        count = self.validation.start
        photos = self.photos and self.photos.at(range(count))
        images, labels, names = self.images[:count], self.labels[:count], self.names and self.names[:count]
        alone = replace(self, images=images, labels=labels, names=names, photos=photos)
        return replace(alone, validation_folder=None, validation=range(0), remarks=())


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 hex over images, labels and classes: changes with any pixel, label, name or their order."""
    digest = hashlib.sha256(json.dumps([list(dataset.images.shape), dataset.classes]).encode())
    per_chunk = max(1, _DIGEST_CHUNK_BYTES // max(1, dataset.images[:1].numel()))
    for start in range(0, len(dataset.images), per_chunk):
        digest.update(dataset.images[start : start + per_chunk].contiguous().numpy().data)
        release(dataset.images)
    digest.update(dataset.labels.numpy().astype("<i8").data)
    return digest.hexdigest()

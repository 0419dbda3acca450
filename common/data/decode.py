"""Photos on disk → one uint8 array, decoded once, kept in a cache folder and reused while its sources stay the same.

The cache is `FINETUNE_CACHE` or ~/.cache/resnext-finetuning. A file's name ends in a fingerprint of everything its
content depends on (names, sizes and times of the sources, image size, fit, version of the decoding), so a file of the right
name is the right file: there is no index that could disagree with it, and two processes can't mislead each other. It is a
.npy file with more behind it: which photos could not be read and why, as JSON, the length of that, and a CRC-32 of all before,
which is compared whenever the file is opened: a damaged one is made anew. The array has a row for every photo; those that could
be read come first, and the rows that are left over are zero.

PyTorch is imported where it is used, so that the workers that decode start in a quarter of a second and stay small.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
import re
import sys
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.base.errors import LONGEST_MESSAGE, RunError, UserError
from common.base.files import atomic_path, cache_folder, write_atomic
from common.base.locks import locked
from common.base.terminal import progress_bar
from common.base.text import in_utf8, printable
from common.data.photos import NAMED, Photos, stamp_of
from common.data.pixels import Decoding
from common.data.workers import decoded, photos_a_task, workers_for

if TYPE_CHECKING:
    import torch


DECODE_VERSION = 4  # raise it when `read_photo` would give other pixels, or the file lays them out in another way
IN_MEMORY_BYTES = 256 << 20  # a set below this is read into memory, a larger one is mapped
_LENGTH_BYTES = _CRC_BYTES = 4
_BLOCK_BYTES = 4 << 20
_LISTED = 20  # unreadable photos that a message names; more are in a file
_ABANDONED_SECONDS = 3600  # a temporary file untouched for so long belongs to a process that was killed
_mapped: weakref.WeakValueDictionary[int, np.memmap] = weakref.WeakValueDictionary()


# --- the cached set ---------------------------------------------------------------------------------------------------


def load(photos: Photos, how: Decoding) -> tuple[torch.Tensor, Photos]:
    """The photos as uint8 (N, 3, image_size, image_size), channels_last, in their order; and those that are among the images, which
    are not all when what can't be read is skipped.

    Decoded when the cache has no file for these very sources. A set of `IN_MEMORY_BYTES` and more comes back as a
    private mapping of the file: writing to it changes neither the file nor anyone else's view.

    Errors: `UserError` naming all unreadable photos, a class of which nothing is left, photos that change meanwhile, or
    `FINETUNE_CACHE` when the cache can't be written; `RunError` when the system killed a worker.
    """
    folder, names, size = photos.folder.resolve(), photos.names, how.image_size
    photos = replace(photos, folder=folder, stamps=[stamp_of(folder / name) for name in names])
    shape = (len(names), size, size, 3)
    stem = f"{folder.parent.name}-{folder.name}-{size}px"
    place = _digest(os.fsencode(folder), size, *([how.fit.encode()] if how.fit != "crop" else []))
    key = f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[-60:]}-{place}"
    cache = cache_folder() / "photos"
    path = cache / f"{key}-{_fingerprint(photos, how)}.npy"
    opened = _open(path, shape)
    if opened is None:
        # Of several processes that need the same set, one decodes it, and the others wait and then find it.
        with _explained(cache, shape), locked(cache_folder() / "locks" / f"{key}.lock"):
            opened = _open(path, shape)
            if opened is None:
                if path.exists():
                    print(f"{path} is damaged: the photos are decoded anew", file=sys.stderr)
                with atomic_path(path) as temporary:
                    unreadable = _decode(photos, how, temporary)
                    _check_unchanged(photos)
                    _check_readable(photos, unreadable, how, key)  # a set that is refused leaves nothing
                _remove_outdated(path, key)
                opened = _open(path, shape)
        if opened is None:
            raise UserError(f"{path} vanished while it was read; set FINETUNE_CACHE to a folder that is left alone")
    images, unreadable = opened
    _check_readable(photos, unreadable, how, key)
    return _as_tensor(images)[: len(names) - len(unreadable)], _without(photos, unreadable)


def mapped_file(images: torch.Tensor) -> tuple[Path, int] | None:
    """The file that the images are a mapping of, and the byte at which they begin in it; None when they are in memory."""
    mapped = _mapping_of(images)
    return None if mapped is None else (Path(str(mapped.filename)), mapped.offset + int(images.storage_offset()))


def release(images: torch.Tensor) -> None:
    """Gives a mapped set's pages back to the system, so that reading all of it does not count as resident memory.

    Call it now and then while reading; the pages come back from the file when touched, without what was written to
    them. No effect on other tensors.
    """
    mapped = _mapping_of(images)
    if mapped is not None and isinstance(mapped.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.base.madvise(mmap.MADV_DONTNEED)


def _mapping_of(images: torch.Tensor) -> np.memmap | None:
    return _mapped.get(images.untyped_storage().data_ptr()) if _mapped else None


def _digest(*parts: bytes | int) -> str:
    return hashlib.sha256(
        b"\0".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    ).hexdigest()[:12]


def _fingerprint(photos: Photos, how: Decoding) -> str:
    """Changes with any source's name, order, size or times, the image size, the fit and the decoding."""
    digest = hashlib.sha256(f"{DECODE_VERSION} {how.image_size} {how.fit} {len(photos.names)}\n".encode())
    for name, stamp in zip(photos.names, photos.stamps, strict=True):
        digest.update(b"%b\0%d %d %d\n" % (os.fsencode(name), *stamp))
    return digest.hexdigest()[:24]


def _check_unchanged(photos: Photos) -> None:
    """Errors: `UserError` when photos are no longer what they were before they were decoded: a part would be older, a part newer."""
    if changed := photos.changed():
        raise UserError(
            f"{len(changed)} of the photos in {photos.folder} changed while they were decoded, among them "
            f"{printable(in_utf8(changed[0]), 200)}; begin again once nothing writes to them"
        )


def _check_readable(photos: Photos, unreadable: Mapping[int, str], how: Decoding, key: str) -> None:
    """Errors: `UserError` that names all that can't be read, or a class of which nothing else is left."""
    every = photos.unreadable | {photos.names[place]: reason for place, reason in unreadable.items()}
    if every and how.unreadable == "stop":
        raise UserError(_refusal(photos.folder, every, key))
    left = set(_without(photos, unreadable).labels)
    for name, label in zip(photos.names, photos.labels, strict=False):
        if label not in left:
            raise UserError(f"no photo in {(photos.folder / name).parent} can be read; add some, or remove it")


def _refusal(folder: Path, unreadable: Mapping[str, str], key: str) -> str:
    """The message about what can't be read; many are listed in a file."""
    mend = "replace or remove {0}, or let train.py or evaluate.py go on without {0}: --unreadable skip"
    if len(unreadable) == 1:
        ((name, reason),) = unreadable.items()
        return f"{in_utf8(str(folder / name))} {reason}; {mend.format('it')}"
    lines = [f"{in_utf8(name)} {reason}" for name, reason in unreadable.items()]
    shown = f"{len(lines)} photos in {folder} can't be read: "
    message = f"{shown}{'; '.join(lines)}; {mend.format('them')}"
    if len(lines) <= _LISTED and len(message) < LONGEST_MESSAGE:
        return message
    file = cache_folder() / "unreadable" / f"{key}.txt"
    try:
        write_atomic(file, "".join(f"{in_utf8(str(folder / n))}\t{why}\n" for n, why in unreadable.items()))
    except OSError:
        where = f"{len(lines) - NAMED} more"
    else:
        where = f"all are listed in {file}"
    some = "; ".join(printable(line, 300) for line in lines[:NAMED])
    return f"{shown}{some}; … {where}; {mend.format('them')}"


def _without(photos: Photos, unreadable: Mapping[int, str]) -> Photos:
    """Those that are left."""
    left = [place for place in range(len(photos.names)) if place not in unreadable]
    return replace(
        photos,
        names=[photos.names[place] for place in left],
        labels=[photos.labels[place] for place in left] if photos.labels else [],
        stamps=[photos.stamps[place] for place in left],
        unreadable=photos.unreadable | {photos.names[place]: reason for place, reason in unreadable.items()},
    )


def _open(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]] | None:
    """The cached array, in memory or mapped by its size, and the positions of the photos that could not be read, with why; None when
    there is none, or a damaged one."""
    try:
        if not _is_whole(path):
            return None
        in_memory = np.prod(shape, dtype=np.int64) < IN_MEMORY_BYTES
        images = np.load(path, mmap_mode=None if in_memory else "c", allow_pickle=False)
        unreadable = _unreadable_of(path)
    except (OSError, ValueError, EOFError):
        return None
    return (images, unreadable) if images.shape == shape and images.dtype == np.uint8 else None


def _unreadable_of(path: Path) -> dict[int, str]:
    """What stands behind the array. Errors: `OSError`, `ValueError`."""
    with open(path, "rb") as file:
        file.seek(-_LENGTH_BYTES - _CRC_BYTES, os.SEEK_END)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        file.seek(-_LENGTH_BYTES - length, os.SEEK_CUR)
        return {int(place): str(reason) for place, reason in json.loads(file.read(length)).items()}


def _is_whole(path: Path) -> bool:
    """Whether the file is what its last four bytes say. Reads it once, in order, a block at a time: it may be larger than memory."""
    block, crc = bytearray(_BLOCK_BYTES), 0
    with open(path, "rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size - _CRC_BYTES
        while left > 0 and (count := file.readinto(memoryview(block)[:left])):
            crc, left = zlib.crc32(memoryview(block)[:count], crc), left - count
        return left == 0 and file.read(_CRC_BYTES) == crc.to_bytes(_CRC_BYTES, "little")


def _as_tensor(images: np.ndarray) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    if isinstance(images, np.memmap):
        _mapped[tensor.untyped_storage().data_ptr()] = images
    return tensor


def _remove_outdated(path: Path, key: str) -> None:
    """Removes the files decoded from earlier states of the same folder, and what killed processes have left."""
    for other in path.parent.glob(f"{key}-*.npy"):
        if other != path:
            other.unlink(missing_ok=True)
    for temporary in path.parent.glob(f".{key}-*.tmp.npy"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > _ABANDONED_SECONDS:
                temporary.unlink()


@contextlib.contextmanager
def _explained(cache: Path, shape: tuple[int, ...]) -> Iterator[None]:
    """An `OSError` while writing becomes a `UserError` that says where, how much, and what to set; a worker that was killed a
    `RunError`."""
    try:
        yield
    except BrokenProcessPool as error:
        raise RunError(
            "a process that decoded photos was killed, by the system if memory ran out; free some, or choose a smaller "
            "--image_size, and begin again: nothing half-decoded is kept"
        ) from error
    except OSError as error:
        megabytes = np.prod(shape, dtype=np.int64) / 1e6
        raise UserError(
            f"the decoded photos ({megabytes:.1f} MB) can't be written to {cache} ({error.strerror or error}); "
            "free some space there, or set FINETUNE_CACHE to a folder that can be written"
        ) from error


# --- decoding ---------------------------------------------------------------------------------------------------------


def _decode(photos: Photos, how: Decoding, target: Path) -> dict[int, str]:
    """Writes the decoded photos to `target`, a chunk at a time, so that memory stays bounded → the positions of those that can't be
    read, with why."""
    names, size = photos.names, how.image_size
    image_bytes = 3 * size**2
    per_task = photos_a_task(how)
    starts = range(0, len(names), per_task)
    tasks = [[photos.folder / name for name in names[start : start + per_task]] for start in starts]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(names), size, size, 3)}
    unreadable: dict[int, str] = {}
    with (
        open(target, "wb") as file,
        progress_bar(total=len(names), desc=f"decoding {photos.folder.name}", unit=" photos") as bar,
    ):
        crc = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal crc
            file.write(data)
            crc = zlib.crc32(data, crc)

        start = io.BytesIO()
        np.lib.format.write_array_header_2_0(start, header)
        write(start.getvalue())
        _reserve(file.fileno(), file.tell() + len(names) * image_bytes)
        for first, task, (images, reasons) in zip(
            starts, tasks, decoded(tasks, how, workers_for(len(names))), strict=True
        ):
            write(images.data)
            unreadable |= {first + place: reason for place, reason in reasons.items()}
            bar.update(len(task))
        for _ in unreadable:
            write(bytes(image_bytes))
        behind = json.dumps(unreadable).encode()
        write(behind + len(behind).to_bytes(_LENGTH_BYTES, "little"))
        file.write(crc.to_bytes(_CRC_BYTES, "little"))
    return unreadable


def _reserve(file: int, count: int) -> None:
    """Room for so many bytes: a full disk is found now, not after an hour. Not every system and file system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM):
                raise

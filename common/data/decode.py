"""Photos on disk → one uint8 array, decoded once, kept in a cache folder and reused while its sources stay the same.

The cache is `FINETUNE_CACHE` or ~/.cache/resnext-finetuning. A file's name ends in a fingerprint of everything its
content depends on (names, sizes and times of the sources, image size, version of the decoding), so a file of the right
name is the right file: there is no index that could disagree with it, and two processes can't mislead each other. It is a
.npy file with four bytes more, a CRC-32 of all before, which is compared whenever the file is opened: a damaged one is made anew.

Decoding runs in worker processes. Measured on two cores: photos of 1280x960 gain as much from threads, but with
photos of 32x32, where the work is mostly Python's own, threads were 1.4 times slower than one and processes 1.6 times
faster. PyTorch is imported where it is used, so that the workers start in a quarter of a second and stay small.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import mmap
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.base.cores import usable_cores
from common.base.errors import RunError, UserError
from common.base.files import atomic_path, cache_folder
from common.base.locks import locked
from common.base.terminal import progress_bar

if TYPE_CHECKING:
    import torch


DECODE_VERSION = 3  # raise it when `read_photo` would give other pixels, or the file lays them out in another way
IN_MEMORY_BYTES = 256 << 20  # a set below this is read into memory, a larger one is mapped
_FILES_WORTH_WORKERS = 500  # fewer files are decoded before the workers have started
_CHUNK_BYTES = 4 << 20  # decoded pixels a task hands back at once
_CRC_BYTES = 4
_ABANDONED_SECONDS = 3600  # a temporary file untouched for so long belongs to a process that was killed
_mapped: weakref.WeakValueDictionary[int, np.memmap] = weakref.WeakValueDictionary()


# --- one photo --------------------------------------------------------------------------------------------------------


def read_photo(path: Path, image_size: int) -> np.ndarray:
    """One photo as uint8 (3, image_size, image_size): upright by its EXIF tag, RGB, short side resized, centre cropped.

    Errors: `UserError` naming the file when it is not a whole image.
    """
    try:
        with Image.open(path) as image:
            # JPEG decodes a large photo at a half, a quarter or an eighth; twice the size wanted keeps it sharp.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            upright = _to_rgb(ImageOps.exif_transpose(image))
            square = ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image of a known format; replace or remove the file") from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be read as an image ({reason}); replace or remove the file") from error
    return np.array(square).transpose(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8 rather than scale
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":  # its colours may have an alpha, which Pillow warns of unless it is asked for
        image = image.convert("RGBA")
    return image.convert("RGB")


# --- the cached set ---------------------------------------------------------------------------------------------------


def load_photos(folder: Path, names: Sequence[str], image_size: int) -> torch.Tensor:
    """The photos `names`, paths relative to `folder`, as uint8 (N, 3, image_size, image_size), channels_last, in the order
    given.

    Decoded when the cache has no file for these very sources. A set of `IN_MEMORY_BYTES` and more comes back as a
    private mapping of the file: writing to it changes neither the file nor anyone else's view.

    Errors: `UserError` naming the unreadable photo, or `FINETUNE_CACHE` when the cache can't be written; `RunError` when the
    system killed a worker.
    """
    folder = Path(folder).resolve()
    shape = (len(names), image_size, image_size, 3)
    stem = f"{folder.parent.name}-{folder.name}-{image_size}px"
    key = f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[-60:]}-{_digest(os.fsencode(folder), image_size)}"
    cache = cache_folder() / "photos"
    path = cache / f"{key}-{_fingerprint(folder, names, image_size)}.npy"
    images = _open(path, shape)
    if images is None:
        # Of several processes that need the same set, one decodes it, and the others wait and then find it.
        with _explained(cache, shape), locked(cache_folder() / "locks" / f"{key}.lock"):
            images = _open(path, shape)
            if images is None:
                if path.exists():
                    print(f"{path} is damaged: the photos are decoded anew", file=sys.stderr)
                with atomic_path(path) as temporary:
                    _decode(folder, names, image_size, temporary)
                _remove_outdated(path, key)
                images = _open(path, shape)
        if images is None:
            raise UserError(f"{path} vanished while it was read; set FINETUNE_CACHE to a folder that is left alone")
    return _as_tensor(images)


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


def _fingerprint(folder: Path, names: Sequence[str], image_size: int) -> str:
    """Changes with any source's name, order, size or modification time, the image size and the decoding."""
    digest = hashlib.sha256(f"{DECODE_VERSION} {image_size} {len(names)}\n".encode())
    for name in names:
        try:
            stat = os.stat(folder / name)
        except OSError as error:
            raise UserError(
                f"{folder / name} can't be read as an image ({error.strerror}); replace or remove it"
            ) from error
        digest.update(b"%b\0%d %d\n" % (os.fsencode(name), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:24]


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array, in memory or mapped by its size; None when there is none, or a damaged one."""
    try:
        if not _is_whole(path):
            return None
        in_memory = np.prod(shape, dtype=np.int64) < IN_MEMORY_BYTES
        images = np.load(path, mmap_mode=None if in_memory else "c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _is_whole(path: Path) -> bool:
    """Whether the file is what its last four bytes say. Reads it once, in order, a block at a time: it may be larger than memory."""
    block, crc = bytearray(_CHUNK_BYTES), 0
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


# --- decoding, in worker processes ------------------------------------------------------------------------------------


def _decode(folder: Path, names: Sequence[str], image_size: int, target: Path) -> None:
    """Writes the decoded photos to `target` as a .npy file, a chunk at a time, so that memory stays bounded."""
    image_bytes = 3 * image_size**2
    per_task = max(1, min(64, _CHUNK_BYTES // image_bytes))
    tasks = [[folder / name for name in names[start : start + per_task]] for start in range(0, len(names), per_task)]
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(names), image_size, image_size, 3)}
    with (
        open(target, "wb") as file,
        progress_bar(total=len(names), desc=f"decoding {folder.name}", unit=" photos") as bar,
    ):
        start = io.BytesIO()
        np.lib.format.write_array_header_2_0(start, header)
        file.write(start.getvalue())
        crc = zlib.crc32(start.getvalue())
        _reserve(file.fileno(), file.tell() + len(names) * image_bytes + _CRC_BYTES)
        for photos in _decoded(tasks, image_size, _workers(len(names))):
            file.write(photos.data)
            crc = zlib.crc32(photos.data, crc)
            bar.update(len(photos))
        file.write(crc.to_bytes(_CRC_BYTES, "little"))


def _reserve(file: int, count: int) -> None:
    """Room for so many bytes: a full disk is found now, not after an hour. Not every system and file system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM):
                raise


def _workers(files: int) -> int:
    return usable_cores() if files >= _FILES_WORTH_WORKERS else 1


def _read_photos(paths: list[Path], image_size: int) -> np.ndarray:
    """uint8 (n, image_size, image_size, 3)."""
    return np.stack([read_photo(path, image_size).transpose(1, 2, 0) for path in paths])


def _decoded(tasks: list[list[Path]], image_size: int, workers: int) -> Iterator[np.ndarray]:
    """The tasks' photos in order; at most a few tasks are ahead of the reader."""
    if workers == 1:
        yield from (_read_photos(task, image_size) for task in tasks)
        return
    # spawn: a fork would copy the threads' locks of whatever the parent has imported.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        pending: deque[Future[np.ndarray]] = deque()
        for task in tasks:
            pending.append(pool.submit(_read_photos, task, image_size))
            if len(pending) == 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; a parent that was killed takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

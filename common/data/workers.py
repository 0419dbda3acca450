"""Photos decoded in worker processes, in order, a few tasks ahead of whoever takes them: memory stays bounded, however many there are.

Measured on two cores: photos of 1280x960 gain as much from threads, but with photos of 32x32, where the work is mostly Python's own,
threads were 1.4 times slower than one and processes 1.6 times faster. Imports no torch, so that the workers start in a quarter of a
second and stay small.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from common.base.cores import usable_cores
from common.base.text import printable
from common.data.pixels import Decoding, UnreadablePhoto, read_photo

FILES_WORTH_WORKERS = 500  # fewer files are decoded before the workers have started
CHUNK_BYTES = 4 << 20  # decoded pixels a task hands back at once


def workers_for(files: int) -> int:
    """How many processes decode so many files; 1: this one."""
    return usable_cores() if files >= FILES_WORTH_WORKERS else 1


def photos_a_task(how: Decoding) -> int:
    """So many that what a task hands back at once stays small."""
    return max(1, min(64, CHUNK_BYTES // (3 * how.image_size**2)))


def read_photos(paths: list[Path], how: Decoding) -> tuple[np.ndarray, dict[int, str]]:
    """The photos that can be read, uint8 (n, image_size, image_size, 3), and the positions of the others, with why."""
    images, unreadable = [], {}
    for place, path in enumerate(paths):
        try:
            images.append(read_photo(path, how.image_size, how.fit).transpose(1, 2, 0))
        except UnreadablePhoto as error:
            unreadable[place] = printable(error.reason, 300)
    size = how.image_size
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), unreadable


def decoded(tasks: Iterable[list[Path]], how: Decoding, workers: int) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
    """What `read_photos` gives of the tasks, in order; at most a few tasks are ahead of the reader."""
    if workers == 1:
        yield from (read_photos(task, how) for task in tasks)
        return
    # spawn: a fork would copy the threads' locks of whatever the parent has imported.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        pending: deque[Future[tuple[np.ndarray, dict[int, str]]]] = deque()
        for task in tasks:
            pending.append(pool.submit(read_photos, task, how))
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

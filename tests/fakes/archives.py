"""Archives in CIFAR's own format and weights in torchvision's, small, served from a loopback address.

    make_cifar100(folder)
    make_weights(folder, "resnext50_32x4d")
    with serve(folder) as served:
        run_script("train.py", …, env={**script_environment(tmp_path), **environment(served)})

In the process so started, torchvision's own classes download from here: only addresses and checksums are replaced.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VARIABLE = "TEST_DOWNLOADS"

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Each of CIFAR-100's classes' superclass, as the real archive pairs `fine_labels` with `coarse_labels`.
CIFAR100_COARSE_LABELS = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]


def make_cifar100(folder: Path, train: int = 4, test: int = 2) -> Path:
    """cifar-100-python.tar.gz with so many images a class."""
    from common.data.cifar import CIFAR100_SUPERCLASSES

    def batch(name: str, per_class: int, seed: int) -> bytes:
        labels, pixels = _labelled_images(100, per_class, seed)
        coarse = [CIFAR100_COARSE_LABELS[label] for label in labels]
        common = {"filenames": _filenames(labels), "batch_label": f"{name} batch 1 of 1", "data": pixels}
        return python2_pickle({**common, "fine_labels": labels, "coarse_labels": coarse})

    fine = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)
    meta = {"fine_label_names": fine, "coarse_label_names": list(CIFAR100_SUPERCLASSES)}
    files = {"train": batch("training", train, 1), "test": batch("testing", test, 2), "meta": python2_pickle(meta)}
    return write_archive(folder / "cifar-100-python.tar.gz", {f"cifar-100-python/{k}": v for k, v in files.items()})


def make_cifar10(folder: Path, train: int = 2, test: int = 4) -> Path:
    """cifar-10-python.tar.gz with `train` images a class in each of its five batches, and `test` in the test batch."""

    def batch(name: str, per_class: int, seed: int) -> bytes:
        labels, pixels = _labelled_images(10, per_class, seed)
        return python2_pickle({"batch_label": name, "labels": labels, "data": pixels, "filenames": _filenames(labels)})

    files = {f"data_batch_{i}": batch(f"training batch {i} of 5", train, i) for i in range(1, 6)}
    files["test_batch"] = batch("testing batch 1 of 1", test, 6)
    meta = {"num_cases_per_batch": 10 * train, "label_names": CIFAR10_CLASSES, "num_vis": 3072}
    files["batches.meta"] = python2_pickle(meta)
    return write_archive(folder / "cifar-10-python.tar.gz", {f"cifar-10-batches-py/{k}": v for k, v in files.items()})


def write_archive(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """A .tar.gz of these members, in this order; a `TarInfo` is a member without content, such as a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def make_weights(folder: Path, name: str = "resnext50_32x4d") -> Path:
    """A state dict of the tiny network of that name, named as torchvision names its files: after the content's hash."""
    import torch
    from tiny_models import tiny_architectures

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = tiny_architectures()[name]().state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    path.write_bytes(buffer.getvalue())
    return path


@dataclass
class Served:
    """A folder behind an address."""

    folder: Path
    url: str
    requests: list[str] = field(default_factory=list)
    """paths that were asked for"""
    break_off_after: int | None = None
    """bytes of a file after which the connection ends; None: all are sent"""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Served]:
    """Serves `folder` until the block ends."""
    served = Served(folder, "")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=os.fspath(folder))

        def do_GET(self) -> None:
            served.requests.append(self.path)
            super().do_GET()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            outputfile.write(source.read(served.break_off_after))

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *arguments: Any) -> None:  # a client that hangs up early, as torchvision's does
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def downloads(served: Served) -> dict[str, Any]:
    """What `patch` needs to know: the address, the MD5 of every archive and of what is in it, and the weights' files."""
    md5s = {}
    for archive in served.folder.glob("*.tar.gz"):
        md5s[archive.name] = _md5(archive.read_bytes())
        with tarfile.open(archive) as tar:
            md5s |= {member.name: _md5(tar.extractfile(member).read()) for member in tar if member.isfile()}
    weights = {path.stem.rpartition("-")[0]: path.name for path in served.folder.glob("*.pth")}
    return {"url": served.url, "md5s": md5s, "weights": weights}


def environment(served: Served) -> dict[str, str]:
    """For a process that has tests/fakes/tiny on its PYTHONPATH: variables that make it download from `served`."""
    return {VARIABLE: json.dumps(downloads(served)), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def patch_from_environment() -> None:
    """In the process that was started with `environment(…)`."""
    patch(json.loads(os.environ[VARIABLE]))


def patch(known: dict[str, Any], setattr: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replaces addresses and checksums in torchvision's classes by those of `downloads`. `setattr` may be monkeypatch's."""
    from torchvision import models
    from torchvision.datasets import CIFAR10, CIFAR100

    url, md5s = known["url"], known["md5s"]
    for source in (CIFAR10, CIFAR100):
        if source.filename not in md5s:
            continue

        def md5(name: str, base: str = source.base_folder) -> str:
            return md5s.get(f"{base}/{name}", "missing from the archive")

        setattr(source, "url", f"{url}/{source.filename}")
        setattr(source, "tgz_md5", md5s[source.filename])
        setattr(source, "train_list", [[name, md5(name)] for name, _ in source.train_list])
        setattr(source, "test_list", [[name, md5(name)] for name, _ in source.test_list])
        setattr(source, "meta", {**source.meta, "md5": md5(source.meta["filename"])})
    for name, file in known["weights"].items():
        setattr(models.get_model_weights(name)["IMAGENET1K_V2"].value, "url", f"{url}/{file}")


def python2_pickle(value: Any) -> bytes:
    """The bytes that Python 2 wrote, as in the real archives: its strings are neither `str` nor `bytes` of today."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


class _Python2Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write(
            pickle.SHORT_BINSTRING + bytes([len(data)]) if short else pickle.BINSTRING + struct.pack("<i", len(data))
        )
        self.write(data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def _labelled_images(classes: int, per_class: int, seed: int) -> tuple[list[int], Any]:
    """Shuffled labels, and uint8 (N, 3072): gratings whose direction, spacing and colours tell the class, with noise."""
    import numpy as np

    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), per_class))
    colours = np.random.default_rng(0).uniform(-90, 90, (2, classes, 3, 1, 1))
    y, x = np.mgrid[:32, :32] / 32
    angle, waves = (2.4 * labels)[:, None, None], (1 + labels % 5)[:, None, None]
    phase = random.uniform(0, 2 * np.pi, (len(labels), 1, 1))
    grating = np.cos(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)[:, None]
    images = (
        128 + colours[0, labels] * grating + colours[1, labels] * 0.3 + random.normal(0, 8, (len(labels), 3, 32, 32))
    )
    return labels.tolist(), images.clip(0, 255).astype(np.uint8).reshape(len(labels), 3072)


def _filenames(labels: list[int]) -> list[str]:
    return [f"class_{label}_s_{i:06}.png" for i, label in enumerate(labels)]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

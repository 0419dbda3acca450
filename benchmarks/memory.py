"""Peak resident memory: training on 50,000 images of CIFAR's size beside the lab's loop, and on photos in a mapped file.

    python -m benchmarks.memory
    python -m benchmarks.memory --mapped True       # 100,000 photos at 64 px, decoded first: minutes

Every side is a process of its own. The project's is train.py as it is, with W&B offline, a validation, and both checkpoints; the lab's reads
the same files through torchvision and has neither. Goal: not more than the lab. With `--mapped`: memory does not grow with the
number of photos once they are a mapped file.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import statistics
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.timing import in_child, peak_mib, report_result, spread, table, verdict, words
from common.cli import parse, parse_train

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR100


@dataclass(frozen=True)
class MemoryConfig:
    images: int = 50_000
    image_size: int = 64
    batch_size: int = 16
    steps: int = 4
    rounds: int = 3
    mapped: bool = False
    """Photos in a mapped file instead."""
    photos: tuple[int, ...] = (10_000, 50_000, 100_000)
    """With `mapped`: how many."""
    child: Literal["project", "lab", "photos"] | None = None
    """Used by the benchmark itself, as is `folder`."""
    folder: str = ""


def write_cifar100(folder: Path, images: int) -> None:
    """Noise in the files of CIFAR-100; `images` for training, 100 for the test."""
    (folder / "cifar-100-python").mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", images), ("test", 100)):
        labels = [i % 100 for i in range(count)]
        batch = {
            "data": random.integers(256, size=(count, 3072), dtype=np.uint8),
            "fine_labels": labels,
            "coarse_labels": [label // 5 for label in labels],
        }
        (folder / "cifar-100-python" / name).write_bytes(pickle.dumps(batch))
    from common.data.cifar import CIFAR100_SUPERCLASSES

    names = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)
    (folder / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))


def accept(folder: Path) -> type[CIFAR100]:
    """torchvision's class, for which these files are the ones published."""
    from torchvision.datasets import CIFAR100

    def listed(name: str) -> list[str]:
        content = (folder / "cifar-100-python" / name).read_bytes()
        return [name, hashlib.md5(content, usedforsecurity=False).hexdigest()]

    CIFAR100.train_list, CIFAR100.test_list = [listed("train")], [listed("test")]
    CIFAR100.meta = {**CIFAR100.meta, "filename": "meta", "md5": listed("meta")[1]}
    return CIFAR100


def train_project(config: MemoryConfig, *flags: str) -> None:
    import train

    with tempfile.TemporaryDirectory() as runs:
        common = ["--weights", "none", "--image_size", str(config.image_size), "--batch_size", str(config.batch_size)]
        common += ["--max_steps", str(config.steps), "--runs_dir", runs]
        train.main(parse_train([*common, *flags]))


def train_lab(config: MemoryConfig) -> None:
    import torch
    import wandb
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from benchmarks.lab import lab_model, lab_training
    from common.data.batches import MEAN, STD

    resize = transforms.Resize((config.image_size, config.image_size))
    transform = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    dataset = accept(Path(config.folder))(config.folder, train=True, transform=transform)
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(mode="offline", dir=folder)
        for loss in islice(lab_training(lab_model(), loader, torch.device("cpu")), config.steps):
            run.log({"loss": loss})
        run.finish()


def child(config: MemoryConfig) -> None:
    if config.child == "project":
        accept(Path(config.folder))
        # As many validation images as are worth measuring the validation's memory with.
        fraction = str(max(4 * config.batch_size, 100) / config.images)
        train_project(config, "--data_dir", config.folder, "--validation_fraction", fraction)
    elif config.child == "lab":
        train_lab(config)
    else:
        train_project(config, "--dataset", "folder", "--data_dir", config.folder, "--validation_fraction", "0")
    report_result({"mib": peak_mib()})


def run_child(config: MemoryConfig, kind: str, folder: str, **environment: str) -> float:
    flags = {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "images": config.images,
    }
    command = ["-m", "benchmarks.memory", "--child", kind, "--folder", folder, *words(flags)]
    return in_child(command, WANDB_MODE="offline", WANDB_SILENT="true", **environment)["mib"]


def compare(config: MemoryConfig) -> None:
    peaks: dict[str, list[float]] = {"project": [], "lab": []}
    with tempfile.TemporaryDirectory() as folder:
        write_cifar100(Path(folder), config.images)
        for _ in range(config.rounds):
            for side in peaks:
                peaks[side].append(run_child(config, side, folder))
    share = [mine / theirs for mine, theirs in zip(peaks["project"], peaks["lab"], strict=True)]
    print(f"### memory, {config.images:,} images, {config.image_size} px, batch {config.batch_size}\n")
    cells = [
        spread(peaks["project"], 0),
        spread(peaks["lab"], 0),
        spread(share),
        verdict(statistics.median(share), 1, False),
    ]
    print(table(["project, MiB at most", "lab", "of the lab", "goal"], [cells]), flush=True)


def write_photos(root: Path, count: int) -> None:
    """`count` JPEGs of 64 px in ten classes: a thousand different ones, the others links to them."""
    from PIL import Image

    random = np.random.default_rng(0)
    different = []
    for number in range(count):
        path = root / "train" / f"class{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 1000:
            coarse = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64), Image.Resampling.BILINEAR).save(path)
            different.append(path)
        else:
            os.link(different[number % 1000], path)


def mapped(config: MemoryConfig) -> None:
    """In each row the first run decodes the photos, the second finds them decoded."""
    import time

    rows = []
    for count in config.photos:
        with tempfile.TemporaryDirectory() as photos, tempfile.TemporaryDirectory() as cache:
            write_photos(Path(photos), count)
            cells = []
            for _ in ("decodes", "reuses"):
                start = time.perf_counter()
                peak = run_child(config, "photos", photos, FINETUNE_CACHE=cache)
                cells += [f"{peak:.0f}", f"{time.perf_counter() - start:.0f}"]
            size = 3 * config.image_size**2 * count / 2**20
            rows.append([f"{count:,}", f"{size:.0f}", *cells])
    print(f"### memory, photos at {config.image_size} px; a set from 256 MiB on is mapped\n")
    header = [
        "photos",
        "decoded, MiB",
        "MiB at most, decoding",
        "seconds in all",
        "MiB at most, reused",
        "seconds in all",
    ]
    print(table(header, rows), flush=True)


def main(config: MemoryConfig) -> None:
    if config.child:
        child(config)
    elif config.mapped:
        mapped(config)
    else:
        compare(config)


if __name__ == "__main__":
    main(parse(MemoryConfig, description=__doc__))

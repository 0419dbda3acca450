"""One training run of each peer, on the same images from the same weights, as a process in the peer's own environment."""

import csv
import json
import os
import re
import shlex
import shutil
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from benchmarks.accuracy import measure
from benchmarks.subset import make_folder
from benchmarks.timing import call, words
from common.base.checked import Checked
from common.base.errors import UserError
from common.base.files import cache_folder, read_json, sha256_of
from common.config import Side
from common.data.folder import class_names
from common.data.photos import list_photos
from common.runs.folder import RunFolder

HERE = Path(__file__).parent
TIMM_TAG = "v1.0.28"

# What timm's author publishes for fine-tuning on other classes: a tenth of the learning rate of training from scratch
# (github.com/huggingface/pytorch-image-models/issues/25), of which train.py's default is 0.1 for 256 images. Its warm-up of five
# epochs, in steps of an epoch, would outlast a short run, so it is one epoch, and the rate changes with every update. The
# images are cropped to their subject already, so the test sees them whole, as the others' do. All else is train.py's default.
TIMM_FLAGS = "--lr-base 0.01 --warmup-epochs 1 --sched-on-updates --crop-pct 1.0"


@dataclass(frozen=True)
class PeersConfig(Checked):
    data_dir: str
    """Photos in train/<class>/ and test/<class>/."""
    weights: str
    """torchvision's ResNet-50 with ImageNet weights, as .safetensors."""
    image_size: Side = 96
    """Side in pixels."""
    epochs: Annotated[int, Ge(2)] = 4
    """fastai's `fine_tune` takes the first of them for the head alone."""
    batch_size: Annotated[int, Ge(2)] = 64
    validation_fraction: float = 0.357142
    """Share of train kept for validation: train.py's split by the seed, which is handed to the others."""
    seeds: Annotated[int, Ge(1)] = 3
    """Runs a peer, with the seeds 0, 1, …"""
    peers: tuple[Literal["fastai", "timm", "ours"], ...] = ("fastai", "timm", "ours")
    ours: str = "--preset best"
    """Flags of train.py, in quotes and with =, as in `--ours="--preset laptop"`."""
    timm: str = TIMM_FLAGS
    """Flags of timm's train.py beside those for data, size and duration, in quotes and with = too."""
    timm_train: str | None = None
    """train.py in a checkout of github.com/huggingface/pytorch-image-models, tag v1.0.28, with validate.py beside it."""
    minutes: Annotated[float, Gt(0)] = 600.0
    """No run begins later."""
    runs_dir: str = "runs/peers"
    """Where the results are kept, in results.jsonl; the same command goes on with them."""


@dataclass(frozen=True)
class Run:
    """One seed of a peer."""

    config: PeersConfig
    peer: str
    seed: int

    @property
    def flags(self) -> str:
        return {"fastai": "fine_tune's defaults", "timm": self.config.timm, "ours": self.config.ours}[self.peer]

    @property
    def key(self) -> dict[str, object]:
        """What sets it apart from all others. The version of ours is not part of it: a commit between two seeds begins no new row."""
        config = self.config
        common = ("image_size", "epochs", "batch_size", "validation_fraction")
        return {
            **{"peer": self.peer, "flags": self.flags, "seed": self.seed},
            **({} if self.peer == "ours" else {"version": version(self.peer)}),
            **{"data": str(Path(config.data_dir).resolve()), "weights": str(Path(config.weights).resolve())},
            **{name: getattr(config, name) for name in common},
        }

    @property
    def folder(self) -> Path:
        """Of what it leaves while it runs."""
        return Path(self.config.runs_dir).resolve() / f"{self.peer}-seed{self.seed}"

    def measure(self) -> dict[str, object]:
        """Trains and tests it → validation, test, seconds, steps; of ours the version as well."""
        shutil.rmtree(self.folder, ignore_errors=True)  # what an interrupted one has left
        self.folder.mkdir(parents=True)
        work: dict[str, Callable[[Run], dict[str, object]]] = {"fastai": fastai, "timm": timm, "ours": ours}
        result = work[self.peer](self)
        shutil.rmtree(self.folder)  # 300 MB
        return result


# --- environments -----------------------------------------------------------------------------------------------------


def requirements(peer: str) -> Path:
    return HERE / f"requirements-{peer}.txt"


def version(peer: str) -> str:
    """Of its package, as it is installed."""
    found = re.search(rf"^{peer}==(\S+)", requirements(peer).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{requirements(peer)} doesn't name {peer}"
    return found[1]


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment in the cache folder, which is made if it isn't there."""
    folder = cache_folder() / "peers" / f"{peer}-{sha256_of(requirements(peer))[:8]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    whole = folder / "whole"  # written last
    if not whole.exists():
        print(f"{folder}: installing {peer}, some gigabytes, once", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        call([python, "-m", "pip", "install", "-r", requirements(peer)])
        whole.touch()
    return python


# --- data -------------------------------------------------------------------------------------------------------------


def split_folder(config: PeersConfig, seed: int) -> Path:
    """{train,validation,test}/<class>/ of links, as train.py splits the photos by `seed`."""
    from common.data.folder import load_folder
    from common.data.pixels import Decoding
    from common.data.split import split_train

    source, target = Path(config.data_dir), Path(config.runs_dir).resolve() / f"split-seed{seed}"
    classes = class_names(source / "train")
    names, labels = list_photos(source / "train", classes)
    data = load_folder(source, "train", Decoding(config.image_size))  # of which the same photos are found
    parts = dict(zip(("train", "validation"), split_train(data, config.validation_fraction, seed), strict=True))
    files = {
        f"{part}/{classes[labels[i]]}/{i:06d}{Path(names[i]).suffix}": source / "train" / names[i]
        for part, indices in parts.items()
        for i in indices.tolist()
    }
    names, labels = list_photos(source / "test", classes)
    files |= {
        f"test/{classes[label]}/{i:06d}{Path(name).suffix}": source / "test" / name
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    }
    make_folder(target, files)
    return target


# --- peers ------------------------------------------------------------------------------------------------------------


def fastai(run: Run) -> dict[str, object]:
    config = run.config
    given = {
        "data": split_folder(config, run.seed),
        "weights": Path(config.weights).resolve(),
        **{name: getattr(config, name) for name in ("image_size", "epochs", "batch_size")},
        "seed": run.seed,
    }
    return json.loads(call([python_of("fastai"), HERE / "fastai_script.py", *words(given)]).splitlines()[-1])


def timm(run: Run) -> dict[str, object]:
    """timm's train.py, then its validate.py with the epoch that was best on validation, as ours is tested."""
    config, data = run.config, split_folder(run.config, run.seed)
    assert config.timm_train is not None
    train = Path(config.timm_train).resolve()
    device, amp = compute(config)
    classes = len(class_names(data / "train"))
    both: list[str | Path] = [
        "--data-dir",
        data,
        "--model",
        "resnet50.tv_in1k",
        "--num-classes",
        str(classes),
        "--device",
        device,
        *amp,
    ]
    both += ["--input-size", "3", str(config.image_size), str(config.image_size)]
    both += ["--batch-size", str(config.batch_size), "--workers", "2"]
    once: list[str | Path] = [
        "--pretrained",
        "--pretrained-path",
        Path(config.weights).resolve(),
        "--epochs",
        str(config.epochs),
    ]
    once += ["--seed", str(run.seed), "--output", run.folder, "--experiment", "timm", "--checkpoint-hist", "1"]
    start = time.perf_counter()
    call([python_of("timm"), train, *both, *once, *shlex.split(config.timm)], HF_HUB_OFFLINE="1")
    seconds = time.perf_counter() - start

    results, best = run.folder / "test.json", run.folder / "timm" / "model_best.pth.tar"
    crop = re.findall(r"--crop-pct[ =]\S+", config.timm)
    tested: list[str | Path] = [
        "--split",
        "test",
        "--checkpoint",
        best,
        "--results-file",
        results,
        "--results-format",
        "json",
    ]
    call([python_of("timm"), train.with_name("validate.py"), *both, *tested, *shlex.split(" ".join(crop))])
    with open(run.folder / "timm" / "summary.csv", encoding="utf-8") as file:
        validation = max(float(row["eval_top1"]) for row in csv.DictReader(file)) / 100
    images = sum(len(files) for _, _, files in os.walk(data / "train"))
    return {
        "validation": validation,
        "test": read_json(results)["top1"] / 100,
        "seconds": seconds,
        "steps": images // config.batch_size * config.epochs,  # its loader leaves out the last images of an epoch
    }


def compute(config: PeersConfig) -> tuple[str, list[str]]:
    """Where and how train.py would compute → timm's --device, and its flags for mixed precision."""
    import torch

    from common.base.device import choose_amp, choose_device

    device = choose_device("auto")
    dtype = choose_amp("auto", device, config.image_size)
    names = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return device.type, ["--amp", "--amp-dtype", names[dtype]] if dtype else []


def ours(run: Run) -> dict[str, object]:
    config, folder = run.config, RunFolder(run.folder / "run")
    given = {
        **{"dataset": "folder", "model": "resnet50", "log_weights": False, "seed": run.seed},
        **{"data_dir": Path(config.data_dir).resolve(), "weights": Path(config.weights).resolve()},
        **{name: getattr(config, name) for name in ("image_size", "epochs", "batch_size", "validation_fraction")},
    }
    result = measure([*words(given), *shlex.split(config.ours)], folder)
    return {
        "seconds": result["train_seconds"],
        **{name: result[name] for name in ("validation", "test", "steps", "version")},
    }


def check(config: PeersConfig) -> None:
    """What can be refused is, before anything is installed or written."""
    if not Path(config.weights).is_file():
        raise UserError(f"--weights {config.weights} is no file")
    if "timm" not in config.peers:
        return
    wanted = f"train.py in a checkout of github.com/huggingface/pytorch-image-models, tag {TIMM_TAG}"
    if config.timm_train is None:
        raise UserError(f"--peers timm needs --timm_train: {wanted}")
    for file in (Path(config.timm_train), Path(config.timm_train).with_name("validate.py")):
        if not file.is_file():
            raise UserError(f"--timm_train: {file} is no file; give {wanted}, which has validate.py beside it")

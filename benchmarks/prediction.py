"""predict.py beside evaluate.py, and beside timm's inference.py, on the same photos: images/s of whole commands, less their start.

    python -m benchmarks.prediction photos/test --checkpoint RUN --timm_inference pytorch-image-models/inference.py

A command's start is the time that it takes for one photo a class. Each runs in turn, with a cache of decoded photos that is empty, and the
weights alone, so that evaluate.py evaluates the test photos and nothing else. Goals: as fast as evaluate.py, and 1.5 times as fast as timm,
which runs in the environment of benchmarks.peers with the same architecture, size and batch; what its weights are changes nothing.
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge

from benchmarks.peers.runs import TIMM_TAG, python_of
from benchmarks.subset import make_folder
from benchmarks.timing import alternate, call, machine, ratios, spread, table, verdict, words
from common.base.checked import Checked, PathText
from common.base.errors import UserError, report_errors
from common.cli import parse
from common.config import TTA
from common.data.folder import class_names
from common.data.photos import list_photos

GOALS = {"evaluate.py": 1.0, "timm": 1.5}


@dataclass(frozen=True)
class PredictionConfig(Checked):
    photos: Annotated[PathText, tyro.conf.Positional]
    """A folder of class folders, with the classes of the weights."""
    checkpoint: PathText | None = None
    """A run or a file. None: the newest run's best."""
    timm_inference: PathText | None = None
    """inference.py in a checkout of github.com/huggingface/pytorch-image-models, tag v1.0.28. None: without timm."""
    batch_size: Annotated[int, Ge(1)] = 64
    workers: Annotated[int, Ge(1)] = max(2, os.cpu_count() or 2)
    """Processes of timm's that decode; ours are as many as there are cores."""
    tta: TTA = "none"
    """Of predict.py and evaluate.py."""
    rounds: Annotated[int, Ge(1)] = 3
    device: str = "auto"
    runs_dir: PathText = "runs"


def prepare(config: PredictionConfig, folder: Path) -> tuple[int, int, dict[str, str]]:
    """all/test/<class>/ and one/test/<class>/ with links to photos, and the weights alone for each → how many photos each has, and the
    flags of timm for such a network."""
    import torch

    from common.model.load import load_model
    from common.model.weights import load_weights, save_weights

    source = Path(config.photos)
    names, labels = list_photos(source, class_names(source))
    firsts = [names[labels.index(label)] for label in sorted(set(labels))]
    loaded = load_model(config.checkpoint, config.runs_dir, torch.device("cpu"))
    state, about = load_weights(loaded.path)
    for part, some in {"all": names, "one": firsts}.items():
        make_folder(folder / part, {f"test/{name}": source / name for name in some})
        own = {**about, "dataset": "folder", "data_dir": str(folder / part), "run_id": part}
        save_weights(folder / "runs" / part / "checkpoints" / "best.safetensors", state, own)
    size, classes = loaded.metadata.image_size, len(loaded.metadata.classes)
    timm = {"model": loaded.metadata.model, "img-size": str(size), "num-classes": str(classes)}
    return len(names), len(firsts), timm


def commands(config: PredictionConfig, folder: Path, part: str, timm: dict[str, str]) -> dict[str, list[str | Path]]:
    common: list[str | Path] = [
        "--checkpoint",
        part,
        "--runs_dir",
        folder / "runs",
        "--batch_size",
        str(config.batch_size),
    ]
    common += ["--device", config.device, "--tta", config.tta]
    photos = folder / part / "test"
    output: list[str | Path] = ["--output", folder / f"{part}.csv", "--overwrite", "True"]
    found: dict[str, list[str | Path]] = {
        "predict.py": [sys.executable, "predict.py", photos, *common, *output],
        "evaluate.py": [sys.executable, "evaluate.py", *common],
    }
    if config.timm_inference:
        # Without a checkpoint it would download its own. Ours has the names of timm's parameters too.
        weights = folder / "runs" / part / "checkpoints" / "best.safetensors"
        own = {"checkpoint": weights, "batch-size": config.batch_size, "workers": config.workers}
        flags = words({**timm, **own, "device": timm_device(config)})
        script = Path(config.timm_inference).resolve()
        found["timm"] = [python_of("timm"), script, "--data-dir", photos, *flags, "--results-dir", folder / "timm"]
    return found


def timm_device(config: PredictionConfig) -> str:
    from common.base.device import choose_device

    return choose_device(config.device).type


def main(config: PredictionConfig) -> None:
    if config.timm_inference and not Path(config.timm_inference).is_file():
        raise UserError(
            f"--timm_inference {config.timm_inference} is no file; give inference.py of timm's tag {TIMM_TAG}"
        )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        count, start_count, timm = prepare(config, folder)

        def side(command: Sequence[str | Path]) -> Callable[[], str]:
            def run() -> str:
                shutil.rmtree(folder / "cache" / "photos", ignore_errors=True)
                return call(command, FINETUNE_CACHE=str(folder / "cache"), WANDB_MODE="disabled", HF_HUB_OFFLINE="1")

            return run

        sides = {
            f"{name} {part}": side(command)
            for part in ("one", "all")
            for name, command in commands(config, folder, part, timm).items()
        }
        seconds = alternate(sides, config.rounds)
    photos = count - start_count
    # Noise may make a start longer than the whole, where there are few photos.
    took = {
        name.removesuffix(" all"): [
            max(1e-3, all_ - one) for all_, one in zip(values, seconds[name.replace(" all", " one")], strict=True)
        ]
        for name, values in seconds.items()
        if name.endswith(" all")
    }
    rows = []
    for name, values in took.items():
        times = ratios(values, took["predict.py"])
        goal = verdict(statistics.median(times), GOALS[name]) if name in GOALS else ""
        rows.append([name, spread([photos / value for value in values], 1), spread(times) if goal else "", goal])
    print(f"### prediction, {timm['img-size']} px, {count} photos, batch {config.batch_size}\n\n{machine()}\n")
    print(table(["command", "images/s", "predict.py is so many times as fast", "goal"], rows), flush=True)


if __name__ == "__main__":
    with report_errors():
        main(parse(PredictionConfig, description=__doc__))

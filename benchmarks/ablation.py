"""What each part of a recipe is worth: it is switched off, or on, and all else stays.

    python -m benchmarks.subset CIFAR-100-dataset cifar100-9000 --train 140 --test 100
    python -m benchmarks.ablation --data_dir cifar100-9000 --weights resnet50.safetensors

Trains `train.py` with the flags of `--recipe`, once a row and seed, without each part that it has and with each that it has not, and takes
the validation accuracy after the last epoch, so that no epoch is chosen. Prints mean and standard deviation over the seeds as Markdown, and
writes them to `runs_dir`/ablation.json. The seeds come one after the other, so that what is done in the given time compares all rows; the
same command again goes on.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import ROOT, mean_and_deviation, table, words
from common.cli import parse, parse_train
from common.config import as_dict
from common.runs.folder import RunFolder, read_metrics

# Without the part, and with it.
Flags = dict[str, object]
PARTS: dict[str, tuple[Flags, Flags]] = {
    "the head first": ({"head_epochs": 0}, {"head_epochs": 20}),
    "cosine": ({"schedule": "constant"}, {"schedule": "cosine"}),
    "warm-up": ({"warmup_epochs": 0}, {"warmup_epochs": 0.5}),
    "nesterov": ({"nesterov": False}, {"nesterov": True}),
    "weight decay": ({"weight_decay": 0}, {"weight_decay": 5e-4}),
    "crop and flip": ({"augment": "none"}, {"augment": "basic"}),
    "label smoothing": ({"label_smoothing": 0}, {"label_smoothing": 0.1}),
    "mixup": ({"mixup_alpha": 0}, {"mixup_alpha": 0.2}),
    "cutmix": ({"cutmix_alpha": 0}, {"cutmix_alpha": 1.0}),
    "weight averaging": ({"ema_decay": 0}, {"ema_decay": 0.99}),
    "a lower lr of the backbone": ({"backbone_lr_scale": 1}, {"backbone_lr_scale": 0.1}),
    "a lower lr stage by stage": ({"layer_decay": 1}, {"layer_decay": 0.7}),
    "growing resolution": ({"progressive_from": None}, {"progressive_from": 64}),
    "the first stages frozen": ({"finetune": "full"}, {"finetune": "partial"}),
}


@dataclass(frozen=True)
class AblationConfig:
    data_dir: str
    """Photos in train/<class>/."""
    weights: str
    """ImageNet weights of `model`: a file, or one of train.py's names."""
    model: str = "resnet50"
    recipe: str = "--preset best"
    """Flags of train.py, in quotes and with =, as in `--recipe="--preset best --epochs 3"`."""
    image_size: int = 96
    validation_fraction: float = 0.357142
    """Of 140 photos a class: 50 to validate on."""
    seeds: int = 3
    only: tuple[str, ...] = ()
    """Names of the rows to train, in quotes; none: all."""
    minutes: float = 60.0
    """No run begins later."""
    runs_dir: str = "runs/ablation"


def rows_of(recipe: str, image_size: int) -> dict[str, Flags]:
    """Name → the flags that it changes in `recipe` at `image_size`: none, then a part more or less at a time."""
    own = as_dict(parse_train(shlex.split(recipe)))
    rows: dict[str, Flags] = {"the recipe": {}}
    for name, (without, with_it) in PARTS.items():
        absent = all(own[flag] == value for flag, value in without.items())
        rows[f"with {name}" if absent else f"without {name}"] = with_it if absent else without
    for policy in ("randaugment", "trivialaugment"):
        if own["augment"] != policy:
            rows[f"with {policy}"] = {"augment": policy}
    for times, name in ((0.5, "half"), (2, "twice")):
        rows[f"at {name} the lr"] = {"lr": own["lr"] * times}
    for size in (image_size * 2 // 3, image_size * 4 // 3):
        rows[f"at {size} px"] = {"image_size": size}
    return rows


def run_folder(config: AblationConfig, row: str, seed: int) -> RunFolder:
    return RunFolder(Path(config.runs_dir) / f"{row.replace(' ', '-')}-seed{seed}")


def finished(folder: RunFolder) -> bool:
    return folder.read_summary().status == "finished"


def train(config: AblationConfig, row: str, seed: int) -> None:
    """One run, unless it is there; what an interrupted one has left is removed."""
    folder = run_folder(config, row, seed)
    if finished(folder):
        return
    shutil.rmtree(folder.path, ignore_errors=True)
    shared = ("data_dir", "weights", "model", "image_size", "validation_fraction", "runs_dir")
    flags: Flags = {"dataset": "folder", "log_weights": False, "seed": seed, "run_id": folder.id}
    flags |= {name: getattr(config, name) for name in shared}
    changed = rows_of(config.recipe, config.image_size)[row]
    command = [sys.executable, str(ROOT / "train.py"), *shlex.split(config.recipe), *words(flags | changed)]
    done = subprocess.run(command, env={**os.environ, "WANDB_MODE": "disabled"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{row}, seed {seed}: train.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    for checkpoint in (folder.last, folder.best):  # 300 MB a run
        checkpoint.unlink(missing_ok=True)
    print(f"{row}, seed {seed}: {accuracy(folder):.4f}", file=sys.stderr, flush=True)


def accuracy(folder: RunFolder) -> float:
    return [row["validation/accuracy"] for row in read_metrics(folder) if "validation/accuracy" in row][-1]


def main(config: AblationConfig) -> None:
    deadline = time.monotonic() + 60 * config.minutes
    names = list(config.only or rows_of(config.recipe, config.image_size))
    for seed in range(config.seeds):
        for row in names:
            if time.monotonic() < deadline:
                train(config, row, seed)

    done = {row: [s for s in range(config.seeds) if finished(run_folder(config, row, s))] for row in names}
    accuracies = {row: {seed: accuracy(run_folder(config, row, seed)) for seed in seeds} for row, seeds in done.items()}
    rows = []
    for row, by_seed in accuracies.items():
        # A part is worth the difference at the same seed, where split, order and first weights are the same.
        both = by_seed.keys() & accuracies["the recipe"].keys() if row != "the recipe" else ()
        worth = (
            mean_and_deviation([by_seed[seed] - accuracies["the recipe"][seed] for seed in sorted(both)])
            if both
            else ""
        )
        seconds = [run_folder(config, row, seed).read_summary().seconds or 0.0 for seed in by_seed]
        values = list(by_seed.values())
        rows.append(
            [row, mean_and_deviation(values), worth, len(values), f"{statistics.mean(seconds):.0f}"]
            if values
            else [row, "", "", 0, ""]
        )
    result = Path(config.runs_dir) / "ablation.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"config": vars(config), "accuracies": accuracies}, indent=1))
    print(f"### ablation of `{config.recipe}`, {config.image_size} px\n")
    print(table(["recipe", "validation accuracy, %", "against the recipe", "seeds", "seconds a run"], rows), flush=True)


if __name__ == "__main__":
    main(parse(AblationConfig, description=__doc__))

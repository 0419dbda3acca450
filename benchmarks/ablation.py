"""What each part of a recipe is worth: it is switched off, or on, and all else stays.

    python -m benchmarks.subset CIFAR-100-dataset cifar100-14000 --train 140 --test 100
    python -m benchmarks.ablation --data_dir cifar100-14000 --weights resnet50.safetensors

Trains `train.py` with the flags of `--recipe`, once a row and seed, without each part that it has and with each that it has not, and takes
the validation accuracy after the last epoch, so that no epoch is chosen. Prints mean and standard deviation over the seeds as Markdown. The
seeds come one after the other, so that what is done in the given time compares all rows; the same command again goes on. Two of them, with
other rows by `--only` and one `--runs_dir`, share the work of one.
"""

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.timing import ROOT, machine, mean_and_deviation, table, words
from common.base.files import append_line, read_json_lines
from common.base.version import code_version
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
    for policy in ("photos", "randaugment", "trivialaugment"):
        if own["augment"] != policy:
            rows[f"with {policy}"] = {"augment": policy}
    for times, name in ((0.5, "half"), (2, "twice")):
        rows[f"at {name} the lr"] = {"lr": own["lr"] * times}
    for size in (image_size * 2 // 3, image_size * 3 // 2):
        rows[f"at {size} px"] = {"image_size": size}
    return rows


def train(config: AblationConfig, row: str, seed: int) -> dict[str, Any]:
    """One run; what an interrupted one has left is removed. → its accuracy, and the CPU time of its process and those that it started,
    0 on Windows, where nobody counts it: other work beside it does not change that as it does the time."""
    folder = RunFolder(Path(config.runs_dir) / f"{row.replace(' ', '-')}-seed{seed}")
    shutil.rmtree(folder.path, ignore_errors=True)
    shared = ("data_dir", "weights", "model", "image_size", "validation_fraction", "runs_dir")
    flags: Flags = {"dataset": "folder", "log_weights": False, "seed": seed, "run_id": folder.id}
    flags |= {name: getattr(config, name) for name in shared}
    changed = rows_of(config.recipe, config.image_size)[row]
    command = [sys.executable, str(ROOT / "train.py"), *shlex.split(config.recipe), *words(flags | changed)]
    before = os.times()
    done = subprocess.run(command, env={**os.environ, "WANDB_MODE": "disabled"}, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{row}, seed {seed}: train.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    for checkpoint in (folder.last, folder.best):  # 300 MB a run
        checkpoint.unlink(missing_ok=True)
    accuracy = [entry["validation/accuracy"] for entry in read_metrics(folder) if "validation/accuracy" in entry][-1]
    seconds = sum(getattr(after, kind) - getattr(before, kind) for kind in ("children_user", "children_system"))
    print(f"{row}, seed {seed}: {accuracy:.4f}", file=sys.stderr, flush=True)
    return {"row": row, "seed": seed, "accuracy": accuracy, "cpu_seconds": seconds, "version": code_version()}


def main(config: AblationConfig) -> None:
    deadline = time.monotonic() + 60 * config.minutes
    names = list(config.only or rows_of(config.recipe, config.image_size))
    results = Path(config.runs_dir) / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    for seed, row in itertools.product(range(config.seeds), names):
        done = any((result["row"], result["seed"]) == (row, seed) for result in read_json_lines(results))
        if not done and time.monotonic() < deadline:
            append_line(results, json.dumps(train(config, row, seed)))
    print(f"### ablation of `{config.recipe}`, {config.image_size} px\n\n{machine()}\n")
    print(summary_table(read_json_lines(results), names), flush=True)


def summary_table(results: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Markdown, a row a recipe. A part is worth the difference at the same seed, where split, order and first weights are the same."""
    accuracies: dict[str, dict[int, float]] = {name: {} for name in ("the recipe", *names)}
    minutes: dict[str, list[float]] = {name: [] for name in accuracies}
    for result in results:
        if result["row"] in accuracies:
            accuracies[result["row"]][result["seed"]] = result["accuracy"]
            minutes[result["row"]].append(result["cpu_seconds"] / 60)
    lines = []
    for name in names:
        own, base = accuracies[name], accuracies["the recipe"]
        both = sorted(own.keys() & base.keys()) if name != "the recipe" else []
        worth = mean_and_deviation([own[seed] - base[seed] for seed in both]) if both else ""
        values = mean_and_deviation(list(own.values())) if own else ""
        lines.append([name, values, worth, len(own), f"{fmean(minutes[name]):.1f}" if own else ""])
    return table(["recipe", "validation accuracy, %", "against the recipe", "seeds", "CPU minutes a run"], lines)


if __name__ == "__main__":
    main(parse(AblationConfig, description=__doc__))

"""fastai's `fine_tune`, timm's train.py and this project's side by side: the same images, weights, size, batches and epochs.

    python -m benchmarks.subset CIFAR-100-dataset cifar100-14000 --train 140 --test 100
    python -m benchmarks.peers --data_dir cifar100-14000 --weights resnet50.safetensors --timm_train pytorch-image-models/train.py

fastai and timm run from their packages, in environments that are made in the cache folder once (FINETUNE_CACHE), with the versions of
benchmarks/peers/requirements-*.txt. All train on the same images and validate on the same others. Ours and timm's are tested with their best
epoch by validation, fastai's as `fine_tune` leaves it. Prints a Markdown table of this data's runs, and adds each run to `runs_dir`/results.jsonl
when it ends; the same command goes on, and one with other flags adds a row.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.runs import PeersConfig, Run, check
from benchmarks.timing import machine, mean_and_deviation, table
from common.base.errors import report_errors
from common.base.files import append_line, read_json_lines
from common.cli import parse

ALIKE = (
    "data",
    "weights",
    "image_size",
    "epochs",
    "batch_size",
    "validation_fraction",
)  # what a table's rows have in common


def main(config: PeersConfig) -> None:
    check(config)
    results = Path(config.runs_dir) / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * config.minutes
    runs = [Run(config, peer, seed) for seed in range(config.seeds) for peer in config.peers]
    for run in runs:
        if not done(read_json_lines(results), run.key) and time.monotonic() < deadline:
            row = {**run.measure(), **run.key}
            append_line(results, json.dumps(row))
            print(f"{run.peer}, seed {run.seed}: {row['test']:.4f}", file=sys.stderr, flush=True)
    print(f"### peers, {config.image_size} px, {config.epochs} epochs\n\n{machine()}\n")
    print(summary_table(alike(read_json_lines(results), runs[0].key)), flush=True)


def done(rows: Iterable[Mapping[str, Any]], key: Mapping[str, object]) -> bool:
    return any(key.items() <= row.items() for row in rows)


def alike(rows: Iterable[Mapping[str, Any]], key: Mapping[str, object]) -> list[Mapping[str, Any]]:
    """Those that may be compared: on the same data, at the same size and duration."""
    return [row for row in rows if all(row.get(name) == key[name] for name in ALIKE)]


def summary_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown, a row for each peer, its version and flags, in the order in which they came first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        package = "" if row["peer"] == "ours" else row["version"]
        groups.setdefault((row["peer"], package, row["flags"]), []).append(row)
    lines = []
    for (peer, _, flags), same in groups.items():
        versions = ", ".join(dict.fromkeys(str(row["version"]) for row in same))
        accuracies = [mean_and_deviation([row[part] for row in same]) for part in ("validation", "test")]
        minutes = statistics.mean(row["seconds"] for row in same) / 60
        lines.append([f"{peer} {versions}", f"`{flags}`", *accuracies, len(same), f"{minutes:.1f}", same[0]["steps"]])
    return table(["peer", "flags", "validation, %", "test, %", "seeds", "minutes", "steps"], lines)


if __name__ == "__main__":
    with report_errors():
        main(parse(PeersConfig, description=__doc__))

"""How good a recipe is and how long it takes, from the command to the report: `train.py`, then `evaluate.py`, as a person runs them.

    python -m benchmarks.accuracy --data_dir CIFAR-100-dataset --weights resnet50.safetensors
    python -m benchmarks.accuracy --data_dir photos --weights resnet50.safetensors --recipes="--preset laptop"

Trains each recipe once a seed, one seed after the other, tests it once, and prints a Markdown table. Photos are decoded anew for every
run, so its minutes are those of a first run, imports and all. The same command goes on: what has ended is not repeated, what was interrupted is
resumed. The runs stay in `runs_dir`, each recipe a group, for `compare.py`, `visualize.py` and `dashboard.py`.
"""

import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from annotated_types import Ge, Gt

from benchmarks.timing import ROOT, call, machine, mean_and_deviation, table, words
from common.analysis.report import Report
from common.base.checked import Checked
from common.base.errors import UserError, report_errors
from common.base.files import append_line, read_json_lines
from common.cli import parse
from common.runs.folder import RunFolder, read_metrics


@dataclass(frozen=True)
class AccuracyConfig(Checked):
    data_dir: str
    """Photos in train/<class>/ and test/<class>/."""
    weights: str
    """ImageNet weights of `model`: a file, or one of train.py's names."""
    model: str = "resnet50"
    recipes: str = "--preset lab; --preset laptop; --preset best"
    """Flags of train.py, recipe by recipe, in quotes and with =, as in `--recipes="--preset lab; --preset best --epochs 6"`."""
    seeds: Annotated[int, Ge(1)] = 1
    """Runs a recipe, with the seeds 0, 1, …"""
    minutes: Annotated[float, Gt(0)] = 600.0
    """No run begins later."""
    runs_dir: str = "runs/accuracy"
    """Where the runs are kept, and their times, in results.jsonl."""


def group_of(recipe: str) -> str:
    """The flags as a group's name: `--preset lab --epochs 4` → `preset-lab-epochs-4`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", recipe).strip("-")


def measure(flags: Sequence[str], folder: RunFolder) -> dict[str, Any]:
    """One run, begun or gone on with, and the test of its best epoch → accuracies, the test's 95 % interval, seconds of both processes, and
    from the command to the first epoch's validation accuracy."""
    clock, fresh = time.time(), not folder.last.exists()
    earlier = folder.read_summary().seconds or 0.0  # of a run that was interrupted
    begin = [*flags, "--run_id", folder.id] if fresh else ["--resume", folder.id]
    place = ["--runs_dir", str(folder.path.parent)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {"WANDB_MODE": "disabled", "FINETUNE_CACHE": cache}
        start = time.perf_counter()
        call([sys.executable, ROOT / "train.py", *begin, *place], **environment)
        trained = time.perf_counter()
        call([sys.executable, ROOT / "evaluate.py", "--checkpoint", folder.id, *place], **environment)
        tested = time.perf_counter()
    folder.last.unlink(missing_ok=True)  # 200 MB
    report, summary = Report.load(folder.evaluated().report), folder.read_summary()
    validated = [row for row in read_metrics(folder) if "validation/accuracy" in row]
    return {
        "validation": max((row["validation/accuracy"] for row in validated), default=None),
        **{name: report.metrics[f"test/{name}"] for name in ("accuracy", "macro_f1", "balanced_accuracy")},
        "unseen": unseen_accuracy(report),
        "interval": report.accuracy_interval,
        "first_seconds": validated[0]["time"] - clock if validated and fresh else None,
        "train_seconds": earlier + trained - start,
        "evaluate_seconds": tested - trained,
        "steps": summary.step,
        "version": summary.version,
    }


def unseen_accuracy(report: Report) -> float | None:
    """Of the test images that the training had not seen, exactly or nearly; None where that is not known or there are none."""
    found = report.duplicates
    if found is None or found.note:
        return None
    return found.accuracy_without if found.count else report.metrics["test/accuracy"]


def main(config: AccuracyConfig) -> None:
    weights = Path(config.weights)
    shared = {
        **{"dataset": "folder", "data_dir": Path(config.data_dir).resolve(), "model": config.model},
        **{"weights": weights.resolve() if weights.exists() else config.weights, "log_weights": False},
    }
    recipes = [recipe.strip() for recipe in config.recipes.split(";")]
    groups = {group_of(recipe): recipe for recipe in recipes}
    if len(groups) < len(recipes):
        raise UserError(f"--recipes: two of them would be the group {' or '.join(groups)}; name other flags")
    results = Path(config.runs_dir).resolve() / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * config.minutes
    for seed in range(config.seeds):
        for group, recipe in groups.items():
            run_id = f"{group}-seed{seed}"
            if time.monotonic() > deadline or any(row["run_id"] == run_id for row in read_json_lines(results)):
                continue
            given = {**shared, "group": group, "seed": seed}
            flags = [*words(given), *shlex.split(recipe)]
            row = {"run_id": run_id, "recipe": recipe, **measure(flags, RunFolder(results.with_name(run_id)))}
            append_line(results, json.dumps(row))
            print(f"{recipe}, seed {seed}: {row['accuracy']:.4f}", file=sys.stderr, flush=True)
    print(f"{machine()}\n\n{summary_table(read_json_lines(results), recipes)}", flush=True)


def summary_table(rows: Sequence[dict[str, Any]], recipes: Sequence[str]) -> str:
    """Markdown, a row a recipe: mean ± standard deviation over its seeds, and for the first of them the interval over test images."""
    lines = []
    for recipe in recipes:
        same = [row for row in rows if row["recipe"] == recipe]
        if not same:
            continue
        low, high = same[0]["interval"]
        validated, unseen, first = (
            [row[name] for row in same if row.get(name) is not None]
            for name in ("validation", "unseen", "first_seconds")
        )
        lines.append(
            [
                f"`{recipe}`",
                mean_and_deviation(validated) if validated else "",
                mean_and_deviation([row["accuracy"] for row in same]),
                f"{100 * low:.1f}–{100 * high:.1f}",
                mean_and_deviation(unseen) if unseen else "",
                *(mean_and_deviation([row[name] for row in same]) for name in ("macro_f1", "balanced_accuracy")),
                len(same),
                f"{fmean(first) / 60:.1f}" if first else "",
                *(f"{fmean(row[part] for row in same) / 60:.1f}" for part in ("train_seconds", "evaluate_seconds")),
            ]
        )
    header = [
        "recipe",
        "validation, %",
        "test, %",
        "95 % of seed 0",
        "of images unlike any in train, %",
        "macro F1, %",
        "balanced accuracy, %",
        "seeds",
        "to a first validation accuracy, minutes",
        "train.py, minutes",
        "evaluate.py, minutes",
    ]
    return table(header, lines)


if __name__ == "__main__":
    with report_errors():
        main(parse(AccuracyConfig, description=__doc__))

"""What each part of the `best` recipe is worth: it is switched off, the others stay.

    python -m benchmarks.ablation --data_dir photos --minutes 60

Trains `train.py --preset best` from random weights on your own photos, once a row and seed, and takes the validation accuracy after the last
epoch, so that no epoch is chosen. Prints the mean and standard deviation over the seeds as Markdown, and writes them to
`runs_dir`/ablation.json. The seeds come one after the other, so that what is done in the given time compares all rows; run the same command
again to go on.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import ROOT, table
from common.cli import parse
from common.runs.folder import RunFolder, read_metrics

PARTS: dict[str, dict[str, object]] = {
    "cosine and warm-up": {"schedule": "constant", "warmup_epochs": 0},
    "nesterov": {"nesterov": False},
    "label smoothing": {"label_smoothing": 0},
    "mixup and cutmix": {"mixup_alpha": 0, "cutmix_alpha": 0},
    "weight averaging": {"ema_decay": 0},
    "lower lr of the backbone": {"backbone_lr_scale": 1},
    "growing resolution": {"progressive_from": None},
}
ROWS: dict[str, dict[str, object]] = {
    "all": {},
    **{f"without {name}": changes for name, changes in PARTS.items()},
    "without any of them": {name: value for changes in PARTS.values() for name, value in changes.items()},
}


@dataclass(frozen=True)
class AblationConfig:
    data_dir: str
    """Photos in train/<class>/."""
    image_size: int = 32
    progressive_from: int = 16
    epochs: int = 6
    batch_size: int = 64
    lr: float = 0.02
    validation_fraction: float = 0.4
    seeds: int = 3
    minutes: float = 60.0
    """No run begins later."""
    jobs: int = 1
    """Runs at a time; the threads are divided among them."""
    runs_dir: str = "runs/ablation"


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
    own = (
        "data_dir",
        "image_size",
        "progressive_from",
        "epochs",
        "batch_size",
        "lr",
        "validation_fraction",
        "runs_dir",
    )
    flags = {
        **{"preset": "best", "dataset": "folder", "weights": "none", "log_weights": False},
        **{"amp": "none"},  # the same in all rows, also those whose images become smaller than bf16 can be trained with
        **{name: getattr(config, name) for name in own},
        **ROWS[row],
        **{"seed": seed, "run_id": folder.id},
    }
    command = [sys.executable, str(ROOT / "train.py"), *(word for k, v in flags.items() for word in (f"--{k}", str(v)))]
    threads = max(1, (os.cpu_count() or 1) // config.jobs)
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{row}, seed {seed}: train.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    for checkpoint in (folder.last, folder.best):  # 300 MB a run
        checkpoint.unlink(missing_ok=True)
    print(f"{row}, seed {seed}: {accuracy(folder):.4f}", file=sys.stderr, flush=True)


def accuracy(folder: RunFolder) -> float:
    return [row["validation/accuracy"] for row in read_metrics(folder) if "validation/accuracy" in row][-1]


def mean_and_deviation(values: list[float]) -> str:
    """In percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def main(config: AblationConfig) -> None:
    deadline = time.monotonic() + 60 * config.minutes
    runs = [(row, seed) for seed in range(config.seeds) for row in ROWS]

    def train_in_time(run: tuple[str, int]) -> None:
        if time.monotonic() < deadline:
            train(config, *run)

    with ThreadPoolExecutor(config.jobs) as pool:
        list(pool.map(train_in_time, runs))

    done = {row: [s for s in range(config.seeds) if finished(run_folder(config, row, s))] for row in ROWS}
    accuracies = {row: {seed: accuracy(run_folder(config, row, seed)) for seed in seeds} for row, seeds in done.items()}
    rows = []
    for row, by_seed in accuracies.items():
        # A part is worth the difference at the same seed, where split, order and first weights are the same.
        both = by_seed.keys() & accuracies["all"].keys() if row != "all" else ()
        worth = mean_and_deviation([by_seed[seed] - accuracies["all"][seed] for seed in sorted(both)]) if both else ""
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
    print(f"### ablation, {config.image_size} px, {config.epochs} epochs\n")
    print(table(["recipe", "validation accuracy, %", "against all", "seeds", "seconds a run"], rows), flush=True)


if __name__ == "__main__":
    main(parse(AblationConfig, description=__doc__))

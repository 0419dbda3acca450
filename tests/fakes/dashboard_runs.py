"""Run folders in the format that train.py, evaluate.py, visualize.py and sweep.py leave, without training anything."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from common.analysis.analyse import analyse, trust
from common.analysis.predictions import Predictions
from common.analysis.report import Checkpoint, Evaluated, Report, Thumbnails
from common.config import TrainConfig, as_dict
from common.runs.folder import RunFolder

CLASSES = tuple(f"{kind}{n}" for kind in ("cat", "dog", "car", "boat") for n in (1, 2, 3))
SUPERCLASSES = ("pets", "vehicles")
SUPERCLASS_OF = tuple(0 if name.startswith(("cat", "dog")) else 1 for name in CLASSES)
STARTED = 1_750_123_456.75  # seconds since 1970; five digits of it would be hours off


def make_run(
    runs_dir: Path,
    run_id: str,
    *,
    skill: float = 3.0,
    seed: int = 0,
    config_seed: int = 0,
    started: float = STARTED,
    status: str = "finished",
    epochs: int = 5,
    tested: bool = True,
    classes: tuple[str, ...] = CLASSES,
    superclasses: tuple[str, ...] | None = SUPERCLASSES,
    superclass_of: tuple[int, ...] | None = SUPERCLASS_OF,
    images_per_class: int = 40,
    **settings: object,
) -> Path:
    """A run of `epochs` epochs; `skill` is how far the right class's logit stands out (3: about 80 % right). `seed` draws
    its answers, `config_seed` is the flag."""
    folder = runs_dir / run_id
    (folder / "checkpoints").mkdir(parents=True)
    config = as_dict(TrainConfig.of(dataset="cifar100", run_id=run_id, epochs=epochs, seed=config_seed, **settings))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    accuracy = write_metrics(folder, epochs, skill, started)
    for name in ("last.pt", "best.safetensors"):
        (folder / "checkpoints" / name).write_bytes(b"weights")
    write_json(
        folder / "summary.json",
        {
            "run_id": run_id, "status": status, "error": "RuntimeError: out of memory" if status == "failed" else None,
            "started": started, "updated": started + 60 * epochs, "seconds": 60.0 * epochs, "best/epoch": epochs,
            "best/validation_accuracy": accuracy, "epoch": epochs, "step": 40 * epochs, "job_type": "train",
            "device": "cpu", "model": "resnext50_32x4d", "parameters_total": 23_184_804, "parameters_trainable": 23_184_804,
            "gflops_per_image": 4.23, "train_size": 45_000, "validation_size": 5_000, "classes": len(classes),
            "version": "0123456789ab", "wandb_url": None, "pid": os.getpid(), "host": socket.gethostname(),
        },
    )  # fmt: skip
    write_json(
        folder / "split.json",
        {"dataset": "cifar100", "data_dir": None, "classes": list(classes), "superclasses": superclasses,
         "superclass_of": superclass_of, "seed": 0, "validation_fraction": 0.1, "digest": "d" * 64,
         "train_size": 45_000, "validation": list(range(50))},
    )  # fmt: skip
    write_json(
        folder / "tracking.json",
        {
            "runs": [{"id": run_id, "job_type": "train", "project": "lab", "entity": None, "mode": "offline", "dirs": [], "started": started}],
            "artifacts": [
                {"name": "cifar100-split", "type": "dataset", "aliases": ["latest"], "digest": "d" * 64, "files": ["split.json"],
                 "metadata": {}, "run_id": run_id, "time": started, "uses": []},
                {"name": "resnext50_32x4d-cifar100", "type": "model", "aliases": ["best", "latest"], "digest": "a" * 64,
                 "files": ["checkpoints/best.safetensors"], "metadata": {}, "run_id": run_id, "time": started, "uses": []},
            ],
            "tables": [],
        },
    )  # fmt: skip
    write_machine(folder, epochs, started)
    if tested:
        evaluate(folder, classes, superclasses, superclass_of, images_per_class, skill, seed)
        write_grid(folder, classes)
    return folder


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, allow_nan=False))


def write_metrics(folder: Path, epochs: int, skill: float, started: float) -> float:
    """Curves towards `skill`; returns the last validation accuracy."""
    rows = []
    for step in range(10, 40 * epochs + 1, 10):
        row = {
            "step": step,
            "time": started + 1.5 * step,
            "epoch": step / 40,
            "lr": 0.1 * (1 - step / (40 * epochs + 1)),
        }
        row |= {
            "train/batch_loss": 3 * np.exp(-step / 80) + 0.1 * np.sin(step),
            "throughput/images_per_second": 400 + step % 7,
        }
        if step % 40 == 0:
            accuracy = float(1 - 0.9 * np.exp(-skill * step / (40 * epochs) / 2))
            row |= {"epoch": step // 40, "train/loss": 3 * np.exp(-step / 80), "train/accuracy": accuracy + 0.02}
            row |= {"validation/loss": 3 * np.exp(-step / 90), "validation/accuracy": accuracy,
                    "validation/top5_accuracy": (1 + accuracy) / 2}  # fmt: skip
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows[-1]["validation/accuracy"]


def write_machine(folder: Path, epochs: int, started: float) -> None:
    """console.log and system.jsonl, of a run that kept three of four cores busy."""
    told = [f"epoch {epoch}/{epochs}  train loss {3 / epoch:.3f}" for epoch in range(1, epochs + 1)]
    (folder / "console.log").write_text("\n".join(["--- 2025-06-17 01:24:16 ---", *told, ""]))
    rows = [
        {"time": started + 10 * n, "seconds": 10.0, "cores": 4, "process_cores": 3.0 + 0.5 * (-1) ** n, "machine_cores": 3.75,
         "disk_read": 2_000_000 * n, "disk_written": 500_000, "network_received": 1000, "network_sent": 100,
         "process_memory": 2_000_000_000 + n, "machine_memory": 6_000_000_000, "machine_memory_total": 16_000_000_000}
        for n in range(1, 6 * epochs + 1)
    ]  # fmt: skip
    (folder / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluate(folder, classes, superclasses, superclass_of, images_per_class, skill, seed) -> None:
    """evaluation/, of random logits in which neighbouring classes look alike."""
    generator, count = np.random.default_rng(seed), len(classes)
    labels = np.repeat(np.arange(count), images_per_class)
    logits = generator.normal(size=(len(labels), count)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += skill
    logits[np.arange(len(labels)), labels ^ 1 if count % 2 == 0 else labels] += skill / 2
    logits *= skill  # confident as such scores deserve, a little more
    predictions = Predictions(logits, labels, np.arange(len(labels)))
    wrong = np.flatnonzero(predictions.predicted != labels)[:1500]
    evaluation = RunFolder(folder).evaluated()
    evaluation.path.mkdir()
    calibration, answers = trust(predictions, predictions, "Fitted on validation.", "test")
    Report(
        **vars(analyse(predictions, classes, superclasses, superclass_of)),
        calibration=calibration,
        answers=answers,
        run_id=folder.name,
        job_id=f"{folder.name}-evaluation",
        created=STARTED,
        checkpoint=Checkpoint("checkpoints/best.safetensors", "a" * 64, "resnext50_32x4d", 5),
        dataset=Evaluated("cifar100", None, len(labels), "d" * 64, predictions.digest),
        thumbnails=Thumbnails(evaluation.thumbnails.name, 48, 32, wrong.tolist()),
        figures={"confusion": "confusion.png", "confused": "confused.png"},
    ).save(evaluation.report)
    predictions.save(evaluation.predictions)
    tiles = [drawing(classes[labels[n]], int(labels[n]), 48) for n in wrong]
    sheet(tiles, 32).save(evaluation.thumbnails, quality=85)
    for name in ("confusion", "confused"):
        sheet(tiles[:12], 4).save(evaluation.path / f"{name}.png")


def write_grid(folder: Path, classes: tuple[str, ...]) -> None:
    (folder / "visualization").mkdir()
    sheet([drawing(name, n, 150) for n, name in enumerate(classes[:12])], 4).save(
        folder / "visualization" / "random.png"
    )
    predictions = [
        {"index": n, "file": None, "true": name, "predicted": name, "confidence": 0.9, "top5": [[name, 0.9]]}
        for n, name in enumerate(classes[:12])
    ]
    write_json(
        folder / "visualization" / "predictions.json",
        {"which": "random", "created": STARTED, "figures": ["random.png"], "predictions": predictions},
    )


def drawing(name: str, label: int, size: int) -> Image.Image:
    """A square in the label's colour, its name on it."""
    image = Image.new("RGB", (size, size), f"hsl({label * 47 % 360}, 60%, 70%)")
    ImageDraw.Draw(image).text((3, size / 3), name[:8], fill="black")
    return image


def sheet(tiles: list[Image.Image], columns: int) -> Image.Image:
    size = tiles[0].width
    whole = Image.new("RGB", (columns * size, -(-len(tiles) // columns) * size), "white")
    for n, tile in enumerate(tiles):
        whole.paste(tile, (n % columns * size, n // columns * size))
    return whole


def make_sweep(runs_dir: Path, sweep_id: str, run_ids: list[str]) -> Path:
    """Trials over the given runs, and one more that failed."""
    folder = runs_dir / "sweeps" / sweep_id
    folder.mkdir(parents=True)
    metric = {"name": "validation/accuracy", "goal": "maximize"}
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump({"metric": metric, "parameters": {"lr": {"min": 0.001, "max": 0.1}}})
    )
    trials = [
        {"number": n, "run_id": run_id, "state": "complete", "value": 0.6 + 0.05 * n, "error": None,
         "parameters": {"lr": 0.001 * 3**n, "batch_size": 32 * (1 + n % 2), "schedule": ["constant", "cosine"][n % 2]}}
        for n, run_id in enumerate(run_ids)
    ]  # fmt: skip
    failed = {"number": len(run_ids), "run_id": "gone", "state": "fail", "value": None, "error": "diverged"}
    trials.append({**failed, "parameters": {"lr": 0.1, "batch_size": 64, "schedule": "cosine"}})
    write_json(folder / "trials.json", trials)
    return folder

"""Run folders → plain data, whatever state they are in.

A run may be training, may have died between two lines, or may not be a run at all. Nothing here raises for what a
folder holds: a part that is missing or torn is left out, and a sentence in the run's `problems` says so. Only the
fields named here are read, so nothing else that lies in a folder can reach the page.
"""

import json
import math
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.base.files import read_json_lines
from common.config import GROUP_OF, SETS_APART
from common.runs.folder import RunFolder, run_state

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: far faster
CURVE_POINTS = 200  # kept of a curve, so that a page over 200 long runs stays small
CURVES = [  # by epoch, by batch
    ["validation/accuracy", "validation/top5_accuracy", "validation/loss", "train/accuracy", "train/loss"],
    ["train/batch_loss", "lr", "throughput/images_per_second"],
]
CONFIG_FIELDS = frozenset(GROUP_OF)
FACTS = {
    "device": "Device",
    "parameters_total": "Parameters",
    "parameters_trainable": "Trainable parameters",
    "gflops_per_image": "GFLOPs an image",
    "train_size": "Training images",
    "validation_size": "Validation images",
    "classes": "Classes",
    "epoch": "Epochs done",
    "step": "Steps done",
    "version": "Code version",
    "host": "Host",
}
SCORES = [
    "precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high", "f1", "f1_low", "f1_high",
    "support", "predicted",
]  # fmt: skip
BIN = ["low", "high", "count", "confidence", "accuracy"]
COMPARISON = [
    "with", "accuracy", "other_accuracy", "difference_low", "difference_high", "only_this", "only_other", "p_value",
]  # fmt: skip
STATUS = {
    "finished": "Training ended as planned.",
    "running": "Still training.",
    "interrupted": "It was stopped by Ctrl-C or a signal, and saved its state.",
    "failed": "It ended with an error.",
    "crashed": "Its process is gone and never said that it ended: it was killed, or the machine stopped.",
    "unknown": "It left no summary: it died before its first save, or summary.json was lost.",
}
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError, NotImplementedError,
    yaml.YAMLError, zipfile.BadZipFile,
)  # fmt: skip


def find_runs(runs_dir: Path) -> list[Path]:
    """The run folders in `runs_dir`, or `runs_dir` itself when it is one. Errors: `OSError` when it can't be listed."""

    def is_run(path: Path) -> bool:
        return any((path / name).exists() for name in ("config.yaml", "metrics.jsonl", "summary.json", "checkpoints"))

    return [runs_dir] if is_run(runs_dir) else [path for path in sorted(runs_dir.iterdir()) if is_run(path)]


def signature(runs_dir: Path) -> dict[str, tuple[int, int]]:
    """Changes when a file that the page shows does."""
    found = {}
    for folder in (*find_runs(runs_dir), *runs_dir.glob("sweeps/*")):
        for pattern in ("*", "evaluation/*", "visualization/*"):
            for path in folder.glob(pattern):
                try:
                    stat = path.stat()
                except OSError:  # renamed between listing and looking
                    continue
                found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


def attempt(problems: list[str], name: str, read: Callable[[], Any], empty: Any, missing: str | None = None) -> Any:
    """`read()`; where that fails, `empty`, and why in `problems`. Quotes no content: a file may hold anything."""
    try:
        return read()
    except FileNotFoundError:
        if missing:
            problems.append(missing)
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or was cut short"
        problems.append(f"{name} was left out: {reason}.")
    return empty


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping. Errors: one of `UNREADABLE`."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(text) if path.suffix == ".json" else yaml.load(text, YAML_LOADER)
    if not isinstance(data, dict):
        raise TypeError(f"{path} holds no mapping")
    return data


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def number(value: Any) -> float | int | None:
    """A finite number in 5 significant digits, else None: what a chart can draw and JSON can hold."""
    if not _finite(value):
        return None
    return float(f"{value:.5g}") if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """Any value as JSON can hold it, its numbers shortened."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | str | None):
        return value
    return number(value) if isinstance(value, int | float) else str(value)


# ---------------------------------------------------------------------------------------------- one run


def read_run(path: Path) -> dict[str, Any]:
    """One run folder as plain data. Never raises for what the folder holds."""
    problems: list[str] = []
    summary = attempt(problems, "summary.json", lambda: read_mapping(path / "summary.json"), {})
    config = attempt(
        problems, "config.yaml", lambda: read_mapping(path / "config.yaml"), {}, "config.yaml is missing."
    )  # fmt: skip
    config = {key: plain(config[key]) for key in config if key in CONFIG_FIELDS}
    split = attempt(problems, "split.json", lambda: read_mapping(path / "split.json"), {})
    tracking = attempt(problems, "tracking.json", lambda: read_mapping(path / "tracking.json"), {})
    rows = attempt(problems, "metrics.jsonl", lambda: read_rows(path / "metrics.jsonl"), [])
    if not rows:
        problems.append("Nothing was logged yet: metrics.jsonl is missing or has no whole line.")
    report = attempt(problems, "evaluation/report.json", lambda: read_report(path / "evaluation" / "report.json"), None)
    if (path / "evaluation").is_dir() and not (path / "evaluation" / "report.json").exists():
        problems.append("The evaluation did not end: evaluation/report.json is missing.")

    started = number(summary.get("started"))
    times = [row["time"] for row in rows if number(row.get("time")) is not None]
    seconds = number(summary.get("seconds")) or (max(times) - min(times) if times else None)
    status = attempt(problems, "summary.json", lambda: run_state(RunFolder(path)), "unknown") if summary else "unknown"
    best_epoch, best_accuracy = best_of(summary, rows)
    run = {
        "id": path.name,
        "status": status if status in STATUS else "unknown",
        "status_text": STATUS.get(status, STATUS["unknown"]),
        "error": str(summary["error"]) if status == "failed" and summary.get("error") else None,
        "problems": problems,
        "config": config,
        "data": str(config.get("data_dir") if config.get("dataset") == "folder" else config.get("dataset", "?")),
        "facts": {label: plain(summary[key]) for key, label in FACTS.items() if summary.get(key) is not None},
        "started": started or min(times, default=None),
        "seconds": seconds,
        "best_epoch": best_epoch,
        "validation_accuracy": best_accuracy,
        "curves": curves_of(rows, started or min(times, default=0.0)),
        "report": report,
        "predictions": attempt(
            problems, "visualization/predictions.json", lambda: read_predictions(path / "visualization"), []
        ),
        "lineage": attempt(problems, "tracking.json", lambda: lineage_of(path, split, tracking, report), []),
    }
    run["commands"] = next_commands(path, run, tracking)
    return run


def read_rows(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl in order of step; of a step logged twice, the later row. What a crash tore is left out."""
    rows = {row["step"]: row for row in read_json_lines(path) if isinstance(row.get("step"), int)}
    return [rows[step] for step in sorted(rows)]


def best_of(summary: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """`(epoch, validation accuracy)` of the best epoch: from the summary, else from the curve."""
    if number(summary.get("best/validation_accuracy")) is not None:
        return number(summary.get("best/epoch")), number(summary["best/validation_accuracy"])
    scored = [(number(row.get("validation/accuracy")), number(row.get("epoch"))) for row in rows]
    best = max((pair for pair in scored if pair[0] is not None), key=lambda pair: pair[0], default=(None, None))
    return best[1], best[0]


def curves_of(rows: list[dict[str, Any]], started: float) -> list[dict[str, Any]]:
    """`[{"step", "epoch", "minutes", "values": {key: list}}, …]` by epoch and by batch, lists of equal length in each."""
    tables = []
    for keys in CURVES:
        points = [row for row in rows if any(_finite(row.get(key)) for key in keys)]
        if len(points) > CURVE_POINTS:  # evenly thinned, both ends kept
            points = [points[round(i * (len(points) - 1) / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
        logged = [key for key in keys if any(_finite(row.get(key)) for row in points)]
        if logged:
            tables.append(
                {
                    "step": [row["step"] for row in points],
                    "epoch": [rounded(row.get("epoch")) for row in points],
                    "minutes": [rounded(row.get("time"), started, 60) for row in points],
                    "values": {key: [number(row.get(key)) for row in points] for key in logged},
                }
            )
    return tables


def rounded(value: Any, origin: float = 0.0, unit: float = 1.0) -> float | None:
    return round((value - origin) / unit, 3) if _finite(value) else None


def read_report(path: Path) -> dict[str, Any]:
    """What the page shows of evaluation/report.json, its matrix as sparse `[true, predicted, count]` cells.

    Errors: one of `UNREADABLE`, also where a part has not the shape that evaluate.py gives it.
    """
    raw = read_mapping(path)
    classes = [str(name) for name in raw["classes"]]
    label = range(len(classes)).index  # refuses what is no class
    if not len(raw["confusion"]) == len(raw["per_class"]) == len(classes):
        raise ValueError("the matrix, the scores and the classes don't fit")
    superclasses, superclass_of = raw.get("superclasses"), raw.get("superclass_of")
    if superclasses:
        superclasses = [str(name) for name in superclasses]
        superclass_of = [range(len(superclasses)).index(superclass_of[i]) for i in range(len(classes))]
    (low, high), calibration, thumbnails = raw["accuracy_interval"], raw["calibration"], raw.get("thumbnails")
    return {
        "split": str(raw["split"]),
        "dataset": {key: plain(raw["dataset"].get(key)) for key in ("name", "size")},
        "checkpoint": {"sha256": str(raw["checkpoint"]["sha256"]), "epoch": number(raw["checkpoint"].get("epoch"))},
        "job_id": str(raw.get("job_id")),
        "wandb_url": web_address(raw.get("wandb_url")),
        "classes": classes,
        "superclasses": superclasses,
        "superclass_of": superclass_of if superclasses else None,
        "metrics": {str(key): number(value) for key, value in raw["metrics"].items()},
        "accuracy_interval": [float(low), float(high)],
        "per_class": [{key: number(row.get(key)) for key in SCORES} for row in raw["per_class"]],
        "cells": [[i, label(j), int(n)] for i, row in enumerate(raw["confusion"]) for j, n in enumerate(row) if n],
        "errors": plain(raw["errors"]),
        "confused": [[label(row["true"]), label(row["predicted"]), int(row["count"])] for row in raw["confused"][:100]],
        "calibration": {
            **{key: number(calibration.get(key)) for key in ("ece", "nll", "temperature", "ece_after", "nll_after")},
            **{key: [{of: number(row[of]) for of in BIN} for row in calibration.get(key) or []]
               for key in ("bins", "bins_after")},
            "note": str(calibration.get("note") or ""),
        },
        "label_issues": [
            {**plain(row), "given": label(row["given"]), "suggested": label(row["suggested"])}
            for row in raw["label_issues"][:60]
        ],
        "overlapping": [{**plain(row), "a": label(row["a"]), "b": label(row["b"])} for row in raw["overlapping_classes"][:30]],
        "comparison": {key: plain(raw["comparison"][key]) for key in COMPARISON} if raw.get("comparison") else None,
        "thumbnails": {key: thumbnails[key] for key in ("file", "columns", "images")} if thumbnails else None,
        "figures": {str(key): Path(str(name)).name for key, name in (raw.get("figures") or {}).items()},
    }  # fmt: skip


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """The images of the newest grid as rows `{"image", "true", "predicted", "confidence"}`."""
    return [
        {
            "image": str(row.get("file") or row.get("index")),
            "true": row["true"],
            "predicted": row["predicted"],
            "confidence": number(row["confidence"]),
        }
        for row in plain(read_mapping(folder / "predictions.json")["predictions"][:100])
    ]  # fmt: skip


def read_tiles(run: dict[str, Any], folder: Path) -> list[list]:
    """What the tiles of the thumbnails show, `[[true, predicted, confidence, dataset index], …]`.

    Errors: one of `UNREADABLE`.
    """
    with np.load(folder / "predictions.npz") as saved:
        logits, labels, indices = saved["logits"], saved["labels"], saved["indices"]
    row_of = {int(index): row for row, index in enumerate(indices)}
    rows = [row_of[index] for index in run["report"]["thumbnails"]["images"]]
    chosen = logits[rows].astype(np.float64)
    confidence = 1 / np.exp(chosen - chosen.max(axis=1, keepdims=True)).sum(axis=1)  # the softmax's largest value
    predicted = chosen.argmax(axis=1)
    return [
        [int(labels[row]), int(guess), round(float(sure), 3), int(indices[row])]
        for row, guess, sure in zip(rows, predicted, confidence, strict=True)
    ]


def web_address(value: Any) -> str | None:
    """Only http(s) may become a link: a `javascript:` address from a file must not."""
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def lineage_of(path: Path, split: dict, tracking: dict, report: dict | None) -> list[dict[str, Any]]:
    """Dataset → training → model → evaluation, as `{"kind", "title", "lines", "url"}` each."""

    def artifacts(kind: str) -> list[str]:
        logged = [a for a in tracking.get("artifacts", []) if a["type"] == kind]
        return [f"{a['name']}:{', '.join(map(str, a.get('aliases') or ['latest']))}" for a in logged]

    def digest(value: Any) -> str:
        return f"sha256 {str(value)[:12]}…"

    steps = []
    if split:
        held_out = len(split.get("validation") or [])
        sizes = f"{split.get('train_size', '?')} images to train on, {held_out} held out for validation"
        lines = [sizes, f"{len(split['classes'])} classes, seed {split.get('seed')}", digest(split.get("digest"))]
        steps.append(("Dataset", str(split.get("dataset")), [*lines, *artifacts("dataset")], None))
    jobs = tracking.get("runs", [])
    modes = [f"W&B {job.get('job_type')}: {job.get('mode')}, project {job.get('project')}" for job in jobs]
    steps.append(("Run", path.name, list(dict.fromkeys(modes)) or ["Not recorded by W&B"], None))
    if (path / "checkpoints" / "best.safetensors").exists():
        digests = [digest(a.get("digest")) for a in tracking.get("artifacts", []) if a["type"] == "model"][-1:]
        steps.append(("Model", "checkpoints/best.safetensors", [*dict.fromkeys(artifacts("model")), *digests], None))
    if report:
        of = report["checkpoint"]
        title = f"{report['split']} set of {report['dataset']['name']}"
        lines = [
            f"of the model {digest(of['sha256'])}",
            f"after epoch {of['epoch'] or 0:g}",
            f"W&B run {report['job_id']}",
        ]
        steps.append(("Evaluation", title, lines, report["wandb_url"]))
    return [dict(zip(("kind", "title", "lines", "url"), step, strict=True)) for step in steps]


def next_commands(path: Path, run: dict[str, Any], tracking: dict[str, Any]) -> list[dict[str, str]]:
    """The commands a person may want next for this run, `{"why", "command"}`."""
    name, commands = shlex.quote(run["id"]), []
    has_model = (path / "checkpoints" / "best.safetensors").exists()
    if run["status"] not in ("finished", "running") and (path / "checkpoints" / "last.pt").exists():
        commands.append(("Go on where it stopped", f"python train.py --resume {name}"))
    if run["report"] is None and has_model:
        commands.append(("Measure it on the test set", f"python evaluate.py --checkpoint {name}"))
    if has_model:
        commands.append(("See its surest mistakes", f"python visualize.py --checkpoint {name} --which errors"))
    if "'offline'" in str(tracking.get("runs")):
        commands.append(("Send what was recorded offline to W&B", "python sync.py"))
    return [{"why": why, "command": command} for why, command in commands]


# ---------------------------------------------------------------------------------------------- across runs


def differing_keys(runs: list[dict[str, Any]]) -> list[str]:
    """Settings that are not the same in all runs, those with the fewest distinct values first."""
    configs = [run["config"] for run in runs if run["config"]]
    keys = {key for config in configs for key in config} & SETS_APART
    distinct = {key: len({repr(config.get(key)) for config in configs}) for key in keys}
    return sorted((key for key in keys if distinct[key] > 1), key=lambda key: (distinct[key], key))


def read_sweeps(runs_dir: Path) -> list[dict[str, Any]]:
    """The sweeps under `runs_dir`, newest first: `{"id", "metric", "goal", "trials", "problems"}`."""
    sweeps = []
    for folder in sorted((path for path in runs_dir.glob("sweeps/*") if path.is_dir()), reverse=True):
        problems: list[str] = []
        spec = attempt(problems, "sweep.yaml", lambda folder=folder: read_mapping(folder / "sweep.yaml"), {})
        metric = spec.get("metric") if isinstance(spec.get("metric"), dict) else {}
        trials = attempt(
            problems, "trials.json", lambda folder=folder: read_trials(folder / "trials.json"), [],
            "trials.json is missing: no trial has ended yet.",
        )  # fmt: skip
        sweeps.append(
            {
                "id": folder.name,
                "metric": str(metric.get("name", "value")),
                "goal": "minimize" if metric.get("goal") == "minimize" else "maximize",
                "trials": trials,
                "problems": problems,
            }
        )
    return sweeps


def read_trials(path: Path) -> list[dict[str, Any]]:
    """Errors: one of `UNREADABLE`."""
    return [
        {
            "number": int(trial["number"]),
            "run_id": str(trial.get("run_id") or ""),
            "state": str(trial["state"]).lower(),
            "value": number(trial.get("value")),
            "parameters": {key: plain(value) for key, value in trial["parameters"].items() if key in CONFIG_FIELDS},
            "error": str(trial["error"]) if trial.get("error") else None,
        }
        for trial in json.loads(path.read_text(encoding="utf-8"))
    ]

"""Run folders → plain data, whatever state they are in.

A run may be training, may have crashed between two lines, or may not be a run at all. Nothing here raises for what a
folder holds: what is missing or torn becomes a sentence in the run's `problems`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

EPOCH_POINTS = 400  # points kept of a curve, so that a page over 200 long runs stays small
BATCH_POINTS = 240
SILENT_SECONDS = 15 * 60  # a run on another host counts as silent after this long without an update
# Settings that name or place a run instead of changing what it learns.
NOT_A_DIFFERENCE = {
    "run_id", "resume", "group", "tags", "runs_dir", "data_dir", "project", "entity", "log_every", "checkpoint_every",
}  # fmt: skip
MARKS_OF_A_RUN = ("config.yaml", "metrics.jsonl", "summary.json", "checkpoints")
WATCHED = ("*", "checkpoints/*", "evaluation/*", "visualization/*")  # what a page shows of a run folder


def is_run(path: Path) -> bool:
    """Whether a folder holds any of the files a training run leaves."""
    return any((path / name).exists() for name in MARKS_OF_A_RUN)


def find_folders(runs_dir: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The run folders, the sweep folders and the folders that are neither.

    `runs_dir` may itself be one run folder: the page is then about that run alone.
    """
    if is_run(runs_dir):
        return [runs_dir], [], []
    folders = sorted(p for p in runs_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
    sweeps = [p for f in folders if f.name == "sweeps" and not is_run(f) for p in sorted(f.iterdir()) if p.is_dir()]
    runs = [f for f in folders if is_run(f)]
    return runs, sweeps, [f for f in folders if not is_run(f) and f.name != "sweeps"]


def signature(folder: Path) -> tuple:
    """Changes when a file that the page shows changes: `(name, size, mtime)` of each."""
    found = []
    for pattern in WATCHED:
        for path in folder.glob(pattern):
            try:
                stat = path.stat()
            except OSError:  # renamed or removed between listing and looking
                continue
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


# ---------------------------------------------------------------------------------------------- files


def read_mapping(path: Path, problems: list[str], required: bool = False) -> dict[str, Any]:
    """A JSON or YAML file holding a mapping; `{}` and a sentence in `problems` when it does not."""
    name = f"{path.parent.name}/{path.name}" if path.parent.name in ("evaluation", "visualization") else path.name
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if path.suffix == ".yaml" else (
            json.loads(text)
        )  # fmt: skip
    except FileNotFoundError:
        if required:
            problems.append(f"{name} is missing.")
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        problems.append(f"{name} cannot be read: it is damaged or was cut short.")
        return {}
    if not isinstance(data, dict):
        problems.append(f"{name} does not hold what this project writes there.")
        return {}
    return {str(key): value for key, value in data.items()}


def number(value: Any) -> float | None:
    """A finite number with 5 significant digits, else None: what a chart can draw and JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def interval(value: Any) -> list[float] | None:
    """`[low, high]` of numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else [low, high]


def read_metrics(path: Path, problems: list[str]) -> dict[str, dict[str, list]]:
    """`metrics.jsonl` → `{"epoch": {key: [value, …]}, "batch": {…}}`, columns of equal length, thinned evenly.

    A batch row of a long run is parsed only if it will be drawn. The torn last line of a crashed run is skipped.
    """
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        problems.append("metrics.jsonl is missing: nothing was logged.")
        return {"epoch": {}, "batch": {}}
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror or error}.")
        return {"epoch": {}, "batch": {}}
    lines = [line for line in lines if line.strip()]
    epochs = thin([line for line in lines if '"train/loss"' in line], EPOCH_POINTS)
    batches = thin([line for line in lines if '"train/loss"' not in line], BATCH_POINTS)
    torn = 0
    tables = {}
    for name, kept in (("epoch", epochs), ("batch", batches)):
        rows = {}
        for line in kept:
            try:
                row = json.loads(line)
                rows[int(row["step"])] = row  # a resumed run may log a step again: the later row counts
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                torn += 1
        ordered = [rows[step] for step in sorted(rows)]
        keys = sorted({str(key) for row in ordered for key in row})
        tables[name] = {key: [number(row.get(key)) for row in ordered] for key in keys}
    if torn:
        lines_word = "line" if torn == 1 else "lines"
        problems.append(f"metrics.jsonl has {torn} unreadable {lines_word}, left out (a run that dies tears its last).")
    return tables


def thin(items: list, limit: int) -> list:
    """At most `limit` items, evenly spaced, the last always kept."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


# ---------------------------------------------------------------------------------------------- status


def process_alive(pid: Any) -> bool:
    """Whether a process of this machine has this id."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def run_status(summary: dict[str, Any], now: float) -> tuple[str, str]:
    """`(status, sentence)`: what became of a run, told apart by what it left behind.

    Statuses: finished, running, interrupted, failed, crashed, silent, unknown.
    """
    status = summary.get("status")
    if status == "running":
        host, updated = summary.get("host"), number(summary.get("updated"))
        if host in (None, socket.gethostname()):
            if process_alive(summary.get("pid")):
                return "running", "Still training."
            return (
                "crashed",
                "Its process is gone and it never said that it ended: it was killed, or the machine stopped.",
            )
        if updated is not None and now - updated < SILENT_SECONDS:
            return "running", f"Still training on {host}."
        return "silent", f"It runs on {host}, which has not been heard from for {duration(now - (updated or now))}."
    if status == "finished":
        return "finished", "Training ended as planned."
    if status == "interrupted":
        return "interrupted", "It was stopped (Ctrl-C or a signal) and saved its state."
    if status == "failed":
        return "failed", f"It ended with an error: {summary.get('error') or 'none was recorded'}."
    return "unknown", "It left no summary: it died before its first save, or summary.json was lost."


def duration(seconds: float | None) -> str:
    """`3725` → `1 h 2 min`."""
    if seconds is None or seconds < 0:
        return "–"
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


# ---------------------------------------------------------------------------------------------- evaluation


def read_report(folder: Path, run_id: str, problems: list[str]) -> dict[str, Any] | None:
    """`evaluation/report.json` with the confusion matrix as sparse cells, or None.

    Keys that are absent stay absent; values of a wrong shape are dropped and named in `problems`.
    """
    evaluation = folder / "evaluation"
    if not evaluation.is_dir():
        return None
    if not (evaluation / "report.json").exists():
        problems.append(
            f"The evaluation did not end: evaluation/report.json is missing. `python evaluate.py --checkpoint {run_id}`"
        )
        return None
    raw = read_mapping(evaluation / "report.json", problems)
    if not raw:
        return None
    report: dict[str, Any] = {}
    for key in ("accuracy", "top5_accuracy", "macro_f1", "superclass_accuracy", "ece"):
        report[key] = number(raw.get(key))
    report["accuracy_interval"] = interval(raw.get("accuracy_interval"))
    for key in ("split", "dataset", "data_dir", "image_size"):
        if isinstance(raw.get(key), str | int):
            report[key] = raw[key]
    classes = names(raw.get("classes"))
    matrix = raw.get("confusion_matrix")
    if classes and square(matrix, len(classes)):
        report["cells"] = [[i, j, n] for i, row in enumerate(matrix) for j, n in enumerate(row) if n]
        report["size"] = sum(n for _, _, n in report["cells"])
    elif matrix is not None:
        problems.append("evaluation/report.json: the confusion matrix does not fit the classes.")
    report["classes"] = classes
    superclasses, superclass_of = names(raw.get("superclasses")), raw.get("superclass_of")
    if superclasses and valid_superclasses(superclass_of, len(classes), len(superclasses)):
        report["superclasses"], report["superclass_of"] = superclasses, superclass_of
    report["per_class"] = [numbers_of(row) for row in mappings(raw.get("per_class")) if "class" in row]
    report["confused_pairs"] = [
        numbers_of(row) for row in mappings(raw.get("confused_pairs")) if "true" in row and "predicted" in row
    ][:200]
    calibration = raw.get("calibration")
    if isinstance(calibration, dict):
        report["calibration"] = {key: number(value) for key, value in calibration.items() if number(value) is not None}
        for key in ("bins", "bins_after"):
            report["calibration"][key] = [numbers_of(row) for row in mappings(calibration.get(key))]
    report["label_issues"] = [numbers_of(row) for row in mappings(raw.get("label_issues"))][:60]
    report["overlaps"] = [numbers_of(row) for row in mappings(raw.get("overlaps"))][:60]
    for key in ("checkpoint", "compare"):
        if isinstance(raw.get(key), dict):
            report[key] = numbers_of(raw[key])
    return report


def names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list | tuple) else []


def mappings(value: Any) -> list[dict]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list | tuple) else []


def square(matrix: Any, size: int) -> bool:
    """Whether `matrix` is `size` rows of `size` whole numbers, none negative."""
    return (
        isinstance(matrix, list)
        and len(matrix) == size
        and all(isinstance(row, list) and len(row) == size for row in matrix)
        and all(type(n) is int and n >= 0 for row in matrix for n in row)
    )


def valid_superclasses(superclass_of: Any, classes: int, superclasses: int) -> bool:
    return (
        isinstance(superclass_of, list)
        and len(superclass_of) == classes
        and all(type(s) is int and 0 <= s < superclasses for s in superclass_of)
    )


def numbers_of(row: dict) -> dict[str, Any]:
    """A row with its floats shortened and made safe for JSON (a NaN becomes None), at any depth."""

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return number(value)
        if isinstance(value, dict):
            return numbers_of(value)
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value if isinstance(value, str | int | None) else str(value)

    return {str(key): clean(value) for key, value in row.items()}


# ---------------------------------------------------------------------------------------------- runs


def read_run(path: Path, now: float | None = None) -> dict[str, Any]:
    """One run folder as plain data. Never raises for what the folder holds."""
    now = time.time() if now is None else now
    problems: list[str] = []
    run_id = path.name
    summary = read_mapping(path / "summary.json", problems)
    config = read_mapping(path / "config.yaml", problems, required=True)
    status, status_text = run_status(summary, now)
    curves = read_metrics(path / "metrics.jsonl", problems)
    report = read_report(path, run_id, problems)
    times = [t for table in curves.values() for t in table.get("time", []) if t is not None]
    started = number(summary.get("started")) or min(times, default=None)
    seconds = number(summary.get("seconds"))
    if seconds is None and times:
        seconds = max(times) - min(times)
    epoch, accuracy = best_epoch(summary, curves["epoch"])
    for table in curves.values():  # seconds since the start draw better than unix time, and are shorter
        table["time"] = [None if t is None else round(t - (started or 0), 1) for t in table.get("time", [])]
    run = {
        "id": run_id,
        "status": status,
        "status_text": status_text,
        "problems": problems,
        "config": {key: plain(value) for key, value in config.items()},
        "dataset": str(config.get("dataset", "?")),
        "group": str(config["group"]) if config.get("group") not in (None, "") else None,
        "started": started,
        "updated": number(summary.get("updated")) or max(times, default=None),
        "seconds": seconds,
        "duration": duration(seconds),
        "best_epoch": epoch,
        "validation_accuracy": accuracy,
        "facts": facts(summary),
        "wandb_url": web_address(summary.get("wandb_url")),
        "curves": curves,
        "report": report,
        "lineage": read_lineage(path, problems),
        "resumable": (path / "checkpoints" / "last.pt").exists(),
        "has_model": (path / "checkpoints" / "best.safetensors").exists(),
    }
    run["commands"] = next_commands(run)
    return run


def plain(value: Any) -> Any:
    """A setting as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, bool | int | str | None) else str(value)


def best_epoch(summary: dict[str, Any], epochs: dict[str, list]) -> tuple[float | None, float | None]:
    """`(epoch, validation accuracy)` of the best epoch, from the summary, else from the curve."""
    accuracy = number(summary.get("best/validation_accuracy"))
    if accuracy is not None:
        return number(summary.get("best/epoch")), accuracy
    curve = epochs.get("validation/accuracy", [])
    best = max((i for i, value in enumerate(curve) if value is not None), key=lambda i: curve[i], default=None)
    if best is None:
        return None, None
    return epochs.get("epoch", [None] * len(curve))[best], curve[best]


FACTS = {
    "model": "Model",
    "device": "Device",
    "parameters_total": "Parameters",
    "parameters_trainable": "Trainable parameters",
    "gflops_per_image": "GFLOPs an image",
    "train_size": "Training images",
    "validation_size": "Validation images",
    "classes": "Classes",
    "epoch": "Epochs done",
    "step": "Steps done",
    "version": "Code version (git)",
    "host": "Host",
}


def facts(summary: dict[str, Any]) -> dict[str, Any]:
    return {label: plain(summary[key]) for key, label in FACTS.items() if summary.get(key) is not None}


def web_address(value: Any) -> str | None:
    """Only http(s) may become a link: a `javascript:` address from a file must not."""
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def read_lineage(path: Path, problems: list[str]) -> dict[str, Any]:
    """`tracking.json` → `{"runs": […], "artifacts": […]}` with the fields that the page shows."""
    tracking = read_mapping(path / "tracking.json", problems)
    return {
        "runs": [
            {key: plain(row.get(key)) for key in ("id", "job_type", "mode", "project", "entity", "started")}
            for row in mappings(tracking.get("runs"))
        ],
        "artifacts": [
            {
                "name": str(row.get("name")),
                "type": str(row.get("type")),
                "aliases": names(row.get("aliases")),
                "digest": str(row.get("digest") or "")[:12],
                "files": names(row.get("files"))[:6],
                "run_id": plain(row.get("run_id")),
                "uses": names(row.get("uses")),
            }
            for row in mappings(tracking.get("artifacts"))
        ],
    }


def next_commands(run: dict[str, Any]) -> list[dict[str, str]]:
    """The commands that a person may want next for this run, with the reason for each."""
    commands = []
    name = run["id"]
    if run["status"] in ("interrupted", "crashed", "failed", "unknown", "silent") and run["resumable"]:
        commands.append({"why": "Go on where it stopped", "command": f"python train.py --resume {name}"})
    if run["report"] is None and run["has_model"]:
        commands.append({"why": "Measure it on the test set", "command": f"python evaluate.py --checkpoint {name}"})
    if run["has_model"]:
        commands.append({"why": "Look at predictions", "command": f"python visualize.py --checkpoint {name}"})
    if any(row["mode"] == "offline" for row in run["lineage"]["runs"]):
        commands.append({"why": "Send what was recorded offline to W&B", "command": "python sync.py"})
    return commands


# ---------------------------------------------------------------------------------------------- across runs


def differing_keys(runs: list[dict[str, Any]]) -> list[str]:
    """Settings whose value is not the same in all runs, those with the fewest distinct values first."""
    configs = [run["config"] for run in runs if run["config"]]
    keys = {key for config in configs for key in config} - NOT_A_DIFFERENCE
    distinct = {key: len({repr(config.get(key)) for config in configs}) for key in keys}
    return sorted((key for key in keys if distinct[key] > 1), key=lambda key: (distinct[key], key))


def read_sweeps(runs: list[dict[str, Any]], folders: list[Path]) -> list[dict[str, Any]]:
    """Groups of two runs or more, and every folder under `runs/sweeps`, as sweeps."""
    groups: dict[str, list[dict[str, Any]]] = {folder.name: [] for folder in folders}
    for run in runs:
        if run["group"]:
            groups.setdefault(run["group"], []).append(run)
    places = {folder.name: folder for folder in folders}
    sweeps = []
    for name, members in sorted(groups.items()):
        if len(members) < 2 and name not in places:
            continue
        problems: list[str] = []
        spec = read_mapping(places[name] / "sweep.yaml", problems, required=True) if name in places else {}
        searched = spec.get("parameters") if isinstance(spec.get("parameters"), dict) else {}
        varying = differing_keys(members)
        sweeps.append(
            {
                "id": name,
                "is_sweep": name in places,
                "runs": [run["id"] for run in members],
                "parameters": [key for key in map(str, searched) if key in varying] or varying,
                "trials": count_trials(places[name] / "study.db", problems) if name in places else {},
                "problems": problems,
            }
        )
    return sweeps


def count_trials(path: Path, problems: list[str]) -> dict[str, int]:
    """`{"complete": 12, "pruned": 6, …}` from Optuna's database, read without Optuna (its import is slow)."""
    if not path.exists():
        problems.append("study.db is missing: no trial has begun.")
        return {}
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            states = [state for (state,) in connection.execute("SELECT state FROM trials")]
        finally:
            connection.close()
    except sqlite3.Error:
        problems.append("study.db cannot be read: it is damaged, or not a study of Optuna's.")
        return {}
    return dict(Counter(str(state).lower() for state in states))

"""Run folders → plain data, whatever state they are in.

A run may be training, may have died between two lines, may be a stranger's, or may not be a run at all. Nothing here raises for
what a folder holds: a part that is missing or torn is left out, and a sentence in the run's `problems` says so. Only the
fields named here are read, so nothing else that lies in a folder can reach the page.
"""

import csv
import dataclasses
import hashlib
import io
import sys
from collections.abc import Callable
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any

from common.analysis.predictions import Predictions
from common.analysis.report import ClassScores, Report, Thumbnails, UnknownVersion, is_share
from common.base.errors import UserError
from common.base.files import lies_in, read_file, sha256_of
from common.base.records import read_record, read_yaml
from common.base.text import path_word
from common.config import GROUP_OF, SETS_APART
from common.dashboard.remedies import remedies
from common.export.card import card_of_run
from common.runs.find import is_file, is_folder, is_run
from common.runs.folder import SWEEPS, EvaluationFolder, RunFolder, SweepFolder, read_metrics, run_state
from common.runs.records import Shown, Split, Summary, Tracking, TrialRecord
from common.runs.rules import epochs_on_features

CURVE_POINTS = 200  # kept of a curve, so that a page over 200 long runs stays small
SPEED = "throughput/images_per_second"
CURVES = [  # by epoch, by batch
    [
        *("validation/accuracy", "validation/top5_accuracy", "validation/macro_f1", "validation/balanced_accuracy"),
        *("validation/loss", "train/accuracy", "train/loss"),
    ],
    ["train/batch_loss", "lr", SPEED],
]
FACTS = {
    "device": "Device",
    "parameters_total": "Parameters",
    "parameters_trainable": "Trainable parameters",
    "gflops_per_image": "GFLOPs an image",
    "train_size": "Training images",
    "validation_size": "Validation images",
    "classes": "Classes",
    "step": "Steps done",
    "averaged": "The mean of",
    "version": "Code version",
    "host": "Host",
    "processes": "Processes",
}
STATUS = {
    "finished": "Training ended as planned.",
    "running": "Still training.",
    "interrupted": "It was stopped before its end, by a signal such as Ctrl-C or by --max_minutes.",
    "failed": "It ended with an error.",
    "crashed": "Its process is gone and never said that it ended: it was killed, or the machine stopped.",
    "unknown": "It left no summary: it died before its first save, or summary.json was lost.",
}
EARLY = "--patience ended it: it had not become better for that many epochs."
LONGEST_CSV = 10_000_000  # bytes
NAMES = ("name", "superclass")  # of a class: the page has them as lists


# --- files ------------------------------------------------------------------------------------------------------------


def find_runs(runs_dir: Path) -> list[Path]:
    """The run folders in `runs_dir`, or `runs_dir` itself when it is one. Errors: `OSError` when it can't be listed."""
    return [runs_dir] if is_run(runs_dir) else [path for path in sorted(runs_dir.iterdir()) if is_run(path)]


def signature(runs_dir: Path) -> dict[str, tuple[int, int]]:
    """Changes when a file that the page shows does."""
    found = {}
    for folder in (*find_runs(runs_dir), *(runs_dir / SWEEPS).glob("*")):
        for place in (folder, RunFolder(folder).evaluation, RunFolder(folder).visualization):
            for path in place.glob("*"):
                try:
                    stat = path.stat()
                except OSError:  # renamed between listing and looking
                    continue
                found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


def attempt(problems: list[str], name: str, read: Callable[[], Any], empty: Any, missing: str | None = None) -> Any:
    """`read()`; where that fails, however it does, `empty`, and why in `problems`. Quotes no content: a file may hold anything."""
    try:
        return read()
    except UnknownVersion:
        problems.append(f"{name} was left out: it was written by a later version of this program.")
    except Exception as error:  # Pillow and NumPy have kinds of their own
        cause = error.__context__ if isinstance(error, UserError) else error  # what the file system said, if it did
        if not isinstance(cause, FileNotFoundError):
            said = cause.strerror if isinstance(cause, OSError) else None
            problems.append(f"{name} was left out: {said or 'it is damaged or was cut short'}.")
        elif missing:
            problems.append(missing)
    return empty


def named(file: Path, folder: RunFolder) -> str:
    """A run's file as its page names it: `evaluation/report.json`."""
    return file.relative_to(folder.path).as_posix()


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # an integer may have any length


def number(value: Any) -> float | int | None:
    """A finite number in 5 significant digits, else None: what a chart can draw and JSON can hold."""
    if type(value) is float:  # by far the most, of a page over a thousand runs a million
        return float(f"{value:.5g}") if isfinite(value) else None
    return value if _finite(value) else None


def plain(value: Any) -> Any:
    """Any value as JSON can hold it, dataclasses as their fields, its numbers shortened."""
    if type(value) in (int, float):
        return number(value)
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return plain(vars(value)) if dataclasses.is_dataclass(value) else str(value)


# --- one run ----------------------------------------------------------------------------------------------------------


def read_run(path: Path) -> dict[str, Any]:
    """One run folder: its `report` as a `Report` or None, the rest as plain data. Never raises for what the folder holds."""
    try:
        return _read_run(RunFolder(path))
    except Exception:  # a kind of damage that no one thought of must not cost the other runs their page
        return damaged_run(path)


def damaged_run(path: Path) -> dict[str, Any]:
    """What is shown of a run that can't be."""
    return _plain_run(RunFolder(path), ["It is damaged, and can't be shown."])


def _read_run(folder: RunFolder) -> dict[str, Any]:
    problems = list[str]()

    def part(file: Path, read: Callable[[Path], Any], empty: Any, missing: str | None = None) -> Any:
        return attempt(problems, named(file, folder), lambda: read(file), empty, missing)

    summary: Summary = part(folder.summary, lambda _: folder.read_summary(), Summary())
    settings = part(folder.config, read_yaml, None, f"{folder.config.name} is missing.")
    config = {key: plain(value) for key, value in (settings or {}).items() if key in GROUP_OF}
    split: Split | None = part(folder.split, lambda _: folder.read_split(), None)
    tracking: Tracking = part(folder.tracking, lambda _: folder.read_tracking(), Tracking())
    if tracking.damaged:
        problems.append(f"{len(tracking.damaged)} of the entries in {folder.tracking.name} left out: damaged.")
    rows = part(folder.metrics, lambda _: read_rows(folder), [])
    if not rows:
        problems.append(f"Nothing was logged yet: {folder.metrics.name} is missing or has no whole line.")
    flags = split.evaluated if split else ()
    evaluated = folder.evaluated(flags[-1] if flags else "test")
    unfinished = f"The evaluation did not end: {named(evaluated.report, folder)} is missing."
    report = part(evaluated.report, Report.load, None, unfinished if evaluated.path.is_dir() else None)

    started = summary.started
    times = [row["time"] for row in rows if number(row.get("time")) is not None]
    began = started or min(times, default=None)
    seconds = summary.seconds or (max(times) - began if times and began else None)
    status = (
        part(folder.summary, lambda _: run_state(folder, summary), "unknown") if summary != Summary() else "unknown"
    )
    best_epoch, best_accuracy = best_of(summary, rows)
    run = _plain_run(folder, problems) | {
        "status": status if status in STATUS else "unknown",
        "status_text": EARLY
        if status == "finished" and summary.stopped_early
        else STATUS.get(status, STATUS["unknown"]),
        "error": summary.error if status == "failed" else None,
        "config": config,
        "data": str(config.get("data_dir") if config.get("dataset") == "folder" else config.get("dataset", "?")),
        "facts": {label: plain(value) for key, label in FACTS.items() if (value := getattr(summary, key)) is not None}
        | ({} if (epochs := epochs_done(summary, rows)) is None else {"Epochs done": epochs}),
        "validated_on": validated_on(folder, split, config),
        "started": began,
        "seconds": number(seconds) or None,
        "best_epoch": best_epoch,
        "validation_accuracy": best_accuracy,
        "curves": curves_of(rows_of_images(rows, config), began or 0.0),
        "report": report,
        "issue_files": part(evaluated.label_issues, partial(read_issue_files, folder, report), []) if report else [],
        "predictions": part(folder.shown, read_shown, []),
        "lineage": lineage_of(folder, split, tracking, report),
        "card": None if settings is None else card_of_run(folder, report, summary.best_validation_accuracy, settings),
    }
    run["evaluate"] = folder.command("evaluate.py", "--checkpoint", folder.id, *flags)
    run["visualize"] = folder.command("visualize.py", "--checkpoint", folder.id, *flags)
    run["commands"] = next_commands(folder, run, tracking, flags)
    run["remedies"] = remedies(report, summary, split, config, named(evaluated.label_issues, folder))
    return run


def _plain_run(folder: RunFolder, problems: list[str]) -> dict[str, Any]:
    """All that the page asks of a run, as it is where nothing is known."""
    return {
        "id": folder.id,
        "status": "unknown",
        "status_text": STATUS["unknown"],
        "error": None,
        "problems": problems,
        "config": {},
        "data": "?",
        "facts": {},
        "validated_on": None,
        "started": None,
        "seconds": None,
        "best_epoch": None,
        "validation_accuracy": None,
        "curves": [],
        "report": None,
        "issue_files": [],
        "predictions": [],
        "lineage": [],
        "card": None,
        "commands": [],
        "remedies": [],
        "evaluate": folder.command("evaluate.py", "--checkpoint", folder.id),
        "visualize": folder.command("visualize.py", "--checkpoint", folder.id),
    }


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl in order of step; of a step logged twice, the later row. What a crash tore is left out."""
    rows = {row["step"]: row for row in read_metrics(folder)}
    return [rows[step] for step in sorted(rows)]


def best_of(summary: Summary, rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """`(epoch, validation accuracy)` of the best epoch: from the summary, else from the curve."""
    if summary.best_validation_accuracy is not None:
        return number(summary.best_epoch), number(summary.best_validation_accuracy)
    scored = [(number(row.get("validation/accuracy")), number(row.get("epoch"))) for row in rows]
    best = max(((score, epoch) for score, epoch in scored if score is not None), key=lambda pair: pair[0], default=None)
    return (best[1], best[0]) if best else (None, None)


def validated_on(folder: RunFolder, split: Split | None, config: dict[str, Any]) -> str | None:
    """Of two runs the same where both were validated on the same images with the same labels; None where that is not known.

    One's own photos are decoded to a size, so that the digest of their pixels says nothing about runs of several sizes."""
    if split is None or not split.validation:
        return None
    fixes = sha256_of(folder.label_fixes) if is_file(folder.label_fixes) else config.get("label_fixes")
    pixels = split.digest if split.dataset != "folder" else None
    about = (split.dataset, pixels, split.classes, split.train_size, split.validation, split.validation_folder, fixes)
    return hashlib.sha256(repr(about).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def epochs_done(summary: Summary, rows: list[dict[str, Any]]) -> float | None:
    """Whole epochs, and of a run that has not done one the part that it has; None where it has trained nothing that is known."""
    if summary.epoch:
        return summary.epoch
    logged = [float(row["epoch"]) for row in rows if _finite(row.get("epoch"))]
    return round(max(logged), 2) or None if logged else None


def curves_of(rows: list[dict[str, Any]], started: float) -> list[dict[str, Any]]:
    """`[{"step", "epoch", "minutes", "values": {key: list}}, …]` by epoch and by batch, lists of equal length in each."""
    tables = []
    for keys in CURVES:
        points = [row for row in rows if any(key in row and _finite(row[key]) for key in keys)]
        if len(points) > CURVE_POINTS:  # evenly thinned, both ends kept
            points = [points[round(i * (len(points) - 1) / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
        logged = [key for key in keys if any(key in row and _finite(row[key]) for row in points)]
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


def rows_of_images(rows: list[dict[str, Any]], config: dict[str, Any]) -> list[dict[str, Any]]:
    """The same without the speed of epochs on features that were kept, as earlier versions logged it: it is no speed of images."""
    last = epochs_on_features(config)
    if not last:
        return rows

    return [
        {key: value for key, value in row.items() if key != SPEED} if row.get("epoch", inf) <= last else row
        for row in rows
    ]


def rounded(value: Any, origin: float = 0.0, unit: float = 1.0) -> float | None:
    if not _finite(value):
        return None
    result = (value - origin) / unit
    return round(result, 3) if isfinite(result) else None


def shown_of(report: Report) -> dict[str, Any]:
    """What the page shows: long lists cut, numbers shortened, the matrix as sparse `[true, predicted, count]` cells."""
    calibration = plain(report.calibration)
    if not report.calibration.found:
        calibration |= {"temperature": None, "ece_after": None, "nll_after": None, "bins_after": None}
    return {
        **{
            key: plain(getattr(report, key)) for key in ("split", "classes", "superclasses", "superclass_of", "metrics")
        },
        "per_class": [scores_of(row) for row in report.per_class],
        "beats_chance": report.beats_chance,
        "cells": [[i, j, count] for i, row in enumerate(report.confusion) for j, count in enumerate(row) if count],
        "confused": [[pair.true, pair.predicted, pair.count] for pair in report.confused[:100]],
        "calibration": {**calibration, "bins_after": calibration["bins_after"] or []},
        "label_issues": [plain(issue) for issue in report.label_issues[:60]],
        "label_issues_found": len(report.label_issues),
        "overlapping": [plain(pair) for pair in report.overlapping_classes[:30]],
        "overlapping_found": len(report.overlapping_classes),
    }


def scores_of(row: ClassScores) -> dict[str, Any]:
    """A class's numbers without its names; None for what is about no image: recall without images of it, precision where nothing was
    taken for it."""
    numbers = {key: plain(value) for key, value in vars(row).items() if key not in NAMES}
    if row.support and row.predicted:
        return numbers
    unknown = {"recall": not row.support, "precision": not row.predicted, "f1": not (row.support or row.predicted)}
    return {key: None if unknown.get(key.partition("_")[0]) else value for key, value in numbers.items()}


def read_issue_files(folder: RunFolder, report: Report, path: Path) -> list[str]:
    """What the images of `report.label_issues` are called, in their order; empty where they are known by their numbers alone, or the file is
    of other doubts. Errors: `UserError` for a link that leads out of the folder."""
    if not lies_in(path, folder.path):
        raise UserError(f"{path} is a link that leads out of {folder.path}, and is not read")
    text = read_file(path, LONGEST_CSV).decode("utf-8", "replace")
    images = [row.get("image") or "" for row in csv.DictReader(io.StringIO(text))]
    numbers = [str(issue.index) for issue in report.label_issues]
    return images if len(images) == len(numbers) and images != numbers else []


def read_shown(path: Path) -> list[dict[str, Any]]:
    """The images of the newest grid as rows `{"image", "true", "predicted", "confidence"}`."""
    return [
        {
            "image": str(image.file or image.index),
            "true": image.true,
            "predicted": image.predicted,
            "confidence": number(image.confidence),
        }
        for image in read_record(path, Shown).predictions[:100]
    ]


def read_tiles(thumbnails: Thumbnails, evaluated: EvaluationFolder) -> list[list[float]]:
    """What the tiles of the thumbnails show, `[[true, predicted, confidence, dataset index], …]`.

    Errors: `UserError`, or `LookupError` for an image that was not evaluated.
    """
    predictions = Predictions.load(evaluated.predictions)
    row_of = {int(index): row for row, index in enumerate(predictions.indices)}
    rows = [row_of[index] for index in thumbnails.images]
    chosen = Predictions(predictions.logits[rows], predictions.labels[rows], predictions.indices[rows])
    columns = chosen.labels, chosen.predicted, chosen.confidences, chosen.indices
    return [
        [int(label), int(guess), round(float(sure), 3), int(index)]
        for label, guess, sure, index in zip(*columns, strict=True)
    ]


def web_address(value: Any) -> str | None:
    """Only http(s) may become a link: a `javascript:` address from a file must not."""
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def lineage_of(
    folder: RunFolder, split: Split | None, tracking: Tracking, report: Report | None
) -> list[dict[str, Any]]:
    """Dataset → training → model → evaluation, as `{"kind", "title", "lines", "url"}` each."""

    def artifacts(kind: str) -> list[str]:
        logged = [artifact for artifact in tracking.artifacts if artifact.type == kind]
        return [f"{artifact.name}:{', '.join(artifact.aliases or ['latest'])}" for artifact in logged]

    def digest(value: str) -> str:
        return f"sha256 {value[:12]}…"

    steps: list[tuple[str, str, list[str], str | None]] = []
    if split:
        sizes = f"{split.train_size} images to train on, {len(split.validation)} held out for validation"
        lines = [sizes, f"{len(split.classes)} classes, seed {split.seed}", digest(split.digest)]
        steps.append(("Dataset", split.dataset, [*lines, *artifacts("dataset")], None))
    modes = [f"W&B {job.job_type}: {job.mode}, project {job.project}" for job in tracking.runs]
    steps.append(("Run", folder.id, list(dict.fromkeys(modes)) or ["Not recorded by W&B"], None))
    if folder.best.exists():
        digests = [digest(artifact.digest) for artifact in tracking.artifacts if artifact.type == "model"][-1:]
        steps.append(("Model", named(folder.best, folder), [*dict.fromkeys(artifacts("model")), *digests], None))
    if report:
        epoch, tta = report.checkpoint.epoch, report.tta
        lines = [
            f"of the model {digest(report.checkpoint.sha256)}",
            *([f"after epoch {epoch:.5g}"] if epoch is not None else []),
            *([f"with --tta {tta}"] if tta != "none" else []),
            f"W&B run {report.job_id}",
        ]
        title = f"{report.split} set of {report.dataset.name}"
        steps.append(("Evaluation", title, lines, web_address(report.wandb_url)))
    return [dict(zip(("kind", "title", "lines", "url"), step, strict=True)) for step in steps]


def next_commands(
    folder: RunFolder, run: dict[str, Any], tracking: Tracking, flags: tuple[str, ...]
) -> list[dict[str, str]]:
    """The commands a person may want next for this run, `{"why", "command"}`. flags: of what there is to evaluate."""
    commands = []
    if run["status"] not in ("finished", "running") and folder.last.exists():
        commands.append(("Go on where it stopped", folder.command("train.py", "--resume", folder.id)))
    if run["report"] is None and folder.best.exists():
        commands.append((f"Measure it on the {flags[-1] if flags else 'test'} set", run["evaluate"]))
    if folder.best.exists() and not (run["report"] and run["report"].errors.total == 0):
        errors = folder.command("visualize.py", "--checkpoint", folder.id, "--which", "errors", *flags)
        commands.append(("See its surest mistakes", errors))
    if any(job.mode == "offline" for job in tracking.runs):
        commands.append(
            ("Send what was recorded offline to W&B", folder.command("sync.py", path_word(Path(folder.id))))
        )
    return [{"why": why, "command": command} for why, command in commands]


# --- across runs ------------------------------------------------------------------------------------------------------


def differing_keys(runs: list[dict[str, Any]]) -> list[str]:
    """Settings that are not the same in all runs, those with the fewest distinct values first."""
    configs = [run["config"] for run in runs if run["config"]]
    keys = {key for config in configs for key in config} & SETS_APART
    distinct = {key: len({repr(config.get(key)) for config in configs}) for key in keys}
    return sorted((key for key in keys if distinct[key] > 1), key=lambda key: (distinct[key], key))


def shares_of(runs: list[dict[str, Any]]) -> list[str]:
    """The results that are shown in percent."""
    return sorted({key for run in runs if run["report"] for key in run["report"].metrics if is_share(key)})


def read_sweeps(runs_dir: Path) -> list[dict[str, Any]]:
    """The sweeps under `runs_dir`, newest first: `{"id", "metric", "goal", "space", "trials", "problems"}`; space: the file's
    `parameters`."""
    sweeps = []
    for path in sorted((path for path in (runs_dir / SWEEPS).glob("*") if is_folder(path)), reverse=True):
        folder, problems = SweepFolder(path), list[str]()
        spec = attempt(problems, folder.settings.name, partial(read_yaml, folder.settings), {})
        metric = spec.get("metric") if isinstance(spec.get("metric"), dict) else {}
        missing = f"{folder.trials.name} is missing: no trial has ended yet."
        trials = attempt(problems, folder.trials.name, partial(read_trials, folder.trials), [], missing)
        sweeps.append(
            {
                "id": path.name,
                "metric": str(metric.get("name", "value")),
                "goal": "minimize" if metric.get("goal") == "minimize" else "maximize",
                "space": plain(spec["parameters"]) if isinstance(spec.get("parameters"), dict) else {},
                "trials": trials,
                "problems": problems,
            }
        )
    return sweeps


def read_trials(path: Path) -> list[dict[str, Any]]:
    """Errors: `UserError` naming the file."""
    return [
        {
            "number": trial.number,
            "run_id": trial.run_id,
            "state": trial.state.lower(),
            "value": number(trial.value),
            "parameters": {key: plain(value) for key, value in trial.parameters.items() if key in GROUP_OF},
            "error": trial.error,
            "sd": number(trial.sd),
            "runs": trial.runs or [trial.run_id],
        }
        for trial in read_record(path, list[TrialRecord])
    ]

"""One evaluation: its report put together, and the files beside it saved."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.analysis import figures
from common.analysis.analyse import compare
from common.analysis.predictions import Predictions
from common.analysis.report import Analysis, Answers, Calibration, Checkpoint, Duplicates, Evaluated, Report
from common.analysis.tables import issues_csv, tables
from common.analysis.text import as_text
from common.base import drawing
from common.base.files import disk_errors, write_atomic
from common.data.dataset import Dataset, dataset_digest
from common.model.load import Loaded
from common.runs.folder import EvaluationFolder

LogTable = Callable[[str, list[str], list[list[Any]]], None]


def make_report(
    loaded: Loaded,
    data: Dataset,
    data_dir: str | None,
    predictions: Predictions,
    analysis: Analysis,
    calibration: Calibration,
    answers: Answers,
    duplicates: Duplicates,
    other: tuple[Predictions, str, str] | None,
    job_id: str,
    wandb_url: str | None,
) -> Report:
    """The numbers, and where they came from.

    data_dir: None for that of the training; other: another run's predictions on the same images, its id and its tta; job_id, wandb_url: of
    the W&B run of this evaluation.
    """
    about = loaded.metadata
    return Report(
        **{
            **vars(analysis),
            "metrics": analysis.metrics | _answered(answers, analysis.split) | _metrics_of(duplicates, analysis.split),
        },
        duplicates=duplicates,
        calibration=calibration,
        answers=answers,
        comparison=compare(predictions, *other) if other else None,
        run_id=about.run_id,
        job_id=job_id,
        wandb_url=wandb_url,
        created=time.time(),
        tta=loaded.tta,
        checkpoint=Checkpoint(str(loaded.path), loaded.sha256, about.model, about.epoch, loaded.artifact),
        dataset=evaluated(data, data_dir or about.data_dir, predictions),
    )


def evaluated(data: Dataset, data_dir: str | None, predictions: Predictions) -> Evaluated:
    """Which images, and what beside them was none."""
    photos = data.photos
    return Evaluated(
        data.name,
        data_dir,
        len(predictions.labels),
        dataset_digest(data),
        predictions.digest,
        unused=photos.counts() if photos else {},
        skipped=photos.skipped() if photos else [],
    )


def _answered(answers: Answers, split: str) -> dict[str, float]:
    """For W&B, with the targets in percent, as in `test/coverage_at_95`."""
    numbers = {"aurc": answers.aurc, "excess_aurc": answers.excess_aurc, "unlike": answers.unlike}
    for row in answers.thresholds:
        numbers |= {
            f"coverage_at_{100 * row.target:g}": row.coverage,
            f"accuracy_at_{100 * row.target:g}": row.accuracy,
        }
    return {f"{split}/{name}": value for name, value in numbers.items() if value is not None}


def _metrics_of(duplicates: Duplicates, split: str) -> dict[str, float]:
    """For W&B, where they were looked for."""
    if duplicates.note or duplicates.accuracy_without is None:
        return {}
    near = {} if duplicates.near is None else {f"{split}/near_duplicates": duplicates.near}
    return {
        f"{split}/honest_accuracy": duplicates.accuracy_without,
        f"{split}/exact_duplicates": duplicates.exact,
        **near,
    }


def save_files(
    report: Report,
    predictions: Predictions,
    data: Dataset,
    seen: Dataset | None,
    folder: EvaluationFolder,
    log_table: LogTable,
) -> Report:
    """Writes all files → the report, which now names what lies beside it.

    data, seen: what the report's indices point into, and those of its duplicates; log_table: keeps a table by its key, columns and rows.
    """
    with disk_errors(folder.path):
        images = data.images.numpy()
        # An old report.json would speak of files that are written anew: it goes first, and the new one comes last. What else lies there
        # is not ours.
        for stale in (
            folder.report,
            folder.thumbnails,
            folder.label_issues,
            *(folder.path / f"{name}.png" for name in figures.NAMES),
        ):
            stale.unlink(missing_ok=True)
        predictions.save(folder.predictions)
        write_atomic(folder.text, as_text(report, predictions) + "\n")
        drawn = figures.of_report(report, images, None if seen is None else seen.images.numpy(), predictions)
        files = {name: f"{name}.png" for name in drawn}
        for name, figure in drawn.items():
            drawing.save(figure, folder.path / files[name])
        if report.label_issues:
            write_atomic(folder.label_issues, issues_csv(report, data.names))
        thumbnails = figures.save_thumbnails(report.confused, images, folder.thumbnails)
        listed = tables(report)
        for key, (columns, rows) in listed.items():
            log_table(report.key(key), columns, rows)
        report = replace(report, thumbnails=thumbnails, figures=files, tables=list(listed))
        report.save(folder.report)
        return report

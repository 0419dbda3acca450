"""One evaluation: its report put together, and the files beside it saved."""

import time
from dataclasses import replace

from numpy.typing import NDArray

from common.analysis import figures
from common.analysis.predictions import Predictions
from common.analysis.report import Analysis, Calibration, Checkpoint, Comparison, Evaluated, Report
from common.analysis.tables import tables
from common.analysis.text import as_text
from common.base import drawing
from common.base.files import write_atomic
from common.data.dataset import Dataset, dataset_digest
from common.model.load import Loaded
from common.runs.folder import EvaluationFolder


def make_report(
    loaded: Loaded,
    data: Dataset,
    data_dir: str | None,
    predictions: Predictions,
    analysis: Analysis,
    calibration: Calibration,
    comparison: Comparison | None,
    job_id: str,
    wandb_url: str | None,
) -> Report:
    """The numbers, and where they came from.

    data_dir: None for that of the training; job_id, wandb_url: of the W&B run of this evaluation.
    """
    about, size = loaded.metadata, len(predictions.labels)
    return Report(
        **vars(analysis),
        calibration=calibration,
        comparison=comparison,
        run_id=about["run_id"],
        job_id=job_id,
        wandb_url=wandb_url,
        created=time.time(),
        tta=loaded.tta,
        checkpoint=Checkpoint(str(loaded.path), loaded.sha256, about["model"], about["epoch"], loaded.artifact),
        dataset=Evaluated(data.name, data_dir or about["data_dir"], size, dataset_digest(data), predictions.digest),
    )


def save_files(report: Report, predictions: Predictions, images: NDArray, folder: EvaluationFolder) -> Report:
    """Writes all but report.json itself → the report, which now names what lies beside it.

    images: uint8 (N, 3, H, W), the dataset's, which the report's indices point into.
    """
    # An old report.json would speak of files that are written anew: it goes first, and the new one comes last.
    for stale in (folder.report, *folder.path.glob("*.png"), *folder.path.glob("*.jpg")):
        stale.unlink(missing_ok=True)
    predictions.save(folder.predictions)
    write_atomic(folder.text, as_text(report, predictions) + "\n")
    drawn = figures.of_report(report, images)
    files = {name: f"{name}.png" for name in drawn}
    for name, figure in drawn.items():
        drawing.save(figure, folder.path / files[name])
    thumbnails = figures.save_thumbnails(report.confused, images, folder.thumbnails)
    return replace(report, thumbnails=thumbnails, figures=files, tables=list(tables(report)))

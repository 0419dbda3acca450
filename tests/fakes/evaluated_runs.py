"""Evaluated run folders whose networks are right on just the images that a test says."""

import hashlib
from pathlib import Path

import numpy as np
from run_folders import SPLIT

from common.analysis.analyse import analyse, calibrate
from common.analysis.predictions import Predictions
from common.analysis.report import Checkpoint, Evaluated, Report
from common.config import TrainConfig
from common.runs.folder import RunFolder, create_run

CLASSES = ("no", "yes")


def evaluated_run(
    runs_dir: Path,
    run_id: str,
    right: object,
    *,
    classes=CLASSES,
    first_label=0,
    digest="test",
    name="digits",
    **settings,
) -> RunFolder:
    """right: bool (images,), what the network names rightly; settings: fields of the config, such as seed and group."""
    folder = RunFolder(runs_dir / run_id)
    config = TrainConfig.of(runs_dir=str(runs_dir), run_id=run_id, **settings)
    create_run(folder, config, SPLIT)
    folder.update_summary(status="finished")
    folder.best.parent.mkdir()
    folder.best.write_bytes(run_id.encode())
    evaluation(folder, np.asarray(right, bool), classes, first_label, digest, name)
    return folder


def evaluation(folder: RunFolder, right, classes=CLASSES, first_label=0, digest="test", name="digits") -> None:
    labels = (np.arange(len(right)) + first_label) % len(classes)
    named = np.where(right, labels, (labels + 1) % len(classes))
    predictions = Predictions(np.eye(len(classes), dtype=np.float32)[named], labels, np.arange(len(right)))
    report = Report(
        **vars(analyse(predictions, classes)),
        calibration=calibrate(predictions, None, "none"),
        run_id=folder.id,
        job_id="job",
        created=0.0,
        checkpoint=Checkpoint(str(folder.best), hashlib.sha256(folder.best.read_bytes()).hexdigest(), "resnet50"),
        dataset=Evaluated(name, None, len(right), digest, predictions.digest),
    )
    predictions.save(folder.evaluated().predictions)
    report.save(folder.evaluated().report)

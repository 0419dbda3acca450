"""Evaluates a checkpoint on the test set: how good it is, what it confuses, and whether its confidence can be trusted.

    python evaluate.py                                        # the newest run's best weights
    python evaluate.py --checkpoint RUN --compare OTHER_RUN   # beside another run's evaluation on the same images

Prints the classification report and the headline numbers; runs/<id>/evaluation/ keeps them, with figures and predictions.
After `python train.py --preset digits` expect an accuracy above 0.95. Next: `python visualize.py --which errors`.
"""

from typing import TYPE_CHECKING

from common.base.errors import report_errors
from common.cli import parse
from common.config import EvaluateConfig, as_dict

if TYPE_CHECKING:
    from common.analysis.predictions import Predictions
    from common.analysis.report import Report
    from common.runs.folder import EvaluationFolder, RunFolder
    from common.tracking.run import WandbRun

MATRIX_IN_WANDB = 25  # classes at most: W&B draws every cell of its own matrix, and K² rows are logged for it


def main(config: EvaluateConfig) -> None:
    from common.analysis.analyse import analyse, calibrate, compare
    from common.analysis.evaluation import make_report, save_files
    from common.analysis.inference import load_part, predict_images, predict_validation, predictions_of
    from common.analysis.tables import tables
    from common.base.device import choose_amp, choose_device, device_name
    from common.base.files import disk_errors
    from common.model.load import load_model
    from common.runs.folder import check_writable
    from common.tracking.about import downloader, tracked

    # Everything that can be refused is, before anything is written.
    device = choose_device(config.device)
    how = (config.batch_size, device, choose_amp(config.amp, device))
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    data, indices = load_part(loaded, config.split, config.dataset, config.data_dir)
    loaded = loaded.with_tta(config.tta, data.flip)
    other = predictions_of(config.runs_dir, config.compare, config.split, data, indices)
    folder = loaded.folder.evaluated(config.split)
    check_writable(folder.path, "--runs_dir")
    print(f"{loaded.path}: {len(indices)} {config.split} images of {data.name}, on {device_name(device)}")

    with tracked(loaded.folder, "evaluate", as_dict(config), loaded.metadata, loaded.artifact) as run:
        predictions = predict_images(loaded, data, indices, *how, config.split)
        validation, note = predict_validation(loaded, config.split, config.dataset, config.data_dir, *how)
        analysis = analyse(predictions, data.classes, data.superclasses, data.superclass_of, config.split)
        calibration = calibrate(predictions, validation, note)
        comparison = compare(predictions, *other) if other else None
        report = make_report(
            loaded, data, config.data_dir, predictions, analysis, calibration, comparison, run.id, run.url
        )
        with disk_errors(folder.path):
            report = save_files(report, predictions, data.images.numpy(), folder)
            for key, (columns, rows) in tables(report).items():
                run.log_table(report.key(key), columns, rows)
            report.save(folder.report)  # last, since it speaks of all others
        log(run, report, predictions, folder)

    print(f"\n{folder.text.read_text(encoding='utf-8')}")
    print(f"results: {folder.path}: report.json, report.txt, predictions.npz and {len(report.figures)} figures")
    print(f"next:    {next_command(config, loaded.folder)}")
    print(f"         {loaded.folder.command('dashboard.py')}", *run.hint(), sep="\n")


def log(run: "WandbRun", report: "Report", predictions: "Predictions", folder: "EvaluationFolder") -> None:
    """Figures, the confusion matrix and the metrics, in W&B."""
    figures = report.figures.items()
    run.log_images({report.key(f"figures/{name}"): folder.path / file for name, file in figures})
    if len(report.classes) <= MATRIX_IN_WANDB:
        labels, predicted = predictions.labels, predictions.predicted
        run.log_confusion_matrix(report.key("confusion"), labels, predicted, report.classes)
    run.set_summary({"run_id": report.run_id, **report.metrics})


def next_command(config: EvaluateConfig, folder: "RunFolder") -> str:
    """Shows the mistakes on the same images."""
    split = config.split if config.split != "test" else None
    given = {"--dataset": config.dataset, "--data_dir": config.data_dir, "--split": split}
    given |= {"--project": config.project, "--entity": config.entity}
    same = [word for flag, value in given.items() if value for word in (flag, value)]
    return folder.command("visualize.py", "--checkpoint", config.checkpoint or folder.id, "--which", "errors", *same)


if __name__ == "__main__":
    with report_errors():
        main(parse(EvaluateConfig, description=__doc__))

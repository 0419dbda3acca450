"""Evaluates a checkpoint on the test set: how good it is, what it confuses, and whether its confidence can be trusted.

    python evaluate.py                                        # the newest run's best weights
    python evaluate.py --checkpoint RUN --compare OTHER_RUN   # beside another run's evaluation on the same images

Prints the classification report and the headline numbers; runs/<id>/evaluation/ keeps them, with figures and predictions.
After `python train.py --preset digits` expect an accuracy above 0.95. Next: `python visualize.py --which errors`.
"""

import time

from common.base.errors import UserError, report_errors
from common.cli import parse
from common.config import EvaluateConfig, as_dict


def main(config: EvaluateConfig) -> None:
    from common.analysis import figures, report
    from common.analysis.predictions import answers, comparable, evaluation_folder, load_part
    from common.base import drawing
    from common.base.device import choose_amp, choose_device, device_name
    from common.base.files import disk_errors, write_atomic, write_json
    from common.data.dataset import dataset_digest
    from common.model.load import load_model
    from common.runs.find import find_run
    from common.runs.folder import check_writable
    from common.tracking.about import downloader, tracked

    # Everything that can be refused is, before anything is written.
    device = choose_device(config.device)
    amp = choose_amp(config.amp, device)
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    data, indices = load_part(loaded, config.split, config.dataset, config.data_dir)
    if config.compare:
        other = find_run(config.runs_dir, config.compare, "--compare")
        their_folder = evaluation_folder(other, config.split)
        theirs = comparable(their_folder, data.labels[indices].numpy(), indices.numpy(), data.classes)
    output = evaluation_folder(loaded.folder, config.split)
    check_writable(output, "--runs_dir")
    print(f"{loaded.path}: {len(indices)} {config.split} images of {data.name}, on {device_name(device)}")

    with tracked(loaded.folder, "evaluate", as_dict(config), loaded.metadata, loaded.artifact) as run:
        predictions = answers(loaded, data, indices, config.batch_size, device, amp, config.split)
        validation, note = validation_answers(config, loaded, device, amp)

        numbers = report.analyse(predictions, data.classes, data.superclasses, data.superclass_of, config.split)
        numbers["calibration"] = report.calibrate(predictions, validation, note)
        numbers["comparison"] = report.compare(predictions, theirs, other.id) if config.compare else None
        text = [
            report.classification_report(predictions, data.classes),
            report.headline(numbers),
            report.most_confused(numbers),
        ]

        with disk_errors(output):
            # An old report.json would speak of files that are written anew: it goes first, and the new one comes last.
            for stale in (output / "report.json", *output.glob("*.png"), *output.glob("*.jpg")):
                stale.unlink(missing_ok=True)
            predictions.save(output / "predictions.npz")
            write_atomic(output / "report.txt", "\n\n".join(text) + "\n")
            drawn = figures.of_report(numbers, data.images.numpy())
            for name, figure in drawn.items():
                drawing.save(figure, output / f"{name}.png")
            tables = report.tables(numbers)
            prefix = "" if config.split == "test" else f"{config.split}/"
            for key, (columns, rows) in tables.items():
                run.log_table(prefix + key, columns, rows)
            numbers |= {
                "version": report.VERSION,
                "run_id": loaded.metadata["run_id"],
                "job_id": run.id,
                "wandb_url": run.url,
                "created": time.time(),
                "checkpoint": {
                    "path": str(loaded.path),
                    "sha256": loaded.sha256,
                    "model": loaded.metadata["model"],
                    "epoch": loaded.metadata["epoch"],
                    "artifact": loaded.artifact,
                },
                "dataset": {
                    "name": data.name,
                    "data_dir": config.data_dir or loaded.metadata["data_dir"],
                    "size": len(indices),
                    "digest": dataset_digest(data),
                    "labels_digest": predictions.digest,
                },
                "thumbnails": figures.save_thumbnails(numbers, data.images.numpy(), output / "thumbnails.jpg"),
                "figures": {name: f"{name}.png" for name in drawn},
                "tables": list(tables),
            }
            write_json(output / "report.json", numbers)

        run.log_images({f"{prefix}figures/{name}": output / f"{name}.png" for name in drawn})
        if len(data.classes) <= 25:  # W&B draws every cell of its own matrix, and K² rows are logged for it
            run.log_confusion_matrix(f"{prefix}confusion", predictions.labels, predictions.answers, data.classes)
        run.set_summary({"run_id": loaded.metadata["run_id"], **numbers["metrics"]})

    print("\n" + "\n\n".join(text))
    print(f"\nresults: {output}: report.json, report.txt, predictions.npz and {len(drawn)} figures")
    print(f"next:    python visualize.py --checkpoint {config.checkpoint or loaded.folder.id} --which errors")
    print("         python dashboard.py")
    for line in run.hint():
        print(line)


def validation_answers(config: EvaluateConfig, loaded, device, amp):
    """What the temperature is fitted on, and a note on it: the model's answers to the validation images, if there are any."""
    from common.analysis.predictions import answers, load_part

    if config.split == "validation":
        return None, "no temperature: it would be fitted on the very images that are evaluated"
    try:
        data, indices = load_part(loaded, "validation", config.dataset, config.data_dir)
    except UserError as error:
        return None, f"no temperature: {error}"
    predictions = answers(loaded, data, indices, config.batch_size, device, amp, "validation")
    return predictions, f"fitted on {len(indices)} validation images"


if __name__ == "__main__":
    with report_errors():
        main(parse(EvaluateConfig, description=__doc__))

"""Evaluates a checkpoint on the test set: how good it is, what it confuses, and whether its confidence can be trusted.

    python evaluate.py                                        # the newest run's best weights
    python evaluate.py --checkpoint RUN --compare OTHER_RUN   # beside another run's evaluation on the same images
    python evaluate.py --checkpoint GROUP                     # each run of train.py --seeds, and their mean ± sd

Prints the classification report and the headline numbers; runs/<id>/evaluation/ keeps them, with figures and predictions.
After `python train.py --preset digits` expect an accuracy above 0.95. Next: `python visualize.py --which errors`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from common.base.errors import report_errors
from common.cli import parse
from common.config import EvaluateConfig, as_dict

if TYPE_CHECKING:
    from common.runs.folder import RunFolder


def main(config: EvaluateConfig) -> None:
    """The checkpoint, or each run of a group in turn."""
    from common.analysis.recipes import group_in_words
    from common.runs.groups import find_group

    group = find_group(config.runs_dir, config.checkpoint)
    for name in [run.id for run in group.runs.values()] if group else [config.checkpoint]:
        evaluate(replace(config, checkpoint=name))
    if group:
        print("", *group_in_words(group, config.split), sep="\n")


def evaluate(config: EvaluateConfig) -> None:
    """One checkpoint: its files, its W&B run, and what is printed of it."""
    from common.analysis.analyse import analyse, trust
    from common.analysis.evaluation import make_report, save_files
    from common.analysis.inference import duplicates_of, load_part, predict_images, predict_validation, predictions_of
    from common.analysis.samples import log_evaluation
    from common.base.device import choose_amp, choose_device, device_name
    from common.export.card import card
    from common.model.load import load_model
    from common.runs.folder import check_results
    from common.tracking.about import downloader, tracked

    # Everything that can be refused is, before anything is written.
    device = choose_device(config.device)
    which = (config.split, config.dataset, config.data_dir, config.unreadable)
    how = (config.batch_size, device, choose_amp(config.amp, device))
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    data, indices = load_part(loaded, *which)
    loaded = loaded.with_tta(config.tta, data.flip)
    other = predictions_of(config.runs_dir, config.compare, config.split, data, indices)
    folder = loaded.folder.evaluated(config.split)
    check_results(loaded.folder, folder.path, loaded.folder.tables)
    print(f"{loaded.path}: {data.in_words(len(indices), config.split)}, on {device_name(device)}{data.notes}")
    with tracked(loaded.folder, "evaluate", as_dict(config), loaded.metadata, loaded.artifact) as run:
        predictions = predict_images(loaded, data, indices, *how, config.split)
        analysis = analyse(predictions, data.classes, data.superclasses, data.superclass_of, config.split)
        trusted = trust(predictions, *predict_validation(loaded, *which, *how), config.split)
        duplicates, seen = duplicates_of(predictions, loaded, data, *which, device)
        parts = (predictions, analysis, *trusted, duplicates, other)
        report = make_report(loaded, data, config.data_dir, *parts, run.id, run.url)
        report = save_files(report, predictions, data, seen, folder, run.log_table)
        log_evaluation(run, report, predictions, data, folder)
        run.describe_model(card(loaded.metadata, loaded.folder, report))

    results = f"results: {folder.path}: report.json, report.txt, predictions.npz and {len(report.figures)} figures"
    commands = (
        f"next:    {next_command(config, loaded.folder, report.errors.total)}",
        f"         {loaded.folder.command('dashboard.py')}",
    )
    print(f"\n{folder.text.read_text(encoding='utf-8')}", results, *commands, *run.hint(), sep="\n")


def next_command(config: EvaluateConfig, folder: "RunFolder", mistakes: int) -> str:
    """Shows the mistakes on the same images, or some of these where there are none."""
    which = ["--which", "errors"] if mistakes else []
    return folder.command(
        "visualize.py", "--checkpoint", config.checkpoint or folder.id, *which, *config.images_and_project()
    )


if __name__ == "__main__":
    with report_errors():
        main(parse(EvaluateConfig, description=__doc__))

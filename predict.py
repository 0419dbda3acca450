"""Predicts photos: a table with a row for each, its class, how sure that is, and whether it should be answered at all.

    python predict.py photos                                        # the newest run's best weights; all photos in a folder
    python predict.py "a/*.jpg" b.png --checkpoint RUN --output table.jsonl
    python predict.py photos --min_accuracy 0.95                    # `unsure` where it would be right less often
    find . -name "*.png" | python predict.py -                      # a list of paths

Confidences are calibrated by what evaluate.py has fitted for these weights. Photos that can't be read are rows with the reason, and end it
with exit status 1. After Ctrl-C, `--resume True` goes on. Next: `python visualize.py --images PHOTO --explain True`.
"""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from common.base.checked import PhotoPath
from common.base.errors import report_errors
from common.cli import parse
from common.config import PredictSettings

if TYPE_CHECKING:
    from common.analysis.predicting import Predictor, Tally


@dataclass(frozen=True)
class PredictConfig(PredictSettings):
    photos: Annotated[tuple[PhotoPath, ...], tyro.conf.Positional] = ()
    """Files, folders (with those within), patterns such as "a/*.jpg", or - for a list of paths on stdin, one a line."""


def main(config: PredictSettings) -> int:
    """Returns the exit status: 0, 1 where photos could not be read, 130 after Ctrl-C."""
    from common.analysis.predicting import Tally, fill
    from common.analysis.rows import Table, check_output
    from common.base.signals import interruptible
    from common.data.stream import check_words, find_photos_of, not_used, some

    # Everything that can be refused is, before anything is written.
    output, unused, tally = Path(config.output), Counter[str](), Tally()
    check_words(config.photos)
    check_output(output, config.overwrite, config.resume)
    predictor = load(config)
    found = some(find_photos_of(config.photos, unused, getattr(sys.stdin, "buffer", None)), unused)

    with interruptible("stopping after these photos; once more stops at once", "stopped at once") as interrupt:
        with Table(output, predictor.columns).opened(config.resume, tally.add) as table:
            fill(table, predictor, found, tally, interrupt.stopped)
    print(f"{tally.rows} rows in {output}", *tally.lines(predictor), *not_used(unused), sep="\n")
    print(f"next: {next_command(config, predictor, tally, interrupt.exit_status > 0)}")
    return interrupt.exit_status or int(tally.problems > 0)


def load(config: PredictSettings) -> "Predictor":
    """The network, and what was fitted for it; says so."""
    from common.analysis.fitted import fitted_for
    from common.analysis.predicting import Predictor
    from common.base.device import choose_amp, choose_device, device_name
    from common.model.load import load_model
    from common.tracking.about import downloader

    device = choose_device(config.device)
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    loaded = loaded.with_tta(config.tta, loaded.metadata.dataset != "digits")
    fitted = fitted_for(loaded)
    least, *lines = fitted.confidence_for(config.min_accuracy) if config.min_accuracy else (None,)
    print(f"{loaded.path}, on {device_name(device)}", *fitted.notes, *lines, sep="\n", flush=True)
    how = (device, choose_amp(config.amp, device), config.batch_size, config.top)
    return Predictor(loaded, fitted, *how, config.min_accuracy is not None, least)


def next_command(config: PredictSettings, predictor: "Predictor", tally: "Tally", stopped: bool) -> str:
    """Goes on, or shows the photo that it was least sure of."""
    folder, least_sure = predictor.loaded.folder, tally.least_sure[1] if tally.least_sure else ""
    weights = config.checkpoint or folder.id
    if stopped:
        words = config.goes_on(weights)  # a shell may have made 100,000 of a pattern
        return folder.command("predict.py", *words) if len(words) < 50 else "the same command with --resume True"
    words = ["--images", least_sure, "--explain", "True"] if os.path.exists(least_sure) else []
    return folder.command("visualize.py", "--checkpoint", weights, *words)


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse(PredictConfig, description=__doc__)))

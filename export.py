"""Exports a run's weights for others: as ONNX, or as a folder in the layout of the Hugging Face Hub.

    python export.py RUN --format onnx --output flowers.onnx
    python export.py RUN --format onnx --preprocessing True    # uint8 in, calibrated probabilities out
    python export.py RUN --format hub --output flowers         # config.json, model.safetensors, README.md: the model card

What was written is loaded again and asked about the run's test images, beside the run. Only if both say the same is it kept; else exit
status 1. ONNX needs `pip install -r requirements-export.txt`. Next: `python docs/onnx_example.py flowers.onnx photo.jpg`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from common.base.checked import PathText
from common.base.errors import RunError, report_errors
from common.base.text import command_line, path_word
from common.cli import parse
from common.config import ExportSettings

if TYPE_CHECKING:
    from common.export.about import About
    from common.model.load import Loaded


@dataclass(frozen=True)
class ExportConfig(ExportSettings):
    run: Annotated[PathText | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """A run's id or folder, a file, or an artifact. None: the newest run's best."""


def main(config: ExportConfig) -> None:
    from common.analysis.fitted import report_of
    from common.export.about import about
    from common.export.check import CPU, compare, images_of
    from common.export.place import check_place, in_its_place
    from common.export.write import answers_of, temperature_for, writer
    from common.model.load import load_model
    from common.tracking.about import downloader

    loaded = load_model(config.run, config.runs_dir, CPU, downloader(config.project, config.entity), "RUN")
    output = Path(config.output or loaded.metadata.run_id + {"onnx": ".onnx", "hub": "-hub"}[config.format])
    check_place(output, config.format, config.overwrite)
    temperature, calibrated = temperature_for(loaded, config.temperature, config.preprocessing)
    said = about(loaded.metadata, temperature, config.preprocessing)
    report, _ = report_of(loaded)
    batches, images = images_of(loaded, config.dataset, config.data_dir, config.unreadable, config.batch_size)
    print(f"{loaded.path}: to {output}, compared on {images}", calibrated, sep="\n", flush=True)

    with in_its_place(output, writer(config.format, loaded, said, report)) as new:
        compared = compare(loaded.model, answers_of(config.format, new), batches, said)
        print(compared.in_words(config.tolerance), flush=True)
        if not compared.within(config.tolerance):
            raise RunError(f"{output} was not written: it would differ from the run by more than --tolerance allows")
    print(f"written: {output}", f"next:    {next_command(output, said, loaded)}", sep="\n")


def next_command(output: Path, said: "About", loaded: "Loaded") -> str:
    if output.is_dir():
        return f"read {output / 'README.md'}, then: {command_line(['hf', 'upload', 'YOU/NAME', path_word(output)])}"
    return command_line(["python", "docs/onnx_example.py", path_word(output), "photo.jpg"])


if __name__ == "__main__":
    with report_errors():
        main(parse(ExportConfig, description=__doc__))

"""A run's network → the files of an export, and back."""

from collections.abc import Callable
from pathlib import Path

from common.analysis.fitted import temperature_of
from common.analysis.report import Report
from common.base.errors import UserError
from common.base.packages import require
from common.export.about import About
from common.export.card import card, front_matter
from common.export.check import Answer
from common.export.hub import WEIGHTS, open_hub, write_hub
from common.export.onnx_file import PACKAGES, open_onnx, write_onnx
from common.model.load import Loaded, fused, read_network


def temperature_for(loaded: Loaded, given: float | None, needed: bool) -> tuple[float | None, str]:
    """The temperature, and a line about it. given: by the user. Errors: `UserError` where it is needed and there is none."""
    if given is not None:
        return given, f"temperature {given:g}, as --temperature says"
    fitted, why = temperature_of(loaded)
    if fitted is not None:
        return fitted, f"temperature {fitted:.4g}, fitted on validation images"
    if needed:
        raise UserError(
            f"--preprocessing True: there is no temperature to calibrate by ({why}); or give --temperature, 1 for none"
        )
    return None, f"no temperature: confidences will not be calibrated ({why})"


def writer(kind: str, loaded: Loaded, about: About, report: Report | None) -> Callable[[Path], None]:
    """What writes the export to a path. report: of these weights, for the model card. Errors: `UserError` when a package is missing."""
    if kind == "onnx":
        require("--format onnx", *PACKAGES, file="requirements-export.txt")

    def write(path: Path) -> None:
        network, metadata = read_network(loaded.path)
        if kind == "onnx":  # anew from the file: what `loaded` has computes its 1x1 convolutions in a way of its own
            write_onnx(path, fused(network), about)
        else:
            path.mkdir()
            text = front_matter(metadata, loaded.folder) + card(metadata, loaded.folder, report, WEIGHTS)
            write_hub(path, network, about, text)

    return write


def answers_of(kind: str, path: Path) -> Answer:
    """The export, loaded again from its files alone."""
    return open_onnx(path) if kind == "onnx" else open_hub(path)[0]

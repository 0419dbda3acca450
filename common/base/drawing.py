"""What every picture needs: colours, names that fit, and a file that is whole."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from common.base.files import atomic_path

# Two colours that stay apart in every kind of colour vision: Okabe & Ito, "Color Universal Design", 2008.
BLUE, ORANGE = "#0072B2", "#D55E00"
POINTS_PER_INCH = 72


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Writes a PNG, whole or not at all, grown or cropped to what is drawn, so that no label is cut."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", pad_inches=0.1, facecolor="white")


def shortened(name: str, longest: int = 40) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def plain(text: str) -> str:
    """`text` as matplotlib must have it, to draw a `$` rather than read a formula."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; breaks after spaces, `_`, `-` and `/`, and inside a word only if it must."""
    lines = [""]
    for piece in re.findall(r"[^ _/-]*[ _/-]+|[^ _/-]+", text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]

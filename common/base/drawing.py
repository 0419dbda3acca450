"""What every picture needs: colours, names that can be drawn and that fit, and a file that is whole.

Pictures look the same wherever they are made: they need no display, and no settings of matplotlib change them.
"""

import contextlib
import functools
import itertools
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image

from common.base.files import atomic_path

# Two colours that stay apart in every kind of colour vision: Okabe & Ito, "Color Universal Design", 2008.
BLUE, ORANGE = "#0072B2", "#D55E00"
POINTS_PER_INCH = 72
FONT = "DejaVu Sans"  # comes with matplotlib
MARK = {"Source": "resnext-finetuning"}  # in a PNG's text


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Around making a figure, and around drawing it: matplotlib's own defaults."""
    with matplotlib.rc_context(
        {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    ):
        yield


@own_style()
def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Writes a PNG, whole or not at all, grown or cropped to what is drawn, so that no label is cut."""
    for text in figure.findobj(Text):
        text.set_fontfamily([FONT, *_families])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", pad_inches=0.1, facecolor="white", metadata=MARK)


def is_ours(path: Path) -> bool:
    """Whether `save` wrote it."""
    with contextlib.suppress(Exception):  # no file, none that Pillow reads, or one that is too large for it
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.items() >= MARK.items()
    return False


# --- names in any script ----------------------------------------------------------------------------------------------

_families: list[str] = []
"""Fonts that are used where `FONT` lacks a character."""
_said: set[str] = set()
"""Characters that none has."""
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of every face that a family lacks


def drawable(text: str) -> str:
    """`text` in characters that some installed font has. Others become their code points, `[U+4E2D 6587]`, which is said once."""
    text = "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    # Joiners and selectors of variants have no picture of their own.
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    lacking = {c for c in text if not _has_font(c)}
    if not lacking:
        return text
    _say_once(lacking)
    runs = itertools.groupby(text, key=lacking.__contains__)
    return "".join(_code_points(run) if lacks else "".join(run) for lacks, run in runs)


def _code_points(characters: Iterable[str]) -> str:
    return f"[U+{' '.join(f'{ord(c):04X}' for c in characters)}]"


def _say_once(lacking: set[str]) -> None:
    if not _said:
        print(
            f"figures: no installed font has {_code_points(sorted(lacking)[:8])}, and maybe more; what it lacks is drawn as code "
            "points, until a font is installed that has it, such as one of the Noto Sans",
            file=sys.stderr,
        )
    _said.update(lacking)


@functools.cache
def _has_font(character: str) -> bool:
    """Whether there is a font with the character; where `FONT` has it not, another is used from here on."""
    if any(ord(character) in _codes(family) for family in (FONT, *_families)):
        return True
    family = next((family for family in _other_families() if ord(character) in _codes(family)), None)
    _families.extend([family] if family else [])
    return family is not None


@functools.cache
def _codes(family: str) -> frozenset[int]:
    """The code points that a family has, regular and bold."""
    try:
        files = [font_manager.findfont(FontProperties(family=[family], weight=w)) for w in ("normal", "bold")]
        regular, bold = (frozenset(font_manager.get_font(file).get_charmap()) for file in files)
    except (OSError, RuntimeError, ValueError):  # gone, or damaged
        return frozenset()
    return regular & bold


@functools.cache
def _other_families() -> list[str]:
    """Those that are installed, the ones without serifs first. Matplotlib's list is of its first start: newer ones are added."""
    manager = font_manager.fontManager
    for file in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with contextlib.suppress(Exception):  # none that it can draw with
            manager.addfont(file)
    # "Last Resort" has a box for every character; what is coloured has no outlines.
    families = {font.name for font in manager.ttflist if not re.search("Last Resort|Color", font.name)}
    return sorted(families - {FONT}, key=lambda family: ("Sans" not in family, family))


# --- names that fit ---------------------------------------------------------------------------------------------------


def shortened(name: str, longest: int = 40) -> str:
    """The name as it can be drawn, cut to a width of `longest`."""
    name = drawable(name)
    return name if width(name) <= longest else f"{name[: _fitting(name, longest - 1)]}…"


def width(text: str) -> int:
    """In characters, of which Chinese, Japanese and Korean ones, and emoji, count twice."""
    return sum(map(_width, text))


def _width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, longest: int) -> int:
    """How many of the first characters are at most `longest` wide; at least one."""
    widths = itertools.accumulate(map(_width, text))
    return max(1, sum(reached <= longest for reached in widths))


def plain(text: str) -> str:
    """`text` as matplotlib must have it, to draw a `$` rather than read a formula."""
    return text.replace("$", r"\$")


def wrapped(text: str, longest: int) -> list[str]:
    """Lines at most `longest` wide; breaks after spaces, `_`, `-` and `/`, and inside a word only if it must."""
    lines = [""]
    for piece in re.findall(r"[^ _/-]*[ _/-]+|[^ _/-]+", text):
        if lines[-1] and width((lines[-1] + piece).rstrip()) > longest:
            lines.append("")
        lines[-1] += piece
        while width(lines[-1].rstrip()) > longest:
            fitting = _fitting(lines[-1], longest)
            lines[-1:] = [lines[-1][:fitting], lines[-1][fitting:]]
    return [line.rstrip() for line in lines]

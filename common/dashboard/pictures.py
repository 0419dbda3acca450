"""Images inside the page, as data addresses. Bounded in bytes, because a page over 200 runs must still open."""

import base64
import contextlib
import re
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from common.analysis.report import Thumbnails
from common.base.files import lies_in
from common.base.text import command_line, counted, path_word
from common.dashboard.reading import attempt, named, read_tiles
from common.runs.find import is_file
from common.runs.folder import RunFolder

PAGE_BYTES = 3_400_000  # of the images of a few runs together, as text in the page
LEAST_RUN_BYTES = 750_000  # where there are more
LONGEST = 100_000_000  # bytes of a picture's file
RUNS = 16  # shown with images; the rest have numbers alone
PICTURES = 6  # PNGs of a run
NEED = 0.15  # of a figure's bytes as a PNG that a WebP takes in which its captions can be read, tried on sheets of real photos
LARGE = 3_000_000  # bytes: a larger PNG gets no larger share
FINER, COARSEST = (70, 40), 15  # quality of a WebP
LONGEST_WEBP = 16383  # pixels a side
LEAST_PIXELS = 32  # of the longer side, below which nothing can be seen
DRAWN_BY_THE_PAGE = ("confusion", "superclasses", "reliability")  # figures it has an interactive version of


def add_pictures(runs: list[dict[str, Any]], folders: dict[str, Path]) -> None:
    """Gives each run `pictures` `[{"title", "src"}]`, `thumbnails` (or None) and `pictures_note`; the first runs first."""
    illustrated = [
        run
        for run in runs
        if run["report"] and run["report"].thumbnails or saved_pictures(RunFolder(folders[run["id"]]), run)
    ]
    share = max(LEAST_RUN_BYTES, PAGE_BYTES // max(1, min(len(illustrated), RUNS)))
    shown = [run["id"] for run in illustrated[:RUNS]]
    for run in runs:
        run["pictures"], run["thumbnails"], run["pictures_note"] = [], None, ""
        if run["id"] in shown:
            illustrate(run, RunFolder(folders[run["id"]]), share)
        elif run in illustrated:
            words = ["--runs_dir", path_word(folders[run["id"]]), "--output", path_word(Path(f"{run['id']}.html"))]
            run["pictures_note"] = (
                f"A page over many runs shows the images of {RUNS} of them, the best and the newest. For this one: "
                f"`{command_line(['python', 'dashboard.py', *words])}`"
            )


def illustrate(run: dict[str, Any], folder: RunFolder, budget: int) -> None:
    problems, evaluated = run["problems"], folder.evaluated(run["report"].split if run["report"] else "test")

    def part(file: Path, read: Callable[[Path], Any], missing: str | None = None) -> Any:
        return attempt(problems, named(file, folder), lambda: read(file), None, missing)

    thumbnails: Thumbnails | None = run["report"] and run["report"].thumbnails
    if thumbnails:
        missing = f"{named(evaluated.predictions, folder)} is missing, so the misclassified images are not shown."
        tiles = part(evaluated.predictions, lambda _: read_tiles(thumbnails, evaluated), missing)
        sprite = evaluated.path / thumbnails.file
        own = lies_in(sprite, folder.path)
        missing = f"{named(sprite, folder)} is missing."
        source = tiles and own and part(sprite, lambda path: load(path, budget // 2), missing)
        if source:
            rows = -(-len(tiles) // thumbnails.columns)
            run["thumbnails"] = {"src": source, "columns": thumbnails.columns, "rows": rows, "tiles": tiles}
            budget -= len(source)
    paths = saved_pictures(folder, run)
    if run["thumbnails"]:  # the same images, which the page shows with more to say of each
        paths = [path for path in paths if path != evaluated.path / run["report"].figures.get("confused", "")]
    chosen = legible(paths[:PICTURES], budget)
    for position, path in enumerate(chosen):
        share = size_of(path) / sum(map(size_of, chosen[position:]))
        if source := part(path, partial(load, budget=int(budget * share))):
            budget -= len(source)
            run["pictures"].append({"title": named(path, folder), "src": source})
    if more := len(paths) - len(chosen):
        run["pictures_note"] = f"{counted(more, 'more picture')} {'lies' if more == 1 else 'lie'} in {folder.path}."


def legible(paths: list[Path], budget: int) -> list[Path]:
    """The first of them, as many as can be read within the budget, and one at least."""
    needs = list(accumulate(NEED * size_of(path) for path in paths))
    return paths[: max(1, sum(need <= budget for need in needs))]


def size_of(path: Path) -> int:
    """A figure's bytes, by which its share of the page is measured."""
    with contextlib.suppress(OSError):
        return min(LARGE, max(1, path.stat().st_size))
    return 1


def saved_pictures(folder: RunFolder, run: dict[str, Any]) -> list[Path]:
    """The prediction grids, newest first, of each its first page; the evaluation's figures that the page has no better version of; the
    grids' other pages."""
    pages = sorted(folder.visualization.glob("*.png"))
    grids: dict[str, list[Path]] = {}
    for path in pages:
        grids.setdefault(re.sub(r"-\d+$", "", path.stem), []).append(path)
    newest = sorted(grids.values(), key=lambda grid: -max(map(changed, grid)))
    figures: dict[str, str] = run["report"].figures if run["report"] else {}
    drawn = [folder.evaluation / name for key, name in figures.items() if key not in DRAWN_BY_THE_PAGE]
    ordered = [grid[0] for grid in newest] + drawn + [path for grid in newest for path in grid[1:]]
    return [path for path in ordered if is_file(path) and lies_in(path, folder.path)]


def changed(path: Path) -> float:
    """When, in seconds since 1970; 0 for a link that leads nowhere."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def load(path: Path, budget: int) -> str:
    """The image as a `data:` address of at most `budget` bytes, shrunk as far as that takes. Errors: `OSError`, or whatever Pillow
    raises for a file that is none."""
    stat = path.stat()
    if not is_file(path) or stat.st_size > LONGEST:
        raise OSError(0, "it is too large for this page" if is_file(path) else "it is no file")
    return _load(path, budget, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)  # a watched page is built again and again, mostly from the same pictures
def _load(path: Path, budget: int, changed: int, size: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow only warns up to twice its limit
        try:
            with Image.open(path, formats=["PNG", "JPEG"]) as image:
                whole = image.convert("RGB")  # decodes it, so a torn file is found here
                unchanged = _address(path.read_bytes(), "png" if image.format == "PNG" else "jpeg")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise OSError(0, "it is too large for this page") from None
    if len(unchanged) <= budget:
        return unchanged
    small = whole
    for quality in (*FINER, *[COARSEST] * 6):  # captions are legible in a coarse picture, and not in a small one
        buffer, kind = BytesIO(), "webp" if max(small.size) <= LONGEST_WEBP else "jpeg"
        small.save(buffer, kind, quality=quality)
        if len(source := _address(buffer.getvalue(), kind)) <= budget:
            return source
        if quality in FINER:
            continue
        scale = 0.9 * (budget / len(source)) ** 0.5
        size_now = [max(1, int(side * scale)) for side in small.size]
        if max(size_now) < LEAST_PIXELS:
            break
        small = whole.resize(size_now, Image.Resampling.BILINEAR, reducing_gap=2)
    raise OSError(0, "it is too large for this page")


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

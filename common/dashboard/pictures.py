"""Images inside the page, as data addresses. Bounded in bytes, because a page over 200 runs must still open."""

import base64
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from common.dashboard.reading import attempt, read_tiles

PAGE_BYTES = 12_000_000  # of all images together, as text in the page
RUN_BYTES = 5_000_000
RUNS = 16  # shown with images; the rest have numbers alone
PICTURES = 6  # PNGs of a run
DRAWN_BY_THE_PAGE = ("confusion", "superclasses", "reliability")  # figures it has an interactive version of


def add_pictures(runs: list[dict[str, Any]], folders: dict[str, Path]) -> None:
    """Gives each run `pictures` `[{"title", "src"}]`, `thumbnails` (or None) and `pictures_note`; the first runs first."""
    illustrated = [run for run in runs if _thumbnails(run) or saved_pictures(folders[run["id"]], run)]
    share = min(RUN_BYTES, PAGE_BYTES // max(1, min(len(illustrated), RUNS)))
    shown = {run["id"] for run in illustrated[:RUNS]}
    for run in runs:
        folder, thumbnails = folders[run["id"]], _thumbnails(run)
        run["pictures"], run["thumbnails"], run["pictures_note"] = [], None, ""
        if run["id"] in shown:
            illustrate(run, folder, share)
        elif thumbnails or saved_pictures(folder, run):
            run["pictures_note"] = (
                f"A page over many runs shows the images of {RUNS} of them, the best and the newest. For this one: "
                f"`python dashboard.py --runs_dir {folder} --output {run['id']}.html`"
            )
        if run["report"]:
            del run["report"]["thumbnails"], run["report"]["figures"]


def _thumbnails(run: dict[str, Any]) -> dict[str, Any] | None:
    return run["report"]["thumbnails"] if run["report"] else None


def illustrate(run: dict[str, Any], folder: Path, budget: int) -> None:
    thumbnails = _thumbnails(run)
    if thumbnails:
        sprite = folder / "evaluation" / Path(thumbnails["file"]).name
        tiles = attempt(run["problems"], "evaluation/predictions.npz", lambda: read_tiles(run, folder / "evaluation"),
                        None, "evaluation/predictions.npz is missing, so the misclassified images are not shown.")  # fmt: skip
        source = tiles and attempt(run["problems"], f"evaluation/{sprite.name}", lambda: load(sprite, budget // 2), None,
                                   f"evaluation/{sprite.name} is missing.")  # fmt: skip
        if source:
            columns = thumbnails["columns"]
            run["thumbnails"] = {"src": source, "columns": columns, "rows": -(-len(tiles) // columns), "tiles": tiles}
            budget -= len(source)
    paths = saved_pictures(folder, run)
    for position, path in enumerate(paths[:PICTURES]):
        name, share = f"{path.parent.name}/{path.name}", budget // (len(paths[:PICTURES]) - position)
        source = attempt(run["problems"], name, lambda path=path, share=share: load(path, share), None)
        if source:
            budget -= len(source)
            run["pictures"].append({"title": name, "src": source})
    if len(paths) > PICTURES:
        run["pictures_note"] = f"{len(paths) - PICTURES} more pictures lie in {folder}."


def saved_pictures(folder: Path, run: dict[str, Any]) -> list[Path]:
    """The prediction grids, newest first, then the evaluation's figures that the page has no better version of."""
    grids = sorted(folder.glob("visualization/*.png"), key=lambda path: (-path.stat().st_mtime, path.name))
    figures = run["report"]["figures"] if run["report"] else {}
    named = [folder / "evaluation" / name for key, name in figures.items() if key not in DRAWN_BY_THE_PAGE]
    return grids + [path for path in named if path.exists()]


def load(path: Path, budget: int) -> str:
    """The image as a `data:` address of at most `budget` bytes, shrunk as far as that takes. Errors: `OSError`."""
    stat = path.stat()
    return _load(path, budget, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)  # a watched page is built again and again, mostly from the same pictures
def _load(path: Path, budget: int, changed: int, size: int) -> str:
    with Image.open(path) as image:
        whole = image.convert("RGB")  # decodes it, so a torn file is found here
        unchanged = _address(path.read_bytes(), str(image.format).lower())
    if len(unchanged) <= budget:
        return unchanged
    small = whole
    for _ in range(6):
        buffer = BytesIO()
        small.save(buffer, "JPEG", quality=80)
        if len(source := _address(buffer.getvalue(), "jpeg")) <= budget:
            return source
        scale = 0.9 * (budget / len(source)) ** 0.5
        size_now = [max(1, int(side * scale)) for side in small.size]
        small = whole.resize(size_now, Image.Resampling.BILINEAR, reducing_gap=2)
    raise OSError(0, "it is too large for this page")


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

"""Run folders → the text of one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.dashboard import pictures, reading, summary
from common.errors import UserError
from common.files import write_atomic

HERE = Path(__file__).parent
MARK = "resnext-finetuning dashboard"  # in the page's head: only a page that carries it is overwritten
PICTURE_RUNS = 16  # runs shown with images; the rest have numbers alone
PICTURE_BYTES = 16_000_000  # of all images together, as text in the page
PICTURE_BYTES_OF_A_RUN = 5_000_000
DIFFERENCES_IN_TABLE = 8
# Nothing may leave the page, whatever a run's text contains.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_page(runs_dir: Path, output: Path, cache: dict | None = None, reload_seconds: int = 0) -> dict[str, Any]:
    """Builds the page over `runs_dir`, replaces `output` with it, and returns the data it shows.

    Errors: `UserError` when `runs_dir` cannot be listed, or `output` cannot be written or is not a dashboard.
    """
    check_output(output)
    data = collect(runs_dir, cache)
    html = render(data, reload_seconds)
    try:
        write_atomic(output, html.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from None
    return data


def check_output(output: Path) -> None:
    """Refuses to replace anything but a dashboard made here."""
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: give the name of a file, such as {output / 'dashboard.html'}")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist")
    try:
        with output.open("rb") as file:
            ours = MARK.encode() in file.read(1000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"--output {output} cannot be read: {error.strerror or error}") from None
    if not ours:
        raise UserError(f"--output {output} exists and is not a dashboard: choose another name, or delete it yourself")


def watched(runs_dir: Path) -> tuple:
    """Changes when the page would: the state of every file it shows."""
    runs, sweeps, other = list_folders(runs_dir)
    return tuple(reading.signature(folder) for folder in (*runs, *sweeps)), tuple(other)


def list_folders(runs_dir: Path) -> tuple[list[Path], list[Path], list[Path]]:
    if not runs_dir.exists():
        raise UserError(
            f"--runs_dir {runs_dir} does not exist: make a first run with `python train.py --preset digits`"
        )
    try:
        return reading.find_folders(runs_dir)
    except OSError as error:
        raise UserError(f"--runs_dir {runs_dir} cannot be listed: {error.strerror or error}") from None


# ---------------------------------------------------------------------------------------------- data


def collect(runs_dir: Path, cache: dict | None = None) -> dict[str, Any]:
    """Everything the page shows, as JSON can hold it. `cache` keeps what an unchanged run gave the last time."""
    cache = {} if cache is None else cache
    folders, sweep_folders, other = list_folders(runs_dir)
    runs = [cached(cache, folder, "data", lambda folder=folder: reading.read_run(folder)) for folder in folders]
    runs.sort(key=lambda run: (run["started"] or 0, run["id"]), reverse=True)
    add_pictures(runs, {folder.name: folder for folder in folders}, cache)
    for run in runs:
        run["answers"] = summary.describe_run(run)
    return {
        "runs": runs,
        "best": summary.describe_best(runs),
        "differing": reading.differing_keys(runs) if len(runs) > 1 else [],
        "sweeps": reading.read_sweeps(runs, sweep_folders),
        "other": [folder.name for folder in other],
        "runs_dir": str(runs_dir),
    }


def cached(cache: dict, folder: Path, part: str, make: Any) -> Any:
    """`make()`, or what it gave before if no file of the folder changed. A running run is always read again, because
    its process may end without a word."""
    state = reading.signature(folder)
    known = cache.get((folder, part))
    if known is None or known[0] != state or (part == "data" and known[1]["status"] in ("running", "silent")):
        cache[folder, part] = known = (state, make())
    return known[1]


def add_pictures(runs: list[dict[str, Any]], folders: dict[str, Path], cache: dict) -> None:
    """Gives each run its saved pictures and its thumbnails, the best and the newest runs first, within the budget."""
    leading = [run["id"] for _, _, ranked in summary.rank(runs) for run in ranked[:3]]
    by_id = {run["id"]: run for run in runs}
    illustrated = [
        run for run in (by_id[name] for name in dict.fromkeys([*leading, *by_id]))
        if run["report"] or any(folders[run["id"]].glob("visualization/*.png"))
    ]  # fmt: skip
    share = min(PICTURE_BYTES_OF_A_RUN, PICTURE_BYTES // max(1, min(len(illustrated), PICTURE_RUNS)))
    chosen = {run["id"] for run in illustrated[:PICTURE_RUNS]}
    for run in runs:
        folder = folders[run["id"]]
        run["pictures"], run["picture_notes"], run["sheet"], run["sheet_note"] = [], [], None, ""
        if run["id"] in chosen:
            run["pictures"], run["picture_notes"], run["sheet"], run["sheet_note"] = cached(
                cache, folder, f"pictures in {share}", lambda run=run, folder=folder: illustrate(folder, run, share)
            )
        elif run["report"] or any(folder.glob("visualization/*.png")):
            note = f"A page over many runs shows images of {PICTURE_RUNS} only, the best and the newest. For this one: "
            run["sheet_note"] = f"{note}`python dashboard.py --runs_dir {folder} --output {run['id']}.html`"
            run["picture_notes"] = [run["sheet_note"]]


def illustrate(folder: Path, run: dict[str, Any], budget: int) -> tuple[list, list, dict | None, str]:
    sheet, note = pictures.thumbnail_sheet(folder, run, budget // 2) if run["report"] else (None, "")
    saved, notes = pictures.saved_pictures(folder, budget - (len(sheet["src"]) if sheet else 0))
    return saved, notes, sheet, note


# ---------------------------------------------------------------------------------------------- HTML


def render(data: dict[str, Any], reload_seconds: int = 0) -> str:
    """The page. Text from runs reaches it through Jinja's escaping or as JSON that cannot end its script element."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": summary.percent, "shown": summary.shown, "moment": moment, "code": code_spans}
    return environment.get_template("template.html").render(
        **data,
        columns=data["differing"][:DIFFERENCES_IN_TABLE],
        hidden_columns=data["differing"][DIFFERENCES_IN_TABLE:],
        data=json_for_script(data),
        best_ids={best["run"] for best in data["best"]},
        made=time.time(),
        mark=MARK,
        policy=POLICY,
        reload_seconds=reload_seconds,
        plotly=plotly_source() if data["runs"] else "",
        styles=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        scripts=Markup("".join((HERE / name).read_text(encoding="utf-8") for name in ("charts.js", "app.js"))),
    )


def json_for_script(data: Any) -> Markup:
    """JSON for a `<script>` element: no `<` that could end it, no line separator, no NaN."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII only, so U+2028 is escaped already
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@lru_cache(maxsize=1)
def plotly_source() -> Markup:
    """Plotly's browser code from the Python package, read from its file: importing plotly would take a second."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise UserError("plotly is not installed: `pip install -r requirements.txt`")
    source = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    assert "</script" not in source.lower()
    return Markup(source)


def moment(unix: float | None) -> str:
    """Unix seconds → `2025-03-01 14:05`, local time."""
    try:
        return "–" if unix is None else datetime.fromtimestamp(unix).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "–"


def code_spans(text: str) -> Markup:
    """Text with `commands` in backquotes → escaped HTML with them in `<code>`."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts)
    )

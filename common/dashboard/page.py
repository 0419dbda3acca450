"""Run folders → the text of one HTML page that loads nothing from anywhere."""

import base64
import contextlib
import gc
import gzip
import json
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.base.errors import UserError
from common.base.files import package_file, write_atomic
from common.dashboard import advice, comparing, importance, machine, pictures, reading, summary
from common.runs.folder import command

HERE = Path(__file__).parent
SCRIPTS = (
    *("elements.js", "smoothing.js", "export.js", "charts.js", "state.js", "address.js", "looks.js"),
    *("columns.js", "filter.js", "overview.js", "machine.js", "tabs.js", "compare.js", "sweeps.js", "app.js"),
)
MARK = "resnext-finetuning dashboard"  # in the page's head: only a page that carries it is replaced
# Nothing may leave the page, whatever a run's text contains.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_page(runs_dir: Path, output: Path, reload_seconds: int = 0) -> dict[str, Any]:
    """Builds the page over `runs_dir`, replaces `output` with it, and returns the data it shows.

    Errors: `UserError` when `runs_dir` can't be listed, or `output` can't be written or isn't a dashboard.
    """
    check_output(output)
    data = collect(runs_dir)
    html = render(data, reload_seconds)
    try:
        write_atomic(output, html.encode("utf-8", "replace"))  # "replace": file names need not be text
    except OSError as error:
        raise UserError(f"--output {output} can't be written: {error.strerror or error}") from None
    return data


def check_output(output: Path) -> None:
    """Refuses to replace anything but a dashboard."""
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    try:
        with output.open("rb") as file:
            ours = MARK.encode() in file.read(1000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"--output {output} can't be replaced: {error.strerror or error}") from None
    if not ours:
        raise UserError(f"--output {output} exists and isn't a dashboard: choose another name, or delete it yourself")


def collect(runs_dir: Path) -> dict[str, Any]:
    """Everything the page shows, as JSON can hold it; runs newest first."""
    if not runs_dir.exists():
        raise UserError(f"--runs_dir {runs_dir} doesn't exist; make a first run with `{first_run(runs_dir)}`")
    try:
        folders = {path.name: path for path in reading.find_runs(runs_dir)}
    except OSError as error:
        raise UserError(f"--runs_dir {runs_dir} can't be listed: {error.strerror or error}") from None
    with uncollected():
        runs = [described(path) for path in folders.values()]
    runs.sort(key=lambda run: (run["started"] or 0, run["id"]), reverse=True)
    rankings = summary.rank(runs)
    ranked = [[run["id"] for run in ranking.runs] for ranking in rankings]
    leading = [run_id for ranking in ranked for run_id in ranking[:5]]
    first = sorted(runs, key=lambda run: run["id"] not in leading)
    pictures.add_pictures(first, folders)
    machine.add_machine(first, folders)
    compared, sides = comparing.side_by_side(runs, folders, leading)
    recipes = advice.recipes_in_words(rankings, sides, compared["groups"])
    best = summary.describe_best(rankings, [name for name, said in recipes.items() if said["text"]])
    differing, shares = reading.differing_keys(runs), reading.shares_of(runs)
    for run in runs:
        run["report"] = run.pop("shown")
    return {
        "runs_dir": str(runs_dir),
        "built": time.time(),
        "runs": runs,
        "best": best,
        "leading": leading,
        "ranked": ranked,
        "differing": differing,
        "shares": shares,
        "recipes": list(recipes.values()),
        "compared": compared,
        "sweeps": [importance.described(sweep) for sweep in reading.read_sweeps(runs_dir)],
    }


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for cycles, of which reading makes none. It walks through all that was read, again and again: over a thousand
    runs a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def described(path: Path) -> dict[str, Any]:
    """A run and what is said of it; one that the page could not hold is shown as damaged, and costs no other run anything."""
    run = reading.read_run(path)
    try:
        run["answers"] = summary.describe_run(run)
        run["shown"] = reading.shown_of(run["report"]) if run["report"] else None
        json.dumps({**run, "report": None}, allow_nan=False)
        return run
    except Exception:
        run = reading.damaged_run(path)
        return {**run, "answers": summary.describe_run(run), "shown": None}


def first_run(runs_dir: Path) -> str:
    """The command that makes a run there."""
    return command(runs_dir, "train.py", "--preset", "digits")


def what_is_missing(data: dict[str, Any]) -> str:
    """What a person may do for the page to show more; nothing where a run is tested."""
    runs, runs_dir = data["runs"], Path(data["runs_dir"])
    if not runs:
        return f"No runs in {runs_dir} yet: {first_run(runs_dir)}"
    if any(run["report"] for run in runs):
        return ""
    with_weights = [run for run in runs if any(row["command"] == run["evaluate"] for row in run["commands"])]
    evaluate = with_weights[0]["evaluate"] if with_weights else command(runs_dir, "evaluate.py")
    return f"No run is tested yet; error analysis appears after: {evaluate}"


def render(data: dict[str, Any], reload_seconds: int = 0) -> str:
    """The page. Text from runs reaches it only through Jinja's escaping, or as JSON that can't end its element."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("template.html").render(
        mark=MARK,
        policy=POLICY,
        runs_dir=data["runs_dir"],
        first_run=first_run(Path(data["runs_dir"])),
        count=len(data["runs"]),
        sweeps=len(data["sweeps"]),
        reload_seconds=reload_seconds,
        styles=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        plotly=plotly_source() if data["runs"] or data["sweeps"] else "",
        data=json_for_script(data),
        scripts=[Markup((HERE / name).read_text(encoding="utf-8")) for name in SCRIPTS],
    )


def json_for_script(data: Any) -> Markup:
    """JSON for a `<script>` element: ASCII, without NaN, and without a `<` that could end the element."""
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


@lru_cache(maxsize=1)
def plotly_source() -> Markup:
    """Plotly's browser code out of its Python package: in gzip, in base64, two fifths of its length."""
    source = package_file("plotly", "package_data", "plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(source, mtime=0)).decode())

"""Files that someone else may have written: any JSON, any bytes, any name → a result or one line, and nothing is touched.

What is drawn is the same each time, so that a failure is nobody's bad luck.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from dashboard_runs import make_run, make_sweep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from common.analysis.predictions import Predictions
from common.analysis.report import Report
from common.base.errors import UserError, report_errors
from common.base.files import lies_in, read_json
from common.dashboard import page, reading
from common.model.load import folder_of_run
from common.model.weights import load_weights, read_metadata, save_weights
from common.runs.find import find_artifact, find_run, list_runs, resolve_checkpoint
from common.runs.folder import RunFolder, load_config, read_console, read_metrics, read_system, run_state
from common.runs.groups import find_group, find_recipe
from common.runs.records import Metadata
from common.training.curves import curves

CLASSES = ("cat", "dog", "car", "bus")
checks = HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large
some = settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=checks)
few = settings(some, max_examples=12)

# --- what a stranger writes -------------------------------------------------------------------------------------------

texts = st.text(max_size=20) | st.sampled_from(
    ["../..", "/etc", "\x1b[2J", "a\0b", "\u202e", "x" * 5000, "<script>", "nan"]
)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**63, 1e308, -1e308, 5e-324, -1, 0])
plain = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
NESTED = "[" * 100_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@st.composite
def changes(draw: st.DrawFn, document: Any) -> Any:
    """The document with a part of it replaced or taken out, anywhere."""
    whole = copy.deepcopy({"": document})
    place, key = whole, ""
    while draw(st.integers(0, 3)) and isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if place is not whole and isinstance(place, dict) and draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(values)
    return whole[""]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut short, with other bytes somewhere, or nothing of it."""
    start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
    return draw(
        st.sampled_from(
            [data[:start], data[:start] + draw(st.binary(max_size=40)) + data[start + length :], draw(st.binary())]
        )
    )


def result_or_line(call: Callable[[], Any], named: str = "") -> Any:
    """What the call gives, or None where it refuses in a line that names the file."""
    try:
        return call()
    except UserError as refused:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit), report_errors():
            raise refused
        line = said.getvalue()
        assert line.count("\n") == 1 and line.strip("\n").isprintable() and len(line) < 2100 and named in line, line
        return None


def tree(root: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in root.rglob("*")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, another, and a sweep over them; `run` is damaged by the tests and restored by them."""
    runs_dir = tmp_path_factory.mktemp("strangers") / "runs"
    for name in ("run", "other"):
        groups = {"superclasses": ("pets", "things"), "superclass_of": (0, 0, 1, 1), "skill": 1.0}
        make_run(runs_dir, name, classes=CLASSES, images_per_class=4, epochs=1, group="both", seed=len(name), **groups)
    make_sweep(runs_dir, "swept", ["run", "other"])
    (runs_dir / "run" / "tracking.json").write_text(json.dumps(TRACKING))
    return runs_dir


TRACKING = {
    "runs": [{"id": "a", "job_type": "train", "project": "p", "entity": None, "mode": "offline", "started": 1.5, "dirs": ["wandb/a"]}],
    "artifacts": [{"name": "n", "type": "model", "aliases": ["best"], "digest": "d", "files": ["checkpoints/best.safetensors"],
                   "metadata": {"classes": ["a"]}, "run_id": "a", "time": 3.0}],
    "tables": [{"key": "t", "run_id": "a", "file": "evaluation/tables/t.json", "time": 4.0}],
}  # fmt: skip


@contextlib.contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


# What reads a run's files, by their names.
READERS: dict[str, list[Callable[[RunFolder], Any]]] = {
    "summary.json": [RunFolder.read_summary, run_state, lambda folder: read_json(folder.summary)],
    "split.json": [RunFolder.read_split, lambda folder: folder.read_split().validation_of(45_000, folder.split)],
    "tracking.json": [RunFolder.read_tracking, lambda folder: folder.write_tracking(folder.read_tracking())],
    "config.yaml": [load_config],
    "metrics.jsonl": [read_metrics],
    "system.jsonl": [read_system],
    "console.log": [read_console],
    "evaluation/report.json": [lambda folder: Report.load(folder.evaluated().report)],
    "visualization/predictions.json": [lambda folder: reading.read_shown(folder.shown)],
    "../sweeps/swept/trials.json": [lambda folder: reading.read_trials(folder.path / "../sweeps/swept/trials.json")],
}


def document_in(path: Path) -> Any:
    text = path.read_text()
    lines = path.suffix == ".jsonl"
    return (
        text
        if path.suffix == ".log"
        else yaml.safe_load(text)
        if path.suffix == ".yaml"
        else [json.loads(row) for row in text.splitlines()]
        if lines
        else json.loads(text)
    )


def as_text(path: Path, document: Any) -> str:
    if path.suffix == ".yaml":
        return yaml.safe_dump(document)
    if path.suffix == ".log" and isinstance(document, str):
        return document
    lines = path.suffix == ".jsonl" and isinstance(document, list)
    return "\n".join(map(json.dumps, document)) if lines else json.dumps(document)


# --- a run's files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_run_s_file_of_any_content_gives_a_result_or_a_line_that_names_it(home: Path, name: str) -> None:
    folder = RunFolder(home / "run")
    path = folder.path / name
    valid = document_in(path)

    def read() -> None:
        for reader in READERS[name]:
            result_or_line(lambda reader=reader: reader(folder), path.name)
        assert {run.id for run in list_runs(home)} == {"run", "other"}
        result_or_line(lambda: find_artifact(home, "n:best"))

    @some
    @given(changes(valid))
    def any_json(document: Any) -> None:
        with written(path, as_text(path, document).encode("utf-8", "surrogatepass")):
            read()

    @some
    @given(damaged(path.read_bytes()))
    def any_bytes(content: bytes) -> None:
        with written(path, content):
            read()

    any_json()
    any_bytes()
    for content in (
        b"",
        b"null",
        b"[]",
        NESTED.encode(),
        BOMB.encode(),
        b"a: &a [*a]",
        b"1" * 5000,
        b'{"status": "\\ud800"}',
        b"\xff",
    ):
        with written(path, content):
            read()


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link to itself", "a link to nothing", "a huge file"])
@pytest.mark.parametrize(
    "name", [*READERS, "evaluation/predictions.npz", "visualization/random.png", "evaluation/thumbnails.jpg"]
)
def test_what_is_no_file_is_a_line_and_never_waited_for(home: Path, tmp_path: Path, name: str, kind: str) -> None:
    shutil.copytree(home, tmp_path / "runs")
    folder = RunFolder(tmp_path / "runs" / "run")
    path = folder.path / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a huge file":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to(path if "itself" in kind else tmp_path / "nothing")
    began = time.monotonic()
    for reader in READERS.get(
        name, [lambda folder: Predictions.load(folder.evaluated().predictions)] if "npz" in name else []
    ):
        result_or_line(lambda reader=reader: reader(folder), path.name)
    runs = {run["id"]: run for run in page.collect(tmp_path / "runs")["runs"]}
    assert runs["other"]["report"] and runs["other"]["pictures"] and not runs["other"]["problems"]
    assert time.monotonic() - began < 60


@some
@given(st.binary() | damaged(b"PK\3\4" + bytes(60)))
def test_predictions_of_any_bytes_are_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "predictions.npz"
    path.write_bytes(content)
    assert result_or_line(lambda: Predictions.load(path), "predictions.npz") is None


anything = arrays.arrays(
    arrays.scalar_dtypes(),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@some
@given(anything, anything, anything)
def test_predictions_of_any_arrays_are_a_table_or_a_line(tmp_path_factory, logits, labels, indices) -> None:
    path = tmp_path_factory.getbasetemp() / "predictions.npz"
    np.savez(path, logits=logits, labels=labels, indices=indices)
    read = result_or_line(lambda: Predictions.load(path), "predictions.npz")
    assert read is None or (np.isfinite(read.confidences).all() and len(read.digest) == 64)


def test_damaged_predictions_are_refused_in_a_line(home: Path) -> None:
    path = RunFolder(home / "run").evaluated().predictions

    @some
    @given(damaged(path.read_bytes()))
    def any_bytes(content: bytes) -> None:
        with written(path, content):
            result_or_line(lambda: Predictions.load(path), path.name)

    any_bytes()
    whole = Predictions.load(path)
    for change in (
        {"labels": whole.labels + 99},
        {"indices": -1 - whole.indices},
        {"logits": whole.logits * np.nan},
        {"logits": whole.logits.astype("O")},
    ):
        np.savez(path.with_name("changed.npz"), **{**vars(whole), **change})
        assert result_or_line(lambda: Predictions.load(path.with_name("changed.npz")), "changed.npz") is None


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*READERS, "../sweeps/swept/sweep.yaml"])
def test_one_damaged_run_costs_the_page_nothing_else(home: Path, name: str) -> None:
    path = home / "run" / name
    valid = document_in(path)
    before = {run["id"]: run for run in page.collect(home)["runs"]}

    @few
    @given(
        changes(valid).map(lambda document: as_text(path, document).encode("utf-8", "surrogatepass"))
        | damaged(path.read_bytes())
    )
    def any_content(content: bytes) -> None:
        with written(path, content):
            data = page.collect(home)
        runs = {run["id"]: run for run in data["runs"]}
        assert runs.keys() == before.keys() and runs["other"] == before["other"]
        assert json.loads(page.json_for_script(data)) and page.json_for_script(data).isascii()

    any_content()
    for content in (NESTED, BOMB, "[]", '{"status": ["finished"], "started": ' + "9" * 400 + "}"):
        with written(path, content.encode()):
            assert page.collect(home)["runs"]


def test_a_run_that_no_one_can_read_is_shown_as_damaged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("_read_run", "shown_of"):
        with monkeypatch.context() as patch:
            patch.setattr(reading, broken, lambda *_: 1 / 0)
            if broken == "_read_run":
                (first, second) = page.collect(home)["runs"]
                assert "damaged" in first["problems"][0] and second["problems"] == first["problems"]
            else:
                assert reading.read_run(home / "run")["report"]
                assert page.described(home / "run")["report"] is None
    page.render(page.collect(home))


@pytest.mark.parametrize("kind", ["bomb", "cut", "text", "link out", "link to nothing", "gif"])
def test_a_picture_that_is_none_costs_only_itself(home: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(home, tmp_path / "runs")
    path = tmp_path / "runs" / "run" / "visualization" / "strange.png"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "outside.png")
    if kind == "bomb":
        Image.new("1", (12_000, 9_000)).save(path)
    elif kind == "cut":
        path.write_bytes((tmp_path / "outside.png").read_bytes()[:60])
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "gif":
        Image.new("RGB", (40, 40)).save(path, "GIF")
    else:
        path.symlink_to(tmp_path / ("outside.png" if "out" in kind else "nothing"))
    run = next(run for run in page.collect(tmp_path / "runs")["runs"] if run["id"] == "run")
    assert "visualization/random.png" in [picture["title"] for picture in run["pictures"]]
    assert "visualization/strange.png" not in [picture["title"] for picture in run["pictures"]]


# --- weights ----------------------------------------------------------------------------------------------------------

HEADER = {
    "model": "resnet50", "classes": ["a", "b"], "dataset": "digits", "data_dir": None, "image_size": 24, "run_id": "run",
    "seed": 0, "validation_fraction": 0.1, "project": "p", "entity": None, "epoch": 3, "superclasses": None, "metrics": {"a": 1.0},
}  # fmt: skip


@settings(some, max_examples=200)
@given(changes(HEADER))
def test_a_header_of_any_content_is_as_a_run_would_write_it_or_a_line(tmp_path: Path, header: Any) -> None:
    if not isinstance(header, dict):
        return
    about = result_or_line(lambda: Metadata.of(header, Path("w.safetensors")), "w.safetensors")
    if about is not None:
        assert all(text.isprintable() for text in (about.model, about.dataset, about.run_id, *about.classes))
        assert 16 <= about.image_size <= 1024 and about.classes and 0 <= about.validation_fraction < 1
        folder = folder_of_run(str(tmp_path / "runs"), about.run_id, Path("w"))
        assert folder.path.parent == tmp_path / "runs"


@some
@given(changes(HEADER))
def test_weights_with_any_header_are_read_or_refused_in_a_line(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "w.safetensors"
    if isinstance(header, dict):
        with contextlib.suppress(UnicodeEncodeError):
            save_weights(path, {"fc.bias": torch.zeros(2)}, header)
            result_or_line(lambda: Metadata.of(load_weights(path)[1], path), path.name)


@some
@given(st.data())
def test_weights_of_any_bytes_are_read_or_refused_in_a_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"fc.bias": torch.zeros(2)}, HEADER)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    result_or_line(lambda: read_metadata(path), path.name)
    result_or_line(lambda: load_weights(path), path.name)


@some
@given(st.dictionaries(st.sampled_from(["format", "sha256", "model", "classes", "run_id"]) | texts, texts))
def test_weights_with_header_values_that_are_no_json_are_refused_in_a_line(
    tmp_path: Path, header: dict[str, str]
) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"format": "resnext-finetuning 1", **header})
    result_or_line(lambda: Metadata.of(read_metadata(path), path), path.name)
    assert result_or_line(lambda: load_weights(path), path.name) is None


@some
@given(st.sampled_from(["..", "/", "sweeps", "a/b", "../../x", ".", "", "a\0", "x" * 400]) | texts)
def test_no_run_id_leads_out_of_runs_dir(tmp_path: Path, run_id: str) -> None:
    runs_dir = tmp_path / "runs"
    folder = result_or_line(
        lambda: folder_of_run(str(runs_dir), Metadata.of({**HEADER, "run_id": run_id}, Path("w")).run_id, Path("w"))
    )
    assert folder is None or (
        lies_in(folder.path, runs_dir) and folder.path.parent == runs_dir and folder.id != "sweeps"
    )


# --- names ------------------------------------------------------------------------------------------------------------

names = (
    texts
    | st.text(st.characters(), max_size=300)
    | st.sampled_from(["", ".", "..", "~", "run/..", "other/config.yaml", "both", "a:b", "\udc80"])
)


@settings(some, max_examples=200)
@given(names)
def test_any_name_is_a_run_or_a_line_and_nothing_is_touched(home: Path, name: str) -> None:
    before = tree(home)
    result_or_line(lambda: find_run(home, name, "--flag"))
    result_or_line(lambda: resolve_checkpoint(name, home))
    result_or_line(lambda: find_group(home, name))
    result_or_line(lambda: find_recipe(home, name))
    assert tree(home) == before


def test_a_group_that_may_lack_a_run_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with written(home / "run" / "config.yaml", b"lr: [\x1b"):
        assert [run.id for run in find_recipe(home, "both").runs.values()] == ["other"]
    said = capsys.readouterr().err
    assert "config.yaml" in said and said.count("\n") == 1 and "\x1b" not in said


@some
@given(st.text() | texts)
def test_an_error_is_one_line_that_no_terminal_obeys(text: str) -> None:
    result_or_line(lambda: (_ for _ in ()).throw(UserError(f"said {text}")), "said")


@some
@given(
    changes(
        [{"step": 1, "epoch": 1, "train/loss": 1.0, "validation/loss": 1.0}, {"step": 2, "epoch": 2, "train/loss": 0.5}]
    )
)
def test_rows_of_any_content_can_be_drawn(tmp_path: Path, rows: Any) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(as_text(folder.metrics, rows))
    for row in read_metrics(folder):
        assert np.isfinite(list(row.values())).all() and type(row["step"]) is int
    curves(read_metrics(folder), 1.0)

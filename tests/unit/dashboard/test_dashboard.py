"""dashboard.py without a browser: what it reads, what it says, and what it refuses."""

import base64
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import CLASSES, STARTED, make_run, make_sweep
from helpers import ROOT, run_script, script_environment
from PIL import Image

from common.analysis.analyse import analyse
from common.analysis.predictions import Predictions
from common.analysis.report import Answers, Comparison, Duplicates, Report
from common.base import records
from common.base.errors import UserError
from common.dashboard import page, pictures, reading, summary


def embedded(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def run_of(runs_dir: Path, run_id: str) -> dict:
    return next(run for run in page.collect(runs_dir)["runs"] if run["id"] == run_id)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tested runs; never changed by a test."""
    runs_dir = tmp_path_factory.mktemp("dashboard") / "runs"
    make_run(runs_dir, "good", skill=4.0, lr=0.02, augment="basic")
    make_run(runs_dir, "middle", skill=3.0, seed=1, started=STARTED + 1, augment="basic")
    make_run(runs_dir, "poor", skill=2.0, seed=2, started=STARTED + 2)
    make_sweep(runs_dir, "digits-1", ["good", "middle"])
    return runs_dir


@pytest.fixture
def one_run(tmp_path: Path) -> Path:
    """A run folder of its own, for a test to damage."""
    return make_run(tmp_path / "runs", "run")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_script_writes_one_file_that_loads_nothing_and_says_where_it_is(runs_dir: Path, tmp_path: Path) -> None:
    done = run_script("dashboard.py", "--runs_dir", runs_dir, "--output", tmp_path / "page.html", cwd=tmp_path)
    assert str(tmp_path / "page.html") in done.stdout and "3 runs" in done.stdout
    html = (tmp_path / "page.html").read_text()
    assert html.count(page.plotly_source()) == 1 and "default-src" in html
    assert gzip.decompress(base64.b64decode(page.plotly_source())).count(b"plotly.js v") == 1
    own = html.replace(page.plotly_source(), "")
    assert not re.search(r"<link|<iframe|\bsrc=[\"']?(?!data:)|@import|\bfetch\(|XMLHttpRequest", own)


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'jinja2', 'plotly', 'yaml', 'wandb'}"
    code = f"import sys, dashboard, common.config; assert not {heavy} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_text_from_runs_stays_text(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    classes = (evil, *CLASSES[1:])
    make_run(tmp_path / "runs", "<script>alert(1)", classes=classes, tags=(evil,))
    html = page.render(page.collect(tmp_path / "runs"))
    assert "<script>alert" not in html and "<img src=x" not in html
    run = embedded(html)["runs"][0]
    assert run["id"] == "<script>alert(1)" and run["report"]["classes"][0] == evil


def test_a_link_from_a_file_is_http_or_none(one_run: Path) -> None:
    path = one_run / "evaluation" / "report.json"
    for address, kept in (("javascript:alert(1)", None), ("https://wandb.ai/x", "https://wandb.ai/x")):
        path.write_text(json.dumps({**json.loads(path.read_text()), "wandb_url": address}))
        html = page.render(page.collect(one_run.parent))
        assert [step["url"] for step in embedded(html)["runs"][0]["lineage"] if step["url"]] == ([kept] if kept else [])
        assert (address in html) == bool(kept)


def test_only_known_files_and_fields_reach_the_page(one_run: Path) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    with (one_run / "config.yaml").open("a") as file:
        file.write(f"api_key: {key}\n")
    for name in ("summary.json", "split.json", "tracking.json", "evaluation/report.json"):
        content = json.loads((one_run / name).read_text())
        (one_run / name).write_text(json.dumps({**content, "api_key": key}))
    (one_run / "wandb").mkdir()
    (one_run / "wandb" / "settings").write_text(f"api_key: {key}")
    (one_run / "netrc").write_text(key)
    html = page.render(page.collect(one_run.parent))
    assert key not in html
    (one_run / "config.yaml").write_text(f"lr: [\n  {key}: : {{")  # an error message would quote its line
    assert key not in page.render(page.collect(one_run.parent))


def test_no_runs_and_one_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert "There are no runs yet" in page.render(page.collect(tmp_path / "runs"))
    make_run(tmp_path / "runs", "only")
    data = page.collect(tmp_path / "runs")
    assert data["best"][0]["run"] == "only" and data["differing"] == []
    assert "test/balanced_accuracy" in data["shares"] and "test/ece" not in data["shares"]
    assert page.collect(tmp_path / "runs" / "only")["runs"][0]["id"] == "only"


@pytest.mark.slow
def test_two_hundred_runs_stay_below_30_mb(tmp_path: Path) -> None:
    classes = tuple(f"class {n}" for n in range(100))
    groups = {
        "superclasses": tuple(f"group {n}" for n in range(20)),
        "superclass_of": tuple(n // 5 for n in range(100)),
    }
    first = make_run(tmp_path / "runs", "run0", classes=classes, images_per_class=10, epochs=4, **groups)
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(first / "visualization" / "errors.png")
    for n in range(1, 200):
        shutil.copytree(first, tmp_path / "runs" / f"run{n}", copy_function=os.link)
    data = page.write_page(tmp_path / "runs", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 30e6
    with_images = [run for run in data["runs"] if run["thumbnails"] and run["pictures"]]
    assert len(with_images) == pictures.RUNS
    assert all("--runs_dir" in run["pictures_note"] for run in data["runs"] if run not in with_images)


def test_a_page_of_four_runs_of_a_hundred_classes_with_their_pictures_is_at_most_6_mb(tmp_path: Path) -> None:
    classes = tuple(f"class number {n:03d}" for n in range(100))
    first = make_run(
        tmp_path / "runs", "run0", classes=classes, superclasses=None, superclass_of=None, images_per_class=30
    )
    noise = np.random.default_rng(0)
    for name in (
        "visualization/errors.png",
        "visualization/random.png",
        "evaluation/confused.png",
        "evaluation/thumbnails.jpg",
    ):
        Image.fromarray(noise.integers(0, 255, (900, 900, 3), dtype=np.uint8)).save(first / name)
    for n in range(1, 4):
        shutil.copytree(first, tmp_path / "runs" / f"run{n}", copy_function=os.link)
    data = page.write_page(tmp_path / "runs", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size <= 6_000_000
    assert all(run["thumbnails"] and run["pictures"] for run in data["runs"])
    titles = [picture["title"] for run in data["runs"] for picture in run["pictures"]]
    assert "evaluation/confused.png" not in titles  # the page shows these images once, in its confusion tab


def test_the_table_of_runs_comes_before_what_is_said_of_each_data_set(runs_dir: Path) -> None:
    html = page.render(page.collect(runs_dir))
    assert html.index('id="runs"') < html.index('id="best"')


def test_a_run_s_settings_and_report_are_read_once(one_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[str]()
    read = records.read_file

    def counted(path: Path, most: int) -> bytes:
        opened.append(Path(path).name)
        return read(path, most)

    monkeypatch.setattr(records, "read_file", counted)
    run = page.collect(one_run.parent)["runs"][0]
    assert run["report"] and run["card"] and run["config"]
    assert [opened.count(name) for name in ("config.yaml", "report.json")] == [1, 1]


def test_the_page_ranks_all_runs_and_not_the_first_five_alone(tmp_path: Path) -> None:
    for n in range(7):
        make_run(tmp_path / "runs", f"run{n}", skill=2 + n / 3, tested=False)
    data = page.collect(tmp_path / "runs")
    validation = {run["id"]: run["validation_accuracy"] for run in data["runs"]}
    assert data["ranked"] == [sorted(validation, key=lambda run_id: -validation[run_id])]


# --- runs that died ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["summary.json", "config.yaml", "split.json", "tracking.json", "metrics.jsonl", "evaluation/report.json",
     "evaluation/predictions.npz", "evaluation/thumbnails.jpg", "visualization/random.png", "visualization/predictions.json"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["torn", "missing", "strange"])
def test_a_damaged_file_costs_only_its_own_part(one_run: Path, name: str, damage: str) -> None:
    path = one_run / name
    content = path.read_bytes()
    path.write_bytes({"torn": content[: len(content) // 3], "strange": b'[{"\xff": 1}]', "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    elif name == "config.yaml":
        path.write_text("lr: [0.1")
    data = page.collect(one_run.parent)
    run = data["runs"][0]
    page.render(data)
    optional = damage == "missing" and name in ("split.json", "tracking.json", "summary.json", "visualization/random.png",
                                                "visualization/predictions.json")  # fmt: skip
    torn_lines = name == "metrics.jsonl" and damage == "torn"  # its whole lines still count
    assert optional or torn_lines or any(name in problem for problem in run["problems"]), run["problems"]
    assert (run["report"] is None) == (name == "evaluation/report.json")
    assert bool(run["curves"]) == (name != "metrics.jsonl" or damage == "torn")
    assert bool(run["config"]) == (name != "config.yaml")


@pytest.mark.parametrize("field", ["confusion", "classes", "superclass_of", "per_class", "calibration", "metrics"])
def test_a_report_of_another_shape_is_left_out(one_run: Path, field: str) -> None:
    path = one_run / "evaluation" / "report.json"
    report = json.loads(path.read_text())
    for value in (None, [1], "text"):
        path.write_text(json.dumps({**report, field: value}))
        run = page.collect(one_run.parent)["runs"][0]
        assert run["report"] is None and "evaluation/report.json was left out" in run["problems"][0]


def test_a_report_of_a_later_version_says_so(one_run: Path) -> None:
    path = one_run / "evaluation" / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "confusion": "in a new form"}))
    run = page.collect(one_run.parent)["runs"][0]
    assert run["report"] is None
    assert run["problems"] == [
        "evaluation/report.json was left out: it was written by a later version of this program."
    ]


@pytest.mark.parametrize("problem", ["a folder in its place", "a link to itself"])
def test_a_report_that_cannot_be_opened_says_why(one_run: Path, problem: str) -> None:
    path = one_run / "evaluation" / "report.json"
    path.unlink()
    path.mkdir() if "folder" in problem else path.symlink_to(path)
    (said,) = page.collect(one_run.parent)["runs"][0]["problems"]
    assert "evaluation/report.json was left out: " in said and ("Is a directory" in said or "symbolic links" in said)


def test_every_command_works_from_where_the_page_was_built(one_run: Path, tmp_path: Path) -> None:
    (one_run / "evaluation" / "report.json").unlink()
    elsewhere = one_run.parent.rename(tmp_path / "my runs")
    data = page.collect(elsewhere)
    run = data["runs"][0]
    commands = [run["evaluate"], run["visualize"], page.what_is_missing(data).partition(": ")[2]]
    commands += [row["command"] for row in run["commands"]]
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python" and (ROOT / words[1]).exists()
        assert words[words.index("--runs_dir") + 1] == str(elsewhere)
    (tmp_path / "none").mkdir()
    html = page.render(page.collect(tmp_path / "none"))
    assert f"python train.py --preset digits --runs_dir {tmp_path / 'none'}" in html


def test_what_became_of_a_run(one_run: Path) -> None:
    summary_path = one_run / "summary.json"
    for status, pid, shown in (
        ("running", os.getpid(), "running"),
        ("running", 2**22 + 1, "crashed"),
        ("failed", 1, "failed"),
    ):
        summary_path.write_text(json.dumps({**json.loads(summary_path.read_text()), "status": status, "pid": pid}))
        assert reading.read_run(one_run)["status"] == shown
    assert any("--resume run" in row["command"] for row in reading.read_run(one_run)["commands"])
    (one_run / "evaluation" / "report.json").unlink()
    assert any("evaluation did not end" in problem for problem in reading.read_run(one_run)["problems"])
    summary_path.unlink()
    assert reading.read_run(one_run)["status"] == "unknown"


def test_a_folder_with_nothing_but_a_mark_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "notes").mkdir()
    assert [run["id"] for run in page.collect(tmp_path / "runs")["runs"]] == ["begun"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_missing_runs_folder_is_one_line(tmp_path: Path) -> None:
    done = run_script("dashboard.py", "--runs_dir", "nowhere", cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: --runs_dir nowhere doesn't exist") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_only_a_dashboard_is_replaced(runs_dir: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<h1>My thesis</h1>")
    for output, reason in (
        (thesis, "isn't a dashboard"),
        (tmp_path, "can't be replaced"),
        (tmp_path / "no" / "x", "no folder"),
    ):
        with pytest.raises(UserError, match=reason):
            page.write_page(runs_dir, output)
    assert thesis.read_text() == "<h1>My thesis</h1>"
    for _ in range(2):
        page.write_page(runs_dir, tmp_path / "page.html")


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_best_run_and_what_set_it_apart(runs_dir: Path) -> None:
    data = page.collect(runs_dir)
    (best,) = data["best"]
    assert best["run"] == "good" and data["leading"] == ["good", "middle", "poor"]
    assert "the best of 3 runs. Next is middle" in best["text"]
    assert "lr 0.02 instead of 0.001" in best["text"] and "augment" not in best["text"]
    assert set(data["differing"]) == {"lr", "augment"}


def test_runs_on_other_data_do_not_compete(runs_dir: Path) -> None:
    runs = [reading.read_run(runs_dir / name) for name in ("poor", "middle", "good")]
    runs[0]["data"] = "digits"
    assert [(some.data, some.split, [run["id"] for run in some.runs]) for some in summary.rank(runs)] == [
        ("digits", "test", ["poor"]), ("cifar100", "test", ["good", "middle"]),
    ]  # fmt: skip
    runs[1]["report"] = None  # with one run tested, validation is what both have
    assert summary.rank(runs)[1].split == "validation"


def test_answers_name_the_numbers_of_the_report(runs_dir: Path) -> None:
    run = run_of(runs_dir, "poor")
    raw = json.loads((runs_dir / "poor" / "evaluation" / "report.json").read_text())
    answers = {row["question"]: row["answer"] for row in run["answers"]}
    assert summary.percent(raw["metrics"]["test/accuracy"]) in answers["How good is it?"]
    worst = min(raw["per_class"], key=lambda row: row["recall"])
    assert f"Found least often: {worst['class']} ({summary.percent(worst['recall'])})" in answers["Which classes fail?"]
    pair = raw["confused"][0]
    taken = f"{CLASSES[pair['true']]} for {CLASSES[pair['predicted']]} ({pair['count']} of 40)"
    assert taken in answers["What are they taken for?"]
    assert summary.percent(raw["calibration"]["ece"]) in answers["Is its confidence to be trusted?"]
    assert "not tested" in summary.how_good({**run, "report": None})


def test_it_is_told_when_a_run_should_not_answer(runs_dir: Path) -> None:
    run = run_of(runs_dir, "poor")
    raw = json.loads((runs_dir / "poor" / "evaluation" / "report.json").read_text())
    told = {row["question"]: row["answer"] for row in run["answers"]}["When should it not answer?"]
    for row in raw["answers"]["thresholds"]:
        if row["confidence"] is None:
            assert summary.percent(row["target"]) in told.partition("No confidence is enough to be right on ")[2]
        else:
            coverage, accuracy = summary.percent(row["coverage"]), summary.percent(row["accuracy"])
            assert f"answering {coverage} of the images it is right on {accuracy} of those" in told
    bare = Answers(0.1, 0.0, [], note="no thresholds: no validation part")
    assert summary.when_unsure(bare) == "Not known: no thresholds: no validation part."


def one_sided(report: Report, majority: int, classes: int) -> Report:
    """The same of images of which `majority` are of the first class, and two of each other; all are taken for the first."""
    labels = np.repeat(np.arange(classes), [majority] + [2] * (classes - 1))
    logits = np.zeros((len(labels), classes), dtype=np.float32)
    logits[:, 0] = 5
    names = [f"c{number}." for number in range(classes)]
    return replace(report, **vars(analyse(Predictions(logits, labels, np.arange(len(labels))), names)))


@pytest.mark.parametrize("classes", [3, 40])
def test_the_baseline_is_the_largest_class_and_every_class_that_is_never_found_is_named(runs_dir, classes) -> None:
    run = reading.read_run(runs_dir / "poor")
    run["report"] = one_sided(run["report"], 150, classes)
    share = summary.percent(150 / (150 + 2 * (classes - 1)))
    good = summary.how_good(run)
    assert f"always answering 'c0.' gives {share}, which it does not surely beat" in good
    assert summary.percent(1 / classes) + " (balanced accuracy)" in good and "guessing" not in good
    text = summary.failing_classes(run["report"]).split("Found least often")[0]
    assert text.startswith("Never found: ") and all(f"c{number}." in text for number in range(1, classes))
    assert "c0." not in text


def test_where_no_class_fails_none_is_said_to(runs_dir) -> None:
    run = reading.read_run(runs_dir / "good")
    assert summary.failing_classes(run["report"]).startswith("Found least often")
    assert "surely" not in summary.how_good(run)


def test_a_best_epoch_that_another_number_chose_is_said_to_be(runs_dir) -> None:
    run = reading.read_run(runs_dir / "poor")
    untested = {**run, "report": None}
    assert "chosen by this number" in summary.how_good(untested)
    untested["config"] = {**run["config"], "best_by": "macro_f1"}
    assert "chosen by that set's macro_f1" in summary.how_good(untested)


def test_a_comparison_whose_interval_holds_zero_may_be_chance() -> None:
    for low, high, verdict in ((-0.01, 0.03, "Chance"), (0.01, 0.03, "Yes"), (-0.03, -0.01, "No")):
        numbers = Comparison("other", 0.8, 0.79, 0.01, low, high, 12, 9, 70, 9, 0.3, [], [])
        assert summary.compared(numbers).startswith(verdict)


def test_thumbnails_are_told_by_the_saved_predictions(runs_dir: Path) -> None:
    run = run_of(runs_dir, "poor")
    with np.load(runs_dir / "poor" / "evaluation" / "predictions.npz") as saved:
        logits, labels = saved["logits"], saved["labels"]
    assert len(run["thumbnails"]["tiles"]) == (logits.argmax(1) != labels).sum()
    for true, predicted, confidence, index in run["thumbnails"]["tiles"]:
        p = np.exp(logits[index]) / np.exp(logits[index]).sum()
        assert (true, predicted) == (labels[index], p.argmax()) and abs(confidence - p.max()) < 1e-3


def test_sweeps_show_every_trial_and_survive_a_torn_file(runs_dir: Path, tmp_path: Path) -> None:
    (sweep,) = page.collect(runs_dir)["sweeps"]
    assert [trial["state"] for trial in sweep["trials"]] == ["complete", "complete", "fail"]
    assert sweep["metric"] == "validation/accuracy" and sweep["trials"][2]["error"] == "diverged"
    folder = make_sweep(tmp_path / "runs", "torn", [])
    (folder / "trials.json").write_text('[{"number": 0')
    (torn,) = page.collect(tmp_path / "runs")["sweeps"]
    assert torn["trials"] == [] and "trials.json" in torn["problems"][0]


def test_long_curves_are_thinned_with_both_ends_kept() -> None:
    rows = [{"step": n, "time": float(n), "epoch": n / 100, "lr": 0.1 if n else float("nan")} for n in range(5000)]
    (curve,) = reading.curves_of(rows, 0.0)
    assert len(curve["step"]) == reading.CURVE_POINTS and (curve["step"][0], curve["step"][-1]) == (1, 4999)


def test_a_large_picture_is_shrunk_into_its_budget(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(pictures.load(tmp_path / "noise.png", 200_000)) <= 200_000
    with pytest.raises(OSError, match="too large"):
        pictures.load(tmp_path / "noise.png", 300)


def test_a_picture_that_would_not_fit_into_memory_costs_only_itself(one_run: Path, monkeypatch) -> None:
    pictures._load.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    run = page.collect(one_run.parent)["runs"][0]
    assert run["pictures"] == [] and run["thumbnails"] is None and run["report"] is not None
    assert "visualization/random.png was left out: it is too large for this page." in run["problems"]


# --- watching ---------------------------------------------------------------------------------------------------------


def test_watch_rebuilds_when_a_run_appears_and_leaves_a_page_that_rests(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "first", tested=False)
    output = tmp_path / "dashboard.html"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "dashboard.py"), "--watch", "True"],
        cwd=tmp_path, env=script_environment(tmp_path), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while "Watching" not in process.stdout.readline():
            assert process.poll() is None
        assert 'data-reload="0"' not in output.read_text()
        make_run(tmp_path / "runs", "second", tested=False)
        deadline = time.monotonic() + 60
        while '"id":"second"' not in output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert 'data-reload="0"' in output.read_text() and list(tmp_path.glob(".*.tmp*")) == []


def test_the_page_says_whether_the_images_were_seen_in_training():
    seen = Duplicates(exact=2, near=4, other_label=1, accuracy_without=0.5, accuracy_on_them=0.9)
    said = summary.seen_before(seen)
    assert "6 of them (2 pixel by pixel, 4 nearly)" in said and "right on 50.0 %" in said and "another label" in said
    assert summary.seen_before(Duplicates(near=0)).startswith("No: none of them")
    assert "nearly" not in summary.seen_before(Duplicates(exact=1, accuracy_without=0.5, accuracy_on_them=1.0))
    assert summary.seen_before(Duplicates("there is no train")) == "Not known: there is no train"


def test_a_run_s_model_card_is_a_page_of_its_own_with_names_as_text(tmp_path):
    odd = ("<b>one</b>", "</script>", *(f"c{i}" for i in range(10)))
    make_run(tmp_path, "run", classes=odd)
    (tmp_path / "damaged" / "checkpoints").mkdir(parents=True)
    data = page.collect(tmp_path)
    cards = {run["id"]: run["card"] for run in data["runs"]}
    assert cards["damaged"] is None
    assert "&lt;b&gt;one&lt;/b&gt;" in cards["run"] and "<b>" not in cards["run"]
    accuracy = next(run for run in data["runs"] if run["id"] == "run")["report"]["metrics"]["test/accuracy"]
    assert f"accuracy **{accuracy:.4f}" in cards["run"]
    assert "<b>one" not in page.render(data)

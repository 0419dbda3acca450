"""What a person chooses in dashboard.html, and what they take away from it: in a real Chromium, against plain loops and Python's own readers."""

import csv
import io
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode

import numpy as np
import pytest
from chromium import PATIENCE, watched_page
from dashboard_runs import STARTED, make_run, make_sweep
from PIL import Image

from common.dashboard.page import POLICY, collect, write_page
from common.export.card import code, escaped

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Download, Page, expect

pytestmark = pytest.mark.browser
FORMULA = "=HYPERLINK(1)"
TRACES = "document.getElementById('curves').data.map(trace => trace.name)"
NO_UNPACKING = [
    "delete window.DecompressionStream",
    "window.DecompressionStream = class { constructor() { throw new TypeError('gzip'); } }",
    "window.atob = () => 'no gzip at all'",
]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven runs, newest first: late, =HYPERLINK(1), lr=0.5, run-3, run-2, run-1, run-0."""
    runs_dir = tmp_path_factory.mktemp("view") / "runs"
    for n in range(4):
        make_run(
            runs_dir,
            f"run-{n}",
            skill=2 + n / 2,
            seed=n,
            started=STARTED + n,
            epochs=20 if n == 3 else 5,
            lr=0.01 * (n + 1),
            finetune=("full", "head")[n % 2],
        )
    make_run(runs_dir, "lr=0.5", tested=False, started=STARTED + 4, lr=0.2)
    make_run(runs_dir, FORMULA, tested=False, started=STARTED + 5, lr=0.3, tags=("@sum", 'says "a, b"'))
    make_run(
        runs_dir,
        "late",
        tested=False,
        started=STARTED + 6,
        status="failed",
        epochs=2,
        tags=("+1+1",),
        lr=0.4,
        weight_decay=0.000123456,
        weights="imagenet",
        head_epochs=1,
    )
    make_sweep(runs_dir, "digits-1", ["run-0", "run-1"])
    return runs_dir


@pytest.fixture(scope="module")
def runs(runs_dir: Path) -> dict[str, dict]:
    return {run["id"]: run for run in collect(runs_dir)["runs"]}


@pytest.fixture(scope="module")
def asked_page(browser: Browser, address: str) -> Iterator[Page]:
    """One page for all that is only asked of it."""
    page = watched_page(browser, address)
    page.goto(address)
    yield page
    page.close()
    assert page.trouble == []


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """`open_page(fragment, script, width, scheme)`: a page of its own; at the end it must have complained of nothing."""
    pages = []

    def open_page(fragment: str = "", script: str = "", width: int = 1440, scheme: str = "light") -> Page:
        page = watched_page(browser, address, width, scheme, inside=("data:", "blob:"))
        page.add_init_script(script)
        page.goto(f"{address}#{fragment}")
        page.evaluate("Promise.all([...document.querySelectorAll('.chart')].map(chart => chart.drawn))")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [page.trouble for page in pages] == [[]] * len(pages)


def names(page: Page) -> list[str]:
    """The runs that the table shows, from the top."""
    return page.evaluate(
        "[...document.querySelectorAll('#runs [data-row]')].filter(row => !row.hidden).map(row => row.dataset.row)"
    )


def drawn(page: Page) -> list[str]:
    page.evaluate("document.getElementById('curves').drawn")
    return page.evaluate(TRACES)


def ask(page: Page, text: str) -> str:
    """What the page says of a filter."""
    page.locator("#filter").fill(text)
    page.locator("#filter").press("Enter")
    return page.locator("#filter-said").inner_text()


def slide(page: Page, weight: float) -> None:
    page.locator("#smoothing").fill(str(weight))
    wait_for_smoothed(page, weight)


def wait_for_smoothed(page: Page, weight: float) -> None:
    """A slider's curves are drawn in the next frame."""
    page.wait_for_function("weight => view.smoothing === weight", arg=weight)
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    page.evaluate("document.getElementById('curves').drawn")


def saved(page: Page, click: Callable[[], None]) -> Download:
    with page.expect_download() as download:
        click()
    return download.value


def averaged(values: list[float | None], weight: float) -> list[float | None]:
    """The mean of all values so far, of which one k values ago weighs weight**k."""
    means: list[float | None] = []
    for at, value in enumerate(values):
        past = [earlier for earlier in values[: at + 1] if earlier is not None]
        weights = [weight**k for k in range(len(past))][::-1]
        means.append(None if value is None else sum(w * x for w, x in zip(weights, past, strict=True)) / sum(weights))
    return means


# --- curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 0.99])
def test_smoothing_is_a_mean_of_which_older_values_weigh_less_and_begins_at_the_first_value(
    asked_page: Page, weight: float
) -> None:
    for values in (
        [2.5],
        [1.0, 1.0, 1.0],
        [None, 3.0, None, -1.0, 4.0],
        np.random.default_rng(0).normal(size=200).tolist(),
    ):
        found = asked_page.evaluate("([values, weight]) => smoothed(values, weight)", [values, weight])
        expected = averaged(values, weight)
        assert [value is None for value in found] == [value is None for value in expected]
        numbers = [[value for value in row if value is not None] for row in (found, expected)]
        np.testing.assert_allclose(*numbers, rtol=1e-9)


def test_a_smoothed_curve_lies_over_the_raw_one_which_stays_faintly_visible(open_page, runs: dict) -> None:
    page = open_page()
    page.locator("#curve").select_option("train/batch_loss")
    before = drawn(page)
    slide(page, 0.8)
    expect(page.locator("#smoothing-said")).to_have_text("0.80")
    traces = page.evaluate(
        "document.getElementById('curves').data.map(({name, y, opacity, showlegend}) => ({name, y, opacity, showlegend}))"
    )
    assert [trace["name"] for trace in traces] == [name for name in before for _ in range(2)]
    for raw, smooth in zip(traces[::2], traces[1::2], strict=True):
        (curve,) = [
            table["values"]["train/batch_loss"]
            for table in runs[raw["name"]]["curves"]
            if "train/batch_loss" in table["values"]
        ]
        assert raw["y"] == curve and 0 < raw["opacity"] < 0.5 and raw["showlegend"] is False
        np.testing.assert_allclose(smooth["y"], averaged(curve, 0.8))
    page.locator("#smoothing").focus()  # by the keyboard
    page.keyboard.press("Home")
    wait_for_smoothed(page, 0)
    assert drawn(page) == before
    page.keyboard.press("ArrowRight")
    page.wait_for_function("view.smoothing === 0.01")


def test_a_run_s_own_curves_are_smoothed_as_well_and_say_so(open_page) -> None:
    page = open_page("run=run-1&tab=curves")
    slide(page, 0.5)
    expect(page.locator("#panel")).to_contain_text("Smoothed by 0.5")
    assert page.evaluate("document.querySelector('#panel .chart').data.length") == 4  # two losses, raw and smoothed
    slide(page, 0)
    expect(page.locator("#panel")).not_to_contain_text("Smoothed")


def test_logarithmic_axes_and_what_cannot_stand_on_them(open_page, runs: dict) -> None:
    page = open_page("curve=train/batch_loss")
    kinds = "(({xaxis, yaxis}) => [xaxis.type, yaxis.type])(document.getElementById('curves')._fullLayout)"
    assert page.evaluate(kinds) == ["linear", "linear"]
    page.get_by_label("log y").check()
    assert drawn(page) and page.evaluate(kinds) == ["linear", "log"]
    page.get_by_label("log x").check()
    assert drawn(page) and page.evaluate(kinds) == ["log", "log"]
    losses = [
        table["values"]["train/batch_loss"]
        for name in drawn(page)
        for table in runs[name]["curves"]
        if "train/batch_loss" in table["values"]
    ]
    below = sum(value <= 0 for curve in losses for value in curve)
    assert below > 0
    expect(page.locator("#curves-said")).to_have_text(
        f"{below} points at or below 0 can't stand on a logarithmic axis."
    )
    assert page.evaluate(
        "document.getElementById('curves').data.every(trace => trace.y.every(y => y === null || y > 0))"
    )
    page.get_by_label("log y").uncheck()
    expect(page.locator("#curves-said")).to_have_text("")
    for name in ("log x", "log y"):
        page.get_by_label(name).set_checked(False)
    assert drawn(page) and page.evaluate(kinds) == ["linear", "linear"]


@pytest.fixture(scope="module")
def seventy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs` of the same curves, and their `page.html`."""
    folder = tmp_path_factory.mktemp("seventy")
    first = make_run(folder / "runs", "run-0", tested=False, epochs=2)
    for n in range(1, 70):
        shutil.copytree(first, folder / "runs" / f"run-{n}")
    write_page(folder / "runs", folder / "page.html")
    return folder


def test_the_curves_of_many_runs_lose_no_point(browser: Browser, seventy: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{(seventy / 'page.html').as_uri()}#choose=all&curve=train/batch_loss")
    page.evaluate("document.getElementById('curves').drawn")
    traces = page.evaluate("document.getElementById('curves').data.map(({x, y, text}) => ({x, y, text}))")
    assert len(traces) <= 7  # each of its own would take Plotly seconds
    run = collect(seventy / "runs")["runs"][0]
    (curve,) = [table for table in run["curves"] if "train/batch_loss" in table["values"]]
    points = list(zip(curve["epoch"], curve["values"]["train/batch_loss"], strict=True))
    found: dict[str, list] = {}
    for trace in traces:
        for x, y, name in zip(trace["x"], trace["y"], trace["text"], strict=True):
            found.setdefault(name, []).append((x, y))
    assert set(found.pop("")) == {(None, None)}
    assert found.keys() == {f"run-{n}" for n in range(70)} and all(pairs == points for pairs in found.values())
    page.close()


LINES = """Object.fromEntries(by_id("curves").data.filter(trace => trace.showlegend !== false)
    .map(({name, line}) => [name, `${line.color} ${line.dash}`]))"""


def lines(page: Page) -> dict[str, str]:
    """Run → colour and dash of its curve."""
    page.evaluate("document.getElementById('curves').drawn")
    return page.evaluate(LINES)


def test_a_run_s_line_stays_the_same_whatever_else_is_chosen(open_page, browser: Browser, seventy: Path) -> None:
    page = open_page("choose=all")
    first = lines(page)
    assert len({line.split()[0] for line in first.values()}) == 7  # a colour each
    for text in ("run-", "lr<0.035", "finetune=head", "run-2", ""):
        ask(page, text)
        now = lines(page)
        assert now and now.items() <= first.items()
    for name in ("Newest five", "Best five", "None"):
        page.get_by_role("button", name=name, exact=True).click()
        assert lines(page).items() <= first.items()
    page.get_by_label("run-0 in the curves").check()
    page.locator("#curve").select_option("lr")
    assert lines(page) == {"run-0": first["run-0"]}

    # Any seven of seventy have a colour each, those that were there keep theirs, and the address has them.
    page, again = (watched_page(browser, (seventy / "page.html").as_uri()) for _ in range(2))
    page.goto(f"{(seventy / 'page.html').as_uri()}#choose=none")
    before: dict[str, str] = {}
    for n in (60, 32, 4, 53, 25, 46, 18):  # 28 and 7 apart
        page.get_by_label(f"run-{n} in the curves", exact=True).check()
        now = lines(page)
        assert before.items() <= now.items() and len({line.split()[0] for line in now.values()}) == len(now)
        before = now
    for name in ("run-60", "run-4"):
        page.get_by_label(f"{name} in the curves", exact=True).uncheck()
        before = {run: line for run, line in before.items() if run != name}
    for n in (39, 11, 67):
        page.get_by_label(f"run-{n} in the curves", exact=True).check()
    now = lines(page)
    assert before.items() <= now.items() and len(now) == len(set(now.values())) == 8
    again.goto(page.url)
    assert lines(again) == now
    page.get_by_role("button", name="All", exact=True).click()
    assert page.evaluate("[...looks].length") == 70 and page.evaluate("new Set(looks.values()).size") == 28
    assert page.trouble == again.trouble == []
    for opened in (page, again):
        opened.close()


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("run-", lambda run: "run-" in run["id"]),
        ("LATE", lambda run: run["id"] == "late"),
        ("failed", lambda run: run["status"] == "failed"),
        ("cifar run-", lambda run: "run-" in run["id"]),
        ("lr<0.03", lambda run: run["config"]["lr"] < 0.03),
        ("weight_decay=0.000123456", lambda run: run["id"] == "late"),
        ("lr < 0.03", lambda run: run["config"]["lr"] < 0.03),
        ("lr==0.02 status = finished", lambda run: run["config"]["lr"] == 0.02),
        ('"lr < 0.03"', lambda run: run["config"]["lr"] < 0.03),
        ("duration_seconds<=120", lambda run: run["seconds"] <= 120),
        ("started>=2025-06-17", lambda run: run["started"] >= 1_750_118_400),
        ("lr<=0.03 finetune=head", lambda run: run["config"]["lr"] <= 0.03 and run["config"]["finetune"] == "head"),
        ("finetune!=head", lambda run: run["config"]["finetune"] != "head"),
        ("lr>0.25 status=finished", lambda run: run["config"]["lr"] > 0.25 and run["status"] == "finished"),
        ("lr=2e-2", lambda run: run["config"]["lr"] == 0.02),
        ("lr=0.5", lambda run: run["id"] == "lr=0.5"),  # a name, though it looks like a condition
        ("validation>=70%", lambda run: run["validation_accuracy"] >= 0.7),
        ("validation>=0.7", lambda run: run["validation_accuracy"] >= 0.7),
        ("test>0", lambda run: run["report"] is not None),
        ("macro_f1<1", lambda run: run["report"] is not None),
        ('"epochs done"<5', lambda run: run["facts"]["Epochs done"] < 5),
        ("tags=@sum", lambda run: "@sum" in run["config"]["tags"]),
        ("patience=none", lambda run: run["config"]["patience"] is None),
        ("nesterov=true", lambda run: run["config"]["nesterov"] is True),
        ("nesterov=false", lambda run: run["config"]["nesterov"] is False),
        ("id=run-1", lambda run: run["id"] == "run-1"),
        ("", lambda run: True),
    ],
)  # fmt: skip
def test_the_filter_lets_through_what_a_plain_loop_does(asked_page: Page, runs: dict, text: str, meets) -> None:
    said = ask(asked_page, text)
    expected = [run_id for run_id, run in runs.items() if meets(run)]
    assert names(asked_page) == expected
    assert said.startswith(f"{len(expected)} of 7 runs." if text else "")


def test_the_filter_understands_titles_and_shares_as_they_are_shown(open_page, runs: dict) -> None:
    page = open_page()
    tested = [run_id for run_id, run in runs.items() if run["report"]]
    for key, titles in (
        ("test/accuracy", ("test", "Test", "TEST", "test accuracy", "test/accuracy")),
        ("test/macro_f1", ("macro f1", "Macro F1", "MACRO  F1", "macro_f1", '"macro f1"', "test macro f1")),
        ("test/balanced_accuracy", ("balanced accuracy", "test/balanced_accuracy")),
        ("test/top5_accuracy", ("Top5 accuracy",)),
    ):
        value = {run_id: runs[run_id]["report"]["metrics"][key] for run_id in tested}
        low, high = sorted(value.values())[1:3]
        limit = (low + high) / 2
        above, rest = (
            [run_id for run_id in tested if (value[run_id] > limit) == is_above] for is_above in (True, False)
        )
        assert len(above) == len(rest) == 2
        percent = f"{100 * limit:.4f}"
        for title in titles:
            for text, expected in (
                (f"{title}>{percent}", above), (f"{title} > {percent} %", above), (f"{title}>{percent}%", above), (f"{title} >{limit:.6f}", above), (f"{title}<= {percent}", rest),
                (f"cifar {title} > {percent} % status = finished", above), (f"finished {title}<{percent} run-", rest),
            ):  # fmt: skip
                assert (ask(page, text), names(page)) == ("2 of 7 runs.", expected), text
        name = above[0]  # as the table shows it
        same = [run_id for run_id in tested if f"{100 * value[run_id]:.1f}" == f"{100 * value[name]:.1f}"]
        for text in (f"{titles[0]}={100 * value[name]:.1f}", f"{titles[0]} = {100 * value[name]:.1f} %"):
            ask(page, text)
            assert names(page) == same, text
    for text, meets in (
        ("Epochs Done > 5", lambda run: run["facts"]["Epochs done"] > 5), ("weight decay<0.0002", lambda run: run["config"]["weight_decay"] < 0.0002),
        ("epochs done=2 best  epoch = 2", lambda run: run["id"] == "late"), ("lr<30", lambda run: True), ("Training images > 1", lambda run: True),
    ):  # fmt: skip
        ask(page, text)
        assert names(page) == [run_id for run_id, run in runs.items() if meets(run)], text
    assert "above 1 means percent" in page.locator("#filter-help").inner_text()


def test_what_the_filter_cannot_understand_is_said_and_hides_nothing(open_page) -> None:
    page = open_page()
    for text, word in (
        ("foo=3", "no run has a setting or a result “foo”"), ("lr<", "nothing stands behind “<”"), ("<0.1", "nothing stands before “<”"), ("lr<0.1<0.2", "is no number"), ("lr<fast", "“fast” is no number"),
        ("accuracy>0.5", "validation/accuracy or"), ("__proto__=1", "no run has"), ("constructor<3", "no run has"),
        ("macro f2 > 65 %", "no run has a setting or a result “macro f2”"), ("cifar no such thing>70", "“no such thing”"), ("test > %", "“%” is no number"),
        ("test > 70 > 80", "“70 > 80” is no number"), ("test > seventy %", "is no number"), ("> 70 %", "nothing stands before"), ("macro f1 >", "nothing stands behind"),
    ):  # fmt: skip
        said = ask(page, text)
        assert word in said and "7 of 7 runs" in said and len(names(page)) == 7, said
    assert "foo" in ask(page, "foo=3 lr<0.03") and names(page) == ["run-1", "run-0"]
    for text in ("<script>alert(1)</script>", '"', "((((", "\\d[", "lr<0.03 zzz"):
        said = ask(page, text)
        assert (said.startswith("0 of 7 runs.") and "No run has" in said) or len(names(page)) == 7, said
    assert "No run has “zzz”." in ask(page, "lr<0.03 zzz") and "at once" in ask(page, "lr<0.03 lr>0.1")
    ask(page, "")
    assert len(names(page)) == 7 and page.locator("#filter-said").inner_text() == ""


def test_the_best_the_newest_and_all_are_chosen_from_what_the_filter_shows(open_page, runs: dict) -> None:
    page = open_page()
    accuracy = {run_id: run["report"]["metrics"]["test/accuracy"] for run_id, run in runs.items() if run["report"]}
    ranked = sorted(accuracy, key=lambda run_id: -accuracy[run_id])
    ask(page, "lr<0.035")
    assert set(drawn(page)) == {run_id for run_id in ranked if runs[run_id]["config"]["lr"] < 0.035}
    ask(page, "finetune=full")
    left = [run_id for run_id, run in runs.items() if run["config"]["finetune"] == "full"]
    for name, expected in (("All", left), ("Newest five", left[:5]), ("None", [])):
        page.get_by_role("button", name=name, exact=True).click()
        assert sorted(drawn(page)) == sorted(expected)
    ask(page, "")
    page.get_by_label("run-1 in the curves").check()
    ask(page, "run-0")
    assert drawn(page) == ["run-1"]  # chosen by hand: no filter takes it away


def test_every_setting_and_result_can_be_a_column(open_page, runs: dict) -> None:
    page = open_page()
    headers = page.locator("#runs thead button")
    first = headers.all_inner_texts()
    assert "lr" in first and "batch_size" not in first
    page.locator("#choose-columns summary").click()
    boxes = page.locator("#columns input")
    offered = set(boxes.evaluate_all("boxes => boxes.map(box => box.dataset.column)"))
    settings = {key for run in runs.values() for key in run["config"]}
    assert settings < offered and {"test/ece", "fact/device", "best_epoch"} <= offered
    page.get_by_label("batch_size").focus()
    page.keyboard.press("Space")
    page.get_by_label("Status").uncheck()
    assert set(headers.all_inner_texts()) == set(first) - {"Status"} | {"batch_size"}
    assert not Axe().run(page, context="#choose-columns").response["violations"]
    page.locator("#first-columns").click()
    assert headers.all_inner_texts() == first


def test_epochs_done_say_of_how_many_and_how_many_trained_the_head_alone(open_page) -> None:
    page = open_page("run=late&tab=settings")
    shown = page.evaluate(
        "(at => Object.fromEntries(rows_of_runs().map(row => [row.dataset.row, row.cells[at].innerText])))"
        "([...document.querySelectorAll('#runs th')].findIndex(th => th.innerText.startsWith('Epochs done')))"
    )
    assert (shown["run-3"], shown["run-0"], shown["late"]) == ("20 of 20", "5 of 5", "2 of 3 (1 head alone)")
    facts = page.get_by_role("region", name="Facts").get_by_role("row", name="Epochs done")
    expect(facts).to_contain_text("2 of 3, 1 of them the head alone")
    # Settings that are not known, and those of a run that went on for longer than they say.
    said = "([done, head_epochs, epochs]) => epochs_done({facts: {'Epochs done': done}, config: {head_epochs, epochs}})"
    for (done, head, epochs), text in (
        ((3, 5, 3), "3 of 8 (3 head alone)"), ((0.25, 0, 8), "0.25 of 8"), ((9, 0, 8), "9"), ((3, None, None), "3"),
        ((3, 2, "many"), "3"), ((None, 0, 8), None),
    ):  # fmt: skip
        assert page.evaluate(said, [done, head, epochs]) == text


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_a_wide_table_shows_that_there_is_more_and_its_names_stay(open_page, width: int, scheme: str) -> None:
    page = open_page("columns=status,test/accuracy,duration,started,lr,weight_decay,finetune,tags,patience,momentum,test/top5_accuracy,"
                     "test/balanced_accuracy,fact/training_images,fact/trainable_parameters", width=width, scheme=scheme)  # fmt: skip
    frame, table = page.locator("#runs .frame"), page.get_by_role("region", name="Table of runs")
    shade = "frame => getComputedStyle(frame, '::after').opacity"
    box = table.bounding_box()
    for left, after, before in ((0, True, False), (150, True, True), (9999, False, True)):
        table.evaluate("(table, left) => { table.scrollLeft = left; }", left)
        page.wait_for_function("count => document.querySelector('#runs .frame').classList.length === count", arg=1 + after + before)  # fmt: skip
        assert frame.evaluate(shade) == str(int(after))
        assert (
            frame.evaluate("frame => getComputedStyle(frame.querySelector('td.fixed')).boxShadow") != "none"
        ) == before
        for name in ("run-2", "late"):
            link = table.get_by_role("link", name=name, exact=True)
            at = link.bounding_box()
            assert box["x"] <= at["x"] and at["x"] + at["width"] <= box["x"] + box["width"]
            top = "([x, y]) => document.elementFromPoint(x, y).closest('td')?.className"
            link.scroll_into_view_if_needed()
            at = link.bounding_box()
            assert page.evaluate(top, [at["x"] + at["width"] / 2, at["y"] + at["height"] / 2]) == "fixed"
    grounds = page.locator("#runs .fixed").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"
    )
    assert len(grounds) == 8 and all(ground.startswith("rgb(") for ground in grounds)  # nothing shines through
    if width == 1440:  # a table that is whole has no shade
        page.locator("#choose-columns").evaluate("details => { set_columns(['status']); }")
        page.wait_for_function("document.querySelector('#runs .frame').className === 'frame'")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1440, 390])
def test_raw_names_break_behind_a_slash_or_an_underscore_alone(open_page, width: int) -> None:
    page = open_page("run=run-1&tab=settings", width=width)
    page.locator("#choose-columns summary").click()
    ends = page.evaluate("""[...document.querySelectorAll("#columns label span, #runs thead button, #panel td:first-child")].flatMap(element => {
        const found = [], walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), range = document.createRange();
        let before = null;
        while (walker.nextNode()) [...walker.currentNode.data].forEach((character, i) => {
            range.setStart(walker.currentNode, i);
            range.setEnd(walker.currentNode, i + 1);
            const {top, height} = range.getBoundingClientRect();
            if (before && height && top > before.top + height / 2) found.push([element.innerText, before.character]);
            before = {top, character};
        });
        return found;
    })""")
    assert any("_" in text for text, _ in ends)  # some names take two lines
    assert all(character in "_/ " for _, character in ends), ends


# --- the address ------------------------------------------------------------------------------------------------------

STATE = """({
    run: place.run, tab: place.tab, curve: by_id("curve").value, against: by_id("against").value, smoothing: by_id("smoothing").value,
    log: ["log-x", "log-y"].map(id => by_id(id).checked), filter: by_id("filter").value,
    rows: rows_of_runs().filter(row => !row.hidden).map(row => row.dataset.row),
    headers: [...document.querySelectorAll("#runs thead th")].map(th => th.innerText + th.getAttribute("aria-sort")),
    boxes: [...document.querySelectorAll("[data-run]:checked")].map(box => box.dataset.run).sort(), drawn: by_id("curves").data.map(trace => trace.name),
})"""


def test_the_copied_link_opens_the_same_view(open_page, browser: Browser) -> None:
    page = open_page("one=run-1&other=run-2")
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    page.locator("#curve").select_option("train/loss")
    page.locator("#against").select_option("minutes")
    page.get_by_label("log x").check()
    slide(page, 0.35)
    ask(page, "lr<0.25 cifar")
    page.get_by_role("region", name="Table of runs").get_by_role("button", name="lr").click()
    page.locator("#choose-columns summary").click()
    page.get_by_label("Macro F1").uncheck()
    page.get_by_label("momentum").check()
    for name, on in (("run-0", True), ("run-2", False)):
        page.get_by_label(f"{name} in the curves").set_checked(on)
    page.get_by_role("region", name="Table of runs").get_by_role("link", name="run-2").click()
    page.locator("#tab-classes").click()
    page.locator("#copy-link").click()
    expect(page.locator("#link-said")).to_have_text("Copied.")
    copied = page.evaluate("window.copied")
    fragment = copied.partition("#")[2]
    assert parse_qs(fragment)["one"] == ["run-1"] and parse_qs(fragment)["other"] == [
        "run-2"
    ]  # keys that others keep there
    state = page.evaluate(STATE)
    assert page.evaluate("location.href") == copied
    other = open_page(fragment)
    assert other.evaluate(STATE) == state
    third = open_page("run=run-0&tab=card")  # a page that is open already
    third.evaluate("text => { location.hash = text; }", fragment)
    expect(third.locator("#run-title")).to_have_text("Run run-2")
    third.evaluate("document.getElementById('curves').drawn")
    assert third.evaluate(STATE) == state
    page.reload()
    page.evaluate("document.getElementById('curves').drawn")
    assert page.evaluate(STATE) == state


CHOSEN = """({
    pair: ["level", "true-class", "predicted-class"].map(id => by_id(id).selectedOptions[0].text), said: by_id("cell").innerText,
    two: by_id("two-curve").value, drawn: two_chart.layout.yaxis.title.text, lists: [...document.querySelectorAll("#two details")].map(details => details.open),
    sorted: [...document.querySelectorAll("[aria-sort$=ending]")].map(th => [th.closest("[role=region]").getAttribute("aria-label"), th.innerText, th.ariaSort, th.closest("table").tBodies[0].innerText]),
})"""


def chosen_of(page: Page) -> dict:
    page.evaluate("Promise.all([...document.querySelectorAll('.chart')].map(chart => chart.drawn))")
    return page.evaluate(CHOSEN)


def test_the_link_keeps_what_is_chosen_in_a_run_s_tabs_and_of_two(open_page) -> None:
    start = "run=run-1&tab=confusion&one=run-1&other=run-2"
    page, opened = open_page(start), open_page(start)
    fresh = chosen_of(page)
    page.locator("#level").select_option("superclasses")
    page.locator("#true-class").select_option("vehicles")
    page.locator("#predicted-class").select_option("pets")
    page.locator("#two-curve").select_option("train/loss")
    page.locator("#two details:not([open]) summary").first.click()
    page.get_by_role("region", name="Trials of sweep digits-1").get_by_role("button", name="batch_size").click()
    page.get_by_role("region", name="Most confused pairs").get_by_role("button", name="Share").click()
    page.locator("#copy-link").click()
    wanted = chosen_of(page)
    assert wanted["pair"] == ["superclasses", "vehicles", "pets"] and wanted["drawn"] == "training loss"
    assert [row[:2] for row in wanted["sorted"]] == [
        ["Most confused pairs", "Share"],
        ["Trials of sweep digits-1", "batch_size"],
    ]
    assert sum(wanted["lists"]) == sum(fresh["lists"]) + 1
    fragment = page.evaluate("location.hash.slice(1)")
    assert chosen_of(open_page(fragment)) == wanted
    opened.evaluate("text => { location.hash = text; }", fragment)  # a page that is open already, and back
    opened.wait_for_function("by_id('level')?.value === 'superclasses'")
    assert chosen_of(opened) == wanted
    page.locator("#tab-classes").click()  # the way to other tabs and runs and back loses nothing
    page.locator("#run").select_option("run-2")
    page.locator("#tab-confusion").click()
    assert chosen_of(page)["pair"] == wanted["pair"]
    page.locator("#run").select_option("run-1")
    assert chosen_of(page) == wanted

    page.locator("#level").select_option("classes")
    page.get_by_role("button", name="Show").nth(3).click()  # a pair out of the table
    pair = chosen_of(page)["pair"]
    other = open_page(page.evaluate("location.hash.slice(1)"))
    assert chosen_of(other) == chosen_of(page) and pair[0] == "classes"

    stranger = "&".join((start, "level=constructor", "confused=cat1", "confused=nobody", "two_curve=__proto__", "sorted=Most confused pairs",
                         "sorted=-constructor", "sorted=x", "lists=nobody", "looks=run-1&looks=99&looks=nobody&looks=1&looks=run-2&looks=1e0"))  # fmt: skip
    passed_over = open_page(stranger)
    assert chosen_of(passed_over) == fresh
    assert lines(passed_over) == lines(open_page(start))
    for text in ("confused=cat1&confused=__proto__", "confused=pets&confused=vehicles", "confused=cat1&confused=cat2&confused=cat3", "level=superclasses&confused=cat1&confused=cat2"):  # fmt: skip
        passed_over.evaluate("text => { location.hash = text; }", f"{start}&{text}")
        passed_over.wait_for_function("level => by_id('level')?.value === level", arg="superclasses" if "level" in text else "classes")  # fmt: skip
        assert text.startswith("level") or chosen_of(passed_over) == fresh


def test_links_tabs_and_the_way_back_keep_the_rest_of_the_view(open_page) -> None:
    page = open_page()
    ask(page, "run-")
    slide(page, 0.2)
    page.get_by_role("region", name="Table of runs").get_by_role("link", name="run-1").click()
    page.locator("#tab-settings").click()
    kept = parse_qs(page.evaluate("location.hash.slice(1)"))
    assert (kept["filter"], kept["run"], kept["tab"]) == (["run-"], ["run-1"], ["settings"])
    page.evaluate("location.hash = 'run=run-2&tab=curves'")  # a link as it was before
    expect(page.locator("#run-title")).to_have_text("Run run-2")
    assert len(names(page)) == 4 and page.locator("#filter").input_value() == "run-"
    page.go_back()
    expect(page.locator("#run-title")).to_have_text("Run run-1")
    assert len(names(page)) == 4


BAD_FRAGMENTS = [
    "smoothing=7&log=z&curve=constructor&against=__proto__&columns=zzz&sort=-nothing&choose=everything&chosen=nobody&run=nobody&tab=nowhere",
    "smoothing=NaN&smoothing=-1&sort=&chosen=&columns=%00&log=", "curve&against&smoothing=Infinity&choose=best&chosen=__proto__", "%&&==&curve=%E0%A4",
    urlencode({"run": "<img src=x>", "curve": "<img src=x>", "sort": "__proto__", "columns": "constructor,toString"}),
]  # fmt: skip


def test_bad_values_in_an_address_are_ignored(open_page) -> None:
    fresh = open_page()
    state = fresh.evaluate(STATE)
    for fragment in BAD_FRAGMENTS:
        assert open_page(fragment).evaluate(STATE) == state, fragment
    for fragment in BAD_FRAGMENTS:  # where a page is open already
        fresh.evaluate("text => { location.hash = text; }", fragment)
        fresh.wait_for_timeout(200)
        assert len(names(fresh)) == 7 and fresh.evaluate("view.smoothing") == 0, fragment


def test_where_no_page_may_copy_the_link_is_selected(open_page) -> None:
    page = open_page(script="Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    ask(page, "run-")
    page.locator("#copy-link").click()
    expect(page.locator("#link")).to_be_focused()
    assert page.evaluate("getSelection().toString()") == page.evaluate("location.href")
    assert ("filter", "run-") in parse_qsl(page.locator("#link").input_value().partition("#")[2])
    expect(page.locator("#link-said")).to_contain_text("selected")


# --- taken away -------------------------------------------------------------------------------------------------------


def test_python_reads_the_exported_table_as_the_page_has_it(open_page, runs: dict) -> None:
    page = open_page(
        "columns=status,validation/accuracy,duration,started,lr,tags,patience,momentum&sort=lr&filter=cifar"
    )
    ask(page, "lr>0.015")
    download = saved(page, page.locator("#save-table").click)
    assert download.suggested_filename == "runs.csv"
    text = Path(download.path()).read_bytes().decode("utf-8")
    assert text.count("\r\n") == text.count("\n")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    expected = sorted(
        (run for run in runs.values() if run["config"]["lr"] > 0.015), key=lambda run: run["config"]["lr"]
    )
    assert [row["id"].removeprefix("'") for row in rows] == [run["id"] for run in expected] == names(page)
    assert list(rows[0])[:5] == ["id", "status", "validation/accuracy", "duration_seconds", "started_unix_seconds"]
    assert set(list(rows[0])[5:]) == {"lr", "tags", "patience", "momentum"}
    for row, run in zip(rows, expected, strict=True):
        assert (
            float(row["validation/accuracy"]) == run["validation_accuracy"]
            and float(row["started_unix_seconds"]) == run["started"]
        )
        assert (
            float(row["duration_seconds"]) == run["seconds"]
            and float(row["lr"]) == run["config"]["lr"]
            and row["patience"] == ""
        )
        assert row["tags"].removeprefix("'") == ", ".join(run["config"]["tags"])
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row.values())
    assert [row["id"] for row in rows if "HYPER" in row["id"]] == [f"'{FORMULA}"]


def test_cells_survive_python_s_reader_and_no_spreadsheet_takes_one_for_a_formula(open_page) -> None:
    page = open_page()
    cells = [
        "plain",
        'a "quoted" one',
        "a,b",
        "two\nlines",
        "\r",
        "",
        "ünïcode 🙂",
        " =1+1",
        "=1+1",
        "+cmd",
        "-x",
        "@sum",
        "\t=1",
        "-5",
        "+1.5e3",
        "-0.25",
        "=",
        '"',
        "1,5",
        "-1+1",
        "＝1",
    ]
    text = page.evaluate(
        "cells => csv_of(cells.map((_, i) => ({key: `k${i}`, value: row => row[i]})), [cells, [-1.5, 1e21, null, true, ['-a', 'b']]])",
        cells,
    )
    header, row, numbers = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == [f"k{n}" for n in range(len(cells))]
    neutral = {" =1+1", "=1+1", "+cmd", "-x", "@sum", "\t=1", "=", "-1+1", "＝1", "\r"}
    assert row == [f"'{cell}" if cell in neutral else cell for cell in cells]
    assert (float(numbers[0]), float(numbers[1]), numbers[2], numbers[3], numbers[4]) == (
        -1.5,
        1e21,
        "",
        "true",
        "'-a, b",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_can_be_saved_as_png_and_svg_on_the_theme_s_ground(open_page, scheme: str) -> None:
    page = open_page("run=run-1&tab=summary", scheme=scheme)
    ground = {"light": (255, 255, 255), "dark": (0x14, 0x18, 0x1C)}[scheme]
    for tab, titles in (
        ("curves", ["loss-by-epoch"]),
        ("confusion", ["Confusion-matrix"]),
        ("confidence", ["Reliability-diagram"]),
    ):
        page.locator(f"#tab-{tab}").click()
        page.evaluate("Promise.all([...document.querySelectorAll('#panel .chart')].map(chart => chart.drawn))")
        assert page.locator("#panel .chart").count() == page.locator("#panel .saving").count()
        for title in titles:
            check_pictures(page, page.locator("#panel .charted").first, f"run-1-{title}", ground)
    check_pictures(
        page,
        page.locator("#curves").locator(".."),
        "Curves-of-the-chosen-runs-validation-accuracy-against-epoch",
        ground,
    )
    check_pictures(
        page,
        page.locator("#sweeps .charted").first,
        "Chart-of-sweep-digits-1-Parallel-coordinates-of-the-trials",
        ground,
    )
    assert page.locator("meta[http-equiv]").get_attribute("content") == POLICY and "blob:" not in POLICY


def check_pictures(page: Page, box, name: str, ground: tuple[int, int, int]) -> None:
    size = box.locator(".main-svg").first.evaluate("svg => [svg.clientWidth, svg.clientHeight]")
    png = saved(page, box.get_by_role("button", name="PNG").click)
    assert png.suggested_filename == f"{name}.png"
    with Image.open(png.path()) as image:
        assert image.format == "PNG" and list(image.size) == [2 * side for side in size]
        pixels = np.array(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all() and tuple(pixels[1, 1, :3]) == ground
    assert len(np.unique(pixels.view(np.uint32))) > 10  # something is drawn
    svg = saved(page, box.get_by_role("button", name="SVG").click)
    assert svg.suggested_filename == f"{name}.svg"
    root = ElementTree.fromstring(Path(svg.path()).read_text(encoding="utf-8"))
    assert (
        root.tag == "{http://www.w3.org/2000/svg}svg"
        and [float(root.get(side)) for side in ("width", "height")] == size
    )
    links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("data:", "#")) for link in links)


# --- a browser that can't unpack the charts ---------------------------------------------------------------------------


@pytest.mark.parametrize("script", NO_UNPACKING)
def test_without_decompression_a_sentence_stands_for_the_charts_and_the_rest_works(
    open_page, runs: dict, script: str
) -> None:
    page = open_page("run=run-1&tab=curves", script=script, width=390)
    section = page.locator("section", has=page.locator("#panel"))
    expect(section.locator(".left-out")).to_contain_text("DecompressionStream")
    assert section.locator(".left-out").count() == 1 and section.locator(".chart:visible").count() == 1
    expect(page.locator("#curves")).to_contain_text("DecompressionStream")
    expect(page.locator("#smoothing")).to_be_hidden()
    assert "4 of 7 runs." in ask(page, "run-")
    page.get_by_role("region", name="Table of runs").get_by_role("button", name="lr").click()
    assert names(page) == ["run-3", "run-2", "run-1", "run-0"]
    page.get_by_label("run-3 in the curves").uncheck()
    assert len(list(csv.reader(Path(saved(page, page.locator("#save-table").click).path()).open()))) == 5
    for tab in page.locator("[role=tab]").evaluate_all("tabs => tabs.map(tab => tab.id)"):
        page.locator(f"#{tab}").click()
        assert page.locator("#panel").inner_text().strip()
    page.locator("#tab-confusion").click()
    page.locator("#true-class").select_option("1")
    expect(page.locator("#cell")).to_contain_text("of 40 images")
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_role("region", name="Trials of sweep digits-1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not Axe().run(page).response["violations"]


# --- the model card ---------------------------------------------------------------------------------------------------

ODD_NAMES = [
    *(
        "<script>alert(1)</script>",
        "a & b &amp; c",
        "**x** and `y`",
        "\\*z",
        "[a](b)",
        "# head",
        "- list",
        "1. one",
        "__init__",
    ),
    *("``", "`x", "x`", "x ` `` y", "www.evil.org", "aquarium_fish", "кот 猫"),
]


def test_a_name_in_the_card_is_itself_whatever_it_looks_like(asked_page: Page) -> None:
    shown = """texts => texts.map(text => {
        const line = el("p", {}, in_line(text));
        return [line.textContent, [...line.querySelectorAll("*")].map(node => node.tagName)];
    })"""
    assert asked_page.evaluate(shown, [escaped(name) for name in ODD_NAMES]) == [[name, []] for name in ODD_NAMES]
    assert asked_page.evaluate(shown, [code(name) for name in ODD_NAMES]) == [[name, ["CODE"]] for name in ODD_NAMES]
    assert asked_page.evaluate(shown, ["is **0.5** of *all*"]) == [["is 0.5 of *all*", ["STRONG"]]]


def test_the_card_is_read_as_headings_lists_and_code(open_page, runs: dict) -> None:
    blocks = runs["run-0"]["card"].strip().split("\n\n")
    page = open_page("run=run-0&tab=card")
    card = page.locator(".card")
    assert card.locator("h3, h4").all_inner_texts() == [block.lstrip("# ") for block in blocks if block.startswith("#")]
    points = [line for block in blocks for line in block.split("\n") if line.startswith("- ")]
    assert card.locator("li").count() == len(points) > 5
    [lines] = [block.split("\n")[1:-1] for block in blocks if block.startswith("```")]
    assert card.locator("pre").inner_text() == "\n".join(lines) and lines[0].startswith("import ")
    assert not Axe().run(page, context="#panel").response["violations"]
    many = page.evaluate(
        "text => markdown(text).map(node => node.outerHTML)",
        "<details><summary>31 classes</summary>\n\na, b\n\n</details>\n\nend",
    )
    assert many == ["<details><summary>31 classes</summary><p>a, b</p></details>", "<p>end</p>"]

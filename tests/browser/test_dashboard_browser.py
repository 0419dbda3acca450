"""dashboard.html in a real Chromium: what a person with a mouse, a keyboard or a screen reader meets."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from chromium import PATIENCE, watched_page
from dashboard_runs import CLASSES, STARTED, SUPERCLASSES, make_run, make_sweep

from common.analysis.predictions import Predictions
from common.dashboard.page import collect, render, write_page

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.browser
TABS = (
    *(
        "summary",
        "curves",
        "classes",
        "confusion",
        "confidence",
        "labels",
        "pictures",
        "machine",
        "console",
        "settings",
    ),
    *("lineage", "card"),
)
SCRIPT_RUN = "<script>alert(1)"


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("dashboard") / "runs"
    make_run(runs_dir, "good", skill=4.0, lr=0.02)
    make_run(runs_dir, "poor", skill=2.0, seed=2, started=STARTED + 1)
    make_run(runs_dir, SCRIPT_RUN, tested=False, started=STARTED + 2, tags=("<img src=x onerror=alert(2)>",))
    crashed = make_run(runs_dir, "crashed", tested=False, epochs=2, started=STARTED + 3, status="running")
    summary = json.loads((crashed / "summary.json").read_text())
    (crashed / "summary.json").write_text(json.dumps({**summary, "pid": 2**22 + 1}))
    (crashed / "config.yaml").write_text("lr: [0.1")
    make_sweep(runs_dir, "digits-1", ["good", "poor"])
    return runs_dir


@pytest.fixture(scope="module")
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """`open_page(width, scheme)`: the page at its start, with `page.trouble`, whatever it complained of or asked for."""
    pages: dict[tuple[int, str], Page] = {}

    def open_page(width: int = 1440, scheme: str = "light") -> Page:
        if (width, scheme) not in pages:
            page = watched_page(browser, address, width, scheme)
            page.goto(address)
            pages[width, scheme] = page
        return pages[width, scheme]

    yield open_page
    for page in pages.values():
        page.close()


def show(page: Page, run: str, tab: str) -> None:
    """As the links of the page do."""
    page.evaluate("([run, tab]) => { location.hash = new URLSearchParams({run, tab}); }", [run, tab])
    expect(page.locator("#run-title")).to_have_text(f"Run {run}")
    expect(page.locator(f"#tab-{tab}")).to_have_attribute("aria-selected", "true")


def column(page: Page, table: str, label: str) -> list[str]:
    return page.evaluate(
        """([name, label]) => {
            const table = document.querySelector(`[aria-label="${name}"] table`);
            const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.innerText.trim().startsWith(label));
            return [...table.tBodies[0].rows].map(row => row.cells[at].innerText.trim());
        }""",
        [table, label],
    )


def cell(page: Page, row: int, col: int) -> tuple[float, float]:
    """The place of a matrix cell on the screen."""
    page.locator(".matrix").scroll_into_view_if_needed()
    return page.evaluate(
        """async ([row, col]) => {
            const chart = document.querySelector(".matrix");
            await chart.drawn;
            const box = chart.getBoundingClientRect(), {xaxis, yaxis} = chart._fullLayout;
            return [box.x + xaxis._offset + xaxis.c2p(col), box.y + yaxis._offset + yaxis.c2p(row)];
        }""",
        [row, col],
    )


def report_of(runs_dir: Path, run: str) -> dict:
    return json.loads((runs_dir / run / "evaluation" / "report.json").read_text())


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_view_is_quiet_fits_the_screen_and_passes_axe(open_page, width: int, scheme: str) -> None:
    page, axe = open_page(width, scheme), Axe()
    show(page, "good", "summary")
    found = axe.run(page).response["violations"]
    for run in ("good", "crashed", SCRIPT_RUN):
        for tab in TABS if run == "good" else ("summary", "curves", "classes", "lineage"):
            show(page, run, tab)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (run, tab)
            if run == "good":
                found += axe.run(page, context="#run-section").response["violations"]
    assert not found, [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
    assert page.trouble == []


def test_the_table_of_runs_sorts_by_a_click_and_by_a_key(open_page) -> None:
    page = open_page()
    header = page.get_by_role("region", name="Table of runs").get_by_role("button", name="Validation")
    header.click()
    values = column(page, "Table of runs", "Validation")
    assert values == sorted(values, key=lambda text: -float(text.split()[0]))
    header.focus()
    page.keyboard.press("Enter")
    assert column(page, "Table of runs", "Validation") == values[::-1]
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Validation")
    page.get_by_role("region", name="Table of runs").get_by_role("button", name="Test").click()
    assert column(page, "Table of runs", "Test")[2:] == ["–", "–"]  # what isn't known comes last


def test_the_classification_report_sorts_by_every_column(open_page, runs_dir: Path) -> None:
    page = open_page()
    show(page, "poor", "classes")
    table = page.get_by_role("region", name="Classification report")
    rows = report_of(runs_dir, "poor")["per_class"]
    assert column(page, "Classification report", "Class")[0] == min(rows, key=lambda row: row["recall"])["class"]
    headers = table.locator("thead button")
    for n in range(headers.count()):
        headers.nth(n).click()
        label = headers.nth(n).inner_text()
        values = column(page, "Classification report", label)
        if label in ("Recall", "Precision", "F1", "Images", "Predicted"):
            assert values == sorted(values, key=lambda text: -float(text.split()[0])), label
        elif label in ("Class", "Superclass"):
            assert values == sorted(values), label
    assert n == 9


def test_the_matrix_answers_a_hover_and_a_click(open_page, runs_dir: Path) -> None:
    page, report = open_page(), report_of(runs_dir, "poor")
    show(page, "poor", "confusion")
    pair = report["confused"][3]
    true, predicted = pair["true"], pair["predicted"]
    page.mouse.move(*cell(page, true, predicted), steps=3)
    label = page.locator(".matrix .hoverlayer .hovertext")
    expect(label).to_contain_text(f"{CLASSES[true]} taken for {CLASSES[predicted]}")
    expect(label).to_contain_text(f"{pair['count']} of 40 images, {100 * pair['share']:.1f} %")
    page.mouse.click(*cell(page, true, predicted))
    expect(page.locator("#cell")).to_contain_text(f"{pair['count']} of 40 images")
    expect(page.locator("#cell")).to_contain_text(f"of {CLASSES[true]} were taken for {CLASSES[predicted]}")
    assert page.locator("#cell .tile").count() == pair["count"]
    shown = page.locator("#cell .tile").evaluate_all("tiles => tiles.map(tile => tile.getAttribute('aria-label'))")
    assert {int(text.split(":")[0].removeprefix("Image ")) for text in shown} == set(pair["images"])


def test_the_superclass_level_adds_up(open_page, runs_dir: Path) -> None:
    page, report = open_page(), report_of(runs_dir, "poor")
    show(page, "poor", "confusion")
    page.locator("#level").select_option("superclasses")
    page.wait_for_function(
        "count => document.querySelector('.matrix')?._fullData?.[0]?.z?.length === count", arg=len(SUPERCLASSES)
    )
    page.mouse.move(*cell(page, 0, 1), steps=3)
    label = page.locator(
        ".matrix .hoverlayer .hovertext"
    )  # a click counts for the cell that the mouse is known to be over
    expect(label).to_contain_text(f"{SUPERCLASSES[0]} taken for {SUPERCLASSES[1]}")
    page.wait_for_timeout(
        600
    )  # tests share the page, and a click within half a second of the last test's would be a double click
    page.mouse.click(*cell(page, 0, 1))
    count = report["superclass_confusion"][0][1]
    expect(page.locator("#cell")).to_contain_text(f"{count} of {sum(report['superclass_confusion'][0])} images")
    expect(page.locator("#cell")).to_contain_text(f"of {SUPERCLASSES[0]} were taken for {SUPERCLASSES[1]}")
    assert page.locator("#cell .tile").count() == min(count, 48)


def test_the_machine_and_the_console_are_shown(open_page, runs_dir: Path) -> None:
    page = open_page()
    show(page, "good", "machine")
    rows = [json.loads(line) for line in (runs_dir / "good" / "system.jsonl").read_text().splitlines()]
    expect(page.locator("#panel")).to_contain_text("Yes: the run kept 3.0 of 4 processor cores busy on average.")
    page.wait_for_function("document.querySelectorAll('#panel .js-plotly-plot .scatterlayer').length === 4")
    drawn = page.evaluate("[...document.querySelector('#panel .chart')._fullData].map(trace => [...trace.y])")
    assert drawn == [[100 * row[key] / 4 for row in rows] for key in ("process_cores", "machine_cores")]
    assert column(page, "Machine", "Most")[2:4] == ["2.0 GB", "6.0 GB"]
    show(page, "good", "console")
    expect(page.get_by_role("region", name="Console")).to_have_text(
        (runs_dir / "good" / "console.log").read_text().strip()
    )


def test_everything_can_be_reached_with_the_keyboard(open_page, runs_dir: Path) -> None:
    page, report = open_page(), report_of(runs_dir, "good")
    page.get_by_role("region", name="Table of runs").get_by_role("link", name="good").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#run-title")).to_have_text("Run good")
    page.locator("#tab-summary").focus()
    for tab in (*TABS[1:], TABS[0]):  # the arrows go round
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#tab-{tab}")).to_be_focused()
        expect(page.locator(f"#tab-{tab}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    expect(page.locator("#panel")).to_be_focused()
    show(page, "good", "confusion")  # the matrix's numbers and images without a mouse
    pair = report["confused"][1]
    page.get_by_role("button", name=f"Show {CLASSES[pair['true']]} taken for {CLASSES[pair['predicted']]}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#cell")).to_contain_text(f"{pair['count']} of 40 images")
    expect(page.locator("#true-class")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#cell strong").inner_text() != ""


def test_keys_pressed_in_quick_succession_all_count(open_page) -> None:
    page = open_page()
    show(page, "good", "summary")
    focused, reachable = page.evaluate(
        """keys => {
            document.getElementById("tab-summary").focus();
            for (const key of keys) document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
            return [document.activeElement.id, [...document.querySelectorAll("[role=tab][tabindex='0']")].map(tab => tab.id)];
        }""",
        ["End", "Home", "ArrowRight", "ArrowRight"],
    )  # in one task, so that no hashchange comes between
    assert (focused, reachable) == (f"tab-{TABS[2]}", [f"tab-{TABS[2]}"])
    expect(page.locator(f"#tab-{TABS[2]}")).to_have_attribute("aria-selected", "true")


def test_the_curves_show_the_chosen_runs_and_quantity(open_page) -> None:
    page = open_page()
    traces = "document.getElementById('curves').data.map(trace => trace.name)"
    page.get_by_role("button", name="None").click()
    assert page.evaluate(traces) == []
    page.get_by_label("good in the curves").check()
    assert page.evaluate(traces) == ["good"]
    page.get_by_role("button", name="All", exact=True).click()
    assert len(page.evaluate(traces)) == 4 and "&lt;script&gt;alert(1)" in page.evaluate(traces)
    page.locator("#curve").select_option("train/batch_loss")
    page.locator("#against").select_option("minutes")
    assert page.evaluate("document.getElementById('curves').layout.yaxis.title.text") == "training loss of a batch"
    assert page.locator("#curves .scatterlayer .trace").count() == 4


def test_a_crashed_run_says_so_and_what_it_lacks(open_page) -> None:
    page = open_page()
    show(page, "crashed", "summary")
    expect(page.locator("#panel")).to_contain_text("its process is gone", ignore_case=True)
    expect(page.locator("#panel")).to_contain_text("config.yaml was left out")
    expect(page.locator("#panel")).to_contain_text("python train.py --resume crashed")
    show(page, "crashed", "curves")
    assert page.locator("#panel .main-svg").count() > 0
    show(page, "crashed", "classes")
    expect(page.locator("#panel")).to_contain_text("python evaluate.py --checkpoint crashed")


def test_markup_in_names_stays_text(open_page) -> None:
    page = open_page()
    show(page, SCRIPT_RUN, "settings")
    expect(page.get_by_role("region", name="Table of runs").get_by_role("link", name=SCRIPT_RUN)).to_be_visible()
    expect(page.locator("#panel")).to_contain_text("<img src=x onerror=alert(2)>")
    assert page.trouble == []


def test_a_sweep_draws_every_trial_and_opens_its_run(open_page) -> None:
    page = open_page()
    assert page.get_by_role("region", name="Chart of sweep digits-1").locator(".scatterlayer .trace").count() == 3
    trials = page.get_by_role("region", name="Trials of sweep digits-1")
    expect(trials).to_contain_text("fail: diverged")
    expect(page.locator("#sweeps li")).to_have_text("Trial 2, gone: diverged")
    expect(page.locator("#sweeps")).to_contain_text("from 10 completed trials on: 8 more")
    expect(page.locator("#sweeps .js-plotly-plot")).to_have_count(2)  # all trials, and the best so far
    trials.get_by_role("link", name="poor").click()
    expect(page.locator("#run-title")).to_have_text("Run poor")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of a page over two recipes of two seeds, and two more runs; what the page shows. Of fast's mistakes few have pictures."""
    folder = tmp_path_factory.mktemp("recipes")
    for number, (group, lr) in enumerate((("slow", 0.001), ("fast", 0.02))):
        for seed in range(2):
            how = {"skill": 2.5 + number + 0.1 * seed, "seed": 10 * number + seed, "config_seed": seed}
            run = make_run(folder / "runs", f"{group}-seed{seed}", group=group, lr=lr, **how)
            file = run / "evaluation" / "report.json"
            report = json.loads(file.read_text())
            if group == "fast":
                report["thumbnails"]["images"] = report["thumbnails"]["images"][seed::3]
                file.write_text(json.dumps(report))
    make_run(folder / "runs", "other images", images_per_class=20)
    make_run(folder / "runs", "untested", tested=False)
    return folder, write_page(folder / "runs", folder / "page.html")


def test_an_image_that_a_recipe_gets_wrong_says_what_each_seed_says_and_why_it_has_no_picture(
    browser: Browser, recipes: tuple[Path, dict]
) -> None:
    folder, data = recipes
    page = watched_page(browser, (folder / "page.html").as_uri(), width=390)
    page.goto(f"{(folder / 'page.html').as_uri()}#one=slow&other=fast")
    said = {group: [Predictions.load(folder / "runs" / f"{group}-seed{seed}" / "evaluation" / "predictions.npz") for seed in range(2)] for group in ("slow", "fast")}  # fmt: skip
    pictured = {
        run["id"]: {tile[3] for tile in run["thumbnails"]["tiles"]} for run in data["runs"] if run["thumbnails"]
    }
    for one, other in (("slow", "fast"), ("fast", "slow")):
        right, wrong = ([answers.predicted == answers.labels for answers in said[name]] for name in (one, other))
        alone = {int(n) for n in np.flatnonzero(np.all(right, axis=0) & ~np.any(wrong, axis=0))}
        shown = alone & (pictured[f"{other}-seed0"] | pictured[f"{other}-seed1"])
        part = page.locator("#two .columns > div", has=page.get_by_role("heading", name=f"Only {one} gets right, with every seed: {len(alone)} image"))  # fmt: skip
        texts = part.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.getAttribute('aria-label'))")
        assert len(texts) == min(24, len(shown)) > 0
        assert part.get_by_text(f"Each with its class, and what {other} says.").count() == 1
        for text in texts:
            image, _, caption = text.removeprefix("Image ").partition(": ")
            assert caption.startswith(f"{CLASSES[said[one][0].labels[int(image)]]}; says ")
            for seed, answers in enumerate(said[other]):
                quoted = f"seed {seed} {100 * round(float(answers.confidences[int(image)]), 3):.1f} %"
                is_kept = int(image) in pictured[f"{other}-seed{seed}"]
                assert (quoted in caption) == is_kept and (f"seed {seed}" in caption) == is_kept
                assert not is_kept or CLASSES[answers.predicted[int(image)]] in caption
        unnamed = any("seed 0" not in text or "seed 1" not in text for text in texts)
        assert part.get_by_text("A seed that a caption does not name is wrong there too").count() == unnamed
        missing = len(alone - shown)
        why = f"{missing} image{' has' if missing == 1 else 's have'} no picture here: an evaluation keeps"
        assert part.get_by_text(why).count() == (missing > 0)
        assert part.get_by_text("The 24 surest are pictured").count() == (len(shown) > 24)
        assert part.locator("details").count() == (len(texts) < len(alone))
    assert page.get_by_text("no picture here").count() > 0 and page.get_by_text("A seed that a caption").count() > 0
    assert not Axe().run(page, context="#two-section").response["violations"]
    assert page.trouble == []
    page.close()


@pytest.mark.parametrize("pair", [("slow", "fast"), ("slow-seed0", "fast-seed1")])
def test_intervals_are_whole_on_a_narrow_screen(browser: Browser, recipes: tuple[Path, dict], pair: tuple[str, str]) -> None:  # fmt: skip
    folder, _ = recipes
    page = watched_page(browser, (folder / "page.html").as_uri(), width=390)
    page.goto(f"{(folder / 'page.html').as_uri()}#run=fast-seed1&tab=classes&{urlencode(dict(zip(('one', 'other'), pair, strict=True)))}")  # fmt: skip
    cut = """([name, labels]) => {
        const region = document.querySelector(`[role=region][aria-label="${name}"]`), edge = region.getBoundingClientRect(), table = region.querySelector("table");
        const cells = [...table.rows].flatMap(row => [...row.cells].filter(cell => labels.some(label => table.tHead.rows[0].cells[cell.cellIndex].innerText.startsWith(label))));
        const text = cell => { const range = document.createRange(); range.selectNodeContents(cell); return range.getBoundingClientRect(); };
        return [cells.length, cells.filter(cell => text(cell).left < edge.left || text(cell).right > edge.right).map(cell => cell.innerText)];
    }"""
    count, outside = page.evaluate(cut, [f"Difference, {pair[1]} − {pair[0]}", ["Over", "95 %", "p", "McNemar"]])
    assert count >= 6 and outside == []
    count, outside = page.evaluate(cut, ["Groups of runs", ["Group", "Test"]])
    assert count == 6 and outside == []
    count, outside = page.evaluate(cut, ["Classification report", ["Class", "Recall"]])
    assert count == 2 * (1 + len(CLASSES)) and outside == []
    # Moved sideways, each interval comes whole into sight beside the class's name.
    table = page.get_by_role("region", name="Classification report")
    for cell in table.locator("tbody tr").first.locator("td").all()[1:]:
        cell.scroll_into_view_if_needed()
        box, name, region = cell.bounding_box(), table.locator("td.fixed").first.bounding_box(), table.bounding_box()
        assert name["x"] >= region["x"] and name["x"] + name["width"] + box["width"] <= region["x"] + region["width"]
    page.close()


def test_two_runs_are_chosen_by_keyboard_and_the_address_opens_them_again(browser: Browser, recipes: tuple[Path, dict]) -> None:  # fmt: skip
    folder, data = recipes
    address = (folder / "page.html").as_uri()
    page = watched_page(browser, address, width=390)
    page.goto(address)
    expect(page.locator("#recipes")).to_contain_text("Of 2 recipes fast has the highest accuracy")
    assert column(page, "Groups of runs", "Group") == ["fast", "slow"]
    one, other, said = page.locator("#one"), page.locator("#other"), page.locator("#two-said")
    assert (one.input_value(), other.input_value()) == ("fast", "slow")  # the recipes that the first sentence speaks of

    def choose(select: Locator, name: str) -> None:
        select.focus()
        page.keyboard.press("Home")
        while select.input_value() != name:
            page.keyboard.press("ArrowDown")

    choose(one, "fast-seed0")
    choose(other, "slow-seed0")
    sides, pairs = data["compared"]["sides"], data["compared"]["pairs"]
    first, second = sorted(("fast-seed0", "slow-seed0"), key=sides.index)
    found = next(found for i, j, found in pairs if (sides[i], sides[j]) == (first, second))
    expect(said).to_contain_text(found["verdict"])
    expect(said).to_contain_text(found["said"])
    counts = dict(zip(("both", f"only {first}", f"only {second}", "neither"), map(str, found["counts"]), strict=True))
    rights = column(page, "Which is right on how many images", "Right")
    assert dict(zip(rights, column(page, "Which is right on how many images", "Images"), strict=True)) == counts
    for name in (first, second):  # as many as the table says, by picture or by number
        heading = page.get_by_role("heading", name=f"Only {name} gets right: {counts[f'only {name}']} image")
        expect(heading).to_be_visible()
    assert page.locator("#two .tile").count() > 0
    assert column(page, "Settings that differ", "Setting") == ["lr"]
    lines = page.locator("#two .scatterlayer .trace")
    expect(lines).to_have_count(2)
    low, high = found["rows"][0][1:3] if first == "fast-seed0" else [-end for end in found["rows"][0][2:0:-1]]
    (interval,) = column(page, "Difference, slow-seed0 − fast-seed0", "95 %")
    assert [float(end.replace("−", "-")) for end in interval.split(" to ")] == pytest.approx([100 * low, 100 * high], abs=0.006)  # fmt: skip
    found = Axe().run(page, context="#two-section").response["violations"]
    assert not found, [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    link = page.get_by_role("region", name="Table of runs").get_by_role("link", name="untested")
    link.click()  # opens a run, and keeps the two
    expect(page.locator("#run-title")).to_have_text("Run untested")
    again = browser.new_page()
    again.set_default_timeout(PATIENCE)
    again.goto(page.url)
    expect(again.locator("#two-said")).to_have_text(said.inner_text())
    expect(again.locator("#run-title")).to_have_text("Run untested")
    again.locator("#other").select_option("untested")
    expect(again.locator("#two-said")).to_contain_text("untested is not tested yet: python evaluate.py")
    again.locator("#other").select_option("other images")
    expect(again.locator("#two-said")).to_contain_text("their test images or labels differ (480 and 240 images)")
    again.go_back()
    again.go_back()
    expect(again.locator("#other")).to_have_value("slow-seed0")
    again.get_by_role("link", name="fast and slow side by side").click()
    expect(again.locator("#one")).to_have_value("fast")
    expect(again.locator("#two-title")).to_be_focused()
    expect(again.locator("#two .scatterlayer .trace")).to_have_count(4)
    assert column(again, "Difference, slow − fast", "Over")[0] == "other seeds, these images"
    assert page.trouble == []
    for tab in (page, again):
        tab.close()


def test_a_sweep_of_several_seeds_shows_their_runs_what_mattered_and_why_trials_failed(
    browser: Browser, tmp_path: Path
) -> None:
    for seed in range(2):
        make_run(tmp_path / "runs", f"s-0-seed{seed}", config_seed=seed, group="s-0", tested=False)
    folder = make_sweep(tmp_path / "runs", "s", [f"s-{n}" for n in range(12)])
    trials = json.loads((folder / "trials.json").read_text())
    trials[0] |= {"sd": 0.0123, "runs": ["s-0-seed0", "s-0-seed1"]}
    trials[12]["error"] = "RuntimeError: " + "the loss is no number any more, " * 9 + "<b>lower</b> the lr"
    (folder / "trials.json").write_text(json.dumps(trials))
    data = write_page(tmp_path / "runs", tmp_path / "page.html")
    address = (tmp_path / "page.html").as_uri()
    page = watched_page(browser, address, width=390)
    page.goto(address)
    table = page.get_by_role("region", name="Trials of sweep s", exact=True)
    expect(table).to_contain_text("0.6 ± 0.0123")
    importance = data["sweeps"][0]["importance"]
    assert len(importance) == 3
    assert column(page, "Importance in sweep s", "Parameter") == [name for name, _ in importance]
    assert column(page, "Importance in sweep s", "Importance") == [f"{100 * share:.1f} %" for _, share in importance]
    expect(page.locator("#sweeps li")).to_have_text(f"Trial 12, gone: {trials[12]['error']}")
    best = page.locator("#sweeps .columns .js-plotly-plot")
    expect(best).to_be_visible()
    assert best.evaluate("chart => chart.data[1].y") == [0.6 + 0.05 * n for n in range(12)] + [0.6 + 0.05 * 11]
    found = Axe().run(page, context="#sweeps").response["violations"]
    assert not found, [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    table.get_by_role("link", name="s-0-seed1").click()
    expect(page.locator("#run-title")).to_have_text("Run s-0-seed1")
    assert page.trouble == []
    page.close()


def test_charts_follow_the_theme(open_page) -> None:
    page = open_page()
    show(page, "good", "confidence")
    text = page.locator("#panel .chart .xtitle")
    light = text.evaluate("node => getComputedStyle(node).fill")
    page.emulate_media(color_scheme="dark")
    expect(text).not_to_have_css("fill", light)
    page.emulate_media(color_scheme="light")
    expect(text).to_have_css("fill", light)


def test_a_watched_page_reloads_and_keeps_its_place(browser: Browser, tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "one", tested=False, epochs=1)
    make_run(tmp_path / "runs", "two", tested=False, epochs=1)
    (tmp_path / "page.html").write_text(render(collect(tmp_path / "runs"), reload_seconds=1))
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{(tmp_path / 'page.html').as_uri()}#run=one&tab=lineage")
    with page.expect_event("load"):
        pass
    expect(page.locator("#run-title")).to_have_text("Run one")
    expect(page.locator("#tab-lineage")).to_have_attribute("aria-selected", "true")
    page.close()


def test_a_page_without_runs_says_how_to_make_one(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "page.html").write_text(render(collect(tmp_path / "runs")))
    page, trouble = browser.new_page(), []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    expect(page.locator("main")).to_contain_text("python train.py --preset digits")
    assert trouble == [] and not Axe().run(page).response["violations"]
    page.close()


def test_a_double_click_on_the_superclass_matrix_shows_that_whole_matrix(open_page: Callable[..., Page]) -> None:
    page = open_page()
    show(page, "good", "confusion")
    cell(page, 0, 0)  # the matrix of classes is drawn
    page.select_option("#level", "superclasses")
    end = len(SUPERCLASSES) - 0.5
    for _ in range(2):
        x, y = cell(page, 0, 1)
        page.mouse.dblclick(x, y)
        page.wait_for_timeout(800)
        ranges = page.evaluate(
            "['xaxis', 'yaxis'].map(name => document.querySelector('.matrix')._fullLayout[name].range)"
        )
        assert ranges == [[-0.5, end], [end, -0.5]]
    page.select_option("#level", "classes")
    assert not page.trouble

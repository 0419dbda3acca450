"""The page's curves of the machine, its sentence about them, and the console's text."""

import json
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import STARTED, make_run

from common.dashboard import machine, page

ROW = {"seconds": 10.0, "cores": 4, "process_cores": 3.6, "machine_cores": 3.8}


def rows(count: int = 6, **values: float) -> list[dict]:
    return [{"time": STARTED + 10 * (n + 1), **ROW, **values} for n in range(count)]


def write(folder: Path, rows: list[dict]) -> None:
    (folder / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("values", "begins"),
    [
        ({}, "Yes: the run kept 3.6 of 4 processor cores busy on average."),
        ({"process_cores": 1.0, "machine_cores": 1.2}, "No: the run kept 1.0 of 4 processor cores busy"),
        ({"process_cores": 1.0, "machine_cores": 3.9}, "Yes, but not with this run alone: the run kept 1.0 of 4"),
        ({"gpu_percent": 93}, "Yes: the GPU computed in 93 % of the time. The run kept 3.6 of 4"),
        (
            {"gpu_percent": 40},
            "No, the GPU waited: it computed in 40 % of the time. The processor had no time to spare",
        ),
        (
            {"gpu_percent": 40, "process_cores": 1.0},
            "No, the GPU waited: it computed in 40 % of the time. The run kept 1",
        ),
        ({"gpu_memory": 9}, "The run kept 3.6 of 4 processor cores busy. How busy the GPU was is not known"),
        ({"cores": 0}, "Not known"),
    ],
)
def test_the_sentence_says_whether_what_computes_was_busy(values: dict, begins: str) -> None:
    assert machine.was_it_busy(rows(**values)).startswith(begins)


def test_the_first_of_several_processes_is_not_called_the_run() -> None:
    text = machine.was_it_busy(rows(process_cores=1.0, machine_cores=3.9), processes=4)
    assert text.startswith(
        "Yes: the first of 4 processes kept 1.0 of 4 processor cores busy on average, and all together 3.9"
    )


def test_memory_is_the_most_that_was_used() -> None:
    some = rows(process_memory=2e9, machine_memory=6e9, machine_memory_total=16e9)
    some[2] |= {"process_memory": 3.04e9, "machine_memory": 15.5e9}
    assert machine.was_it_busy(some).endswith(
        "up to 3.0 GB of memory; the whole machine up to 15.5 of 16.0 GB, nearly all."
    )


def test_means_count_each_row_for_the_time_that_it_is_of() -> None:
    spans, values = np.array([1.0, 2.0, 40.0]), np.array([4.0, 1.0, 0.5])
    some = [
        {**ROW, "time": STARTED + n, "seconds": s, "process_cores": v}
        for n, (s, v) in enumerate(zip(spans, values, strict=True))
    ]
    assert machine.mean(some, "process_cores") == pytest.approx(np.average(values, weights=spans))
    assert machine.mean(some, "gpu_percent") is None


def test_long_curves_are_thinned_by_means_and_a_pause_is_a_gap(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    some, generator = rows(1000), np.random.default_rng(0)
    for n, row in enumerate(some):
        row["process_cores"] = float(generator.uniform(0, 4))
        row["time"] += 3600 * (n >= 500)
    write(folder, some)
    (run,) = page.collect(tmp_path / "runs")["runs"]
    shown = run["machine"]
    values = shown["values"]["process_cores"]
    assert len(values) == len(shown["minutes"]) <= machine.POINTS + 1 and values.count(None) == 1
    assert np.mean([value for value in values if value is not None]) == pytest.approx(
        np.mean([row["process_cores"] for row in some]), rel=1e-3
    )
    assert shown["most"]["process_cores"] == pytest.approx(max(row["process_cores"] for row in some), rel=1e-4)
    assert shown["minutes"][-1] == pytest.approx((10_000 + 3600) / 60, abs=0.01)


def test_what_no_run_writes_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    odd = [
        {"time": "now"},
        {"seconds": 10},
        {"time": -5, "seconds": 1},
        {"time": 10**400, "seconds": 1},
        [1],
        {"time": 1, "seconds": 0},
    ]
    write(folder, [*odd, *rows(2, disk_read=-1, machine_cores=float("inf"))])
    (run,) = page.collect(tmp_path / "runs")["runs"]
    assert len(run["machine"]["minutes"]) == 2 and run["machine"]["values"].keys() == {"process_cores"}
    assert page.json_for_script(run)


def test_the_console_s_end_is_shown_as_plain_lines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    lines = [f"\x1b[31mline {n}\x1b[0m \x1b[2J{'y' * 200}" for n in range(5000)]
    (folder / "console.log").write_text("\n".join(lines) + "\nlast <b>\u202e\n")
    (run,) = page.collect(tmp_path / "runs")["runs"]
    shown = run["console"].split("\n")
    assert len(run["console"]) <= machine.CONSOLE_CHARACTERS and len(shown) <= machine.CONSOLE_LINES
    assert shown[-1] == "last <b>?" and shown[-2] == f"line 4999 {'y' * 200}"


def test_a_console_of_which_nothing_was_heard_is_no_console(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    (folder / "console.log").write_text("--- 2026-01-01 00:00:00 ---\n--- 2026-01-02 00:00:00 ---\n")
    (run,) = page.collect(tmp_path / "runs")["runs"]
    assert run["console"] is None and run["problems"] == []


@pytest.mark.parametrize("name", ["console.log", "system.jsonl"])
def test_no_link_leads_another_file_into_the_page(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    (run,) = page.collect(tmp_path / "runs")["runs"]
    assert run["machine" if name == "system.jsonl" else "console"] is None
    assert any(problem.startswith(f"{name} was left out") for problem in run["problems"])


def test_a_run_without_them_says_nothing_of_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run")
    for name in ("console.log", "system.jsonl"):
        (folder / name).unlink()
    (run,) = page.collect(tmp_path / "runs")["runs"]
    assert run["machine"] is None and run["console"] is None and run["problems"] == []
    assert "Was the machine busy?" not in [row["question"] for row in run["answers"]]


def test_of_many_runs_the_best_and_the_newest_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RUNS", 2)
    for n, skill in enumerate((4.0, 1.0, 1.5, 2.0)):
        make_run(tmp_path / "runs", f"run{n}", tested=False, skill=skill, started=STARTED + n)
    data = page.collect(tmp_path / "runs")
    first = sorted(data["runs"], key=lambda run: run["id"] not in data["leading"])
    assert [run["machine"] is not None for run in first] == [True, True, False, False]
    assert all("python dashboard.py --runs_dir" in run["machine_note"] for run in first[2:])

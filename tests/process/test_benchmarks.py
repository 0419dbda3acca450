"""Each benchmark runs at its smallest setting, with tiny networks, and prints its table. Nothing here looks at a time."""

import json
import re
import shutil
import time

import pytest
import torch
from helpers import ROOT, run_script, script_environment
from tiny_models import tiny_architectures

from benchmarks import (
    evaluation,
    export,
    features,
    gpu,
    gpu_parts,
    input_pipeline,
    precision,
    throughput,
    timing,
    tracking,
)
from benchmarks.ablation import rows_of, summary_table
from benchmarks.startup import STAGES
from common.cli import parse_train
from common.config import as_dict
from common.runs.groups import find_recipe

NUMBER = re.compile(r"\d")


@pytest.fixture
def tiny(small_networks):
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tables_in(text: str) -> list[list[list[str]]]:
    """The Markdown tables, as rows of cells; the lines of hyphens left out."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks
    ]
    return [[table[0], *table[2:]] for table in tables]


def check_table(text: str, rows: int) -> list[list[str]]:
    """One table, with so many rows, of as many cells as the header has, and with a number in each."""
    (table,) = tables_in(text)
    assert len(table) == 1 + rows
    assert {len(row) for row in table} == {len(table[0])}
    assert all(any(NUMBER.search(cell) for cell in row[1:]) for row in table[1:])
    return table


def test_sides_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    seconds = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_are_taken_round_by_round_and_shown_with_their_spread():
    assert timing.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert timing.spread([3.0, 1.0, 2.0]) == "2.00 (1.00–3.00)"
    assert timing.verdict(0.97, 0.98) == "≥ 0.98: missed"
    assert timing.verdict(1.1, 1.15, at_least=False) == "≤ 1.15: met"


def test_a_child_process_gives_back_what_it_reports_or_what_went_wrong():
    report = "from benchmarks.timing import report_result; report_result({'mib': 1.5})"
    assert timing.in_child(["-c", report]) == {"mib": 1.5}
    with pytest.raises(RuntimeError, match="no such thing"):
        timing.in_child(["-c", "raise SystemExit('no such thing')"])


def test_throughput_prints_its_table(tiny, capsys):
    throughput.main(throughput.ThroughputConfig(sizes=(64,), batch_size=2, rounds=1, device="cpu"))
    ((_, row),) = tables_in(capsys.readouterr().out)
    assert row[0] == "64" and "of the ceiling ≥ 0.95" in row[-1]


def test_input_pipeline_prints_its_table(capsys, tiny):
    input_pipeline.main(input_pipeline.InputPipelineConfig(sizes=(32, 64), batch_size=2, batches=1, rounds=1))
    table = check_table(capsys.readouterr().out, rows=4)
    assert [row[1] for row in table[1:]] == ["none", "basic"] * 2


def test_evaluation_prints_its_table_and_both_sides_answer_alike(tiny, capsys):
    evaluation.main(evaluation.EvaluationConfig(sizes=(32,), batch_size=4, rounds=1, device="cpu"))
    table = check_table(capsys.readouterr().out, rows=1)
    assert table[1][4] == "100% of 4, 100 classes"


def test_export_prints_a_row_for_each_number_of_images_and_both_sides_answer_alike(tiny, capsys):
    export.main(export.ExportConfig(sizes=(32,), batches=(1, 3), rounds=1))
    table = check_table(capsys.readouterr().out, rows=2)
    assert [row[0] for row in table[1:]] == ["32 px, 1", "32 px, 3"]
    assert all(float(row[4]) < 1e-4 for row in table[1:])


def test_features_prints_its_table(tiny, capsys):
    features.main(features.FeaturesConfig(image_size=32, images=8, batch_size=4, epochs=2, rounds=1, device="cpu"))
    check_table(capsys.readouterr().out, rows=1)


def test_tracking_prints_its_table(tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    tracking.main(tracking.TrackingConfig(image_size=32, batch_size=4, rounds=1))
    table = check_table(capsys.readouterr().out, rows=6)
    assert table[-1][0] == "all"


@pytest.mark.slow
def test_precision_prints_its_table(tiny, capsys):
    precision.main(precision.PrecisionConfig(sizes=(32, 64), batch_size=2, rounds=1, device="cpu"))
    table = check_table(capsys.readouterr().out, rows=4)
    assert [row[:2] for row in table[1:]] == [
        [kind, size] for kind in ("training step", "inference") for size in ("32", "64")
    ]


@pytest.mark.parametrize("recipe", ["--preset lab", "--preset best --epochs 3"])
def test_each_row_of_the_ablation_changes_what_the_recipe_has(recipe):
    own, rows = as_dict(parse_train(recipe.split())), rows_of(recipe, 96)
    assert len(rows) > 15 and rows.pop("the recipe") == {}
    for row, changes in rows.items():
        assert changes and all(own[name] != value for name, value in changes.items()), row


def test_a_part_of_the_ablation_is_worth_the_difference_at_the_same_seeds():
    values = {"the recipe": {0: 0.5, 1: 0.7}, "with mixup": {1: 0.6, 2: 0.1}, "with cutmix": {}}
    results = [
        {"row": row, "seed": seed, "accuracy": accuracy, "cpu_seconds": 60.0 * (seed + 1)}
        for row, by_seed in values.items()
        for seed, accuracy in by_seed.items()
    ]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in summary_table(results, list(values)).splitlines()[2:]
    ]
    assert rows == [
        ["the recipe", "60.0 ± 14.1", "", "2", "1.5"],
        ["with mixup", "35.0 ± 35.4", "-10.0", "2", "2.5"],
        ["with cutmix", "", "", "0", ""],
    ]


def run_module(name: str, *flags: object, tmp_path) -> str:
    environment = script_environment(tmp_path, FINETUNE_CACHE=str(tmp_path / "cache"))
    return run_script(f"benchmarks/{name}.py", *flags, cwd=tmp_path, env=environment, timeout=900).stdout


@pytest.mark.slow
def test_startup_prints_its_tables(tmp_path):
    times, stages = tables_in(run_module("startup", "--rounds", 1, tmp_path=tmp_path))
    assert times[1][0] == "`train.py --help`"
    assert stages[0][1:] == list(STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
def test_memory_prints_its_table(mapped, tmp_path):
    flags = ["--mapped", "True", "--photos", 200] if mapped else ["--images", 1000, "--rounds", 1]
    check_table(run_module("memory", *flags, "--image_size", 32, "--steps", 2, tmp_path=tmp_path), rows=1)


@pytest.mark.slow
def test_scaling_prints_its_table(tmp_path):
    flags = "--images 100 --classes 10 --sizes 32 --processes 1 2 --batch_size 8 --steps 1".split()
    check_table(run_module("scaling", *flags, tmp_path=tmp_path), rows=5)


@pytest.mark.slow
def test_the_ablation_goes_on_where_it_stopped(tmp_path):
    pictures, weights = tmp_path / "photos" / "train", tmp_path / "weights.pth"
    write_photos(pictures)
    torch.save(tiny_architectures()["resnet50"]().state_dict(), weights)
    rows = ["the recipe", "without cosine", "with the head first"]
    recipe = "--recipe=--preset lab --schedule cosine --epochs 1 --batch_size 8"
    flags = ["--data_dir", tmp_path / "photos", "--weights", weights, recipe, "--image_size", 32, "--seeds", 1]
    flags += ["--only", *rows, "--runs_dir", tmp_path / "runs"]
    (table,) = tables_in(run_module("ablation", *flags, tmp_path=tmp_path))
    assert [row[0] for row in table[1:]] == rows and {row[3] for row in table[1:]} == {"1"}

    shutil.rmtree(pictures)  # so that any run that began anew would fail
    again = run_module("ablation", *flags, tmp_path=tmp_path)
    assert tables_in(again) == [table]


@pytest.mark.slow
def test_a_recipes_runs_are_trained_tested_and_left_as_a_group(tmp_path):
    write_photos(tmp_path / "photos" / "train")
    write_photos(tmp_path / "photos" / "test")
    recipes = "--recipes=--preset lab --epochs 1 --image_size 32 --batch_size 8 --finetune head"
    flags = [
        "--data_dir",
        tmp_path / "photos",
        "--weights",
        "none",
        recipes,
        "--seeds",
        2,
        "--runs_dir",
        tmp_path / "r",
    ]
    check_table(run_module("accuracy", *flags, tmp_path=tmp_path), rows=1)
    group = recipes.removeprefix("--recipes=--").replace("--", "").replace("_", "-").replace(" ", "-")
    folders = [tmp_path / "r" / f"{group}-seed{seed}" for seed in (0, 1)]
    rows = [json.loads(line) for line in (tmp_path / "r" / "results.jsonl").read_text().splitlines()]
    reports = [json.loads((folder / "evaluation" / "report.json").read_text()) for folder in folders]
    assert [row["accuracy"] for row in rows] == [report["metrics"]["test/accuracy"] for report in reports]
    assert list(find_recipe(tmp_path / "r", group).runs) == [0, 1]
    assert not any((folder / "checkpoints" / "last.pt").exists() for folder in folders)


# On a GPU: what can be seen of it without one

PARTS = [part.name for part in gpu.PARTS]


def options(tmp_path, **changes) -> gpu.Options:
    given = {"device": "cpu", "sizes": (32,), "batch_size": 4, "minutes": 1.0, "data_dir": None, "weights": None}
    given |= {"model": "resnet50", "output": tmp_path, "parts": tuple(PARTS), "until": time.time() + 60}
    return gpu.Options(**given | changes)


def run_gpu(*flags: object, tmp_path, **environment: str):
    changed = script_environment(tmp_path, FINETUNE_CACHE=str(tmp_path / "cache"), **environment)
    flags = ("--device", "cpu", "--output", tmp_path / "tables", *flags)
    return run_script("benchmarks/gpu.py", *flags, cwd=tmp_path, env=changed, timeout=900)


@pytest.mark.slow
def test_the_gpus_benchmark_runs_all_its_parts_on_a_cpu_and_calls_it_a_smoke_test(tmp_path):
    for part in ("train", "test"):
        write_photos(tmp_path / "photos" / part)
    torch.save(tiny_architectures()["resnet50"]().state_dict(), tmp_path / "weights.pth")
    run_gpu("--data_dir", tmp_path / "photos", "--weights", tmp_path / "weights.pth", tmp_path=tmp_path)
    report = (tmp_path / "tables" / "report.md").read_text()
    assert "smoke test" in report and "met" not in report.partition("## Goals")[2] and "failed" not in report
    for part in gpu.PARTS:
        written = json.loads((tmp_path / "tables" / f"{part.name}.json").read_text())
        skipped = part.name in ("tests", "memory")
        assert written["smoke"] and bool(written["rows"]) != skipped
        assert written["note"] == "skipped: it needs a GPU" if skipped else re.match(r"\d+ s$", written["note"])
        assert (tmp_path / "tables" / f"{part.name}.md").read_text() in report
    (row,) = json.loads((tmp_path / "tables" / "cifar.json").read_text())["rows"]
    assert 0 <= row["values"]["test"] <= 1 and "validation/accuracy" in row["values"]["epochs"][-1]


@pytest.mark.slow
def test_the_gpus_benchmark_says_what_a_bare_machine_lacks_and_what_failed_and_goes_on(tmp_path):
    (tmp_path / "photos").mkdir()
    parts = (
        "--parts",
        "environment",
        "cifar",
        "input",
        "--data_dir",
        tmp_path / "photos",
        "--weights",
        "IMAGENET1K_V2",
    )
    bare = "wandb tyro pydantic pydantic_core annotated_types sklearn scipy yaml matplotlib plotly jinja2 optuna"
    said = run_gpu(*parts, tmp_path=tmp_path, TEST_MISSING=bare).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("cifar: skipped: ")]
    assert (
        "; pip install " in line
        and '"wandb>=' in line
        and '"scikit-learn>=' in line
        and '"pyyaml>=' in line
        and "numpy" not in line
    )
    assert re.search(r"^input: \d+ s$", said, re.MULTILINE)

    said = run_gpu(*parts, tmp_path=tmp_path).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("cifar: failed: ")]
    assert "train.py: error: " in line and str(tmp_path / "photos") in line
    assert re.search(r"^input: \d+ s$", said, re.MULTILINE)


def test_a_part_that_is_out_of_time_is_ended_and_says_so(tmp_path):
    done = run_gpu("--parts", "training", "--minutes", 0.001, tmp_path=tmp_path)
    assert re.search(
        r"^training: out of time after \d s; what was measured until then stands here$", done.stdout, re.MULTILINE
    )
    assert "out of time" in (tmp_path / "tables" / "report.md").read_text()


def test_what_there_is_no_time_for_is_named(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "time", lambda: clock[0])

    def work(until: float) -> list[int]:
        clock[0], done = 0.0, []
        for size in gpu.in_time([224, 64, 32], options(tmp_path, until=until)):
            clock[0] += 10  # seconds, each of them
            done.append(size)
        return done

    assert work(until=30.0) == [224, 64, 32]
    with pytest.raises(gpu.OutOfTime, match="^out of time: 32 left out$"):
        work(until=29.0)


@pytest.mark.parametrize(
    "line, cells",
    [
        ("tests/unit/a/test_b.py::test_c[x-cuda] PASSED          [ 50%]", ["test_b.py::test_c[x-cuda]", "passed", ""]),
        ("tests/unit/a/test_b.py::test_c FAILED  [100%]", ["test_b.py::test_c", "failed", ""]),
        ("FAILED tests/unit/a/test_b.py::test_c - AssertionError: 1 | 2", ["test_b.py::test_c", "failed", "AssertionError: 1 / 2"]),
        ("SKIPPED [31] tests/conftest.py:24: needs a CUDA device", ["conftest.py:24", "skipped", "needs a CUDA device"]),
        ("collected 31 items", None),
    ],
)  # fmt: skip
def test_a_line_of_pytest_becomes_a_row(line, cells):
    row = gpu.test_row(line)
    assert (row and list(row.cells)) == cells


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="they would all run")
def test_the_gpu_tests_are_found_by_their_mark(tmp_path):
    rows = [row for new in gpu.gpu_tests(options(tmp_path)) for row in new]
    assert {row.values["result"] for row in rows} == {"SKIPPED"}
    assert {"test_gpu_steps.py", "test_gpu_runs.py", "test_processes.py"} <= {
        row.values["test"].split("::")[0] for row in rows
    }


def test_a_side_that_fails_is_a_row_and_the_others_are_measured(tmp_path):
    def failing():
        raise RuntimeError("no compiler")
        yield

    sides = {"bare step": gpu_parts.Side(lambda: iter(lambda: None, 0)), "lab": gpu_parts.Side(failing)}
    seconds, failed = gpu_parts.compare(sides, torch.device("cpu"), options(tmp_path))
    assert len(seconds["bare step"]) == 1 and failed == {"lab": "RuntimeError: no compiler"}
    rows = gpu_parts.training_rows(32, seconds, failed, options(tmp_path))
    assert [row.cells[1:3] for row in rows if "failed" in row.values] == [["lab", "failed: RuntimeError: no compiler"]]


def test_goals_are_judged_by_the_medians(tmp_path):
    seconds = {
        "bare step, compiled": [1.0, 1.0, 1.0],
        "project --compile True": [1.0, 1.04, 9.0],
        "timm": [2.0, 2.0, 2.0],
    }
    rows = gpu_parts.training_rows(224, seconds, {}, options(tmp_path, sizes=(224,)))
    assert [row.goal for row in rows if row.goal] == [
        "training at 224 px, of the bare compiled step ≥ 0.95: met",
        "training at 224 px, times timm ≥ 1: met",
    ]
    row = gpu_parts.switch_row(64, "--compile", {"off": [2.0, 2.0], "on": [1.0, 1.6]}, {}, 32)
    assert row.values["on_over_off"] == [2.0, 1.25] and row.cells[-1] == "gains"


def write_photos(folder) -> None:
    from PIL import Image

    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), (i, i, 200 * (label == "light"))).save(folder / label / f"{i}.png")


def test_all_runs_commands_that_are_there():
    from benchmarks.all import COMMANDS

    assert all((ROOT / "benchmarks" / f"{command.split()[0]}.py").exists() for command in COMMANDS)

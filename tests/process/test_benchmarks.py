"""Each benchmark runs at its smallest setting, with tiny networks, and prints its table. Nothing here looks at a time."""

import re
import shutil

import pytest
import torch
from helpers import ROOT, run_script, script_environment
from tiny_models import tiny_architectures

from benchmarks import evaluation, features, input_pipeline, precision, throughput, timing, tracking
from benchmarks.ablation import rows_of
from benchmarks.startup import STAGES
from common.cli import parse_train
from common.config import as_dict

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


def test_features_prints_its_table(tiny, capsys):
    features.main(features.FeaturesConfig(image_size=32, images=8, batch_size=4, epochs=2, rounds=1, device="cpu"))
    check_table(capsys.readouterr().out, rows=1)


def test_tracking_prints_its_table(tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    tracking.main(tracking.TrackingConfig(image_size=32, batch_size=4, rounds=1))
    table = check_table(capsys.readouterr().out, rows=6)
    assert table[-1][0] == "all"


def test_precision_prints_its_table(tiny, capsys):
    precision.main(precision.PrecisionConfig(sizes=(32, 64), batch_size=2, rounds=1, device="cpu"))
    table = check_table(capsys.readouterr().out, rows=4)
    assert [row[:2] for row in table[1:]] == [
        [kind, size] for kind in ("training step", "inference") for size in ("32", "64")
    ]


@pytest.mark.parametrize("recipe", ["--preset lab", "--preset best --epochs 3"])
def test_each_row_of_the_ablation_changes_what_the_recipe_has(recipe):
    own, rows = as_dict(parse_train(recipe.split())), rows_of(recipe)
    assert len(rows) > 15 and rows.pop("the recipe") == {}
    for row, changes in rows.items():
        assert changes and all(own[name] != value for name, value in changes.items()), row


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


def write_photos(folder) -> None:
    from PIL import Image

    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), (i, i, 200 * (label == "light"))).save(folder / label / f"{i}.png")


def test_all_runs_commands_that_are_there():
    from benchmarks.all import COMMANDS

    assert all((ROOT / "benchmarks" / f"{command.split()[0]}.py").exists() for command in COMMANDS)

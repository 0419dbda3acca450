"""The table of whole recipes. That its command trains and tests is in tests/process/test_benchmarks.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import AccuracyConfig, group_of, main, summary_table
from common.analysis.report import Duplicates
from common.base.errors import UserError

RESULT = {
    **{
        "validation": 0.5,
        "accuracy": 0.4,
        "unseen": 0.38,
        "interval": (0.37, 0.43),
        "macro_f1": 0.3,
        "balanced_accuracy": 0.35,
    },
    **{"first_seconds": 12.0, "train_seconds": 90.0, "evaluate_seconds": 30.0},
}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_a_row_has_the_mean_over_seeds_and_the_interval_of_the_first():
    rows = [
        {**RESULT, "recipe": "--lr 1", "accuracy": 0.4 + 0.1 * seed, "train_seconds": 60 * seed} for seed in range(3)
    ]
    rows.append({**RESULT, "recipe": "--lr 2", "validation": None, "unseen": None, "first_seconds": None})
    assert cells(summary_table(rows, ["--lr 2", "--lr 1", "--lr 3"])) == [
        ["`--lr 2`", "", "40.0", "37.0–43.0", "", "30.0", "35.0", "1", "", "1.5", "0.5"],
        [
            "`--lr 1`",
            "50.0 ± 0.0",
            "50.0 ± 10.0",
            "37.0–43.0",
            "38.0 ± 0.0",
            "30.0 ± 0.0",
            "35.0 ± 0.0",
            "3",
            "0.2",
            "1.0",
            "0.5",
        ],
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        (Duplicates(note="no digests"), None),
        (Duplicates(near=0), 0.4),
        (Duplicates(exact=1, near=2, accuracy_without=0.3), 0.3),
        (Duplicates(exact=3, near=0, accuracy_without=None), None),
    ],
)
def test_the_accuracy_of_images_that_training_had_not_seen_is_known_only_where_they_were_looked_for(found, expected):
    report = SimpleNamespace(duplicates=found, metrics={"test/accuracy": 0.4})
    assert accuracy.unseen_accuracy(report) == expected


def test_all_recipes_have_a_seed_before_one_has_the_next_and_the_command_goes_on(tmp_path, monkeypatch, capsys):
    measured: list[tuple[str, list[str]]] = []

    def measure(flags, folder):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((folder.id, flags))
        return RESULT

    monkeypatch.setattr(accuracy, "measure", measure)
    config = AccuracyConfig(
        data_dir="photos", weights="none", recipes="--lr 1; --lr 2", seeds=2, runs_dir=str(tmp_path)
    )
    with pytest.raises(KeyboardInterrupt):
        main(config)
    assert [run_id for run_id, _ in measured] == ["lr-1-seed0", "lr-2-seed0", "lr-1-seed1"]
    flags = measured[2][1]
    assert flags[-2:] == ["--lr", "1"] and flags[flags.index("--group") + 1] == "lr-1"
    assert flags[flags.index("--data_dir") + 1] == str(Path("photos").resolve()), "train.py runs in another folder"
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
    measured.clear()
    main(config)
    assert [run_id for run_id, _ in measured] == ["lr-2-seed1"]
    assert [row[7] for row in cells(capsys.readouterr().out.partition("\n\n")[2])] == ["2", "2"]
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[-1])["recipe"] == "--lr 2"


def test_recipes_of_one_name_are_refused(tmp_path):
    assert group_of("--preset lab --lr 0.1") == "preset-lab-lr-0.1"
    with pytest.raises(UserError, match="--recipes: two of them would be the group lr-1"):
        main(AccuracyConfig(data_dir="x", weights="none", recipes="--lr 1; --lr  1", runs_dir=str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()

"""What a run to go on with has lost is named, it goes on all the same, and it never ends without weights to evaluate."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from resumed import lines_of, rows_of

import train
from common.cli import parse_train
from common.config import PRESETS
from common.model.weights import load_weights
from common.training import prepare
from common.training.state import load_training_state

pytestmark = pytest.mark.usefixtures("small_networks")

# 12 steps an epoch, rows at steps 5, 10, 12, 15, 20, 24.
SMALL = PRESETS["digits"].replace(
    device="cpu", image_size=16, batch_size=64, validation_fraction=0.5, log_every=5, run_id="run", max_steps=24
)


def go_on(folder: Path, *flags: object) -> int:
    return train.main(parse_train(["--resume", "run", "--runs_dir", str(folder), *map(str, flags)]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_networks) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train.main(SMALL.replace(runs_dir=str(folder))) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def flip(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


LOSSES = [Path.unlink, flip, lambda file: file.write_bytes(file.read_bytes()[:-100])]


@pytest.mark.parametrize("lose", LOSSES, ids=["gone", "flipped bit", "truncated"])
def test_a_finished_run_whose_best_weights_are_lost_gets_those_it_ended_with(lose, run, capsys):
    lose(run / "checkpoints" / "best.safetensors")
    assert go_on(run.parent) == 0
    said = capsys.readouterr().err
    assert (
        f"{run / 'checkpoints' / 'best.safetensors'}: the best weights, of epoch" in said and "gone or damaged" in said
    )
    weights, about = load_weights(run / "checkpoints" / "best.safetensors")
    state = load_training_state(run / "checkpoints" / "last.pt")
    assert all(torch.equal(weights[name], tensor) for name, tensor in state["model"].items())
    last = rows_of(run)[-1]
    assert (about["epoch"], about["metrics"]["validation/accuracy"]) == (2.0, last["validation/accuracy"])
    assert (summary_of(run)["best/epoch"], summary_of(run)["status"]) == (2.0, "finished")
    assert go_on(run.parent) == 0 and "gone or damaged" not in capsys.readouterr().err


def test_a_run_whose_best_weights_are_lost_keeps_the_best_of_what_follows(run, capsys):
    (run / "checkpoints" / "best.safetensors").unlink()
    assert go_on(run.parent, "--max_steps", 36) == 0
    assert "best.safetensors: the best weights, of epoch" in capsys.readouterr().err
    about = load_weights(run / "checkpoints" / "best.safetensors")[1]
    assert about["epoch"] == summary_of(run)["best/epoch"] == 3.0


def test_earlier_weights_in_the_place_of_the_best_count_as_what_they_are(run, tmp_path, capsys):
    best = run / "checkpoints" / "best.safetensors"
    assert train.main(SMALL.replace(runs_dir=str(tmp_path / "earlier"), max_steps=12)) == 0
    shutil.copy(tmp_path / "earlier" / "run" / "checkpoints" / "best.safetensors", best)
    assert load_training_state(run / "checkpoints" / "last.pt")["progress"]["best_epoch"] == 2
    assert go_on(run.parent, "--max_steps", 25) == 0
    assert f"{best} is of epoch 1" in capsys.readouterr().err
    about, rows = load_weights(best)[1], [row for row in rows_of(run) if "validation/accuracy" in row]
    assert about["metrics"]["validation/accuracy"] == max(
        rows[0]["validation/accuracy"], rows[-1]["validation/accuracy"]
    )


@pytest.mark.parametrize("kept, lost", [(0, 6), (5, 1), (3, 3), (None, 6)], ids=["empty", "last row", "half", "gone"])
def test_rows_that_metrics_jsonl_has_lost_are_counted_and_named(kept, lost, run, capsys):
    file = run / "metrics.jsonl"
    if kept is None:
        file.unlink()
    else:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
    for flags in ([], ["--max_steps", 27]):
        assert go_on(run.parent, *flags) == 0
        assert f"{file} lacks {lost} of 6 rows that last.pt counts on" in capsys.readouterr().err
    assert lines_of(run) == (kept or 0) + 2
    assert go_on(run.parent) == 0 and "lacks" not in capsys.readouterr().err  # said once the run has gone on


def test_a_row_from_the_middle_is_missed_too(run, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert go_on(run.parent) == 0 and "lacks 1 of 6 rows" in capsys.readouterr().err


def test_a_state_of_an_earlier_version_that_counted_no_rows_misses_its_last(run, capsys):
    state = load_training_state(run / "checkpoints" / "last.pt")
    del state["progress"]["rows"]
    torch.save(state, run / "checkpoints" / "last.pt")
    assert go_on(run.parent) == 0 and capsys.readouterr().err == ""
    (run / "metrics.jsonl").write_text("")
    assert go_on(run.parent) == 0 and "lacks the row of step 24" in capsys.readouterr().err


def test_weights_that_vanish_while_a_run_trains_are_there_when_it_has_finished(tmp_path, capsys, monkeypatch):
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"

    def end_without_weights(run) -> None:
        best.unlink()
        end(run)

    end = prepare.end
    monkeypatch.setattr(prepare, "end", end_without_weights)
    assert train.main(SMALL.replace(runs_dir=str(tmp_path), max_steps=3)) == 0
    assert f"{best} is gone: the weights that the run ends with take its place" in capsys.readouterr().err
    assert load_weights(best)[1]["step"] == 3 and summary_of(tmp_path / "run")["status"] == "finished"


def test_a_run_that_lost_nothing_says_nothing_and_goes_on_as_ever(run, capsys):
    assert go_on(run.parent, "--max_steps", 30) == 0
    said = capsys.readouterr().err
    assert "lacks" not in said and "gone" not in said

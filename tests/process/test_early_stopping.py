"""`--patience` ends a run that no longer gets better, and `--best_by` says what better is."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from resumed import assert_same_run, rows_of, state_of

import train
from common.base.errors import UserError
from common.cli import parse_train
from common.config import PRESETS
from common.model.build import build_model
from common.model.weights import load_weights
from common.runs.folder import RunFolder
from common.training import step

pytestmark = pytest.mark.usefixtures("small_networks")

# A head on kept features: 12 steps an epoch.
SMALL = PRESETS["digits"].replace(
    device="cpu", image_size=16, batch_size=64, validation_fraction=0.5, finetune="head", epochs=9, log_every=5,
    run_id="run",
)  # fmt: skip
# Of each epoch's validation: with a patience of 2 the fourth epoch is the last, and of 3 the eighth.
ACCURACIES = [0.5, 0.6, 0.6, 0.55, 0.7, 0.1, 0.1, 0.1, 0.9]


@pytest.fixture
def measured(monkeypatch) -> "Measured":
    return Measured(monkeypatch)


class Measured:
    """What the validations give, one after the other, in place of what they measure."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def are(self, accuracies: Sequence[float] = ACCURACIES, **others: Sequence[float]) -> None:
        scored: Iterator[int] = iter(range(len(accuracies)))

        def scores(*_: object) -> dict[str, float]:
            epoch = next(scored)
            named = {"accuracy": accuracies, "loss": [1.0] * len(accuracies), **others}
            return {f"validation/{name}": values[epoch] for name, values in named.items()}

        self.patch.setattr(step, "scores", scores)


def begin(folder: Path, **changes: object) -> int:
    return train.main(SMALL.replace(**{"runs_dir": str(folder), **changes}))


def go_on(folder: Path, *flags: object) -> int:
    return train.main(parse_train(["--resume", "run", "--runs_dir", str(folder), *map(str, flags)]))


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "summary.json").read_text())


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_networks) -> Path:
    """A run of a patience of 3 that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        Measured(patch).are()
        assert begin(folder, patience=3) == 0
    assert state_of(folder / "run")["progress"]["step"] == 8 * 12
    return folder / "run"


def test_a_run_ends_when_patience_is_over_and_says_so(tmp_path, measured, capsys):
    measured.are()
    assert begin(tmp_path, patience=2) == 0
    assert [row["epoch"] for row in rows_of(tmp_path / "run") if "train/loss" in row] == [1, 2, 3, 4]
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["stopped_early"], summary["step"], summary["epoch"]) == ("finished", True, 48, 4)
    assert (summary["best/epoch"], summary["best/validation_accuracy"]) == (2, 0.6)
    said = capsys.readouterr().out
    assert "finished early, after 2 epochs without a better validation accuracy (--patience), after step 48" in said
    assert "evaluate.py" in said


def test_of_epochs_with_the_same_accuracy_the_one_with_the_lowest_loss_is_kept(tmp_path, measured):
    """With few validation images the head's first steps may get all of them right."""
    measured.are([0.5, 1.0, 1.0], loss=[0.1, 0.4, 0.3])
    assert begin(tmp_path, epochs=3) == 0
    assert summary_of(tmp_path)["best/epoch"] == 3
    measured.are([1.0, 1.0, 0.9, 1.0], loss=[0.35, 0.2, 0.1, 0.2])
    assert go_on(tmp_path, "--epochs", 7) == 0
    assert (summary_of(tmp_path)["best/epoch"], summary_of(tmp_path)["best/validation_accuracy"]) == (5, 1.0)
    assert load_weights(RunFolder(tmp_path / "run").best)[1]["epoch"] == 5


def test_without_patience_all_epochs_are_trained(tmp_path, measured):
    measured.are()
    assert begin(tmp_path) == 0
    assert (summary_of(tmp_path)["stopped_early"], summary_of(tmp_path)["epoch"]) == (False, 9)


def test_a_run_that_had_no_epoch_left_anyway_was_not_stopped_early(tmp_path, measured, capsys):
    measured.are()
    assert begin(tmp_path, patience=2, epochs=4) == 0
    assert summary_of(tmp_path)["stopped_early"] is False and "finished after step 48" in capsys.readouterr().out


def test_a_run_that_ended_early_is_changed_by_resume_only_if_more_patience_is_given(tmp_path, measured, whole, capsys):
    measured.are()
    assert begin(tmp_path, patience=2) == 0
    before = files_of(tmp_path / "run")
    for flags in ((), ("--epochs", 20), ("--patience", 1)):
        assert go_on(tmp_path, *flags) == 0
        said = capsys.readouterr().out
        assert "nothing is left to train: run has ended early, after 2 epochs" in said and "add --patience" in said
        assert files_of(tmp_path / "run") == before
    assert go_on(tmp_path, "--patience", 3) == 0
    assert_same_run(tmp_path / "run", whole)
    assert summary_of(tmp_path)["stopped_early"] is True
    measured.are([0.9, 0.8])
    assert go_on(tmp_path, "--patience", None, "--epochs", 10) == 0
    assert (summary_of(tmp_path)["stopped_early"], summary_of(tmp_path)["epoch"]) == (False, 10)


@pytest.mark.parametrize("call", [37, 48])  # in an epoch's first step and its last one
def test_an_interrupted_run_counts_on(call, tmp_path, measured, whole):
    measured.are()
    train_step, calls = step.train_step, []

    def interrupted(*args: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    measured.patch.setattr(step, "train_step", interrupted)
    assert begin(tmp_path, patience=3) == 143
    assert go_on(tmp_path) == 0
    assert_same_run(tmp_path / "run", whole)


def test_an_epoch_that_max_steps_cut_short_does_not_count(tmp_path, measured):
    measured.are([0.5, 0.6, 0.1, 0.6, 0.55, 0.9])
    assert begin(tmp_path, patience=2, max_steps=30) == 0
    assert summary_of(tmp_path)["stopped_early"] is False
    assert go_on(tmp_path, "--max_steps", None) == 0
    assert (summary_of(tmp_path)["epoch"], summary_of(tmp_path)["stopped_early"]) == (4, True)


def test_the_heads_own_epochs_do_not_count(tmp_path, measured):
    torch.save(build_model("resnext50_32x4d", 7, "none", seed=5).state_dict(), tmp_path / "weights.pth")
    measured.are([0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    head_first = {"finetune": "full", "head_epochs": 3, "epochs": 4, "weights": str(tmp_path / "weights.pth")}
    assert begin(tmp_path, patience=2, max_steps=12 * 6, **head_first) == 0
    assert (summary_of(tmp_path)["epoch"], summary_of(tmp_path)["stopped_early"]) == (5, True)


def test_a_run_that_ended_early_and_lost_its_best_weights_gets_those_it_ended_with(tmp_path, measured):
    measured.are()
    assert begin(tmp_path, patience=2) == 0
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    best.unlink()
    assert go_on(tmp_path) == 0
    assert load_weights(best)[1]["epoch"] == 4
    assert (summary_of(tmp_path)["epoch"], summary_of(tmp_path)["status"]) == (4, "finished")


NUMBERS = {  # the best epoch is the first, the second, …
    "accuracies": [0.9, 0.8, 0.8, 0.8],
    "macro_f1": [0.1, 0.5, 0.4, 0.45],
    "balanced_accuracy": [0.2, 0.3, 0.4, 0.1],
    "loss": [3.0, 2.0, 2.5, 1.0],
}


@pytest.mark.parametrize("best_by, best", [("accuracy", 1), ("macro_f1", 2), ("balanced_accuracy", 3), ("loss", 4)])
def test_the_best_epoch_is_that_of_best_by(best_by, best, tmp_path, measured, capsys):
    measured.are(**NUMBERS)
    assert begin(tmp_path, best_by=best_by, epochs=4) == 0
    about = load_weights(tmp_path / "run" / "checkpoints" / "best.safetensors")[1]
    score = NUMBERS["accuracies" if best_by == "accuracy" else best_by][best - 1]
    assert about["epoch"] == best and about["metrics"][f"validation/{best_by}"] == score
    summary, accuracy = summary_of(tmp_path), NUMBERS["accuracies"][best - 1]
    assert (summary["best/epoch"], summary["best/validation_accuracy"]) == (best, accuracy)
    assert (summary["best/by"], summary["best/score"]) == (best_by, score)
    name = best_by.replace("_", " ").replace("f1", "F1")
    assert f"best validation {name} {score:.4f} in epoch {best}" in capsys.readouterr().out


def test_patience_asks_what_best_by_names(tmp_path, measured):
    measured.are(**NUMBERS)
    assert begin(tmp_path, best_by="loss", patience=1, epochs=4) == 0
    assert (summary_of(tmp_path)["epoch"], summary_of(tmp_path)["stopped_early"]) == (3, True)


def test_a_run_that_goes_on_chooses_as_it_began(tmp_path, measured):
    measured.are(**NUMBERS)
    assert begin(tmp_path, best_by="macro_f1", epochs=2) == 0
    with pytest.raises(UserError, match=r"can't change: --best_by \(was macro_f1, now accuracy\)"):
        go_on(tmp_path, "--best_by", "accuracy")
    measured.are([1.0], macro_f1=[0.4])
    assert go_on(tmp_path, "--epochs", 3) == 0
    assert summary_of(tmp_path)["best/epoch"] == 2


def test_the_state_of_an_earlier_version_goes_on(tmp_path, measured):
    measured.are([0.5, 0.9])
    assert begin(tmp_path, epochs=2) == 0
    folder = RunFolder(tmp_path / "run")
    state = torch.load(folder.last, weights_only=True)
    for name in ("best_score", "best_loss", "epochs_without_better"):
        del state["progress"][name]
    torch.save(state, folder.last)
    added = ("balance", "best_by", "patience", "accumulate")
    lines = [line for line in folder.config.read_text().splitlines() if line.split(":")[0] not in added]
    folder.config.write_text("\n".join(lines) + "\n")
    copied = shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + " copied"))
    measured.are([0.8, 0.8])
    assert go_on(copied, "--epochs", 4, "--patience", 1) == 0
    assert (summary_of(copied)["epoch"], summary_of(copied)["best/epoch"]) == (3, 2)
    measured.are([0.95])
    assert go_on(tmp_path, "--epochs", 3) == 0
    assert summary_of(tmp_path)["best/epoch"] == 3


@pytest.mark.parametrize(
    "flags, said", [({"patience": 3}, "--patience is 3"), ({"best_by": "macro_f1"}, "--best_by is macro_f1")]
)
def test_what_asks_a_validation_is_refused_where_there_is_none(flags, said, tmp_path):
    with pytest.raises(UserError, match=f"{said}, but there are no validation images .* --validation_fraction"):
        begin(tmp_path, validation_fraction=0, **flags)
    assert not list(tmp_path.iterdir())

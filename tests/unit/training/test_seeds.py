"""--seeds: which runs are planned, skipped, gone on with and refused; what trains them is a stand-in."""

import os
import signal
import time
from pathlib import Path

import pytest
from run_folders import SPLIT, words_of

from common.base.errors import RunError, UserError
from common.cli import parse_train
from common.config import TrainConfig, as_dict
from common.runs.folder import RunFolder, create_run, load_config
from common.training.seeds import train_seeds


class Trainer:
    """Makes the run's folder, as `train.main` does."""

    def __init__(self, ends: dict[int, int | Exception] | None = None) -> None:
        """ends: seed → exit status or error of its run."""
        self.ends, self.trained = ends or {}, list[TrainConfig]()

    def __call__(self, config: TrainConfig) -> int:
        self.trained.append(config)
        folder = RunFolder(Path(config.run.runs_dir) / config.identity.run_id)
        create_run(folder, config, SPLIT)
        status = self.ends.get(config.compute.seed, 0)
        if isinstance(status, Exception):
            raise status
        best = {"best/validation_accuracy": 0.9 + config.compute.seed / 100}
        folder.update_summary(status="interrupted" if status else "finished", **best)
        return status


def test_max_minutes_is_for_all_seeds_together(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainer = Trainer()

    def train(one: TrainConfig) -> int:
        clock[0] += 40 * 60
        return trainer(one)

    assert train_seeds(config(max_minutes=60), train) == 124
    assert [one.run.max_minutes for one in trainer.trained] == [60, 20]
    assert [load_config(RunFolder(Path(f"runs/A-seed{seed}"))).run.max_minutes for seed in (0, 1)] == [None, None]
    assert "or go on with all seeds: python train.py --seeds 3" in capsys.readouterr().out
    clock[0] = 0.0
    assert train_seeds(config(max_minutes=60), train) == 0
    assert [one.compute.seed for one in trainer.trained] == [0, 1, 2]


@pytest.fixture(autouse=True)
def typed(monkeypatch, tmp_path):
    """The command line that was typed, in an empty folder."""
    monkeypatch.setattr("sys.argv", ["train.py", "--seeds", "3"])
    monkeypatch.chdir(tmp_path)


def config(**changes) -> TrainConfig:
    return TrainConfig.of(**{"seeds": 3, "run_id": "A", **changes})


def test_each_seed_is_a_run_of_its_own_whose_config_repeats_it():
    trainer = Trainer()
    assert train_seeds(config(seed=5, lr=0.5), trainer) == 0
    assert trainer.trained == [
        TrainConfig.of(seed=seed, lr=0.5, run_id=f"A-seed{seed}", group="A") for seed in (5, 6, 7)
    ]
    assert as_dict(load_config(RunFolder(Path("runs/A-seed6"))))["seeds"] == 1


@pytest.mark.parametrize(
    "flags, environment, name, group",
    [
        ({"run_id": "A"}, {}, "A", "A"),
        ({"run_id": "A", "group": "G"}, {}, "A", "G"),
        ({"run_id": None, "group": "G"}, {}, "G", "G"),
        ({"run_id": None}, {"WANDB_RUN_ID": "W"}, "W", "W"),
        ({"run_id": "A"}, {"WANDB_RUN_GROUP": "G"}, "A", "G"),
    ],
)
def test_where_the_name_and_the_group_come_from(flags, environment, name, group, monkeypatch):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    trainer = Trainer()
    train_seeds(config(**flags, seeds=2), trainer)
    assert [(one.identity.run_id, one.run.group) for one in trainer.trained] == [
        (f"{name}-seed0", group),
        (f"{name}-seed1", group),
    ]


def test_without_a_name_there_is_one_and_the_command_that_goes_on_has_it(capsys):
    trainer = Trainer({1: 130})
    assert train_seeds(config(run_id=None), trainer) == 130
    name = trainer.trained[0].run.group
    command = capsys.readouterr().out.splitlines()[1]
    assert words_of(command) == ["train.py", "--seeds", "3", "--run_id", name]
    assert parse_train(words_of(command)[1:]).identity.run_id == name


def test_the_same_again_skips_the_finished_goes_on_with_the_interrupted_and_trains_the_rest(capsys):
    first = Trainer({1: 143})
    assert train_seeds(config(), first) == 143
    assert [one.compute.seed for one in first.trained] == [0, 1]
    assert "or go on with all seeds: python train.py --seeds 3\n" in capsys.readouterr().out
    second = Trainer()
    assert train_seeds(config(), second) == 0
    assert [(one.identity.run_id, one.run.resume) for one in second.trained] == [
        ("A-seed1", "A-seed1"),
        ("A-seed2", None),
    ]
    out = capsys.readouterr().out
    assert "seed 0 (1 of 3)" in out and "has finished already" in out
    third = Trainer()
    assert train_seeds(config(seeds=4), third) == 0 and [one.compute.seed for one in third.trained] == [3]


def test_the_end_says_each_seeds_accuracy_their_spread_and_what_is_next(capsys):
    train_seeds(config(run_id="A", runs_dir="my runs"), Trainer())
    *_, one, _, _, mean, following = capsys.readouterr().out.splitlines()
    assert one == "A-seed0  best validation accuracy 0.9000"
    assert mean == "best validation accuracy 0.9100 ± 0.0100 (mean ± sd of 3 seeds)"
    assert words_of(following.removeprefix("next: ")) == ["evaluate.py", "--checkpoint", "A", "--runs_dir", "my runs"]


def test_a_signal_between_two_runs_ends_before_the_next(capsys):
    trainer = Trainer()

    def signalled(one: TrainConfig) -> int:
        status = trainer(one)
        os.kill(os.getpid(), signal.SIGTERM)
        return status

    assert train_seeds(config(), signalled) == 143
    assert [one.compute.seed for one in trainer.trained] == [0]
    assert "go on with all seeds" in capsys.readouterr().out


def test_a_seed_that_fails_ends_with_its_error():
    trainer = Trainer({1: RunError("diverged")})
    with pytest.raises(RunError, match="diverged"):
        train_seeds(config(), trainer)
    assert len(trainer.trained) == 2


def test_a_run_that_has_its_group_and_seed_already_counts():
    Trainer()(TrainConfig.of(run_id="by-hand", seed=1, group="A"))
    trainer = Trainer()
    train_seeds(config(), trainer)
    assert [one.identity.run_id for one in trainer.trained] == ["A-seed0", "A-seed2"]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"lr": 0.5}, r"--run_id A: A-seed0 in this group has other settings: --lr \(was 0.001, now 0.5\)"),
        ({"epochs": 9}, r"--epochs \(was 5, now 9\)"),
        ({"group": "G"}, "A-seed0 is taken"),
        ({"run_id": "A-seed0"}, "--run_id A-seed0: a run of that name"),
        ({"run_id": "B", "group": "A", "lr": 0.5}, "--lr"),
        ({"run_id": "a/b"}, "--run_id is 'a/b'"),
        ({"run_id": None, "group": "my group"}, "--group is 'my group'"),
        ({"run_id": "B", "seed": 2**31 - 2}, "--seed is 2147483648"),
        ({"resume": "A-seed0"}, "--seeds is 3, but --resume goes on with one run"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(changes, named, tmp_path):
    train_seeds(config(seeds=2), Trainer())
    before, trainer = sorted(tmp_path.rglob("*")), Trainer()
    with pytest.raises(UserError, match=named):
        train_seeds(config(**changes), trainer)
    assert not trainer.trained and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "variable, named", [("RANK", "torchrun trains one run"), ("WANDB_SWEEP_ID", "a sweep's trial")]
)
def test_where_one_run_alone_is_trained_several_seeds_are_refused(variable, named, monkeypatch):
    monkeypatch.setenv(variable, "0")
    with pytest.raises(UserError, match=f"--seeds is 3, but {named}"):
        train_seeds(config(), Trainer())

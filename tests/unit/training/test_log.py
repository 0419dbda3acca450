"""What is logged of a run's speed and losses."""

from pathlib import Path

import pytest
import torch

import train
from common.base.errors import RunError
from common.base.processes import Processes
from common.config import PRESETS
from common.runs.folder import RunFolder, read_metrics
from common.training import log as module
from common.training import step
from common.training.log import Log
from common.training.state import TrainState


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def speeds(folder: Path, clock: Clock, checkpoint_every: int) -> list[float]:
    """Of a run of 12 steps, a row every 4, of which each takes 2 seconds, and saving 5."""
    config = PRESETS["digits"].replace(device="cpu", image_size=16, batch_size=64, max_steps=12, log_every=4)
    config = config.replace(checkpoint_every=checkpoint_every, runs_dir=str(folder), run_id="run")
    train_step, save = step.train_step, TrainState.save

    def slow_step(*args, **options):
        clock.now += 2
        return train_step(*args, **options)

    def slow_save(*args):
        clock.now += 5
        save(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "train_step", slow_step)
        patch.setattr(TrainState, "save", slow_save)
        assert train.main(config) == 0
    return [row["throughput/images_per_second"] for row in read_metrics(RunFolder(folder / "run"))]


def test_the_logged_speed_does_not_depend_on_how_often_the_state_is_saved(tmp_path, clock, small_networks):
    expected = speeds(tmp_path / "0", clock, 0)
    assert len(expected) == 3 and expected == pytest.approx([31] * 3, rel=0.02)  # 61 or 62 images a step
    for every in (1, 3):
        assert speeds(tmp_path / str(every), clock, every) == expected, f"saved every {every} steps"


def test_what_lies_between_two_epochs_does_not_count_for_the_speed(tmp_path, clock):
    log = Log(RunFolder(tmp_path), Processes())
    clock.now += 50  # a validation
    log.start_row()
    clock.now += 2
    log.add_step(1, 0.1, torch.tensor([8.0, 1.0, 8.0]), 8)
    assert log.read()["throughput/images_per_second"] == 4.0
    assert log.read() == {}, "no step came since"


def test_of_all_steps_since_the_last_look_the_first_loss_that_is_not_finite_is_named(tmp_path):
    log = Log(RunFolder(tmp_path), Processes())
    for number, loss in ((1, 1.0), (2, float("inf")), (3, float("nan"))):
        log.add_step(number, 0.1 * number, torch.tensor([loss, 1.0, 8.0]), 8)
    with pytest.raises(RunError, match=r"train/batch_loss is inf at step 2 with lr 0.2"):
        log.read()


def test_the_loss_figure_is_drawn_after_long_epochs_and_at_the_end(tmp_path, clock, monkeypatch):
    drawn = []

    class Tracked:
        def log(self, row: dict, step: int, figures: dict) -> None:
            drawn.extend([step] if figures else [])

    folder = RunFolder(tmp_path)
    log = Log(folder, Processes())
    log.tracked = Tracked()
    for step_, seconds in enumerate([4, 4, 4, 4, 30, 30, 1], start=1):
        clock.now += seconds
        log.write({"train/loss": 1.0, "epoch": step_}, step_, last=step_ == 7)
        log.write({"train/batch_loss": 1.0, "epoch": step_}, step_)
    assert drawn == [1, 4, 5, 6, 7] and folder.loss_figure.exists()

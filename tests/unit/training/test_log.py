"""What is logged of a run's speed and losses."""

import json

import pytest
import torch

from common.base.errors import RunError
from common.base.processes import Processes
from common.runs.folder import RunFolder
from common.training import log as module
from common.training.log import Log


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


class Tracked:
    """Stands for the W&B run: what it was told."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def log(self, row, step, figures=None) -> None:
        self.rows.append((step, row))


def speeds(folder, clock: Clock, checkpoint_every: int) -> list[float]:
    """12 steps of 8 images and 2 seconds, a row every 4; saving takes 5 seconds, drawing and validating 30."""
    folder.mkdir(parents=True)
    log = Log(RunFolder(folder), Processes())
    log.tracked = Tracked()
    for step in range(1, 13):
        clock.now += 2
        log.add_step(step, 0.1, torch.tensor([8.0 * step, 1.0, 8.0]), 8)
        if step % 4 == 0:
            log.write({"epoch": step / 12, **log.read()}, step)
        if checkpoint_every and step % checkpoint_every == 0:
            log.read()
            with log.paused():
                clock.now += 5
    clock.now += 30
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/batch_loss"] for row in rows] == [4.0, 8.0, 12.0]
    return [row["throughput/images_per_second"] for row in rows]


def test_the_logged_speed_does_not_depend_on_how_often_the_state_is_saved(tmp_path, clock):
    for every in (0, 1, 3, 4, 5):
        assert speeds(tmp_path / str(every), clock, every) == [4.0, 4.0, 4.0], f"saved every {every} steps"


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
    for step, loss in ((1, 1.0), (2, float("inf")), (3, float("nan"))):
        log.add_step(step, 0.1 * step, torch.tensor([loss, 1.0, 8.0]), 8)
    with pytest.raises(RunError, match=r"train/batch_loss is inf at step 2 with lr 0.2"):
        log.read()

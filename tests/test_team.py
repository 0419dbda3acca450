"""Two processes on one machine compute what one does: BatchNorm, gradients, sums, and what they agree on."""

import copy
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.distributed import Team


def in_team(work: Callable[[Team], Any], folder: Path) -> list:
    """What `work` gives in each of two processes."""

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
        torch.save(work(Team(rank, 2)), folder / f"{rank}.pt")
        dist.barrier()

    context = multiprocessing.get_context("fork")  # which has torch imported already
    started = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(2)]
    for one in started:
        one.start()
    for one in started:
        one.join(timeout=120)
    assert [one.exitcode for one in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_batchnorm_and_gradients_of_two_processes_are_those_of_one(tmp_path):
    random = torch.Generator().manual_seed(0)
    images, targets = torch.randn(9, 3, 6, 6, generator=random), torch.randn(9, 2, generator=random)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    def work(team: Team) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(network)
        wrapped, mine = team.wrap(model, torch.device("cpu")), slice(team.rank, None, team.world)
        for _ in range(2):
            loss = (
                (wrapped(images[mine]) - targets[mine]).square().mean() * len(images[mine]) * team.world / len(images)
            )
            loss.backward()
        return {**model.state_dict(), **{f"{name}.grad": value.grad for name, value in model.named_parameters()}}

    in_two = in_team(work, tmp_path)
    alone = work(Team())
    assert alone["1.running_mean"].any() and alone["0.weight.grad"].any()
    for found in in_two:
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-6)


def test_a_team_sums_gathers_and_agrees(tmp_path):
    def work(team: Team) -> tuple:
        rows = torch.full((1 + team.rank, 2), float(team.rank))
        total = team.sum(torch.tensor(1.0 + team.rank)).item()
        flags = [team.any(team.rank == 1), team.any(False)]
        return total, team.gather(rows).tolist(), team.agree(lambda: f"run of {team.rank}"), flags

    expected = (3.0, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], "run of 0", [True, False])
    assert in_team(work, tmp_path) == [expected, expected]

"""Two processes on one machine compute what one does: BatchNorm, gradients, sums, and what they agree on."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.base.processes import Processes


def process(work: Callable[[Processes], Any], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(Processes(rank, 2)), folder / f"{rank}.pt")
    dist.barrier()


def in_team(work: Callable[[Processes], Any], folder: Path) -> list:
    """What `work` gives in each of two processes."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit autograd's threads without their owners
    started = [context.Process(target=process, args=(work, rank, folder), daemon=True) for rank in range(2)]
    for one in started:
        one.start()
    for one in started:
        one.join(timeout=240)
    assert [one.exitcode for one in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def gradients_and_statistics(processes: Processes) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images, targets = torch.randn(9, 3, 6, 6, generator=random), torch.randn(9, 2, generator=random)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    wrapped, mine = processes.wrap(model, torch.device("cpu")), slice(processes.rank, None, processes.world)
    for _ in range(2):
        share = len(images[mine]) * processes.world / len(images)
        loss = (wrapped(images[mine]) - targets[mine]).square().mean() * share
        loss.backward()
    return {**model.state_dict(), **{f"{name}.grad": value.grad for name, value in model.named_parameters()}}


def test_batchnorm_and_gradients_of_two_processes_are_those_of_one(tmp_path):
    in_two = in_team(gradients_and_statistics, tmp_path)
    alone = gradients_and_statistics(Processes())
    assert alone["1.running_mean"].any() and alone["0.weight.grad"].any()
    for found in in_two:
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-6)


def sums_and_agreements(processes: Processes) -> tuple:
    rows = torch.full((1 + processes.rank, 2), float(processes.rank))
    total = processes.sum(torch.tensor(1.0 + processes.rank)).item()
    flags = [processes.any(processes.rank == 1), processes.any(False)]
    return total, processes.gather(rows).tolist(), processes.agree(lambda: f"run of {processes.rank}"), flags


def test_a_team_sums_gathers_and_agrees(tmp_path):
    expected = (3.0, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], "run of 0", [True, False])
    assert in_team(sums_and_agreements, tmp_path) == [expected, expected]

"""Two processes on one machine compute what one does: BatchNorm, gradients, sums, and what they agree on."""

import socket
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from devices import DEVICES, exact_float32
from teams import in_team
from torch import nn

from common.base import processes as module
from common.base.errors import UserError
from common.base.processes import Processes, process_group, require_own_gpus
from common.base.signals import Interrupt
from common.training.run import Run


def gradients_and_statistics(processes: Processes, device: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images, targets = torch.randn(9, 3, 6, 6, generator=random), torch.randn(9, 2, generator=random)
    images, targets = images.to(device), targets.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    model = model.to(device)
    wrapped, mine = processes.wrap(model, torch.device(device)), slice(processes.rank, None, processes.world)
    with exact_float32():
        for _ in range(2):
            share = len(images[mine]) * processes.world / len(images)
            loss = (wrapped(images[mine]) - targets[mine]).square().mean() * share
            loss.backward()
    found = {**model.state_dict(), **{f"{name}.grad": value.grad for name, value in model.named_parameters()}}
    return {name: tensor.cpu() for name, tensor in found.items()}


@pytest.mark.parametrize("device", DEVICES)
def test_batchnorm_and_gradients_of_two_processes_are_those_of_one(device, tmp_path):
    """On a GPU both have the same one, over gloo, since NCCL takes one process a GPU: the sums are the same."""
    in_two = in_team(partial(gradients_and_statistics, device=device), tmp_path)
    alone = gradients_and_statistics(Processes(), device)
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


@pytest.mark.parametrize(
    "device, backend", [("cpu", "gloo"), pytest.param("cuda", "cpu:gloo,cuda:nccl", marks=pytest.mark.gpu)]
)
def test_flags_and_objects_travel_beside_the_gradients(device, backend, tmp_path):
    """The group that torchrun's processes join, here of one: what lies on the device is summed there, flags and objects on the CPU."""
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend, f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        team = Processes(rank=0, world=2)  # of two by its own account, of one by the group's
        values = torch.tensor([1.0, 2.0], device=device)
        total = team.sum(values)
        assert total.device == values.device and total.tolist() == [1.0, 2.0]
        assert team.any(True) and not team.any(False) and team.agree(lambda: "run") == "run"
        with team.main_first():
            pass
        model = nn.Linear(2, 1).to(device)
        wrapped = team.wrap(model, torch.device(device, 0) if device == "cuda" else torch.device(device))
        wrapped(torch.ones(3, 2, device=device)).sum().backward()
        assert model.weight.grad.tolist() == [[3.0, 3.0]]
    finally:
        dist.destroy_process_group()


def largest(processes: Processes) -> list[int]:
    return [processes.largest(143 * processes.rank), processes.largest(-processes.rank)]


def test_a_team_finds_its_largest_number(tmp_path):
    assert in_team(largest, tmp_path) == [[143, 0], [143, 0]]
    assert Processes().largest(7) == 7


@pytest.mark.parametrize("signalled, status", [(0, 0), (143, 143)])
def test_a_process_stops_with_the_status_of_the_one_that_was_told_to(signalled, status):
    """Its own exit status too, so that what the main process writes of the run's end is true."""
    run = SimpleNamespace(
        interrupt=Interrupt("", None), processes=SimpleNamespace(largest=lambda own: max(own, signalled))
    )
    assert Run.stopped(run) is (status != 0)
    assert run.stopped_with == status


TORCHRUNS = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"MASTER_ADDR": None}, "RANK is set, and MASTER_ADDR is not"),
        ({"MASTER_ADDR": ""}, "RANK is set, and MASTER_ADDR is not"),
        ({"MASTER_PORT": None}, "RANK is set, and MASTER_PORT is not"),
        ({"WORLD_SIZE": None}, "RANK is set, and WORLD_SIZE is not"),
        ({"WORLD_SIZE": None, "MASTER_ADDR": None, "MASTER_PORT": None}, "RANK is set, and WORLD_SIZE is not"),
        ({"RANK": "first"}, "RANK is 'first', but must be a whole number"),
        ({"RANK": "-1"}, "RANK is '-1', but must be a whole number"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is '2.0', but must be a whole number"),
        ({"MASTER_PORT": "http\x1b[2J"}, r"MASTER_PORT is 'http\?\[2J'"),
        ({"LOCAL_WORLD_SIZE": "all"}, "LOCAL_WORLD_SIZE is 'all', but must be a whole number"),
        ({"RANK": "2"}, "RANK 2, WORLD_SIZE 2 and MASTER_PORT 29500 don't fit"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT 65536 don't fit"),
    ],
)
def test_torchruns_variables_in_part_are_told_in_a_line(changes, named, monkeypatch):
    for name, value in {**TORCHRUNS, **changes}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{named}.*torchrun") as error, process_group(torch.device("cpu")):
        pass
    assert "\n" not in str(error.value)


def test_processes_that_cant_meet_are_told_in_a_line(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # more would slow all tests that follow
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {**TORCHRUNS, "WORLD_SIZE": "1", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(UserError, match=f"can't meet .* localhost:{port}") as error,
            process_group(torch.device("cpu")),
        ):
            pass
    assert "\n" not in str(error.value)


def refusal(processes: Processes, gpus: list[str]) -> str:
    module.gpu_identity = lambda device: gpus[processes.rank]
    try:
        require_own_gpus(torch.device("cuda", 0))
    except UserError as error:
        return str(error)
    return ""


def test_two_processes_on_one_gpu_are_refused_in_both_of_them(tmp_path):
    said = in_team(partial(refusal, gpus=["GPU-1", "GPU-1"]), tmp_path)
    assert said[0] == said[1] and said[0].startswith("--device cuda:0 is one GPU for several of the 2 processes")


def test_two_processes_each_on_a_gpu_of_its_own_go_on(tmp_path):
    assert in_team(partial(refusal, gpus=["GPU-1", "GPU-2"]), tmp_path) == ["", ""]

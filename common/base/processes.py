"""One process or many: `torchrun --nproc_per_node=N train.py …` on PyTorch's own distributed package.

Every process runs the same script; the one of rank 0 alone writes files and speaks to W&B. Gradients and BatchNorm's
statistics are those of the whole batch, so a run's result does not depend on the number of processes, but for rounding, which training amplifies.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from common.base.cores import usable_cores
from common.base.errors import UserError, first_line
from common.base.text import printable

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run. With one, everything here gives back what it got."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with gradients averaged over the processes, and BatchNorm's statistics taken over all of them. Changes `model`,
        but not the names in its state."""
        if self.world == 1:
            return model
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = SharedBatchNorm2d
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, on each of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, on each of them. Waits for no GPU."""
        if self.world == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all leave a loop at the same step. Waits for no GPU."""
        return bool(self.largest(int(flag)))

    def gather(self, mine: Tensor) -> Tensor:
        """The rows of all processes, on the CPU of each; in order of rank."""
        if self.world == 1:
            return mine
        parts: list[Tensor] = [torch.empty(0)] * self.world
        dist.all_gather_object(parts, mine.cpu())
        return torch.cat(parts)

    def agree(self, choose: Callable[[], T]) -> T:
        """What the main process chooses, in all of them."""
        if self.world == 1:
            return choose()
        chosen = [choose() if self.main else None]
        dist.broadcast_object_list(chosen)
        return cast(T, chosen[0])

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block, and downloads what is missing, before the others do."""
        if self.world > 1 and not self.main:
            dist.barrier()
        yield
        if self.world > 1 and self.main:
            dist.barrier()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with the statistics of all processes' images, on the CPU, where torch's SyncBatchNorm does not run."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (b, channels, h, w)"""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None  # as torchvision makes them
        assert self.num_batches_tracked is not None and self.momentum is not None
        axes, shape, wide = (0, 2, 3), (1, -1, 1, 1), x.float()
        count = _Sum.apply(wide.new_full((1,), x.numel() / x.shape[1]))
        mean = _Sum.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes, and of its gradients: every process's loss depends on what each of them put in."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` has started, joined, or this one alone. Errors: `UserError` when the variables that `torchrun` sets
    are there in part."""
    if "RANK" not in os.environ:
        yield Processes()
        return
    require_torchruns_variables()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif os.environ.get("OMP_NUM_THREADS") == "1":  # torchrun's caution, which leaves most cores idle
        torch.set_num_threads(max(1, usable_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))))
    # Flags and Python objects travel over gloo, so that no GPU is waited for.
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:  # a port in use, a host that is not known
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"the processes can't meet at MASTER_ADDR:MASTER_PORT, {printable(where)}: {printable(first_line(error), 200)}"
        ) from None
    try:
        if device.type == "cuda":
            require_own_gpus(device)
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def require_torchruns_variables() -> None:
    """Errors: `UserError` naming the variable that is missing or no number, which torch would tell in a traceback, or wait for."""
    team = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    team["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", "1")
    advice = "start the processes with torchrun, which sets them all; or unset RANK to train with this process alone"
    for name, value in team.items():
        if not value:
            raise UserError(f"the variable RANK is set, and {name} is not: {advice}")
        if name != "MASTER_ADDR" and not (value.isascii() and value.isdigit()):
            raise UserError(f"the variable {name} is {printable(value)!r}, but must be a whole number: {advice}")
    rank, world, port = (int(team[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= world or port > 65535:
        raise UserError(f"the variables RANK {rank}, WORLD_SIZE {world} and MASTER_PORT {port} don't fit: {advice}")


def require_own_gpus(device: torch.device) -> None:
    """Errors: `UserError` when two of the processes have the same GPU, which NCCL would refuse in many lines, or wait for."""
    gpus: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(gpus, gpu_identity(device))
    if len(set(gpus)) < len(gpus):
        raise UserError(
            f"--device {device} is one GPU for several of the {len(gpus)} processes; leave --device out, so that each takes its own, "
            "and start at most a process a GPU"
        )


def gpu_identity(device: torch.device) -> str:
    """What no other GPU has, whatever CUDA_VISIBLE_DEVICES says."""
    return str(torch.cuda.get_device_properties(device).uuid)

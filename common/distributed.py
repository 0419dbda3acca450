"""One process or many: `torchrun --nproc_per_node=N train.py …` on PyTorch's own distributed package.

Every process runs the same script; the one of rank 0 alone writes files and speaks to W&B.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes of a run. With one, everything here gives back what it got."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with gradients averaged over the processes, and BatchNorm statistics, on GPUs, taken over all of them."""
        if self.world == 1:
            return model
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, on each of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process, so that all leave a loop at the same step."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(int(flag), device=device)))

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
        return chosen[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block, and downloads what is missing, before the others do."""
        if self.world > 1 and not self.main:
            dist.barrier()
        yield
        if self.world > 1 and self.main:
            dist.barrier()


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Team]:
    """The team that `torchrun` has made, or a team of one."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Team()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()

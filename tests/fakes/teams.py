"""Two processes of a group, for tests of what they compute together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import warm

from common.base.processes import Processes


def process(work: Callable[[Processes], Any], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(Processes(rank, 2)), folder / f"{rank}.pt")
    dist.barrier()


def in_team(work: Callable[[Processes], Any], folder: Path) -> list:
    """What `work` gives in each of two processes."""
    context = warm.server()  # a fork of this process would inherit autograd's threads without their owners
    started = [context.Process(target=process, args=(work, rank, folder), daemon=True) for rank in range(2)]
    for one in started:
        one.start()
    for one in started:
        one.join(timeout=240)
    assert [one.exitcode for one in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]

"""How busy the machine is while a run trains: a line of JSON now and then, by a thread that costs nothing noticeable and ends nothing."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.base.cores import usable_cores
from common.base.files import may_append

FIRST_SECONDS, SECONDS = 1.0, 10.0  # between two lines: of a short run some are early
BYTES = 1 << 18  # of the file, after each of which the lines come half as often: a day has 0.8 MB, a month 2
MOST_DOUBLINGS = 8
JOIN_SECONDS = 5.0  # that the end of a run may wait for the last line


@contextlib.contextmanager
def monitored(path: Path, gpu: Any = None) -> Iterator[None]:
    """Within the block, lines are added to the file at `path`: the keys of `Meter.read`, and `time`, in seconds since 1970.

    Nothing that goes wrong here reaches the block: what can't be measured or written is left out.

    Args:
        gpu: the `torch.device` of the GPU that computes, if one does.
    """
    try:
        meter, stop = Meter(gpu), threading.Event()
        thread = threading.Thread(target=_watch, args=(path, meter, stop), name="monitor", daemon=True)
        thread.start()
    except Exception as error:  # psutil isn't installed, or the system gives no more threads
        print(f"{path.name}: the machine is not measured ({error})", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)


def _watch(path: Path, meter: "Meter", stop: threading.Event) -> None:
    began, stopped = time.monotonic(), False
    while not stopped:
        size = path.stat().st_size if path.exists() else 0
        stopped = stop.wait(min(seconds_between(size), max(FIRST_SECONDS, time.monotonic() - began)))
        row = {"time": round(time.time(), 1), **meter.read()}
        with contextlib.suppress(OSError):  # a full disk, which may have room again for the next
            if may_append(path):
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def seconds_between(size: int) -> float:
    """The time from a line to the next, of a file of so many bytes."""
    return SECONDS * 2 ** min(MOST_DOUBLINGS, size // BYTES)


class Meter:
    """What the system has counted since it was asked last."""

    def __init__(self, gpu: Any = None) -> None:
        import psutil  # here, so that a run trains without it, too

        self.psutil, self.gpu = psutil, gpu
        self.process = psutil.Process()
        self.asked, self.counted = time.monotonic(), self._counters()

    def read(self) -> dict[str, float]:
        """Means over the `seconds` since the last time, and what is true now; what can't be had is left out.

        `process_cores`, `machine_cores`: how many of the `cores` that this process may use were busy, with it and with whatever runs;
        `disk_read`, `disk_written`, `network_received`, `network_sent`: bytes a second, of the machine;
        `process_memory`, `machine_memory`, `machine_memory_total`: bytes;
        `gpu_percent`: of the time in which the GPU computed, lately; `gpu_memory`, `gpu_memory_total`: bytes, with whatever runs on it.
        """
        asked, counted = time.monotonic(), self._counters()
        seconds = max(asked - self.asked, 1e-3)
        rates = {
            key: max(0.0, now - self.counted[key]) / seconds for key, now in counted.items() if key in self.counted
        }
        self.asked, self.counted = asked, counted
        cores = {key: round(rates.pop(key), 3) for key in ("process_cores", "machine_cores") if key in rates}
        whole = {key: round(rate) for key, rate in rates.items()}
        return {"seconds": round(seconds, 1), "cores": usable_cores(), **cores, **whole, **self._levels()}

    def _counters(self) -> dict[str, float]:
        """Sums since the process or the machine began: seconds of a core, and bytes."""
        psutil = self.psutil
        return {
            **_had(lambda: {"process_cores": sum(self.process.cpu_times()[:2])}),
            **_had(lambda: {"machine_cores": sum(map(_busy, _usable(psutil.cpu_times(percpu=True))))}),
            **_had(lambda: _named(psutil.disk_io_counters(), disk_read="read_bytes", disk_written="write_bytes")),
            **_had(lambda: _named(psutil.net_io_counters(), network_received="bytes_recv", network_sent="bytes_sent")),
        }

    def _levels(self) -> dict[str, float]:
        psutil, gpu = self.psutil, self.gpu
        levels = {
            **_had(lambda: {"process_memory": self.process.memory_info().rss}),
            **_had(lambda: _in_use(psutil.virtual_memory())),
        }
        return (
            levels if gpu is None else {**levels, **_had(lambda: _gpu_memory(gpu)), **_had(lambda: _gpu_percent(gpu))}
        )


def _had(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What it measures, or nothing where the system can't say, as a container may not."""
    with contextlib.suppress(Exception):
        return measure()
    return {}


def _named(counters: Any, **names: str) -> dict[str, float]:
    return {key: getattr(counters, name) for key, name in names.items()}


def _usable(cores: Any) -> Any:
    """Of all cores those that this process may use, as in a container or under Slurm."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(cores))
    return [times for core, times in enumerate(cores) if core in usable]


def _busy(times: Any) -> float:
    """Seconds that a core has computed. On Windows `system` has those of its interrupts."""
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))


def _in_use(memory: Any) -> dict[str, float]:
    return {"machine_memory": memory.total - memory.available, "machine_memory_total": memory.total}


def _gpu_memory(gpu: Any) -> dict[str, float]:
    import torch

    free, total = torch.cuda.mem_get_info(gpu)
    return {"gpu_memory": total - free, "gpu_memory_total": total}


def _gpu_percent(gpu: Any) -> dict[str, float]:
    """Where nvidia-ml-py is installed, which torch asks."""
    import torch

    return {"gpu_percent": torch.cuda.utilization(gpu)}

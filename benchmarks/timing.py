"""Two things that are compared run in turn, so that whatever else the machine does falls on both; ratios are taken round by round."""

import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.base.errors import RunError
from common.base.text import markdown_table, mean_and_sd

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parent.parent


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round: A B C A B C …, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, work in sides.items():
            taken = seconds_of(work)
            if round_:
                seconds[name].append(taken)
    return seconds


def synchronize(device: "torch.device") -> None:
    """Waits until the device has done what it was given: a GPU takes work faster than it does it."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def turns(stream: Iterator[object], steps: int, device: "torch.device") -> Callable[[], None]:
    """A turn: so many of the stream's steps, until the device has done them."""

    def turn() -> None:
        for _ in range(steps):
            next(stream)
        synchronize(device)

    return turn


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Round by round."""
    return [above / below for above, below in zip(numerator, denominator, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the smallest and largest in brackets."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Of shares, in percent."""
    return mean_and_sd([100 * value for value in values], digits=1)


def verdict(value: float, goal: float, at_least: bool = True) -> str:
    """The goal, and whether the value meets it."""
    met = value >= goal if at_least else value <= goal
    return f"{'≥' if at_least else '≤'} {goal:g}: {'met' if met else 'missed'}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    return markdown_table(header, rows)


def machine() -> str:
    """A line to set above the tables: processor, cores, memory, versions."""
    import torch

    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    processor = models[0].partition(": ")[2] if models else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, {memory:.0f} GiB, "
        f"{gpu}; Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def peak_mib() -> float:
    """The largest resident memory that this process has had, in MiB."""
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_gpu_mib(work: Callable[[], Any], device: "torch.device") -> float:
    """The most that tensors take on the GPU while `work` runs, with what is there before it, in MiB."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def call(command: Sequence[str | Path], **environment: str) -> str:
    """Runs it in the project's folder → what it printed. Errors: `RunError` with the end of what it said."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), env={**kept, **environment}, capture_output=True, text=True, errors="replace", cwd=ROOT
    )
    if done.returncode:
        raise RunError(f"{shlex.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def words(flags: Mapping[str, object]) -> list[str]:
    """Flags as a command line has them."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


RESULT = "RESULT "


def report_result(values: dict[str, Any]) -> None:
    """In a child process: what `in_child` gives back."""
    print("\n" + RESULT + json.dumps(values), flush=True)


def in_child(command: Sequence[str], **environment: str) -> dict[str, Any]:
    """Runs `python command…` in the project's folder, in a process of its own, since peak memory and imports are a process's."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    results = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not results:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return json.loads(results[-1].removeprefix(RESULT))

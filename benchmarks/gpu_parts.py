"""The parts of `benchmarks.gpu` that take steps: each gives its rows as they are measured. Sides that are compared run in turn."""

import contextlib
import gc
import importlib
import importlib.util
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu import Options, Row, in_time
from benchmarks.lab import CLASSES, lab_loader, lab_model, lab_training, small_images
from benchmarks.throughput import bare_training, project_training, training_batches
from benchmarks.timing import alternate, peak_gpu_mib, ratios, seconds_of, spread, synchronize, turns, verdict
from common.base.device import choose_device
from common.training.optim import build_loss, build_sgd, parameter_groups
from common.training.step import train_step

BF16 = torch.bfloat16
GOAL_CEILING, GOAL_INPUT = 0.95, 0.02
STEPS_AT_MOST = 50  # a turn


@dataclass(frozen=True)
class Side:
    """A stream of steps, begun when its first turn comes, under PyTorch's global switches."""

    begin: Callable[[], Iterator[object]]
    benchmark: bool = False
    tf32: bool | None = None
    """None: as PyTorch has it by default, in cuDNN alone"""

    def turn(self, stream: Iterator[object], steps: int, device: torch.device) -> Callable[[], None]:
        work = turns(stream, steps, device)

        def take() -> None:
            with global_switches(self.benchmark, self.tf32):
                work()

        return take


@contextlib.contextmanager
def global_switches(benchmark: bool, tf32: bool | None) -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.benchmark = benchmark
        if tf32 is not None:
            cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def compiled(device: torch.device, mode: str | None = None) -> Callable[[nn.Module], nn.Module]:
    """`torch.compile`; in a smoke test without a compiler, which takes a minute there."""
    backend = "inductor" if device.type == "cuda" else "eager"
    return lambda model: torch.compile(model, backend=backend, mode=mode)  # type: ignore[return-value]


def compare(
    sides: dict[str, Side], device: torch.device, options: Options
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds a step of each side, round by round, and of the sides that failed why they did."""
    torch.compiler.reset()  # a network seen before at another size would be compiled for any size
    ready: dict[str, Callable[[], None]] = {}
    steps: dict[str, int] = {}
    failed = {}
    for name, side in sides.items():
        stream = side.begin()
        try:
            side.turn(stream, 1 if options.smoke else 4, device)()  # compiles, chooses algorithms, makes momenta
            one = seconds_of(side.turn(stream, 1, device))
        except Exception as error:  # a compiler that is missing is no reason to measure nothing
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200].replace("|", "/")
        else:
            steps[name] = min(STEPS_AT_MOST, max(1, round(options.turn_seconds / one)))
            ready[name] = side.turn(stream, steps[name], device)
    seconds = alternate(ready, options.rounds)
    return {name: [value / steps[name] for value in values] for name, values in seconds.items()}, failed


def free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA was not used


def images_for(options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole batches, so that a compiled network sees one shape."""
    return small_images(options.batch_size * (2 if options.smoke else 64))


def two_sizes(options: Options) -> tuple[int, ...]:
    """Where the costlier parts measure: 64 and 224 px, as far as they are asked for."""
    return tuple(size for size in options.sizes if size in (64, 224)) or options.sizes[:1]


# --- training ----------------------------------------------------------------------------------------------------------


def timm_training(batch_size: int, image_size: int, device: torch.device, wrap: Callable) -> Iterator[None]:
    """The step of timm's train.py with `--channels-last --amp --amp-dtype bfloat16`: its network, its optimizer, and the loss that
    it reads in every step; on one batch that lies in memory, as if its loader took no time."""
    timm, optim = importlib.import_module("timm"), importlib.import_module("timm.optim")
    model = timm.create_model("resnext50_32x4d", num_classes=CLASSES).to(device)
    model = wrap(model.to(memory_format=torch.channels_last).train())
    optimizer = optim.create_optimizer_v2(model, opt="sgd", lr=0.001, momentum=0.9, weight_decay=2e-5)
    loss_fn = nn.CrossEntropyLoss()
    inputs = torch.randn(batch_size, 3, image_size, image_size, device=device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    targets = torch.arange(batch_size, device=device) % CLASSES
    while True:
        with torch.autocast(device.type, dtype=BF16):
            loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        loss.item()
        optimizer.zero_grad()
        yield


def training_sides(size: int, device: torch.device, options: Options) -> dict[str, Side]:
    images, labels = images_for(options)
    batch, wrap = options.batch_size, compiled(device)
    loader = lab_loader(images, labels, batch, size)
    sides = {
        "bare step, compiled": Side(lambda: bare_training(batch, size, device, BF16, wrap)),
        "project --compile True": Side(lambda: project_training(images, labels, batch, size, device, BF16, wrap)),
        "bare step": Side(lambda: bare_training(batch, size, device, BF16)),
        "project": Side(lambda: project_training(images, labels, batch, size, device, BF16)),
        "lab": Side(lambda: lab_training(lab_model(), loader, device)),
    }
    if importlib.util.find_spec("timm"):
        # As its train.py sets them: TF32 everywhere, and cuDNN's algorithms by trial.
        sides["timm"] = Side(lambda: timm_training(batch, size, device, lambda model: model), True, True)
        if size == options.sizes[0]:  # a minute of compiling, so at one size
            sides["timm --torchcompile"] = Side(lambda: timm_training(batch, size, device, wrap), True, True)
    return sides


def training(options: Options) -> Iterator[list[Row]]:
    """The project's step, with and without `--compile`, beside the bare one, the lab and timm."""
    device = choose_device(options.device)
    for size in in_time(options.sizes, options):
        seconds, failed = compare(training_sides(size, device, options), device, options)
        yield training_rows(size, seconds, failed, options)
        free_memory()


def training_rows(size: int, seconds: dict[str, list[float]], failed: dict[str, str], options: Options) -> list[Row]:
    rows = []
    mine = seconds.get("project --compile True") or seconds.get("project")
    ceiling = seconds.get("bare step, compiled") or seconds.get("bare step")
    for name, values in seconds.items():
        of_ceiling = ratios(ceiling, values) if ceiling else []
        faster = ratios(values, mine) if mine else []
        goal = ""
        if name == "project --compile True" and size == 224 and of_ceiling:
            goal = verdict(statistics.median(of_ceiling), GOAL_CEILING)
        elif name.startswith("timm") and faster:
            goal = verdict(statistics.median(faster), 1)
        speed = options.batch_size / statistics.median(values)
        cells = [
            size,
            name,
            f"{speed:,.0f}",
            spread(of_ceiling, 3) if ceiling else "",
            spread(faster) if mine else "",
            goal,
        ]
        numbers = {"px": size, "side": name, "seconds": values, "images_per_second": speed}
        what = "of the bare compiled step" if name.startswith("project") else f"times {name}"
        rows.append(Row(cells, numbers, f"training at {size} px, {what} {goal}" if goal else ""))
    rows += [
        Row([size, name, f"failed: {why}", "", "", ""], {"px": size, "side": name, "failed": why})
        for name, why in failed.items()
    ]
    if not importlib.util.find_spec("timm"):
        rows.append(Row([size, "timm", "missing: pip install timm", "", "", ""]))
    return rows


# --- switches ----------------------------------------------------------------------------------------------------------


def graphed_training(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int, image_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """The project's step as one CUDA graph, into whose tensors each batch is copied. The learning rate is part of the graph, so a
    schedule would need more: this says what there is to gain."""
    from common.model.build import build_model

    model = build_model("resnext50_32x4d", CLASSES, "none").to(device, memory_format=torch.channels_last).train()
    optimizer = build_sgd(parameter_groups(model, 0.001, 0.0), 0.001, 0.9, False, device)
    scaler, loss_fn = torch.amp.GradScaler(device.type, enabled=False), build_loss("cross_entropy")
    batches = training_batches(images, labels, batch_size, image_size, device, "none")
    inputs, targets = next(iter(batches.epoch(0)))

    def step() -> torch.Tensor:
        return train_step(model, inputs, targets, loss_fn, optimizer, scaler, BF16)

    # On a stream of its own first, as torch's notes on CUDA graphs ask for.
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sums = step()
    for epoch in itertools.count():
        for new_inputs, new_targets in batches.epoch(epoch):
            inputs.copy_(new_inputs)
            targets.copy_(new_targets)
            graph.replay()
            yield sums


def switch_sides(size: int, device: torch.device, options: Options) -> dict[str, tuple[Side, Side]]:
    """Each switch: off, and on."""
    images, labels = images_for(options)
    batch = options.batch_size

    def project(amp: torch.dtype | None = BF16, **changes: Any) -> Callable[[], Iterator[object]]:
        return lambda: project_training(images, labels, batch, size, device, amp, **changes)

    wrap = compiled(device)
    switches = {
        "--compile": (Side(project()), Side(project(wrap=wrap))),
        "cudnn.benchmark": (Side(project(), benchmark=False), Side(project(), benchmark=True)),
        "channels_last": (Side(project(layout=torch.contiguous_format)), Side(project())),
        "TF32, in float32": (Side(project(amp=None), tf32=False), Side(project(amp=None), tf32=True)),
        "bf16, from float32": (Side(project(amp=None)), Side(project())),
    }
    if device.type == "cuda":
        graphed = Side(lambda: graphed_training(images, labels, batch, size, device))
        reduced = Side(project(wrap=compiled(device, "reduce-overhead")))
        switches |= {
            "CUDA graph of the step": (Side(project()), graphed),
            "CUDA graphs of torch.compile (reduce-overhead)": (Side(project(wrap=wrap)), reduced),
        }
    return switches


def switches(options: Options) -> Iterator[list[Row]]:
    """Each switch off and on in turn, all others as train.py has them."""
    device = choose_device(options.device)
    sizes = two_sizes(options)
    # Switch by switch, so that what is left out for lack of time is left out at both sizes.
    sides = {size: switch_sides(size, device, options) for size in sizes}
    chosen = [f"{name} at {size} px" for name in sides[sizes[0]] for size in sizes]
    for title in in_time(chosen, options):
        name, _, at = title.rpartition(" at ")
        size = int(at.removesuffix(" px"))
        off, on = sides[size][name]
        seconds, failed = compare({"off": off, "on": on}, device, options)
        yield [switch_row(size, name, seconds, failed, options.batch_size)]
        free_memory()


def switch_row(size: int, name: str, seconds: dict[str, list[float]], failed: dict[str, str], batch: int) -> Row:
    if failed:
        why = "; ".join(f"{side}: {reason}" for side, reason in failed.items())
        return Row([size, name, "", "", "", f"failed: {why}"], {"px": size, "switch": name, "failed": why})
    gain = ratios(seconds["off"], seconds["on"])
    word = "gains" if min(gain) > 1 else "loses" if max(gain) < 1 else "changes nothing that shows"
    speeds = [batch / statistics.median(seconds[side]) for side in ("off", "on")]
    values = {"px": size, "switch": name, "seconds": seconds, "on_over_off": gain}
    return Row([size, name, *(f"{speed:,.0f}" for speed in speeds), spread(gain, 3), word], values)


# --- memory, input, evaluation -----------------------------------------------------------------------------------------


def memory(options: Options) -> Iterator[list[Row]]:
    """What a few steps take at most, with all of CIFAR's 50,000 images on the GPU on the project's side."""
    device, batch = choose_device(options.device), options.batch_size
    images, labels = small_images(50_000)

    def steps(begin: Callable[[], Iterator[object]]) -> Callable[[], None]:
        return lambda: turns(begin(), 3, device)()

    for size in in_time(two_sizes(options), options):
        loader, project = (
            lab_loader(images, labels, batch, size),
            partial(project_training, images, labels, batch, size, device),
        )
        sides = {
            "lab": steps(partial(lab_training, lab_model(), loader, device)),
            "project": steps(partial(project, BF16)),
            "project --amp none": steps(project),
        }
        peaks = {name: peak_gpu_mib(work, device) for name, work in sides.items()}
        rows = []
        for name, peak in peaks.items():
            share = peak / peaks["lab"]
            goal = verdict(share, 1, at_least=False) if name == "project" else ""
            cells = [size, name, f"{peak:,.0f}", f"{share:.2f}", goal]
            values = {"px": size, "side": name, "mib": peak}
            rows.append(Row(cells, values, f"memory at {size} px, of the lab {goal}" if goal else ""))
        yield rows


def input_share(options: Options) -> Iterator[list[Row]]:
    """How long the batches take by themselves beside whole steps. It is the most that they can cost a step: while the GPU computes, a
    step's batch is only asked for."""
    device, batch = choose_device(options.device), options.batch_size
    count = 2 if options.smoke else 20
    images, labels = small_images(batch * count)
    for size in in_time(options.sizes, options):
        rows = []
        for augment in ("none", "basic"):
            batches = training_batches(images, labels, batch, size, device, augment)
            epochs = itertools.count()

            def make(batches: Any = batches, epochs: Iterator[int] = epochs) -> None:
                for _ in batches.epoch(next(epochs)):
                    pass
                synchronize(device)

            stream = project_training(images, labels, batch, size, device, BF16, augment=augment)
            seconds = alternate({"batches": make, "steps": turns(stream, count, device)}, options.rounds)
            share = ratios(seconds["batches"], seconds["steps"])
            goal = verdict(statistics.median(share), GOAL_INPUT, at_least=False)
            each = [f"{1000 * statistics.median(seconds[name]) / count:.2f}" for name in ("batches", "steps")]
            values = {"px": size, "augment": augment, "seconds": seconds, "batches": count}
            cells = [size, augment, *each, spread(share, 3), goal]
            rows.append(Row(cells, values, f"input at {size} px, augment {augment}, of a step {goal}"))
        yield rows
        free_memory()


def evaluation(options: Options) -> Iterator[list[Row]]:
    """`benchmarks.evaluation`, with a batch that keeps a GPU busy."""
    from benchmarks import evaluation as evaluation_speed  # needs more packages than a step

    sizes = two_sizes(options)
    batch = options.batch_size if options.smoke else 4 * options.batch_size
    config = evaluation_speed.EvaluationConfig(sizes, batch, options.rounds, options.device)
    for size in in_time(sizes, options):
        cells = evaluation_speed.measure(config, size)
        yield [Row(cells, {"px": size}, f"evaluation at {size} px, times the lab {cells[-1]}" if cells[-1] else "")]
        free_memory()

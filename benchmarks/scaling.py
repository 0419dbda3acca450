"""Time and memory as images, classes, resolution and processes grow, one of them at a time.

    python -m benchmarks.scaling

Each point is a process of its own that trains a few steps. `--processes` beyond the number of cores says what sharing costs.
"""

import dataclasses
import statistics
from dataclasses import dataclass

import torch

from benchmarks.timing import in_child, peak_mib, report_result, seconds_of, table, words
from common.base.cores import usable_cores
from common.cli import parse


@dataclass(frozen=True)
class ScalingConfig:
    images: tuple[int, ...] = (1_000, 10_000, 50_000)
    classes: tuple[int, ...] = (10, 100, 1_000)
    sizes: tuple[int, ...] = (32, 64, 128, 224)
    """Sides in pixels."""
    processes: tuple[int, ...] = (1, 2, 4)
    batch_size: int = 32
    steps: int = 5
    """Steps that are timed, after one that isn't."""
    child: bool = False
    """Used by the benchmark itself: the first of each is the point to measure."""


def child(config: ScalingConfig) -> None:
    """Trains as train.py does, in as many processes as there are → seconds a step, MiB of all processes at most."""
    from benchmarks.lab import small_images
    from common.base.processes import process_group
    from common.data.batches import Batches
    from common.model.build import build_model
    from common.model.device import on_device
    from common.training.optim import build_loss, build_sgd, parameter_groups
    from common.training.step import train_step

    device, count, classes = torch.device("cpu"), config.images[0], config.classes[0]
    with process_group(device) as processes:
        images, labels = small_images(count)
        model = on_device(build_model("resnext50_32x4d", classes, "none"), device)
        network = processes.wrap(model, device).train()
        optimizer = build_sgd(parameter_groups(model, 0.001, 0.0), 0.001, 0.9, False, device)
        labels %= classes
        batches = Batches(
            images,
            labels,
            torch.arange(count),
            config.batch_size,
            config.sizes[0],
            device,
            augment="basic",
            flip=True,
            training=True,
            rank=processes.rank,
            world=processes.world,
        )
        loss_fn, scaler = build_loss("cross_entropy"), torch.amp.GradScaler("cpu", enabled=False)
        stream = (batch for epoch in range(10**6) for batch in batches.epoch(epoch))

        def step() -> None:
            train_step(network, *next(stream), loss_fn, optimizer, scaler)

        step()
        seconds = statistics.median(seconds_of(step) for _ in range(config.steps))
        values = processes.sum(torch.tensor([seconds / processes.world, peak_mib()])).tolist()
        if processes.main:
            report_result({"seconds": values[0], "mib": values[1]})


def point(config: ScalingConfig, **changes: int) -> dict[str, float]:
    """One measurement; what is not named in `changes` has its middle value, and one process."""
    values = {name: getattr(config, name)[len(getattr(config, name)) // 2] for name in ("images", "classes")}
    values |= {"sizes": 64 if 64 in config.sizes else config.sizes[0], "processes": 1, **changes}
    flags = {"batch_size": config.batch_size, "steps": config.steps, "child": True, **values}
    if values["processes"] == 1:
        return in_child(["-m", "benchmarks.scaling", *words(flags)])
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={values['processes']}"]
    threads = max(1, usable_cores() // values["processes"])
    return in_child([*launcher, "-m", "benchmarks.scaling", *words(flags)], OMP_NUM_THREADS=str(threads))


def main(config: ScalingConfig) -> None:
    if config.child:
        child(config)
        return
    print(f"### scaling, batch {config.batch_size} in all\n")
    rows = []
    for field in dataclasses.fields(config)[:4]:
        for value in getattr(config, field.name):
            measured = point(config, **{field.name: value})
            speed = config.batch_size / measured["seconds"]
            cells = [f"{1000 * measured['seconds']:.0f}", f"{speed:.1f}", f"{measured['mib']:.0f}"]
            rows.append([field.name, f"{value:,}", *cells])
    print(table(["", "", "ms a step", "images/s", "MiB at most"], rows), flush=True)


if __name__ == "__main__":
    main(parse(ScalingConfig, description=__doc__))

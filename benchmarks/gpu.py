"""Everything that is worth knowing on a GPU, in one command that takes less than ten minutes.

    python -m benchmarks.gpu --output tables
    python -m benchmarks.gpu --data_dir photos --weights resnet50.safetensors --output tables
    python -m benchmarks.gpu --parts training --sizes 32 128 --output tables      # a part by itself, with all of the time
    python -m benchmarks.gpu --device cpu --output tables                         # a smoke test: what it says means nothing

Works through its parts, each in a process of its own, and writes a part's table as soon as there is one: PART.md, PART.json, PART.log, and
report.md with all so far. A part that fails, is out of time, or lacks a package says so in a line, and the next one goes on. This file
imports nothing beyond PyTorch, so that a bare machine is told in a line what to install.

`photos` holds train/<class>/ and test/<class>/, as for `train.py --dataset folder`; the last part trains on them from the weights.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.timing import ROOT, table

Item = TypeVar("Item")

# What common/ needs for a training step, for a checkpoint's network, and for train.py and evaluate.py.
STEP = ("torchvision", "numpy", "PIL", "tqdm", "safetensors", "filelock", "platformdirs")
NETWORK = (*STEP, "yaml", "pydantic", "pydantic_core", "annotated_types")
SCRIPTS = (*NETWORK, "wandb", "tyro", "scipy", "sklearn", "matplotlib", "plotly", "jinja2", "markupsafe")
BEGUN, GRACE_SECONDS = "begun", 2.0
DISTRIBUTION = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # where pip's name is another than Python's


@dataclass(frozen=True)
class Options:
    """The command line."""

    device: str
    sizes: tuple[int, ...]
    batch_size: int
    minutes: float
    data_dir: str | None
    weights: str | None
    model: str
    output: Path
    parts: tuple[str, ...]
    until: float = 0.0
    """by `time.time`, since a part is a process of its own: when it is stopped"""

    @property
    def smoke(self) -> bool:
        return not self.device.startswith("cuda")

    @property
    def rounds(self) -> int:
        return 1 if self.smoke else 5

    @property
    def turn_seconds(self) -> float:
        """What a side may take at a time."""
        return 0.0 if self.smoke else 0.5


@dataclass(frozen=True)
class Row:
    cells: Sequence[object]
    values: dict[str, Any] = field(default_factory=dict)
    """the same as numbers, for JSON"""
    goal: str = ""
    """what it should be, and whether it is: `training at 224 px ≥ 0.95: met`"""


@dataclass(frozen=True)
class Part:
    """What is measured by a function `module:name` that takes the options and gives rows, a few at a time."""

    name: str
    title: str
    function: str
    header: tuple[str, ...]
    seconds: float
    """its share of the time, as seconds of ten minutes; what one leaves, the others get"""
    needs: tuple[str, ...] = ()
    needs_gpu: bool = False


PARTS = (
    Part("environment", "Environment", "benchmarks.gpu:environment", ("what", "which"), 15),
    Part(
        "tests",
        "Tests that need a GPU",
        "benchmarks.gpu:gpu_tests",
        ("test", "result", "why"),
        seconds=90,
        needs=("pytest", *STEP),
        needs_gpu=True,
    ),
    Part(
        "training",
        "Training, in bf16",
        "benchmarks.gpu_parts:training",
        ("px", "side", "images/s", "of the bare compiled step", "project --compile True is … times as fast", "goal"),
        seconds=190,
        needs=STEP,
    ),
    Part(
        "switches",
        "What each switch gains",
        "benchmarks.gpu_parts:switches",
        ("px", "switch", "off, images/s", "on, images/s", "on / off", "so it"),
        seconds=120,
        needs=STEP,
    ),
    Part(
        "memory",
        "Peak memory on the GPU",
        "benchmarks.gpu_parts:memory",
        ("px", "side", "MiB at most", "of the lab", "goal"),
        seconds=20,
        needs=STEP,
        needs_gpu=True,
    ),
    Part(
        "input",
        "The input pipeline's share of a step",
        "benchmarks.gpu_parts:input_share",
        ("px", "augmentation", "ms a batch", "ms a step", "share", "goal"),
        seconds=25,
        needs=STEP,
    ),
    Part(
        "evaluation",
        "Evaluation",
        "benchmarks.gpu_parts:evaluation",
        ("px", "project, images/s", "lab", "times the lab", "same answers", "goal"),
        seconds=25,
        needs=NETWORK,
    ),
    Part(
        "cifar",
        "Accuracy against minutes",
        "benchmarks.gpu:cifar",
        ("recipe", "px", "minutes", "images/s", "validation accuracy, epoch by epoch", "test accuracy", "goal"),
        seconds=110,
        needs=SCRIPTS,
    ),
)


class OutOfTime(Exception):
    """Says what was left out."""


def in_time(items: Iterable[Item], options: Options) -> Iterator[Item]:
    """The items, one after the other, as long as there is time for another like the slowest so far. Raises: `OutOfTime`."""
    left, slowest = list(items), 0.0
    while left:
        began = time.time()
        if began + slowest > options.until:
            raise OutOfTime(f"out of time: {', '.join(map(str, left))} left out")
        yield left.pop(0)
        slowest = max(slowest, time.time() - began)


# --- what is missing, and what to install ------------------------------------------------------------------------------


def missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def pip_install(names: Iterable[str]) -> str:
    """The command that installs these modules, with the bounds of the project's requirements."""
    bounds = {}
    for file in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([\w-]+)>=[\d.]+", line):
                bounds[found[1]] = f'"{found[0]}"'
    wanted = [DISTRIBUTION.get(name, name.replace("_", "-")) for name in names]
    return f"pip install {' '.join(bounds.get(name, name) for name in wanted)}"


def reason_to_skip(part: Part, options: Options) -> str | None:
    if part.needs_gpu and options.smoke:
        return "skipped: it needs a GPU"
    if part.name == "cifar" and not (options.data_dir and options.weights):
        return "skipped: it needs --data_dir and --weights"
    lacking = missing(part.needs)
    return f"skipped: {', '.join(lacking)} missing; {pip_install(lacking)}" if lacking else None


# --- the parent: one part after the other, and the report --------------------------------------------------------------


def main(options: Options) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in PARTS if part.name in options.parts]
    skipped = {part.name: reason for part in chosen if (reason := reason_to_skip(part, options))}
    if lacking := missing(dict.fromkeys([*(name for part in chosen for name in part.needs), "timm"])):
        say(f"for all of it, first: {pip_install(lacking)}")
    until, sections = time.time() + 60 * options.minutes, [beginning(options)]
    for number, part in enumerate(chosen):
        note = skipped.get(part.name)
        if note is None:
            waiting = [other for other in chosen[number:] if other.name not in skipped]
            share = part.seconds / sum(other.seconds for other in waiting)
            note = run(part, options, time.time() + share * (until - time.time()))
        else:
            write_part(options, part, [], note)
        say(f"{part.name}: {note}")
        sections.append((options.output / f"{part.name}.md").read_text(encoding="utf-8"))
        write(options.output / "report.md", "\n".join([*sections, goals(options, chosen[: number + 1])]))


def beginning(options: Options) -> str:
    """The report's head."""
    smoke = "**A smoke test on a CPU: no number here means anything.**\n"
    return f"# benchmarks.gpu, batch {options.batch_size}\n\n{smoke if options.smoke else ''}"


def goals(options: Options, parts: Iterable[Part]) -> str:
    rows = [row for part in parts for row in read_part(options.output, part)["rows"]]
    found = [row["goal"] for row in rows if row["goal"] and not options.smoke]
    return "## Goals\n\n" + ("\n".join(f"- {goal}" for goal in found) or "None measured.") + "\n"


def run(part: Part, options: Options, until: float) -> str:
    """The part in a process of its own, ended when its time is over → how it went, in a line."""
    began = time.time()
    say(f"{part.name}: {until - began:.0f} s at most")
    write_part(options, part, [], BEGUN)
    command = [sys.executable, "-m", "benchmarks.gpu", *as_flags(options), "--child", part.name, "--until", str(until)]
    with open(options.output / f"{part.name}.log", "wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, stderr=log, start_new_session=True)
        try:
            child.wait(max(0.0, until + GRACE_SECONDS - time.time()))
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)  # with all that it has started
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    seconds, state = f"{time.time() - began:.0f} s", read_part(options.output, part)
    if child.returncode == 0:
        note = f"{seconds}; {state['note']}" if state["note"] else seconds
    elif state["note"] != BEGUN:
        note = f"{state['note']}, after {seconds}"
    elif child.returncode == -signal.SIGKILL:
        note = f"out of time after {seconds}; what was measured until then stands here"
    else:
        note = f"failed after {seconds}: {last_line(options.output / f'{part.name}.log')}"
    write_part(options, part, state["rows"], note)
    return note


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"see {log}"


def as_flags(options: Options) -> list[str]:
    given = {"--device": options.device, "--batch_size": options.batch_size, "--minutes": options.minutes}
    given |= {"--data_dir": options.data_dir, "--weights": options.weights, "--model": options.model}
    words = [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]
    return [*words, "--output", str(options.output), "--sizes", *map(str, options.sizes)]


def say(text: str) -> None:
    print(text, flush=True)


# --- a part's files ----------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Whole, or as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_part(options: Options, part: Part, rows: Sequence[dict[str, Any]], note: str) -> None:
    """PART.json, and PART.md from it. rows: as `as_json` gives them."""
    content = {
        "part": part.name,
        "title": part.title,
        "smoke": options.smoke,
        "header": part.header,
        "note": note,
        "rows": rows,
    }
    title = f"{part.title} (a smoke test on a CPU)" if options.smoke else part.title
    write(options.output / f"{part.name}.json", json.dumps(content, indent=1, default=str))
    shown = f"{table(part.header, [row['cells'] for row in rows])}\n\n" if rows else ""
    write(options.output / f"{part.name}.md", f"## {title}\n\n{shown}{note}\n")


def read_part(output: Path, part: Part) -> dict[str, Any]:
    return json.loads((output / f"{part.name}.json").read_text(encoding="utf-8"))


def as_json(row: Row) -> dict[str, Any]:
    return {"cells": [str(cell) for cell in row.cells], "values": row.values, "goal": row.goal}


def measure(part: Part, options: Options) -> int:
    """The child: writes the part's files anew with every row → exit status."""
    module, _, name = part.function.partition(":")
    rows: list[dict[str, Any]] = []
    note, status = "", 0
    try:
        for new in getattr(importlib.import_module(module), name)(options):
            rows += map(as_json, new)
            write_part(options, part, rows, BEGUN)
            for row in new:
                say(f"  {' | '.join(str(cell) for cell in row.cells if str(cell))}")
    except OutOfTime as left_out:
        note = str(left_out)
    except Exception as error:
        traceback.print_exc()  # into the log
        note, status = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", 1
    write_part(options, part, rows, note)
    return status


# --- parts that need no more than PyTorch ------------------------------------------------------------------------------


def environment(options: Options) -> Iterator[list[Row]]:
    """What the numbers are of."""
    from benchmarks.timing import machine

    facts: dict[str, object] = {"machine": machine(), "Python": sys.version.split()[0], "PyTorch": torch.__version__}
    facts |= {name: version(name) for name in ("torchvision", "triton", "timm")}
    facts |= {"CUDA of PyTorch": torch.version.cuda, "code": commit()}
    if not options.smoke:
        device = torch.device(options.device)
        about = torch.cuda.get_device_properties(device)
        facts |= {
            "GPU": about.name,
            "compute capability": f"{about.major}.{about.minor}",
            "memory": f"{about.total_memory / 2**30:.1f} GiB, {about.multi_processor_count} multiprocessors",
            "cuDNN": torch.backends.cudnn.version(),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else None,
            "driver, power limit": nvidia_smi("driver_version,power.limit"),
            "cudnn.benchmark, TF32 of cuDNN, TF32 of matmul": (
                f"{torch.backends.cudnn.benchmark}, {torch.backends.cudnn.allow_tf32}, {torch.backends.cuda.matmul.allow_tf32}"
            ),
        }
    yield [Row([name, value], {name: str(value)}) for name, value in facts.items()]


def version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def nvidia_smi(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def gpu_tests(options: Options) -> Iterator[list[Row]]:
    """`pytest -m gpu`, in one process, on the files that have such tests: the others may not even be collected here."""
    tests = sorted(path for path in (ROOT / "tests").glob("**/test_*.py") if "mark.gpu" in path.read_text())
    own = ["-o", "addopts=", "--import-mode=importlib", "--strict-markers", "-m", "gpu"]
    command = [sys.executable, "-m", "pytest", *own, "-v", "-rfEs", "--tb=short", "-p", "no:cacheprovider"]
    with open(options.output / "pytest.txt", "w", encoding="utf-8") as whole:
        child = subprocess.Popen([*command, *map(str, tests)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", file=whole, flush=True)
            if row := test_row(line):
                yield [row]
        if child.wait() not in (0, 1):
            raise RuntimeError(f"pytest ended with {child.returncode}: {last_line(options.output / 'pytest.txt')}")


def test_row(line: str) -> Row | None:
    """A line of `pytest -v -rfEs` that says how a test went, or why it did not pass."""
    if found := re.match(r"(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", line):
        name, result, why = found[1], found[2], ""
    elif found := re.match(r"(FAILED|ERROR) (\S+::.*?)(?: - (.*))?$", line):
        name, result, why = found[2], found[1], (found[3] or "")[:200]
    elif found := re.match(r"SKIPPED \[\d+\] (\S+): (.*)", line):
        name, result, why = found[1], "SKIPPED", found[2][:200]
    else:
        return None
    name = name.rpartition("/")[2].replace("|", "/")
    goal = f"{name}: {result.lower()}" if result in ("FAILED", "ERROR") and not why else ""
    return Row([name, result.lower(), why.replace("|", "/")], {"test": name, "result": result, "why": why}, goal)


# --- accuracy against minutes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    preset: str
    epochs: int
    image_size: int
    flags: tuple[str, ...] = ()

    @property
    def work(self) -> int:
        """In proportion to the time, roughly: what the epochs take grows with the pixels."""
        return self.epochs * self.image_size**2

    def __str__(self) -> str:
        return f"{self.preset}, {self.epochs} epochs at {self.image_size} px"


BASIC = ("--augment", "basic")  # over ten epochs the images are known by heart
RECIPES = (Recipe("best", 3, 128), Recipe("best", 3, 224), Recipe("best", 10, 224, BASIC), Recipe("lab", 5, 224))
GOAL_ACCURACY, GOAL_EPOCHS = 0.86, 10
START_SECONDS = 40  # of a run: imports, decoded photos, and evaluate.py


def cifar(options: Options) -> Iterator[list[Row]]:
    """train.py and evaluate.py as they are, recipe by recipe, as long as there is time for another."""
    import tempfile

    recipes = (Recipe("lab", 1, 32, ("--batch_size", "8")),) if options.smoke else RECIPES
    seconds_of_work, left_out = 0.0, []
    with tempfile.TemporaryDirectory() as folder:  # decoded photos and checkpoints are gigabytes
        for number, recipe in enumerate(recipes):
            needed = START_SECONDS + recipe.work * seconds_of_work
            if time.time() + needed > options.until and not options.smoke:
                left_out.append(f"{recipe} (about {needed:.0f} s)")
                continue
            began, run_id = time.time(), f"recipe{number}"
            train_and_evaluate(recipe, run_id, Path(folder), options)
            seconds_of_work = max(seconds_of_work, (time.time() - began - START_SECONDS) / recipe.work)
            yield [accuracy_row(recipe, Path(folder) / "runs" / run_id, options.output)]
    if left_out:
        raise OutOfTime(f"out of time: {'; '.join(left_out)} left out")


def train_and_evaluate(recipe: Recipe, run_id: str, folder: Path, options: Options) -> None:
    place = ["--device", options.device, "--runs_dir", str(folder / "runs"), "--data_dir", str(options.data_dir)]
    train = [
        *(
            "train.py",
            "--preset",
            recipe.preset,
            "--dataset",
            "folder",
            *place,
            "--run_id",
            run_id,
            "--log_weights",
            "False",
        ),
        *("--model", options.model, "--weights", str(options.weights), "--epochs", str(recipe.epochs)),
        *("--image_size", str(recipe.image_size), *recipe.flags),
    ]
    evaluate = ["evaluate.py", *place, "--checkpoint", run_id, "--batch_size", "256"]
    environment = {**os.environ, "WANDB_MODE": "disabled", "FINETUNE_CACHE": str(folder / "cache")}
    for command in (train, evaluate):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"{command[0]}: {done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else done}"
            )


def accuracy_row(recipe: Recipe, run: Path, output: Path) -> Row:
    """From the files that the run has left, of which the small ones are kept in the output folder."""
    kept = {
        "metrics": "metrics.jsonl",
        "summary": "summary.json",
        "config": "config.yaml",
        "report": "evaluation/report.json",
    }
    texts = {name: (run / file).read_text(encoding="utf-8") for name, file in kept.items()}
    for name, text in texts.items():
        write(output / f"{run.name}-{Path(kept[name]).name}", text)
    rows = [json.loads(line) for line in texts["metrics"].splitlines()]
    speed = max((row.get("throughput/images_per_second", 0.0) for row in rows), default=0.0)
    summary, test = json.loads(texts["summary"]), json.loads(texts["report"])["metrics"]["test/accuracy"]
    epochs = [row for row in rows if "train/loss" in row]
    validated = " ".join(f"{row['validation/accuracy']:.3f}" for row in epochs if "validation/accuracy" in row)
    goal = ""
    if recipe.preset == "best" and recipe.epochs <= GOAL_EPOCHS:
        met = "met" if test >= GOAL_ACCURACY else "missed"
        goal = f"≥ {GOAL_ACCURACY:.0%} on the test set within {GOAL_EPOCHS} epochs: {met}"
    cells = [recipe.preset, recipe.image_size, f"{summary['seconds'] / 60:.2f}", f"{speed:,.0f}"]
    values = {
        "recipe": str(recipe),
        "seconds": summary["seconds"],
        "test": test,
        "images_per_second": speed,
        "epochs": epochs,
    }
    return Row([*cells, validated, f"{test:.4f}", goal], values, f"{recipe}: {goal}" if goal else "")


# --- the command line --------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> tuple[Options, str | None]:
    """Options, and the part to measure in this process. Exit status 2 for what does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--device", default="auto", help="auto, cuda or cuda:N; cpu is a smoke test with tiny settings")
    parser.add_argument("--sizes", type=int, nargs="+", help="sides in pixels, in order of worth (224 64 128 32)")
    parser.add_argument("--batch_size", type=int, help="images a step (128)")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together (9.5)")
    parser.add_argument("--data_dir", help="photos in train/<class>/ and test/<class>/, for the last part")
    parser.add_argument("--weights", help="what the last part starts from: a file, or a name that train.py knows")
    parser.add_argument("--model", default="resnet50", help="the architecture that the weights are of (resnet50)")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder of the tables (runs/gpu)")
    parser.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)  # used by the benchmark itself, as is --until
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    device = ("cuda" if torch.cuda.is_available() else "none") if given.device == "auto" else given.device
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device) or (device != "cpu" and not torch.cuda.is_available()):
        parser.error(
            f"--device is {given.device}, but torch sees no such GPU; --device cpu is a smoke test of this command"
        )
    smoke = device == "cpu"
    for name in ("data_dir", "weights"):  # the parts run in the project's folder
        path = getattr(given, name)
        if path is not None and Path(path).expanduser().exists():
            setattr(given, name, str(Path(path).expanduser().resolve()))
        elif name == "data_dir" and path is not None:
            parser.error(f"--data_dir {path} does not exist")
    options = Options(
        device=device,
        sizes=tuple(given.sizes or ((32,) if smoke else (224, 64, 128, 32))),
        batch_size=given.batch_size or (4 if smoke else 128),
        minutes=given.minutes,
        data_dir=given.data_dir,
        weights=given.weights,
        model=given.model,
        output=given.output.resolve(),
        parts=tuple(given.parts),
        until=given.until,
    )
    return options, given.child


def command() -> int:
    options, child = parse()
    if child:
        return measure(next(part for part in PARTS if part.name == child), options)
    main(options)
    return 0


if __name__ == "__main__":
    # By its name, so that the parts' `OutOfTime` is the one that is caught.
    sys.exit(importlib.import_module("benchmarks.gpu").command())

"""How busy the machine was and what the console said, of the runs that the page has pictures for and those beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.base.text import as_lines, command_line, path_word
from common.dashboard.reading import attempt, named, number, rounded
from common.runs.folder import RunFolder, read_console, read_system

RUNS = 50  # shown with curves of the machine and console; the rest without
POINTS = 200  # of a curve
CONSOLE_LINES, CONSOLE_CHARACTERS = 200, 20_000  # the newest
PAUSE_SECONDS = 90.0  # without a row, beyond which curves have a gap: the run was not running
MEASURES = (
    *("process_cores", "machine_cores", "process_memory", "machine_memory", "disk_read", "disk_written"),
    *("network_received", "network_sent", "gpu_percent", "gpu_memory"),
)
BUSY, HALF, IDLE = 0.75, 0.5, 0.25  # shares of the cores or of the time
NEARLY_FULL = 0.9  # share of the memory

Row = dict[str, float]


def add_machine(runs: list[dict[str, Any]], folders: dict[str, Path]) -> None:
    """Gives each run `machine` and `console`, None where nothing is known, and `machine_note`; the first runs first."""
    for position, run in enumerate(runs):
        folder = RunFolder(folders[run["id"]])
        run |= {"machine": None, "console": None, "machine_note": ""}
        if position < RUNS:
            show(run, folder)
        else:
            words = ["--runs_dir", path_word(folder.path), "--output", path_word(Path(f"{run['id']}.html"))]
            run["machine_note"] = (
                f"A page over many runs shows this of {RUNS} of them, the best and the newest. For this one: "
                f"`{command_line(['python', 'dashboard.py', *words])}`"
            )


def show(run: dict[str, Any], folder: RunFolder) -> None:
    problems, system, console = run["problems"], named(folder.system, folder), named(folder.console, folder)
    run["machine"] = attempt(problems, system, lambda: machine_of(run, known_rows(read_system(folder))), None)
    run["console"] = attempt(problems, console, lambda: newest_lines(read_console(folder)), "") or None
    if run["machine"]:
        run["answers"].append({"question": "Was the machine busy?", "answer": run["machine"]["busy"]})


def machine_of(run: dict[str, Any], rows: list[Row]) -> dict[str, Any] | None:
    """What `curves` gives, and `busy`, a sentence or some."""
    if not rows:
        return None
    processes, started = run["facts"].get("Processes", 1), run["started"] or rows[0]["time"] - rows[0]["seconds"]
    return {"busy": was_it_busy(rows, processes), **curves(rows, started)}


def known_rows(rows: list[Row]) -> list[Row]:
    """Those that say of when they are, in order of time; what no run would write is left out."""
    plain = [{key: value for key, value in row.items() if number(value) is not None and value >= 0} for row in rows]
    return sorted((row for row in plain if row.get("seconds") and row.get("time")), key=lambda row: row["time"])


def newest_lines(text: str) -> str:
    """Empty where nothing but the moments at which a process began was kept, as of one in a notebook, whose outputs nobody hears."""
    lines = as_lines(text)
    if all(line.startswith("--- ") or not line for line in lines):
        return ""
    return "\n".join(lines[-CONSOLE_LINES:])[-CONSOLE_CHARACTERS:].strip("\n")


# --- curves -----------------------------------------------------------------------------------------------------------


def curves(rows: list[Row], started: float) -> dict[str, Any]:
    """`{"minutes": list, "values": {measure: list}, "mean": {…}, "most": {…}, "cores", "memory", "gpu_memory"}`, None at a pause."""
    size = -(-len(rows) // POINTS)
    points = [rows[start : start + size] for start in range(0, len(rows), size)]
    there = [key for key in MEASURES if any(key in row for row in rows)]
    minutes: list[float | None] = []
    values: dict[str, list[float | None]] = {key: [] for key in there}
    for before, group in zip([points[0], *points], points, strict=False):
        if group[0]["time"] - group[0]["seconds"] - before[-1]["time"] > PAUSE_SECONDS:
            minutes.append(rounded(before[-1]["time"], started, 60))
            for column in values.values():
                column.append(None)
        minutes.append(rounded(group[-1]["time"], started, 60))
        for key, column in values.items():
            column.append(number(mean(group, key)))
    return {
        "minutes": minutes,
        "values": values,
        "mean": {key: number(mean(rows, key)) for key in there},
        "most": {key: number(most(rows, key)) for key in there},
        "cores": most(rows, "cores"),
        "memory": most(rows, "machine_memory_total"),
        "gpu_memory": most(rows, "gpu_memory_total"),
    }


def mean(rows: Sequence[Row], key: str) -> float | None:
    """Over the time that the rows are of; None where none has it."""
    spans = [(row[key], row["seconds"]) for row in rows if key in row]
    seconds = sum(span for _, span in spans)
    return sum(value * (span / seconds) for value, span in spans) if spans else None


def most(rows: Sequence[Row], key: str) -> float | None:
    return max((row[key] for row in rows if key in row), default=None)


# --- in words ---------------------------------------------------------------------------------------------------------


def was_it_busy(rows: list[Row], processes: int = 1) -> str:
    """Whether what computes was kept busy. processes: of the run, of which the first was measured."""
    used, all_of_it, cores = (mean(rows, key) for key in ("process_cores", "machine_cores", "cores"))
    gpu = mean(rows, "gpu_percent")
    on_gpu = gpu is not None or any("gpu_memory" in row for row in rows)
    told = [of_the_gpu(gpu, used, cores)] if gpu is not None else []
    if not on_gpu and used is not None and cores:
        told.append(of_the_cores(used, all_of_it, cores, processes))
    elif used is not None and cores:
        told.append(f"The run kept {used:.1f} of {cores:g} processor cores busy.")
    if on_gpu and gpu is None:
        told.append("How busy the GPU was is not known: after pip install nvidia-ml-py, the next run says it.")
    return " ".join([*told, of_the_memory(rows)]).strip() or "Not known: the system did not say."


def of_the_gpu(percent: float, used: float | None, cores: float | None) -> str:
    """Whether the GPU waited, and for what, as far as the processor tells."""
    if percent >= 100 * BUSY:
        return f"Yes: the GPU computed in {percent:.0f} % of the time."
    if percent >= 100 * HALF:
        return f"Mostly: the GPU computed in {percent:.0f} % of the time, and waited in the rest."
    text = f"No, the GPU waited: it computed in {percent:.0f} % of the time."
    if used is not None and cores and used >= BUSY * cores:
        return f"{text} The processor had no time to spare, so that it may be what the GPU waited for."
    return text


def of_the_cores(used: float, all_of_it: float | None, cores: float, processes: int) -> str:
    who = "the run" if processes == 1 else f"the first of {processes} processes"
    text = f"{who} kept {used:.1f} of {cores:g} processor cores busy on average"
    others = max(0.0, (all_of_it or 0.0) - used)
    if used >= BUSY * cores:
        return f"Yes: {text}."
    if processes == 1 and others >= IDLE * cores:
        return (
            f"Yes, but not with this run alone: {text}, and other programs {others:.1f}, which may have slowed it down."
        )
    if all_of_it is not None and all_of_it >= BUSY * cores:
        return f"Yes: {text}, and all together {all_of_it:.1f}."
    return f"No: {text}; the rest was idle."


def of_the_memory(rows: list[Row]) -> str:
    used, all_of_it, total = (most(rows, key) for key in ("process_memory", "machine_memory", "machine_memory_total"))
    if used is None:
        return ""
    text = f"It took up to {used / 1e9:.1f} GB of memory"
    if all_of_it is None or not total:
        return f"{text}."
    full = ", nearly all" * (all_of_it >= NEARLY_FULL * total)
    return f"{text}; the whole machine up to {all_of_it / 1e9:.1f} of {total / 1e9:.1f} GB{full}."

"""The benchmarks with a goal, one after the other; prints their tables as Markdown.

    python -m benchmarks.all > tables.md

`benchmarks.scaling`, `benchmarks.memory --mapped True` and `benchmarks.ablation` take longer and are run by themselves.
"""

import subprocess
import sys
import time

from benchmarks.timing import ROOT, machine

COMMANDS = (
    "startup --rounds 3",
    "input_pipeline --rounds 5",
    "tracking --rounds 5",
    "memory --rounds 2",
    "evaluation --rounds 5",
    "features --rounds 1",
    "throughput --rounds 5",
    "precision --rounds 5",
)


def main() -> None:
    print(machine(), flush=True)
    for command in COMMANDS:
        module, *flags = command.split()
        print(f"\n`python -m benchmarks.{command}`\n", flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *flags], cwd=ROOT, check=True)
        print(f"benchmarks.{module}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Run folders made by hand, with no data behind them, and what a shell makes of a command about one."""

import json
import shlex
import subprocess
import sys

from common.runs.records import Split

SPLIT = Split(
    dataset="digits", classes=("0", "1"), validation_fraction=0.1, digest="then", train_size=9, validation=[3]
)


def words_of(command: str) -> list[str]:
    """The words that a shell gives to the program of a command."""
    program, _, words = command.partition(" ")
    assert program.isalpha(), command
    shown = shlex.join([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"])
    done = subprocess.run(["sh", "-c", f"{shown} {words}"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)

"""What a script prints, as it is kept: by scripts of their own, since nothing else has outputs that last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from places import IN_THE_WAY, blocked

from common.base import console
from common.base.text import as_lines

SCRIPT = """
import sys
from pathlib import Path
from common.base.console import kept_console
from common.base.errors import UserError, report_errors
from common.base.terminal import progress_bar

with report_errors(), kept_console() as console:
    print("before", "the file", 1)
    console.write_to(Path("console.log"))
    print("\\x1b[31mred\\x1b[0m and \\x1b]0;title\\x07plain")
    for _ in progress_bar(range(20), desc="bar"):
        sys.stderr.write("")
    print("tear", end="")
    print("warning", file=sys.stderr)
    print("ed")
    print("\\r 1%\\r 50%\\r      \\rafter a bar of its own")
    {ending}
"""


def run(folder: Path, ending: str = "", terminal: bool = False) -> tuple[list[str], str]:
    """The kept lines, and all that was printed."""
    (folder / "script.py").write_text(SCRIPT.format(ending=ending))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "script.py"]
    if terminal:
        command = [sys.executable, "-c", "import pty, sys; pty.spawn([sys.executable, 'script.py'])"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return (folder / "console.log").read_text().splitlines(), done.stdout + done.stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_kept_without_bars_and_colours(tmp_path: Path, terminal: bool) -> None:
    kept, printed = run(tmp_path, terminal=terminal)
    assert "bar" in printed
    lines = ["before the file 1", "red and plain", "warning", "teared", "after a bar of its own"]
    assert kept[0].startswith("--- ") and [line for line in kept[1:] if "bar:" not in line] == lines
    assert sum("bar:" in line for line in kept) <= terminal  # of one that stays in a terminal, the last version


@pytest.mark.parametrize(
    ("ending", "last"),
    [("raise UserError('--lr is 7')", "error: --lr is 7"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_the_error_that_ended_it_is_kept(tmp_path: Path, ending: str, last: str) -> None:
    kept, printed = run(tmp_path, ending)
    assert kept[-1] == last and last in printed


def test_the_text_of_a_run_that_goes_on_follows_that_of_before(tmp_path: Path) -> None:
    first = run(tmp_path)[0]
    both = run(tmp_path)[0]
    assert both[: len(first)] == first and both[len(first)].startswith("--- ") and len(both) == 2 * len(first)


def test_a_console_that_never_ends_keeps_its_newest_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LONGEST", 2000)
    heard = console.Console()
    path = tmp_path / "console.log"
    for n in range(50):
        heard.hear(heard, f"before {n} {'x' * 50}\n")
    heard.write_to(path)
    for n in range(500):
        heard.hear(heard, f"line {n}\n")
        assert path.stat().st_size <= 2000 + 20
    kept = path.read_text().splitlines()
    assert kept[0] == console.LEFT_OUT.strip()
    newest = [int(line.split()[1]) for line in kept[1:]]
    assert newest == list(range(newest[0], 500)) and len(newest) > 50


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_a_file_that_can_not_be_written_ends_nothing(tmp_path: Path, kind: str) -> None:
    path, elsewhere = blocked(tmp_path / "console.log", kind), tmp_path / "elsewhere"
    heard = console.Console()
    heard.write_to(path)
    heard.hear(heard, "said\n")
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\r\nb\n", ["a", "b", ""]),
        ("\x1b[1;32mok\x1b[0m \x1b[2K\x1b[Aup", ["ok up"]),
        ("10%\r20%\r100%\n", ["100%", ""]),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", ["link"]),
        ("nul\0 bell\x07 \u202eturned", ["nul? bell? ?turned"]),
        ("中\tx", ["中   x"]),
    ],
)
def test_a_terminal_s_orders_leave_plain_lines(text: str, lines: list[str]) -> None:
    assert as_lines(text) == lines

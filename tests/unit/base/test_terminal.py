"""Where a script's words go costs it nothing: closed, full and narrow outputs, logs, and folders with settings of matplotlib."""

import io
import os
import re
import subprocess
import sys
import time
import types

import pytest
from helpers import ROOT

from common.base import terminal
from common.base.errors import UserError, report_errors

SCRIPT = """
import os, signal, sys
from common.base.errors import UserError, report_errors
from common.base.signals import interruptible

with report_errors():
    with interruptible("said by a handler", None):
        for number in range(3000):
            print("±0.1 中", number, flush=number % 7 == 0)
        print("and here: 中", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)
    with open("result.txt", "w") as file:  # closed outputs leave their numbers free
        os.system("echo a child speaks; echo and complains >&2")
        file.write(f"whole {file.fileno()}")
    if sys.argv[1:]:
        raise UserError("no such thing")
"""
OUTPUTS = [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "| head -1", "2>&1 | head -1"]


def shell(tmp_path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Of a script in `tmp_path`; its exit status is in status.txt, what came through a pipe in the result."""
    (tmp_path / "script.py").write_text(SCRIPT)
    here = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **environment}
    return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=here, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_is_closed_or_full_costs_nothing(output, tmp_path):
    for flag, status in (("", "0"), ("bad", "2")):
        (tmp_path / "result.txt").unlink(missing_ok=True)
        done = shell(tmp_path, f'{{ "$PYTHON" script.py {flag}; echo $? > status.txt; }} {output}')
        assert (tmp_path / "status.txt").read_text().strip() == status, done.stderr
        kept = (tmp_path / "result.txt").read_text()
        assert re.fullmatch(r"whole \d+", kept) and int(kept.split()[1]) > 2, "an output's number was given to a file"
        assert "Traceback" not in done.stderr + done.stdout and "Exception" not in done.stderr + done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_output_that_a_full_disk_has_lost_is_said_and_a_reader_that_left_is_not(tmp_path):
    said = "not all of the output could be printed: No space left on device"
    assert said in shell(tmp_path, '"$PYTHON" script.py > /dev/full').stderr
    assert "could be printed" not in shell(tmp_path, '"$PYTHON" script.py | head -1').stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "koi8-r:strict", "utf-8"])
def test_a_character_that_the_output_lacks_is_its_code_point(encoding, tmp_path):
    command = '"$PYTHON" script.py > out.bin; echo $? > status.txt'
    errors = shell(tmp_path, command, PYTHONIOENCODING=encoding, PYTHONUTF8="0").stderr
    assert (tmp_path / "status.txt").read_text().strip() == "0", errors
    text = (tmp_path / "out.bin").read_bytes().decode(encoding.partition(":")[0])
    printed = [line for line in text.splitlines() if "child" not in line]
    assert [line.split()[-1] for line in printed] == [str(number) for number in range(3000)]
    assert "Traceback" not in errors
    if not encoding.startswith("utf"):
        assert r"\u4e2d 5" in printed[5]


ORDERS = ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\x1bc", "a\x08\x7fb", "\x1b[1;1H", "\x1bP+q\x1b\\", "\x1b[8m"]


def test_no_path_that_is_printed_gives_a_terminal_orders(tmp_path):
    script = tmp_path / "says.py"
    script.write_text(
        "import sys; from pathlib import Path; from common.base.errors import report_errors\n"
        "with report_errors():\n"
        "    for path in sys.argv[1:]: print('in', Path(path), '中'); print(path, 'too', file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    paths = [f"x{order}y" for order in ORDERS]
    done = subprocess.run([sys.executable, script, *paths], env=environment, capture_output=True, timeout=60)
    out, err = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert len(out) == len(err) == len(ORDERS)
    for order, printed, said in zip(ORDERS, out, err, strict=True):
        assert printed.startswith("in xa?" if order[0] == "a" else "in x?") and printed.isprintable(), ascii(order)
        assert printed.endswith("y 中") and said.endswith("y too") and said.isprintable(), ascii(order)


def test_in_a_terminal_bars_and_colours_stay_and_other_orders_do_not():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    stream = terminal.Lasting(screen)
    drawn = "\r 50%|\x1b[31m#####\x1b[0m\n\x1b[A\x1b[2K\ttext\r\n"
    assert stream.write(drawn) == len(drawn) and screen.getvalue() == drawn
    stream.write("\x1b[2J\x1b[3A\x1b[K\x1b")
    assert screen.getvalue().removeprefix(drawn) == "?[2J?[3A?[K?"


def test_bytes_that_are_no_text_in_a_printed_name_cost_nothing(tmp_path):
    (tmp_path / "names.py").write_text(
        "from common.base.errors import report_errors\nwith report_errors():\n    print('caf\\udce9', flush=True)\n"
    )
    assert shell(tmp_path, '"$PYTHON" names.py').stdout == "caf\\udce9\n"


def test_an_error_is_one_line_that_keeps_a_paths_spaces_and_gives_a_terminal_no_order(capsys):
    with pytest.raises(SystemExit) as ended, report_errors():
        raise UserError("my  photos/\x1b[2J are\n   not there")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: my  photos/?[2J are not there\n"


# --- matplotlib's settings --------------------------------------------------------------------------------------------

DRAWING = """
import os
from pathlib import Path
from common.base.errors import report_errors

before = os.environ.get("MPLBACKEND")
with report_errors():
    from common.base import drawing
    from common.training.curves import curves

    rows = [{"epoch": n, "train/loss": 1 / n, "train/accuracy": 0.5} for n in (1, 2)]
    drawing.save(curves(rows, 2), Path("loss.png"))
assert os.environ.get("MPLBACKEND") == before
"""


@pytest.fixture(scope="module")
def as_it_should_be(tmp_path_factory) -> bytes:
    return picture(tmp_path_factory.mktemp("plain"))


def picture(folder, **environment: str) -> bytes:
    (folder / "draw.py").write_text(DRAWING)
    done = shell(folder, '"$PYTHON" draw.py', HOME=str(folder), **environment)
    assert done.returncode == 0, done.stderr
    return (folder / "loss.png").read_bytes()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_no_backend_that_is_asked_for_changes_or_costs_a_figure(backend, tmp_path, as_it_should_be):
    assert picture(tmp_path, MPLBACKEND=backend) == as_it_should_be


@pytest.mark.parametrize("where", ["MATPLOTLIBRC", "home", "working directory"])
def test_no_settings_of_the_users_change_a_figure(where, tmp_path, as_it_should_be):
    place = {"MATPLOTLIBRC": "other", "home": ".config/matplotlib", "working directory": "."}[where]
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    odd = "backend: module://nowhere\ntext.usetex: True\nsavefig.format: svg\nfigure.dpi: 7\naxes.facecolor: red\n"
    (folder / "matplotlibrc").write_text(odd + "savefig.transparent: True\nnonsense: 3\nfont.size: huge\n")
    given = {"MATPLOTLIBRC": str(folder)} if where == "MATPLOTLIBRC" else {}
    assert picture(tmp_path, **given) == as_it_should_be


def test_settings_that_matplotlib_could_not_read_are_said_before_anything_begins(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\xfe\n")
    done = shell(tmp_path, '"$PYTHON" script.py')
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: matplotlibrc in .* is damaged, .*\n", done.stderr)


# --- bars -------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1e6
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(terminal.Lines, "_time", lambda bar: self.now, raising=False)
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)
        monkeypatch.setattr(terminal.Lines, "written", float("-inf"))


def test_in_a_log_a_bar_writes_a_line_now_and_then_however_much_it_is_told(monkeypatch):
    clock, log = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for epoch in range(10):  # of six minutes
        with terminal.progress_bar(total=36000, desc=f"epoch {epoch}", unit=" images") as bar:
            for _ in range(3600):
                clock.now += 0.1
                bar.update(10)
                bar.set_postfix(loss="0.5", refresh=False)
    lines = log.getvalue().splitlines()
    assert log.getvalue().endswith("\n") and "\r" not in log.getvalue() and "\x1b" not in log.getvalue()
    assert all(re.match(r"epoch \d: \d+%, \d+ of 36000 \[.*images/s, loss=0\.5\]$", line) for line in lines), lines[:3]
    assert 60 <= len(lines) <= 140  # in an hour
    assert [line[:15] for line in lines if "100%" in line] == [f"epoch {epoch}: 100%, "[:15] for epoch in range(10)]


def test_in_a_log_many_short_bars_write_no_more_than_a_long_one(monkeypatch):
    clock, log = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in range(1000):
        for leave in (True, False):
            for _ in terminal.progress_bar(range(3), desc="short", leave=leave):
                clock.now += 0.1
    lines = log.getvalue().splitlines()
    assert 50 <= len(lines) <= 50 + 600 / 30 + 1
    assert all(line.startswith("short: 100%, 3 of 3 ") for line in lines[:9])


def test_in_a_terminal_a_bar_is_drawn_over(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for _ in terminal.progress_bar(range(3), desc="here"):
        pass
    assert screen.getvalue().count("\r") >= 2 and screen.getvalue().count("\n") == 1


def test_in_a_log_a_librarys_own_bar_is_lines_too_and_its_own_again_afterwards(monkeypatch):
    module, log = types.ModuleType("library"), io.StringIO()
    module.tqdm = theirs = object()
    monkeypatch.setattr(sys, "stderr", log)
    with terminal.own_bars(module), module.tqdm(total=2048, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for _ in range(64):
            bar.update(32)
    assert module.tqdm is theirs
    assert log.getvalue().count("\n") == 1 and "100%, 2.00k of 2.00k [" in log.getvalue() and "\r" not in log.getvalue()

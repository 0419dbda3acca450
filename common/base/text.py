"""Text for a person: a table, a command, and an error in one line."""

import os
import re
import shlex
import subprocess
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = frozenset()
) -> str:
    """A Markdown table; the columns named in `numbers` are aligned to the right."""
    rule = ["---:" if name in numbers else "---" for name in header]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, rule, *rows])


def command_line(words: Sequence[str], windows: bool = os.name == "nt") -> str:
    """A command to paste into this system's shell, in one line, quoted where it must be."""
    return " ".join(map(_quoted_for_windows if windows else _quoted, words))


def _quoted_for_windows(word: str) -> str:
    """For cmd.exe and PowerShell alike, in which more than spaces must stand in quotes. What both expand within them, each its own,
    stays: %NAME% and $NAME."""
    if re.fullmatch(r"[\w./\\:+=-]+", word):
        return word
    return '"' + subprocess.list2cmdline([f" {word}"])[2:]  # the space makes it quote any word


def path_word(path: Path) -> str:
    """The path as a word of a command, which no program takes for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def with_values(words: Sequence[str]) -> list[str]:
    """Words of a command whose every flag has a value. One that begins with a dash is joined to its flag: no program takes it for another."""
    told: list[str] = []
    for word in words:
        before = told[-1] if told else ""
        if word.startswith("-") and before.startswith("--") and "=" not in before:
            told[-1] = f"{before}={word}"
        else:
            told.append(word)
    return told


def _quoted(word: str) -> str:
    """What can't be printed, such as a line break or bytes that are no UTF-8, by `printf`, as every shell understands it."""
    if word.isprintable() or word.endswith("\n"):  # which "$(…)" would lose
        return shlex.quote(word)
    text = "".join(chr(b) if chr(b).isalnum() and b < 128 or b in b" /._" else f"\\{b:03o}" for b in os.fsencode(word))
    return f"\"$(printf '{text}')\""


def percent(share: float | None) -> str:
    """`0.8123` → `81.2 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `10,000 images`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def one_line(text: object, longest: int) -> str:
    """`text`, such as an error of someone else's, without its line breaks and cut to `longest` characters."""
    return " ".join(str(text).split())[:longest]


def printable(text: object, longest: int = 60) -> str:
    """`one_line` without what a terminal would obey: text that may be a stranger's."""
    return without_orders(one_line(text, longest))


def in_utf8(name: str) -> str:
    """A file's name as text that any file can hold: its bytes that are no UTF-8, such as 0xff, as `\\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode()


def without_orders(text: str) -> str:
    """`text` with a question mark for each character that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


# Colours and the other orders to a terminal, as ECMA-48 has them, and titles of its window.
_ORDERS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")


def as_lines(text: str) -> list[str]:
    """What stands on a terminal's lines once all is written: of a line that was drawn over, the last version; no colours, and nothing
    that another terminal would obey."""
    lines = _ORDERS.sub("", text).expandtabs(4).split("\n")
    return [without_orders(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in lines]


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def mean_and_sd(values: Sequence[float], digits: int = 4) -> str:
    """`0.9629 ± 0.0021`: mean and sample standard deviation; of one value, that alone."""
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")

"""Text for a person: a table, a command, and an error in one line."""

import os
import shlex
import subprocess
from collections.abc import Collection, Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = frozenset()
) -> str:
    """A Markdown table; the columns named in `numbers` are aligned to the right."""
    rule = ["---:" if name in numbers else "---" for name in header]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, rule, *rows])


def command_line(words: Sequence[str]) -> str:
    """A command to paste into this system's shell, quoted where it must be."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def one_line(text: object, longest: int) -> str:
    """`text`, such as an error of someone else's, without its line breaks and cut to `longest` characters."""
    return " ".join(str(text).split())[:longest]

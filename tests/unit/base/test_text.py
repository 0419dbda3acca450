"""Tables and lines for a person."""

import statistics

import pytest

from common.base.text import (
    command_line,
    counted,
    duration,
    markdown_table,
    mean_and_sd,
    one_line,
    printable,
    with_values,
)


def test_a_table_is_markdown_with_its_numbers_to_the_right():
    assert markdown_table(["stage", "size", "size"], [["a", 1, 2.5], ["b", "", None]], numbers={"size"}) == (
        "| stage | size | size |\n| --- | ---: | ---: |\n| a | 1 | 2.5 |\n| b |  | None |"
    )
    assert markdown_table(["run"], []) == "| run |\n| --- |"


def test_no_value_that_begins_with_a_dash_is_taken_for_a_flag():
    words = ["--checkpoint", "-x", "--which", "errors", "--lr=1", "-1", "--run", "--resume"]
    assert with_values(words) == ["--checkpoint=-x", "--which", "errors", "--lr=1", "-1", "--run=--resume"]


def test_an_error_of_many_lines_becomes_one():
    assert one_line(ValueError("no such\n\n  file\there"), 200) == "no such file here"
    assert one_line("x" * 10, 4) == "xxxx"


def test_a_strangers_text_gives_a_terminal_no_order():
    assert printable("a\x1b[2Jb\nc\x07") == "a?[2Jb c?"
    assert printable(0.5) == "0.5" and len(printable("x" * 500)) == 60


def words_on_windows(line: str) -> list[str]:
    """As a C program on Windows reads its command line: https://learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments."""
    words, word, quoted, begun, position = [], "", False, False, 0
    while position < len(line):
        end = position
        while end < len(line) and line[end] == "\\":
            end += 1
        slashes = end - position
        if end < len(line) and line[end] == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            else:
                quoted = not quoted
            begun, position = True, end + 1
        elif slashes:
            word, begun, position = word + "\\" * slashes, True, end
        elif line[position] == " " and not quoted:
            words, word, begun, position = words + [word] * begun, "", False, position + 1
        else:
            word, begun, position = word + line[position], True, position + 1
    return words + [word] * begun


@pytest.mark.parametrize(
    "word",
    ["plain", "C:\\my runs\\", "C:\\runs\\", "a&b", "a|b", "a;b", "(a)", "it's", "a>b<c", "x^y", "größe", "a,b", "@x", "{y}", "", "a b\\\\", "`", "#", "--lr=0.1"],
)  # fmt: skip
def test_on_windows_a_printed_command_reaches_its_script_from_both_of_its_shells(word):
    line = command_line(["python", word, "last"], windows=True)
    assert words_on_windows(line) == ["python", word, "last"]
    outside = "".join(
        line.split('"')[::2]
    )  # what stands in quotes is text for cmd.exe, and but for $ and ` for PowerShell
    assert not set(outside) & set("&|;()<>^,@{}'`#$%")


def test_a_spread_is_that_of_a_sample():
    values = [0.9, 0.92, 0.95]
    assert mean_and_sd(values) == f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
    assert mean_and_sd([0.9]) == "0.9000"


def test_a_duration_is_said_in_its_two_largest_units():
    seconds = {0.4: "0 s", 59.4: "59 s", 59.6: "1 min 0 s", 3599.6: "1 h 0 min", 3660: "1 h 1 min", 90061: "25 h 1 min"}
    assert {given: duration(given) for given in seconds} == seconds


def test_one_thing_is_no_things():
    assert [counted(n, "image") for n in (0, 1, 2, 10_000)] == ["0 images", "1 image", "2 images", "10,000 images"]

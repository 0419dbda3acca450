"""Tables and lines for a person."""

import statistics

from common.base.text import markdown_table, mean_and_sd, one_line, printable


def test_a_table_is_markdown_with_its_numbers_to_the_right():
    assert markdown_table(["stage", "size", "size"], [["a", 1, 2.5], ["b", "", None]], numbers={"size"}) == (
        "| stage | size | size |\n| --- | ---: | ---: |\n| a | 1 | 2.5 |\n| b |  | None |"
    )
    assert markdown_table(["run"], []) == "| run |\n| --- |"


def test_an_error_of_many_lines_becomes_one():
    assert one_line(ValueError("no such\n\n  file\there"), 200) == "no such file here"
    assert one_line("x" * 10, 4) == "xxxx"


def test_a_strangers_text_gives_a_terminal_no_order():
    assert printable("a\x1b[2Jb\nc\x07") == "a?[2Jb c?"
    assert printable(0.5) == "0.5" and len(printable("x" * 500)) == 60


def test_a_spread_is_that_of_a_sample():
    values = [0.9, 0.92, 0.95]
    assert mean_and_sd(values) == f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
    assert mean_and_sd([0.9]) == "0.9000"

"""Tables and lines for a person."""

from common.base.text import markdown_table, one_line


def test_a_table_is_markdown_with_its_numbers_to_the_right():
    assert markdown_table(["stage", "size", "size"], [["a", 1, 2.5], ["b", "", None]], numbers={"size"}) == (
        "| stage | size | size |\n| --- | ---: | ---: |\n| a | 1 | 2.5 |\n| b |  | None |"
    )
    assert markdown_table(["run"], []) == "| run |\n| --- |"


def test_an_error_of_many_lines_becomes_one():
    assert one_line(ValueError("no such\n\n  file\there"), 200) == "no such file here"
    assert one_line("x" * 10, 4) == "xxxx"

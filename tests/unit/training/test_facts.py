"""What is said of the classes before training: how many images each has, and when that is a warning."""

import pytest

from common.training.facts import class_counts, of_validation, unequal


def test_few_classes_are_told_one_by_one_the_largest_first():
    text = class_counts(["owl", "cat", "dog"], [20, 300, 60])
    assert text == "cat: 300, dog: 60, owl: 20; always 'cat' would be right on 78.9%"


def test_of_many_classes_the_ends_are_told():
    text = class_counts([f"c{number}" for number in range(101)], [*range(1000, 1100), 3000])
    assert text == "from 3,000 (c100) to 1,000 (c0), median 1,050; always 'c100' would be right on 2.8%"


def test_of_equal_classes_it_is_what_guessing_gives():
    assert class_counts([f"c{number}" for number in range(100)], [450] * 100) == "450 images each; guessing gives 1.0%"


def test_a_name_that_a_terminal_would_obey_is_printed_without_that():
    assert "\x1b" not in class_counts(["a\x1b[2J", "b"], [3, 1]) + unequal(["a\x1b[2J", "b"], [3, 1], "none", "loss")[0]


@pytest.mark.parametrize(
    "counts, balance, best_by, warned",
    [
        ([30, 11], "none", "accuracy", None),
        ([30, 10], "none", "accuracy", "--balance loss or --balance sampling; keep the best epoch with --best_by macro_f1"),
        ([30, 10], "none", "macro_f1", "--balance sampling"),
        ([30, 10], "loss", "accuracy", "--best_by macro_f1"),
        ([30, 10], "sampling", "balanced_accuracy", None),
        ([30, 0], "none", "accuracy", None),
        ([30, 10], "none", None, "look at the macro F1 of an evaluation; train with --balance loss or --balance sampling"),
        ([30, 10], "loss", None, None),
        ([10, 30, 30, 30], "none", "accuracy", "'b' has 3 times the images of 'a'"),
    ],
)  # fmt: skip
def test_from_three_times_on_it_is_a_warning_that_names_what_is_not_done_yet(counts, balance, best_by, warned):
    lines = unequal("abcd"[: len(counts)], counts, balance, best_by)
    assert bool(lines) == bool(warned)
    if warned:
        assert (
            warned in lines[0] and (f"--balance {balance}" not in lines[0]) and (f"--best_by {best_by}" not in lines[0])
        )


def test_where_always_the_largest_gives_another_share_of_validation_that_is_said():
    (line,) = of_validation(["cat", "dog", "owl"], [25, 25, 22], [5, 20, 0])
    assert line.split() == "always 'dog' would be right on 80.0% of the 25 validation images".split()
    assert of_validation(["cat", "dog"], [40, 20], [4, 2]) == of_validation(["cat", "dog"], [40, 20], [0, 0]) == []
    assert "\x1b" not in of_validation(["a\x1b[2J", "b"], [1, 1], [1, 0])[0]


def test_one_image_each_is_no_images():
    assert class_counts(["cat", "dog"], [1, 1]) == "1 image each; guessing gives 50.0%"

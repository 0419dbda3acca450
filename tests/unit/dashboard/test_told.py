"""What the page repeats of a run so that nobody has to find it out: whose best epoch it is, which classes fail, what it was warned of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import make_run

from common.analysis.analyse import analyse
from common.analysis.classes import failing_classes, failing_lines
from common.analysis.predictions import Predictions
from common.analysis.report import Answers, LabelIssue, Point, Report
from common.analysis.tables import issues_csv
from common.dashboard import page, reading, summary
from common.dashboard.remedies import remedies
from common.export.card import card_of_run, escaped
from common.runs.folder import RunFolder
from common.runs.records import Summary
from common.training.facts import unequal

HEAD = "is the head's: nothing else had been fine-tuned then."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Report:
    make_run(folder := tmp_path_factory.mktemp("told"), "run")
    return Report.load(folder / "run" / "evaluation" / "report.json")


def report_of(base: Report, confusion: list[list[int]], names: list[str]) -> Report:
    """The report of a network that named so many images of each class (row) so (column)."""
    cells = np.array(confusion)
    labels = np.repeat(np.arange(len(cells)), cells.sum(1))
    named = np.concatenate([np.repeat(np.arange(len(cells)), row) for row in cells])
    analysis = analyse(
        Predictions(np.eye(len(cells), dtype=np.float32)[named] * 5, labels, np.arange(len(labels))), names
    )
    return replace(base, **vars(analysis), dataset=replace(base.dataset, size=len(labels)))


# --- the best epoch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize(("head_epochs", "alone"), [(5, True), (7, True), (4, False), (0, False)])
def test_a_best_epoch_in_which_the_head_alone_was_trained_is_said_to_be(tmp_path, head_epochs, alone, tested) -> None:
    folder = make_run(
        tmp_path, "run", finetune="partial", head_epochs=head_epochs, tested=tested
    )  # its best is epoch 5
    (run,) = page.collect(tmp_path)["runs"]
    good = next(row["answer"] for row in run["answers"] if row["question"] == "How good is it?")
    assert (
        (f"Its best epoch {HEAD}" in good)
        == (f"The best epoch {HEAD}" in (card_of_run(RunFolder(folder)) or ""))
        == alone
    )


def test_a_comparison_says_whose_best_epoch_is_the_heads(tmp_path: Path) -> None:
    make_run(tmp_path, "slow", finetune="partial", head_epochs=5, skill=4.0)
    make_run(tmp_path, "fast", finetune="partial", skill=2.0)
    data = page.collect(tmp_path)
    ((_, _, said),) = data["compared"]["pairs"]
    assert f"The best epoch of slow {HEAD}" in said["said"] and f"The best epoch of slow {HEAD}" in said["said_turned"]
    assert f"Its best epoch {HEAD}" in data["best"][0]["text"]


def test_the_best_of_several_on_the_test_images_is_said_to_be_chosen_there(tmp_path: Path) -> None:
    make_run(tmp_path, "a", skill=4.0)
    assert "chosen on the test images" not in page.collect(tmp_path)["best"][0]["text"]
    make_run(tmp_path, "b", skill=2.0)
    (best,) = page.collect(tmp_path)["best"]
    assert "As the best of 2, chosen on the test images, it looks a little better there than it is." in best["text"]
    for name in "ab":
        (tmp_path / name / "evaluation" / "report.json").unlink()
    assert "test images" not in page.collect(tmp_path)["best"][0]["text"]


# --- classes ----------------------------------------------------------------------------------------------------------

WEAK = [[18, 1, 1], [0, 16, 4], [3, 7, 8]]  # of the last 8 of 18 are found
WELL = [[18, 1, 1], [0, 16, 4], [1, 7, 10]]


@pytest.mark.parametrize(
    ("confusion", "fails"), [(WEAK, ["[b]_"]), (WELL, []), ([[9, 1, 0], [5, 0, 5], [6, 0, 4]], ["x", "[b]_"])]
)
def test_summary_card_and_report_name_the_same_failing_classes_by_one_threshold(
    base, tmp_path, confusion, fails
) -> None:
    names = ["a", "x", "[b]_"]
    report = report_of(base, confusion, names)
    by_hand = [name for n, name in enumerate(names) if 2 * confusion[n][n] < sum(confusion[n])]
    assert {row.name for row in report.failing} == set(by_hand) == set(fails)
    text, card = failing_classes(report), card_of_run(RunFolder(make_run(tmp_path, "run")), report) or ""
    assert summary.failing_classes is failing_classes
    assert (
        f"- which classes fail: {failing_classes(report, escaped)}\n" in card
        and failing_classes(report, escaped) != text
    )
    count = f"{len(fails) or 'none'} of 3 {'does' if len(fails) == 1 else 'do'}"
    assert f"A class fails below 50 %: {count}." in text
    assert all(name in text for name in fails) and (
        f"classes that fail: {len(fails)} of 3" in failing_lines(report)
    ) == bool(fails)


def test_the_classes_found_least_often_are_in_what_they_are_taken_for(base) -> None:
    """The worst class is small, so that none of its pairs is among the most frequent."""
    names, counts = [f"c{n}." for n in range(5)], (np.eye(5, dtype=int) * 80)
    for n in range(4):
        counts[n, (n + 1) % 4] = 20
    counts[4] = [2, 0, 4, 1, 3]
    said = summary.confusions(report_of(base, counts.tolist(), names))
    assert "Of 10 images of c4., found least often, it takes 4 for c2., 2 for c0. and 1 for c3." in said
    counts[4] = [0, 0, 0, 0, 10]
    said = summary.confusions(report_of(base, counts.tolist(), names))
    assert "found least often" not in said, "four are found equally rarely, and none stands out"


# --- what next --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "best_by", "flags"),
    [("none", "accuracy", ["--balance loss", "--balance sampling", "--best_by macro_f1"]), ("loss", "loss", ["--best_by macro_f1"]),
     ("none", "macro_f1", ["--balance loss", "--balance sampling"]), ("loss", "macro_f1", [])],
)  # fmt: skip
def test_unequal_classes_that_the_training_warned_of_are_told_with_the_flags_not_taken(
    tmp_path, balance, best_by, flags
) -> None:
    classes = ("cat", "none", "elk")
    settings = {"classes": classes, "superclasses": None, "superclass_of": None, "balance": balance, "best_by": best_by}
    folder = make_run(tmp_path, "run", tested=False, **settings)
    assert reading.read_run(folder)["remedies"] == [], "a run of an earlier version, which did not keep its counts"
    RunFolder(folder).update_summary(class_counts=[90, 0, 10])
    told = reading.read_run(folder)["remedies"]
    assert [flag for text in told for flag in text.split("`")[1::2]] == flags
    assert all("'cat' has 9 times the images of 'elk'" in text for text in told)
    (warned,) = unequal(classes, [90, 0, 10], balance, best_by) or [None]
    assert bool(warned) == bool(flags) and all(flag in warned for flag in flags)


@pytest.mark.parametrize("counts", [[], [0, 0], [90, 10, 1], [-1, 5], "ab"])
def test_counts_that_no_run_would_keep_cost_the_page_nothing_else(tmp_path, counts) -> None:
    folder = make_run(tmp_path, "run", tested=False, classes=("cat", "elk"), superclasses=None, superclass_of=None)
    RunFolder(folder).update_summary(class_counts=counts)
    run = reading.read_run(folder)
    assert run["remedies"] == [] and run["config"] and run["curves"]


def test_of_what_can_be_mended_two_sentences_are_told_each_with_its_flag_or_file(base, tmp_path) -> None:
    doubted = replace(base, label_issues=[LabelIssue(1, 1, 0, 0.1, 0.9)] * 3)
    (text,) = remedies(
        replace(doubted, calibration=replace(base.calibration, ece=0.01)),
        Summary(),
        None,
        {},
        "evaluation/label_issues.csv",
    )
    assert text.startswith("The labels of 3 test images are in doubt") and "`evaluation/label_issues.csv`" in text
    (text, *_) = remedies(replace(doubted, split="validation"), Summary(), None, {}, "v/label_issues.csv")
    assert "`v/label_issues.csv`" in text and "`--label_fixes`" in text
    mended = replace(
        base,
        label_issues=[],
        calibration=replace(base.calibration, ece=0.2, ece_after=0.01, nll=2.0, nll_after=1.0, temperature=2.0),
    )
    assert remedies(mended, Summary(), None, {}, "")[0].startswith(
        "Its confidence is off by 20.0 %; with its temperature by 1.0 %"
    )
    folder = make_run(tmp_path, "run")
    split = json.loads((folder / "split.json").read_text())
    (folder / "split.json").write_text(json.dumps({**split, "validation": []}))
    told = reading.read_run(folder)["remedies"]
    assert "`--validation_fraction 0.1`" in told[0] and len(told) <= 2
    split = RunFolder(folder).read_split()
    assert len(remedies(replace(mended, label_issues=doubted.label_issues), Summary(), split, {}, "x")) == 2
    assert remedies(None, Summary(), None, {}, "") == []


# --- numbers that agree -----------------------------------------------------------------------------------------------


def test_doubted_labels_are_counted_whole_and_called_by_their_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run")
    evaluated = RunFolder(folder).evaluated()
    report = replace(
        Report.load(evaluated.report), label_issues=[LabelIssue(n, 1, 0, 0.1, 0.9) for n in range(70, 0, -1)]
    )
    report.save(evaluated.report)
    names = [f"cat/{n}.jpg" for n in range(71)]
    evaluated.label_issues.write_text(issues_csv(report, names))
    (run,) = page.collect(tmp_path)["runs"]
    assert run["report"]["label_issues_found"] == 70 and len(run["report"]["label_issues"]) == 60
    assert run["issue_files"] == [names[n] for n in range(70, 0, -1)]
    for text in (
        issues_csv(report, None),
        issues_csv(replace(report, label_issues=report.label_issues[1:]), names),
        "x\n" * 70,
    ):
        evaluated.label_issues.write_text(text)
        assert reading.read_run(folder)["issue_files"] == []


def test_no_link_leads_another_file_s_names_into_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "run")
    evaluated = RunFolder(folder).evaluated()
    report = replace(Report.load(evaluated.report), label_issues=[LabelIssue(1, 1, 0, 0.1, 0.9)])
    report.save(evaluated.report)
    (tmp_path / "secret.csv").write_text("image\nsecret\n")
    evaluated.label_issues.symlink_to(tmp_path / "secret.csv")
    run = reading.read_run(folder)
    assert run["issue_files"] == [] and any("label_issues.csv was left out" in problem for problem in run["problems"])


@pytest.mark.parametrize(
    ("unlike", "said"),
    [(0.3, ": more than the 5.0 %"), (0.05, ": not surely more than the 5.0 %"), (0.0, ": not surely")],
)
def test_how_many_images_are_unlike_anything_seen_is_said_wherever_it_was_measured(base, unlike, said) -> None:
    assert base.answers
    text = summary.when_unsure(replace(base.answers, unlike=unlike))
    assert f"{summary.percent(unlike)} of these images count as unlike anything seen, by their energy{said}" in text
    out_of_reach = replace(
        base.answers, thresholds=[replace(row, confidence=None) for row in base.answers.thresholds], unlike=unlike
    )
    assert "unlike anything seen" in summary.when_unsure(out_of_reach)
    assert "unlike" not in summary.when_unsure(
        Answers(0.1, 0.0, [Point(0.5, 1, 1)], thresholds=base.answers.thresholds)
    )


@pytest.mark.parametrize(
    ("settings", "from_epoch"),
    [({"head_epochs": 3, "finetune": "partial"}, 3), ({"finetune": "head"}, 5), ({"finetune": "head", "feature_views": 0}, 0),
     ({"finetune": "head", "mixup_alpha": 0.2}, 0), ({}, 0)],
)  # fmt: skip
def test_a_speed_on_kept_features_is_not_shown_as_one_of_images(tmp_path, settings, from_epoch) -> None:
    """As earlier versions logged it."""
    batches = reading.read_run(make_run(tmp_path, "run", **settings))["curves"][1]
    speeds = batches["values"].get("throughput/images_per_second", [None] * len(batches["epoch"]))
    assert [speed is None for speed in speeds] == [epoch <= from_epoch for epoch in batches["epoch"]]
    assert len(batches["epoch"]) == 20 and None not in batches["values"]["lr"]

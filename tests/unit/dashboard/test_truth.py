"""What the page says of odd runs: praise only of what guessing does not give, and runs ranked only where they were measured alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import STARTED, make_run

from common.analysis.analyse import analyse, calibrate
from common.analysis.predictions import Predictions
from common.analysis.report import Duplicates, LabelIssue, Report
from common.analysis.text import headline, most_confused
from common.dashboard import page, reading, summary

NAMES = ["apple", "bear", "cup", "dog", "elk", "fox"]
GROUPS = {"superclasses": ["one", "two"], "superclass_of": [0, 0, 0, 1, 1, 1]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Report:
    make_run(folder := tmp_path_factory.mktemp("truth"), "run")
    return Report.load(folder / "run" / "evaluation" / "report.json")


def report_of(base: Report, labels: list[int], named: list[int], names: list[str] = NAMES, **groups) -> Report:
    """The report of a network that names these classes."""
    logits = np.eye(len(names), dtype=np.float32)[named] * 5
    analysis = analyse(Predictions(logits, np.array(labels), np.arange(len(labels))), names, **groups)
    return replace(base, **vars(analysis), dataset=replace(base.dataset, size=len(labels)))


def said_of(report: Report) -> dict[str, str]:
    run = {"report": report, "validation_accuracy": None, "config": {}, "facts": {}, "best_epoch": None}
    return {row["question"]: row["answer"] for row in summary.describe_run(run)}


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_start_is_told_to_the_second_and_orders_the_runs(tmp_path: Path) -> None:
    for name, later in (("b", 0), ("a", 7000), ("c", 14000)):  # five digits of them are one time
        make_run(tmp_path, name, started=STARTED + later, tested=False)
    runs = page.collect(tmp_path)["runs"]
    assert [(run["id"], run["started"] - STARTED) for run in runs] == [("c", 14000), ("a", 7000), ("b", 0)]
    assert runs[0]["curves"][0]["minutes"][0] == pytest.approx(1)  # 40 steps of 1.5 s


def test_without_mistakes_no_class_is_found_least_often_and_no_mistakes_are_offered(
    base: Report, tmp_path: Path
) -> None:
    said = said_of(report_of(base, [0, 1, 2, 3, 4, 5] * 20, [0, 1, 2, 3, 4, 5] * 20))
    assert said["Which classes fail?"] == "None: every image of every class was found."
    assert said["What are they taken for?"] == "It made no mistake on these images."
    folder = make_run(tmp_path, "run")
    run = reading.read_run(folder)
    assert any("--which errors" in row["command"] for row in run["commands"])
    rewrite(folder / "evaluation" / "report.json", errors={"total": 0})
    assert not any("--which errors" in row["command"] for row in reading.read_run(folder)["commands"])


def test_one_answer_for_all_is_not_praised(base: Report) -> None:
    report = report_of(base, [0, 1, 2, 3, 4, 5] * 20, [0] * 120, **GROUPS)
    said = said_of(report)
    assert said["Which classes fail?"] == "Never found: bear, cup, dog, elk and fox."
    assert said["What are they taken for?"] == "It takes every image for apple."
    assert "superclass" not in said["How good is it?"] and "first five" not in said["How good is it?"]
    assert "always answering the same class gives 16.7 %, which it does not surely beat" in said["How good is it?"]
    assert said["Is its confidence to be trusted?"].startswith("There is nothing to trust")
    assert "labels in doubt" not in headline(replace(report, label_issues=[LabelIssue(1, 1, 0, 0.1, 0.9)]))
    assert not reading.shown_of(report)["beats_chance"]


def test_all_mistakes_praise_nothing(base: Report) -> None:
    said = said_of(report_of(base, [0, 1, 2, 3, 4, 5] * 20, [1, 2, 3, 4, 5, 0] * 20))
    assert said["Which classes fail?"] == "Never found: apple, bear, cup, dog, elk and fox."
    assert "most often takes" not in said["What are they taken for?"]


def test_every_failing_class_is_named_and_one_without_images_is_none(base: Report) -> None:
    names = [f"c{n}." for n in range(12)]
    labels = [n for n in range(11) for _ in range(10)]  # none of c11.
    named = [n if k < (1 if n < 8 else 10) else (n + 1) % 11 for n in range(11) for k in range(10)]
    text = said_of(report_of(base, labels, named, names))["Which classes fail?"]
    assert all(f"c{n}. (10.0 %)" in text for n in range(8)) and "c11." not in text
    shown = reading.shown_of(report_of(base, labels, named, names))["per_class"][11]
    assert shown["recall"] is None and shown["recall_low"] is None and shown["support"] == 0


def test_where_ties_leave_nothing_to_single_out_no_pair_is_most_confused(base: Report) -> None:
    names = [f"c{n}." for n in range(12)]
    labels = [n for n in range(12) for _ in range(10)]
    named = [n if k else (n + 1) % 12 for n in range(12) for k in range(10)]
    report = report_of(base, labels, named, names)
    assert "No two classes stand out" in said_of(report)["What are they taken for?"]
    assert most_confused(report).startswith("most confused: nothing stands out")


def test_a_temperature_at_the_end_of_the_search_is_none(base: Report) -> None:
    labels = np.arange(600) % 6
    sure = Predictions(np.eye(6, dtype=np.float32)[labels] * 3, labels, np.arange(600))
    calibration = calibrate(sure, sure, "fitted on validation")
    assert calibration.temperature == pytest.approx(0.01, rel=0.01) and not calibration.improved
    report = replace(report_of(base, labels.tolist(), labels.tolist()), calibration=calibration)
    assert "0.01" not in said_of(report)["Is its confidence to be trusted?"]
    assert reading.shown_of(report)["calibration"]["temperature"] is None
    assert "with temperature" not in headline(report)


def test_where_all_images_were_seen_no_honest_accuracy_is_told() -> None:
    said = summary.seen_before(Duplicates(exact=5, near=0, accuracy_on_them=1.0))
    assert said.startswith("All of them") and "–" not in said


def best_of(runs_dir: Path) -> list[dict]:
    return page.collect(runs_dir)["best"]


def test_of_the_best_run_it_is_said_what_its_training_had_seen(tmp_path: Path) -> None:
    report = make_run(tmp_path, "run") / "evaluation" / "report.json"

    def best_with(**duplicates: object) -> str:
        rewrite(report, duplicates=duplicates)
        return best_of(tmp_path)[0]["text"]

    assert "had seen" not in best_with(exact=0, near=0, accuracy_without=0.75) + best_with(note="nobody knows")
    said = best_with(exact=3, near=4, accuracy_without=0.651, accuracy_without_low=0.6, accuracy_without_high=0.7)
    assert said.endswith("The training had seen 7 of them; of the others it is right on 65.1 %.")
    assert "The training had seen all of them" in best_with(exact=100, near=0, accuracy_on_them=0.75)


def test_runs_validated_on_other_labels_or_images_do_not_compete(tmp_path: Path) -> None:
    make_run(tmp_path, "plain", tested=False)
    make_run(tmp_path, "fixed", tested=False, skill=5.0, label_fixes="fixes.csv")
    (tmp_path / "fixed" / "label_fixes.csv").write_text("image,split,label,fix\n1,train,cat1,dog1\n")
    (best,) = best_of(tmp_path)
    assert best["run"] is None and "No two of the 2 runs" in best["text"]
    make_run(tmp_path, "plain2", tested=False, skill=2.0)
    (best,) = best_of(tmp_path)
    assert best["run"] == "plain" and "best of 2 runs" in best["text"] and "1 more run had other" in best["text"]
    make_run(tmp_path, "drawn", tested=False, skill=6.0, seed=1)
    rewrite(tmp_path / "drawn" / "split.json", validation=list(range(50, 100)))
    assert best_of(tmp_path)[0]["run"] == "plain"


def test_no_run_at_guessing_level_is_called_the_best(tmp_path: Path) -> None:
    make_run(tmp_path, "a", skill=0.0)
    make_run(tmp_path, "b", skill=0.0, seed=1)
    (best,) = best_of(tmp_path)
    assert best["run"] is None and best["text"].startswith("No run surely beats one answer for all")


def test_a_setting_that_is_not_set_and_the_seed_set_nobody_apart(tmp_path: Path) -> None:
    make_run(tmp_path, "long", skill=4.0)
    make_run(tmp_path, "short", skill=2.0, max_steps=20)
    make_run(tmp_path, "shorter", skill=1.5, max_steps=10)
    (best,) = best_of(tmp_path)
    assert "None" not in best["text"] and "No other run had" not in best["text"]


@pytest.mark.parametrize("epoch, step, shown", [(0, 20, 0.5), (0, 0, None), (3, 120, 3)])
def test_a_run_that_ended_within_its_first_epoch_has_done_a_part_of_it(tmp_path: Path, epoch, step, shown) -> None:
    folder = make_run(tmp_path, "run", tested=False)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] <= step))
    rewrite(folder / "summary.json", epoch=epoch, step=step)
    assert reading.read_run(folder)["facts"].get("Epochs done") == shown

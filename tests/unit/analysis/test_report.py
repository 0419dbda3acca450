"""What an evaluation says: against scikit-learn, or the definition written out with plain loops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from common.analysis import analyse as numbers
from common.analysis import figures
from common.analysis.analyse import analyse, calibrate, compare
from common.analysis.classes import failing_lines
from common.analysis.metrics import softmax
from common.analysis.predictions import Predictions, comparable, saved_predictions
from common.analysis.report import (
    Checkpoint,
    DuplicatePair,
    Duplicates,
    Errors,
    Evaluated,
    Report,
    Thumbnails,
    is_share,
)
from common.analysis.tables import tables
from common.analysis.text import as_text, classification_report, headline, most_confused
from common.base.errors import UserError
from common.runs.folder import EvaluationFolder

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "nothing"]
SUPERCLASSES, SUPERCLASS_OF = ["insects", "mammals"], [0, 0, 1, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """400 images, whose dataset indices are every third; the last class has none and is never predicted."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 400)
    logits = rng.normal(size=(400, 7))
    logits[np.arange(400), labels] += 1.5
    logits[:, 6] -= 20
    return Predictions(logits.astype(np.float32), labels, np.arange(400) * 3)


def report_of(predictions: Predictions, calibration=None, comparison=None, **about) -> Report:
    return Report(
        **vars(analyse(predictions, **about)),
        calibration=calibration or calibrate(predictions, None, "no validation part"),
        comparison=comparison,
        run_id="run",
        job_id="job",
        created=1.75e9,
        checkpoint=Checkpoint("best.safetensors", "aa", "resnext50_32x4d", 2.5),
        dataset=Evaluated("animals", None, len(predictions.labels), "bb", predictions.digest),
    )


@pytest.fixture(scope="module")
def full(predictions) -> Report:
    sharp = replace(predictions, logits=predictions.logits * 2)
    other = replace(predictions, logits=np.roll(predictions.logits, 1, axis=1))
    return report_of(
        predictions,
        calibrate(predictions, sharp, "fitted on so many"),
        compare(predictions, other, "other-run"),
        classes=CLASSES,
        superclasses=SUPERCLASSES,
        superclass_of=SUPERCLASS_OF,
    )


def test_the_metrics_equal_scikit_learn(predictions, full):
    labels, answers = predictions.labels, predictions.logits.argmax(axis=1)
    groups = np.array(SUPERCLASS_OF)
    assert set(full.metrics) == {
        f"test/{name}"
        for name in (
            *("accuracy", "top5_accuracy", "superclass_accuracy", "macro_f1", "ece"),
            *("balanced_accuracy", "baseline_accuracy"),
        )
    }
    assert full.metrics["test/balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, answers))
    assert full.metrics["test/baseline_accuracy"] == max(np.bincount(labels)) / 400
    every = {"labels": range(7), "average": "macro", "zero_division": 0}
    top5 = sk.top_k_accuracy_score(labels, predictions.logits, k=5, labels=range(7))
    assert full.metrics["test/accuracy"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert full.metrics["test/macro_f1"] == pytest.approx(sk.f1_score(labels, answers, **every))
    assert full.metrics["test/top5_accuracy"] == pytest.approx(top5)
    assert full.metrics["test/superclass_accuracy"] == sk.accuracy_score(groups[labels], groups[answers])
    np.testing.assert_array_equal(full.confusion, sk.confusion_matrix(labels, answers, labels=range(7)))
    np.testing.assert_array_equal(full.superclass_confusion, sk.confusion_matrix(groups[labels], groups[answers]))
    low, high = full.accuracy_interval
    assert low < full.metrics["test/accuracy"] < high


def test_shares_are_read_in_percent_and_no_other_metric(full):
    assert [name for name in full.metrics if not is_share(name)] == ["test/ece"]
    assert all(
        map(is_share, ("test/honest_accuracy", "test/unlike", "validation/coverage_at_95", "test/accuracy_at_99.5"))
    )
    assert not any(map(is_share, ("test/aurc", "test/excess_aurc", "test/exact_duplicates", "test/near_duplicates")))


def test_every_class_has_its_row_even_one_without_images(full):
    rows = full.per_class
    assert [row.name for row in rows] == CLASSES
    assert [row.superclass for row in rows] == [SUPERCLASSES[group] for group in SUPERCLASS_OF]
    assert rows[6].support == rows[6].predicted == 0
    assert (rows[6].recall, rows[6].recall_low, rows[6].recall_high) == (0, 0, 1)


def test_errors_are_counted_inside_and_across_superclasses(predictions, full):
    pairs = list(zip(predictions.labels, predictions.predicted, strict=True))
    inside = sum(a != b and SUPERCLASS_OF[a] == SUPERCLASS_OF[b] for a, b in pairs)
    across = sum(SUPERCLASS_OF[a] != SUPERCLASS_OF[b] for a, b in pairs)
    assert full.errors == Errors(inside + across, inside_superclass=inside, across_superclasses=across)


def test_confused_pairs_name_their_images_most_confident_first(predictions, full):
    probabilities = softmax(predictions.logits)
    counts = [pair.count for pair in full.confused]
    assert counts == sorted(counts, reverse=True) and sum(counts) == full.errors.total
    for pair in full.confused:
        members = [
            i for i in range(400) if predictions.labels[i] == pair.true and probabilities[i].argmax() == pair.predicted
        ]
        expected = sorted(members, key=lambda i: -probabilities[i].max())[:12]
        assert pair.images == [3 * i for i in expected]
        assert pair.count == len(members)
        assert pair.share == pytest.approx(len(members) / (predictions.labels == pair.true).sum())


def test_no_more_images_of_confused_pairs_are_kept_than_there_is_room_for(predictions, monkeypatch):
    monkeypatch.setattr(numbers, "IMAGES_PER_PAIR", 4)
    monkeypatch.setattr(numbers, "IMAGES_OF_PAIRS", 10)
    confused = analyse(predictions, CLASSES).confused
    assert [len(pair.images) for pair in confused] == [4, 4, 2]


def test_symmetric_pairs_add_both_directions(full):
    confusion = full.confusion
    for pair in full.confused_symmetric:
        a, b = pair.a, pair.b
        assert a < b and (pair.a_as_b, pair.b_as_a) == (confusion[a][b], confusion[b][a])
        assert pair.share == pytest.approx(pair.count / (sum(confusion[a]) + sum(confusion[b])))


def test_the_temperature_mends_the_calibration_of_logits_it_was_fitted_on(predictions):
    sharp = replace(predictions, logits=predictions.logits * 4)
    fitted = calibrate(sharp, sharp, "fitted on itself")
    assert fitted.nll_after < fitted.nll and fitted.ece_after < fitted.ece
    assert fitted.temperature == pytest.approx(4 * calibrate(predictions, predictions, "").temperature, rel=1e-4)
    assert sum(row.count for row in fitted.bins_after) == 400


@pytest.mark.parametrize("count", [1, 2, 99])
def test_no_temperature_is_fitted_on_few_images(predictions, count):
    few = Predictions(predictions.logits[:count], predictions.labels[:count], predictions.indices[:count])
    plain = calibrate(predictions, few, f"fitted on {count} validation images")
    said = "1 validation image is too few" if count == 1 else f"{count} validation images are too few"
    assert plain.temperature is None and said in plain.note and "100" in plain.note


def test_a_temperature_that_does_not_help_is_not_printed_as_an_improvement(predictions, full):
    wrong = replace(predictions, labels=np.roll(predictions.labels, 1))  # a temperature that suits other images
    made = calibrate(predictions, replace(wrong, logits=wrong.logits * 9), "fitted on 400 validation images")
    for ece, nll in ((made.ece + 0.1, made.nll), (made.ece, made.nll), (made.ece - 0.01, made.nll + 1)):
        text = headline(replace(full, calibration=replace(made, ece_after=ece, nll_after=nll)))
        assert "a temperature, fitted on 400 validation images, does not improve it" in text
    better = replace(made, ece_after=made.ece - 0.01, nll_after=made.nll - 0.1)
    assert f"{better.ece_after:.4f} with temperature" in headline(replace(full, calibration=better))


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_top_5_is_left_out_where_there_are_no_more_classes(classes):
    labels = np.arange(30) % classes
    made = Predictions(np.random.default_rng(0).normal(size=(30, classes)).astype(np.float32), labels, np.arange(30))
    report = report_of(made, calibrate(made, None, "none"), classes=[f"c{i}" for i in range(classes)])
    assert ("test/top5_accuracy" in report.metrics) == ("top-5" in headline(report)) == (classes > 5)


def test_the_duplicates_stand_in_the_text_and_come_back_from_the_file(full, tmp_path):
    pair = DuplicatePair(3, 7, "validation", False, True, 0.97, 1, 2, "test/a.jpg", "val/b.jpg")
    found = Duplicates("", 2, 4, 1, 0.5, 0.4, 0.6, 0.9, [pair])
    with_them = replace(full, duplicates=found)
    with_them.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == with_them
    text = headline(with_them)
    assert "honest accuracy      0.5000   without 6 images" in text and "2 pixel by pixel and 4 nearly" in text
    assert "1 of them has another label" in text
    assert "not known: no train" in headline(replace(full, duplicates=Duplicates("no train")))
    assert "the same: none of the images" in headline(replace(full, duplicates=Duplicates(near=0)))
    assert tables(with_them)["duplicates"][1][0][:3] == [3, 7, "validation"]
    (tmp_path / "bad.json").write_text(
        (tmp_path / "report.json").read_text().replace('"seen_label": 2', '"seen_label": 7')
    )
    with pytest.raises(UserError, match="duplicates names number 7 of 7"):
        Report.load(tmp_path / "bad.json")


def test_without_validation_there_is_no_temperature_but_a_note(predictions):
    plain = calibrate(predictions, None, "no validation part")
    assert plain.note == "no validation part" and plain.ece > 0
    assert (plain.temperature, plain.ece_after, plain.nll_after, plain.bins_after) == (None, None, None, None)


def test_a_comparison_counts_the_images_each_gets_right_alone(predictions, full):
    comparison = full.comparison
    right = predictions.predicted == predictions.labels
    other = np.roll(predictions.logits, 1, axis=1).argmax(axis=1) == predictions.labels
    assert comparison.only_this == (right & ~other).sum() and comparison.only_other == (other & ~right).sum()
    assert comparison.both == (right & other).sum() and comparison.neither == (~right & ~other).sum()
    assert comparison.difference == pytest.approx(right.mean() - other.mean())
    assert comparison.difference_low < comparison.difference < comparison.difference_high
    assert comparison.p_value < 0.001
    assert all(right[index // 3] and not other[index // 3] for index in comparison.only_this_images)
    assert len(comparison.only_other_images) == comparison.only_other


def test_the_report_is_json_and_comes_back_from_it(full, tmp_path):
    full.save(tmp_path / "report.json")  # which refuses NaN
    assert Report.load(tmp_path / "report.json") == full
    saved = json.loads((tmp_path / "report.json").read_text())
    assert [row["class"] for row in saved["per_class"]] == CLASSES and saved["comparison"]["with"] == "other-run"
    assert saved["confusion"] == full.confusion and saved["accuracy_interval"] == list(full.accuracy_interval)


def test_the_tables_name_classes(full):
    found = tables(full)
    assert len(found["per_class"][1]) == 7 and found["per_class"][0][0] == "class"
    columns, rows = found["confused"]
    assert columns == ["true", "predicted", "count", "share"]
    assert rows[0][:2] == [CLASSES[full.confused[0].true], CLASSES[full.confused[0].predicted]]
    assert all(len(row) == len(columns) for columns, rows in found.values() for row in rows)
    assert sum(row[2] for row in found["superclass_confusion"][1]) == 400
    assert found["comparison"][1][0][0] == "other-run" and found["comparison"][0][0] == "with"


def test_a_faultless_model_has_a_report_without_errors():
    labels = np.arange(20) % 4
    perfect = Predictions(np.eye(4, dtype=np.float32)[labels] * 9, labels, np.arange(20))
    made = report_of(perfect, calibrate(perfect, perfect, "fitted on 20 validation images"), classes=list("abcd"))
    assert made.confused == made.confused_symmetric == made.label_issues == []
    assert "accuracy             1.0000" in headline(made) and most_confused(made) == "no errors"
    assert "test/superclass_accuracy" not in made.metrics
    assert "confused" not in tables(made)


def at(data: dict, *keys: str | int, to: object) -> dict:
    """A copy with one entry changed."""
    data = json.loads(json.dumps(data))
    part = data
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return data


@pytest.mark.parametrize(
    "keys, value, named",
    [
        (["confusion"], [[1, 2], [3, 4]], "confusion must be a matrix of 7 × 7"),
        (["confusion", 3], [1], "confusion must be a matrix"),
        (["confusion", 3, 3], -1, "confusion.3.3"),
        (["confusion", 3, 3], 1.5, "confusion.3.3"),
        (["superclass_confusion"], None, "superclass_confusion must be a matrix of 2 × 2"),
        (["superclass_of", 0], 2, "superclass_of names number 2 of 2"),
        (["superclass_of"], [0], "superclass_of must name"),
        (["per_class"], [], "per_class has 0 rows for 7 classes"),
        (["per_class", 0, "support"], -1, "per_class.0.support"),
        (["per_class", 0, "class"], None, "per_class.0.class"),
        (["confused", 0, "true"], 7, "confused names number 7 of 7"),
        (["confused", 0, "predicted"], -1, "confused.0.predicted"),
        (["confused_symmetric", 0, "b"], 9, "confused_symmetric names number 9"),
        (["label_issues", 0, "suggested"], 7, "label_issues names number 7"),
        (["overlapping_classes", 0, "a"], 700, "overlapping_classes names number 700"),
        (["comparison", "with"], 3, "comparison.with"),
        (["thumbnails", "columns"], 0, "thumbnails.columns"),
        (["thumbnails", "file"], "../../other.jpg", "beside the report"),
        (["figures", "confusion"], "/etc/passwd", "beside the report"),
        (["figures", "confusion"], "..", "beside the report"),
        (["version"], 2, "version 2, and this code reads up to 1"),
        (["version"], 0, "version 0"),
        (["version"], "1", "version"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_report_whose_parts_do_not_fit_is_refused_in_a_line(full, tmp_path, keys, value, named):
    path = tmp_path / "report.json"
    replace(full, thumbnails=Thumbnails("t.jpg", 48, 4, [1]), figures={"confusion": "c.png"}).save(path)
    path.write_text(json.dumps(at(json.loads(path.read_text()), *keys, to=value)))
    with pytest.raises(UserError, match="report.json") as refused:
        Report.load(path)
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_a_report_of_an_earlier_run_is_read_without_what_is_not_always_there(full, tmp_path):
    path = tmp_path / "report.json"
    full.save(path)
    saved = json.loads(path.read_text())
    for key in ("superclasses", "superclass_of", "superclass_confusion", "wandb_url", "comparison", "thumbnails", "figures",
                "tables"):  # fmt: skip
        saved.pop(key)
    path.write_text(json.dumps({**saved, "of a later time": {"deep": [1]}}))
    read = Report.load(path)
    assert (read.superclasses, read.comparison, read.thumbnails, read.figures, read.tables) == (
        None,
        None,
        None,
        {},
        [],
    )
    assert read.confused == full.confused


def test_the_text_says_what_the_numbers_are(predictions, full):
    text = headline(full)
    assert f"{full.metrics['test/accuracy']:.4f}" in text and "95 % interval" in text
    assert "stay inside the superclass" in text and "fitted on so many" in text and "other-run" in text
    first = full.confused[0]
    line = most_confused(full).splitlines()[1]
    assert f"{CLASSES[first.true]} taken for {CLASSES[first.predicted]}: {first.count}" in line
    expected = sk.classification_report(
        predictions.labels, predictions.predicted, labels=range(7), target_names=CLASSES, digits=3, zero_division=0
    )
    assert classification_report(predictions, CLASSES) == expected


def unequal(classes: int, majority: int, found: int = 0) -> Predictions:
    """Every image taken for class 0, of which there are `majority`, but for `found` of class 1; two of each other class."""
    labels = np.repeat(np.arange(classes), [majority] + [2] * (classes - 1))
    answers = np.zeros_like(labels)
    answers[majority : majority + found] = 1
    return Predictions(np.eye(classes, dtype=np.float32)[answers] * 9, labels, np.arange(len(labels)))


def test_the_text_sets_the_accuracy_beside_what_always_the_largest_class_gives(predictions):
    names = [f"class {number}" for number in range(30)]
    text = as_text(report_of(made := unequal(30, 155), classes=names), made)
    assert "baseline to beat     0.7277   always 'class 0'; the accuracy is not surely above it" in text
    assert f"balanced accuracy    {1 / 30:.4f}" in text
    labels = predictions.labels
    share, name = max(np.bincount(labels)) / 400, CLASSES[np.bincount(labels).argmax()]
    line = f"baseline to beat     {share:.4f}   always {name!r}\n"
    assert line in headline(report_of(predictions, classes=CLASSES))


@pytest.mark.parametrize("classes", [3, 30])
def test_every_class_that_fails_is_named_and_no_other(classes):
    names = [f"class {number}." for number in range(classes)]
    made = unequal(classes, 50, found=1)
    report = report_of(made, classes=names)
    assert [row.name for row in report.failing] == names[2:]
    text = failing_lines(report)
    assert f"classes that fail: {classes - 2} of {classes}" in text
    for name in names[2:]:
        assert f"  {name}: none of 2 images found, never predicted" in text
    assert names[0] not in text and names[1] not in text and text in as_text(report, made)


def test_a_class_that_is_named_for_others_alone_fails_too(predictions, full):
    assert failing_lines(full) == ""  # a class without images is no failure
    logits = predictions.logits.copy()
    logits[:, 2] = np.where(predictions.labels == 2, -99, 99)
    report = report_of(replace(predictions, logits=logits), classes=CLASSES)
    count, text = int((predictions.labels == 2).sum()), failing_lines(report)
    assert text.startswith("classes that fail: 6 of 6, "), "a class without images can't fail"
    assert f"  cat: none of {count} images found, and {400 - count} of other classes taken for it" in text
    assert {row.name for row in report.failing} >= {"cat"}


def test_a_list_of_doubts_that_was_cut_short_is_not_called_all(full):
    doubts = full.label_issues[:1] * numbers.LONGEST_LIST
    assert "labels in doubt      the 200 most doubtful, in label_issues.csv" in headline(
        replace(full, label_issues=doubts)
    )
    assert "labels in doubt      199, in" in headline(replace(full, label_issues=doubts[1:]))


def test_the_pictures_of_confused_pairs_say_how_sure_it_was_of_each_image(predictions, full):
    images = np.zeros((int(predictions.indices.max()) + 1, 3, 8, 8), dtype=np.uint8)
    report = replace(full, label_issues=[], comparison=None, superclasses=None)
    drawn = figures.of_report(report, images, predictions=predictions)["confused"].axes[0].texts
    said = [text.get_text() for text in drawn if text.get_text().endswith(" sure")]
    row_of = {index: row for row, index in enumerate(predictions.indices.tolist())}
    exponents = np.exp(predictions.logits - predictions.logits.max(axis=1, keepdims=True))
    largest = (exponents / exponents.sum(axis=1, keepdims=True)).max(axis=1)
    shown = [index for pair in full.confused[: figures.PAIRS_DRAWN] for index in pair.images]
    assert said == [f"{largest[row_of[index]]:.0%} sure" for index in shown] and said


def test_the_picture_of_doubts_says_how_many_it_leaves_out(full):
    images = np.zeros((1200, 3, 8, 8), dtype=np.uint8)

    def titles(count: int) -> list[str]:
        report = replace(
            full, confused=[], comparison=None, superclasses=None, label_issues=full.label_issues[:1] * count
        )
        texts = figures.of_report(report, images)["label_issues"].axes[0].texts
        return [text.get_text().replace("\n", " ") for text in texts]

    assert "Labels that may be wrong, the most doubtful first: 32 of 74" in titles(74)
    assert "Labels that may be wrong, the most doubtful first" in titles(32)


def test_one_image_is_no_images(full):
    labels = np.array([0, 0, 1])
    made = Predictions(np.eye(2, dtype=np.float32)[[0, 0, 0]] * 9, labels, np.arange(3))
    report = report_of(made, classes=["cat", "dog"])
    assert "  dog: none of 1 image found, never predicted" in failing_lines(report)
    text = headline(replace(full, duplicates=Duplicates("", 1, 0, 1, 0.5, 0.4, 0.6, 1.0)))
    assert "without 1 image that is in train or validation as well" in text and "on that it is 1.0000" in text
    assert "1 of them has another label there" in text
    assert (
        "1 validation image is too few"
        in calibrate(made, Predictions(*(part[:1] for part in vars(made).values())), "").note
    )


def test_predictions_come_back_from_their_file(predictions, tmp_path):
    predictions.save(tmp_path / "predictions.npz")
    again = Predictions.load(tmp_path / "predictions.npz")
    for name in ("logits", "labels", "indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(predictions, name))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_damaged_predictions_are_refused_with_the_file_named(predictions, tmp_path, damage):
    path = tmp_path / "predictions.npz"
    predictions.save(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not a zip"}[damage])
    with pytest.raises(UserError, match="predictions.npz"):
        Predictions.load(path)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("logits", np.zeros(400)),
        ("logits", np.zeros((400, 0))),
        ("logits", np.zeros((400, 7), dtype="U3")),
        ("labels", np.zeros(399, dtype=np.int64)),
        ("labels", np.full(400, 7)),
        ("labels", np.full(400, -1)),
        ("labels", np.zeros(400)),
        ("indices", np.zeros((400, 1), dtype=np.int64)),
    ],
    ids=str,
)
def test_predictions_whose_arrays_do_not_fit_are_refused(predictions, tmp_path, name, changed):
    np.savez(tmp_path / "predictions.npz", **{**vars(predictions), name: changed})
    with pytest.raises(UserError, match="predictions.npz"):
        Predictions.load(tmp_path / "predictions.npz")


@pytest.fixture
def folder(predictions, full, tmp_path: Path) -> EvaluationFolder:
    """What evaluate.py leaves of `full`."""
    folder = EvaluationFolder(tmp_path / "evaluation")
    predictions.save(folder.predictions)
    full.save(folder.report)
    return folder


def test_only_an_evaluation_of_the_same_images_and_classes_is_comparable(predictions, folder, tmp_path):
    with pytest.raises(UserError, match="holds no evaluation"):
        comparable(EvaluationFolder(tmp_path), predictions.labels, predictions.indices, CLASSES)
    found = comparable(folder, predictions.labels, predictions.indices, CLASSES)
    assert found.digest == predictions.digest
    changed = [
        (predictions.labels[::-1], predictions.indices, CLASSES),
        (predictions.labels, predictions.indices + 1, CLASSES),
        (predictions.labels[:-1], predictions.indices[:-1], CLASSES),
        (predictions.labels, predictions.indices, CLASSES[::-1]),
    ]
    for labels, indices, classes in changed:
        with pytest.raises(UserError, match="--compare"):
            comparable(folder, labels, indices, classes)


def test_a_report_of_before_tta_reads_and_a_comparison_says_where_the_other_differed(predictions, full, folder):
    saved = json.loads(folder.report.read_text())
    del saved["tta"], saved["comparison"]["other_tta"]
    folder.report.write_text(json.dumps(saved))
    assert Report.load(folder.report) == full
    assert "--tta" not in headline(full)
    assert "--tta flip" in headline(replace(full, tta="flip"))
    assert "against other-run (there --tta none): " in headline(replace(full, tta="flip"))
    other = replace(full, comparison=replace(full.comparison, other_tta="flip"))
    assert "against other-run (there --tta flip): " in headline(other)
    assert "against other-run: " in headline(replace(other, tta="flip"))


def test_saved_predictions_are_used_only_for_the_same_weights_and_images(predictions, folder, tmp_path):
    assert saved_predictions(folder, "aa", "bb").digest == predictions.digest
    assert saved_predictions(folder, "aa", "cc") is None
    assert saved_predictions(folder, "cc", "bb") is None
    assert saved_predictions(EvaluationFolder(tmp_path / "nowhere"), "aa", "bb") is None

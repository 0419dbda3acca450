"""What an evaluation says: against scikit-learn, or the definition written out with plain loops."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from common.analysis import report
from common.analysis.metrics import softmax
from common.analysis.predictions import Predictions, comparable, saved_answers
from common.base.errors import UserError
from common.base.files import write_json

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


@pytest.fixture(scope="module")
def full(predictions) -> report.Report:
    made = report.analyse(predictions, CLASSES, SUPERCLASSES, SUPERCLASS_OF)
    made["calibration"] = report.calibrate(
        predictions, replace(predictions, logits=predictions.logits * 2), "fitted on so many"
    )
    other = replace(predictions, logits=np.roll(predictions.logits, 1, axis=1))
    made["comparison"] = report.compare(predictions, other, "other-run")
    return made


def test_the_metrics_equal_scikit_learn(predictions, full):
    labels, answers = predictions.labels, predictions.logits.argmax(axis=1)
    groups = np.array(SUPERCLASS_OF)
    assert set(full["metrics"]) == {
        f"test/{name}" for name in ("accuracy", "top5_accuracy", "superclass_accuracy", "macro_f1", "ece")
    }
    every = {"labels": range(7), "average": "macro", "zero_division": 0}
    top5 = sk.top_k_accuracy_score(labels, predictions.logits, k=5, labels=range(7))
    assert full["metrics"]["test/accuracy"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert full["metrics"]["test/macro_f1"] == pytest.approx(sk.f1_score(labels, answers, **every))
    assert full["metrics"]["test/top5_accuracy"] == pytest.approx(top5)
    assert full["metrics"]["test/superclass_accuracy"] == sk.accuracy_score(groups[labels], groups[answers])
    np.testing.assert_array_equal(full["confusion"], sk.confusion_matrix(labels, answers, labels=range(7)))
    np.testing.assert_array_equal(full["superclass_confusion"], sk.confusion_matrix(groups[labels], groups[answers]))
    low, high = full["accuracy_interval"]
    assert low < full["metrics"]["test/accuracy"] < high


def test_every_class_has_its_row_even_one_without_images(full):
    rows = full["per_class"]
    assert [row["class"] for row in rows] == CLASSES
    assert [row["superclass"] for row in rows] == [SUPERCLASSES[group] for group in SUPERCLASS_OF]
    assert rows[6]["support"] == rows[6]["predicted"] == 0
    assert (rows[6]["recall"], rows[6]["recall_low"], rows[6]["recall_high"]) == (0, 0, 1)


def test_errors_are_counted_inside_and_across_superclasses(predictions, full):
    pairs = list(zip(predictions.labels, predictions.answers, strict=True))
    inside = sum(a != b and SUPERCLASS_OF[a] == SUPERCLASS_OF[b] for a, b in pairs)
    across = sum(SUPERCLASS_OF[a] != SUPERCLASS_OF[b] for a, b in pairs)
    assert full["errors"] == {"total": inside + across, "inside_superclass": inside, "across_superclasses": across}


def test_confused_pairs_name_their_images_most_confident_first(predictions, full):
    probabilities = softmax(predictions.logits)
    counts = [pair["count"] for pair in full["confused"]]
    assert counts == sorted(counts, reverse=True) and sum(counts) == full["errors"]["total"]
    for pair in full["confused"]:
        members = [
            i
            for i in range(400)
            if predictions.labels[i] == pair["true"] and probabilities[i].argmax() == pair["predicted"]
        ]
        expected = sorted(members, key=lambda i: -probabilities[i].max())[:12]
        assert pair["images"] == [3 * i for i in expected]
        assert pair["count"] == len(members)
        assert pair["share"] == pytest.approx(len(members) / (predictions.labels == pair["true"]).sum())


def test_no_more_images_of_confused_pairs_are_kept_than_there_is_room_for(predictions, monkeypatch):
    monkeypatch.setattr(report, "IMAGES_PER_PAIR", 4)
    monkeypatch.setattr(report, "IMAGES_OF_PAIRS", 10)
    confused = report.analyse(predictions, CLASSES)["confused"]
    assert [len(pair["images"]) for pair in confused] == [4, 4, 2]


def test_symmetric_pairs_add_both_directions(full):
    confusion = full["confusion"]
    for pair in full["confused_symmetric"]:
        a, b = pair["a"], pair["b"]
        assert a < b and (pair["a_as_b"], pair["b_as_a"]) == (confusion[a][b], confusion[b][a])
        assert pair["share"] == pytest.approx(pair["count"] / (sum(confusion[a]) + sum(confusion[b])))


def test_the_temperature_mends_the_calibration_of_logits_it_was_fitted_on(predictions):
    sharp = replace(predictions, logits=predictions.logits * 4)
    fitted = report.calibrate(sharp, sharp, "fitted on itself")
    assert fitted["nll_after"] < fitted["nll"] and fitted["ece_after"] < fitted["ece"]
    assert fitted["temperature"] == pytest.approx(
        4 * report.calibrate(predictions, predictions, "")["temperature"], rel=1e-4
    )
    assert sum(row["count"] for row in fitted["bins_after"]) == 400


def test_without_validation_there_is_no_temperature_but_a_note(predictions):
    plain = report.calibrate(predictions, None, "no validation part")
    assert plain["note"] == "no validation part" and plain["ece"] > 0
    assert all(plain[key] is None for key in ("temperature", "ece_after", "nll_after", "bins_after"))


def test_a_comparison_counts_the_images_each_gets_right_alone(predictions, full):
    comparison = full["comparison"]
    right = predictions.answers == predictions.labels
    other = np.roll(predictions.logits, 1, axis=1).argmax(axis=1) == predictions.labels
    assert comparison["only_this"] == (right & ~other).sum() and comparison["only_other"] == (other & ~right).sum()
    assert comparison["both"] == (right & other).sum() and comparison["neither"] == (~right & ~other).sum()
    assert comparison["difference"] == pytest.approx(right.mean() - other.mean())
    assert comparison["difference_low"] < comparison["difference"] < comparison["difference_high"]
    assert comparison["p_value"] < 0.001
    assert all(right[index // 3] and not other[index // 3] for index in comparison["only_this_images"])
    assert len(comparison["only_other_images"]) == comparison["only_other"]


def test_the_report_is_json_and_the_tables_name_classes(full, tmp_path):
    write_json(tmp_path / "report.json", full)  # which refuses NaN
    assert json.loads((tmp_path / "report.json").read_text()) == full
    tables = report.tables(full)
    assert len(tables["per_class"][1]) == 7
    columns, rows = tables["confused"]
    assert columns == ["true", "predicted", "count", "share"]
    assert rows[0][:2] == [CLASSES[full["confused"][0][key]] for key in ("true", "predicted")]
    assert all(len(row) == len(columns) for columns, rows in tables.values() for row in rows)
    assert sum(row[2] for row in tables["superclass_confusion"][1]) == 400
    assert tables["comparison"][1][0][0] == "other-run"


def test_a_faultless_model_has_a_report_without_errors():
    labels = np.arange(20) % 4
    perfect = Predictions(np.eye(4, dtype=np.float32)[labels] * 9, labels, np.arange(20))
    made = report.analyse(perfect, list("abcd")) | {"comparison": None}
    made["calibration"] = report.calibrate(perfect, perfect, "fitted on 20 validation images")
    assert made["confused"] == made["confused_symmetric"] == made["label_issues"] == []
    assert "accuracy             1.0000" in report.headline(made) and report.most_confused(made) == "no errors"
    assert "test/superclass_accuracy" not in made["metrics"]
    assert "confused" not in report.tables(made)


def test_the_text_says_what_the_numbers_are(predictions, full):
    text = report.headline(full)
    assert f"{full['metrics']['test/accuracy']:.4f}" in text and "95 % interval" in text
    assert "stay inside the superclass" in text and "fitted on so many" in text and "other-run" in text
    first = full["confused"][0]
    line = report.most_confused(full).splitlines()[1]
    assert f"{CLASSES[first['true']]} taken for {CLASSES[first['predicted']]}: {first['count']}" in line
    expected = sk.classification_report(
        predictions.labels, predictions.answers, labels=range(7), target_names=CLASSES, digits=3, zero_division=0
    )
    assert report.classification_report(predictions, CLASSES) == expected


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


def test_only_an_evaluation_of_the_same_images_and_classes_is_comparable(predictions, tmp_path):
    predictions.save(tmp_path / "predictions.npz")
    with pytest.raises(UserError, match="holds no evaluation"):
        comparable(tmp_path, predictions.labels, predictions.indices, CLASSES)
    write_json(tmp_path / "report.json", {"classes": CLASSES})
    found = comparable(tmp_path, predictions.labels, predictions.indices, CLASSES)
    assert found.digest == predictions.digest
    changed = [
        (predictions.labels[::-1], predictions.indices, CLASSES),
        (predictions.labels, predictions.indices + 1, CLASSES),
        (predictions.labels[:-1], predictions.indices[:-1], CLASSES),
        (predictions.labels, predictions.indices, CLASSES[::-1]),
    ]
    for labels, indices, classes in changed:
        with pytest.raises(UserError, match="--compare"):
            comparable(tmp_path, labels, indices, classes)


def test_saved_answers_are_used_only_for_the_same_weights_and_images(predictions, tmp_path):
    predictions.save(tmp_path / "predictions.npz")
    write_json(tmp_path / "report.json", {"checkpoint": {"sha256": "aa"}, "dataset": {"digest": "bb"}})
    assert saved_answers(tmp_path, "aa", "bb").digest == predictions.digest
    assert saved_answers(tmp_path, "aa", "cc") is None
    assert saved_answers(tmp_path, "cc", "bb") is None
    assert saved_answers(tmp_path / "nowhere", "aa", "bb") is None

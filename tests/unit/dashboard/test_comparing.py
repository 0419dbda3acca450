"""Two runs side by side in the page, and groups of seeds: the numbers against plain loops, SciPy and compare.py."""

import base64
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import yaml
from dashboard_runs import make_run
from evaluated_runs import evaluated_run, evaluation
from helpers import ROOT
from run_folders import words_of
from scipy import stats

from common.analysis.recipes import comparison_in_words, read_pair
from common.cli import parse_train
from common.dashboard import comparing, page
from common.runs.folder import RunFolder, load_config
from common.runs.groups import recipe_settings


def right(accuracy: float, seed: int = 0, images: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(images) < round(accuracy * images))


def make(runs_dir: Path, group: str, accuracies: list[float], draw: int = 0, **settings: object) -> None:
    for seed, accuracy in enumerate(accuracies):
        drawn = right(accuracy, seed + draw)
        evaluated_run(runs_dir, f"{group}-seed{seed}", drawn, group=group, seed=seed, **settings)


def compared(runs_dir: Path) -> dict:
    data = page.collect(runs_dir)
    json.dumps(data, allow_nan=False)
    return data["compared"]


def pair(found: dict, one: str, other: str) -> dict | str:
    """What the page says of the two, in the order that it holds them in."""
    i, j = sorted(map(found["sides"].index, (one, other)))
    return next(said for a, b, said in found["pairs"] if (a, b) == (i, j))


def in_order(found: dict, one: str, other: str) -> tuple[str, str]:
    first, second = sorted((one, other), key=found["sides"].index)
    return first, second


@pytest.fixture
def two(tmp_path: Path) -> Path:
    make(tmp_path, "A", [0.7, 0.72, 0.71])
    make(tmp_path, "B", [0.9, 0.91, 0.93], draw=7, lr=0.5, schedule="cosine")
    return tmp_path


# --- two runs ---------------------------------------------------------------------------------------------------------


def test_two_runs_have_the_numbers_of_a_plain_loop_and_scipy(tmp_path: Path) -> None:
    answers = {"a": right(0.8, 1), "b": right(0.85, 2)}
    for name, answer in answers.items():
        evaluated_run(tmp_path, name, answer, lr=0.1 if name == "a" else 0.2)
    found = compared(tmp_path)
    first, second = in_order(found, "a", "b")
    said = pair(found, "a", "b")
    cells = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for one, other in zip(answers[first], answers[second], strict=True):
        cells[bool(one), bool(other)] += 1
    assert said["counts"] == list(cells.values())
    only_first, only_second = cells[True, False], cells[False, True]
    ((_, low, high, p),) = said["rows"]
    assert p == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue, rel=1e-4)
    n, apart = 402, only_second - only_first  # Agresti & Min: half an image added to each cell
    half = 1.959964 * math.sqrt((only_first + only_second + 1) / n**2 - apart**2 / n**3)
    assert (low, high) == pytest.approx((apart / n - half, apart / n + half), abs=1e-5)
    assert (first, second) == ("b", "a")  # the better one first, so that the difference a − b is below zero
    assert said["said"] == (
        f"a is right on 80.0 % of 400 test images, 5.00 points less than b with 85.0 % (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}; McNemar's p = {p:.2g})."
    )
    assert said["said_turned"] == (
        f"b is right on 85.0 % of 400 test images, 5.00 points more than a with 80.0 % (95 % interval {-100 * high:+.2f} to "
        f"{-100 * low:+.2f}; McNemar's p = {p:.2g})."
    )


def test_the_page_says_of_two_runs_what_compare_py_prints(two: Path) -> None:
    found = compared(two)
    first, second = in_order(found, "A-seed0", "B-seed1")
    printed = comparison_in_words(*read_pair(str(two), first, second))
    said = pair(found, first, second)
    assert said["verdict"] == " ".join(printed.split("\n\n")[-1].splitlines())
    ((what, low, high, p),) = said["rows"]
    row = re.search(rf"\| {what} \| (\S+) to (\S+) \| (.+) \|", printed)
    assert row and (float(row[1]), float(row[2])) == pytest.approx((low, high), abs=6e-5)
    assert row[3] == "< 0.0001" and p < 1e-4


def test_each_image_is_one_bit_of_whether_a_run_is_right(two: Path) -> None:
    found = compared(two)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(found["right"]["A-seed1"]), np.uint8))[:400]
    assert bits.astype(bool).tolist() == right(0.72, 1).tolist()
    assert len(found["right"]) == 6 and len(found["right"]["A-seed1"]) < 400 / 8 * 4 / 3 + 4


def test_images_are_called_by_their_number_their_class_and_their_file(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path, "photos", right(0.8, images=3), name="folder", dataset="folder", data_dir="p")
    split = json.loads(run.split.read_text())
    run.split.write_text(json.dumps({**split, "test_files": ["no/1.jpg", "yes/2.jpg", "no/3.jpg"]}))
    evaluated_run(tmp_path, "digits", right(0.8))
    found = compared(tmp_path)
    sets = [found["images"]["sets"][found["images"]["of"][name]] for name in ("photos", "digits")]
    assert sets[0]["files"] == ["no/1.jpg", "yes/2.jpg", "no/3.jpg"] and sets[1]["files"] is None
    labels = np.frombuffer(base64.b64decode(sets[1]["labels"]), "<u2")
    assert labels.tolist() == [n % 2 for n in range(400)] and sets[1]["indices"] is None


def test_two_seeds_of_one_recipe_are_said_to_be_that(two: Path) -> None:
    said = pair(compared(two), "A-seed0", "A-seed1")
    assert said["verdict"].startswith("Both are of one recipe") and "chance may explain" in said["verdict"]


def test_what_cannot_be_compared_says_why_in_a_sentence(two: Path) -> None:
    evaluated_run(two, "fewer", right(0.9, images=300))
    evaluated_run(two, "pixels", right(0.9), digest="other")
    evaluated_run(two, "labels", right(0.9), first_label=1)
    evaluated_run(two, "classes", right(0.9), classes=("no", "yes", "perhaps"))
    evaluated_run(two, "untested", right(0.9)).evaluated().report.unlink()
    evaluated_run(two, "torn", right(0.9)).evaluated().predictions.write_bytes(b"PK")
    swapped = evaluated_run(two, "swapped", right(0.9))
    report = swapped.evaluated().report.read_text()
    evaluation(swapped, right(0.9, images=300))
    swapped.evaluated().report.write_text(report)
    found = compared(two)
    for name in ("fewer", "pixels", "labels"):
        assert "can't be compared: their test images or labels differ" in pair(found, "A-seed0", name)
        assert "can't be compared: their test images or labels differ" in pair(found, "A", name)
    assert "can't be compared: their classes differ (" in pair(found, "A-seed0", "classes")
    assert pair(found, "A", "A-seed1") == "A-seed1 is in both."
    assert found["why_not"]["untested"].startswith("untested is not tested yet: `python evaluate.py")
    assert "evaluation/predictions.npz is missing or damaged" in found["why_not"]["torn"]
    assert "is not what report.json beside it speaks of" in found["why_not"]["swapped"]


def test_weights_that_were_trained_further_are_not_compared_by_their_old_test(tmp_path: Path) -> None:
    make_run(tmp_path, "old", seed=1)
    make_run(tmp_path, "same", seed=2)
    RunFolder(tmp_path / "old").update_summary(**{"best/epoch": 9})
    found = compared(tmp_path)
    assert "other best weights now" in found["why_not"]["old"] and found["sides"] == ["same"]


def test_ones_own_photos_may_be_decoded_to_another_size(tmp_path: Path) -> None:
    for name, size, digest in (("a", 64, "x"), ("b", 96, "y"), ("c", 64, "z")):
        photos = {"dataset": "folder", "data_dir": "photos"}
        evaluated_run(tmp_path, name, right(0.9), name="folder", digest=digest, image_size=size, **photos)
    found = compared(tmp_path)
    assert isinstance(pair(found, "a", "b"), dict) and "images or labels differ" in pair(found, "a", "c")


def test_of_many_runs_the_leading_are_compared_and_the_others_told_how(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(comparing, "RUNS", 3)
    for n in range(5):
        evaluated_run(tmp_path, f"run{n}", right(0.5 + 0.05 * n, n), lr=0.1 + n)
    data = page.collect(tmp_path)
    assert set(data["compared"]["sides"]) <= set(data["leading"]) and len(data["compared"]["sides"]) == 3
    (out, *_) = data["compared"]["why_not"].items()
    assert f"compare.py {out[0]} OTHER" in out[1]


# --- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_is_its_mean_and_sd_and_is_compared_over_seeds_as_a_recipe(two: Path) -> None:
    found = compared(two)
    row = next(row for row in found["groups"] if row["name"] == "B")
    accuracies = {g: [float(right(x, s + d).mean()) for s, x in enumerate(xs)] for g, xs, d in (("A", (0.7, 0.72, 0.71), 0), ("B", (0.9, 0.91, 0.93), 7))}  # fmt: skip
    assert row["test"]["mean"] == pytest.approx(fmean(accuracies["B"]), abs=1e-4) and row["test"]["seeds"] == 3
    assert row["test"]["sd"] == pytest.approx(stdev(accuracies["B"]), rel=1e-3) and row["note"] == ""
    first, second = in_order(found, "A", "B")
    said = pair(found, "A", "B")
    by_seed = stats.ttest_rel(accuracies[second], accuracies[first])
    assert said["rows"][0][0] == "other seeds, these images"
    assert said["rows"][0][1:3] == pytest.approx(list(by_seed.confidence_interval(0.95)), rel=1e-3)
    printed = comparison_in_words(*read_pair(str(two), first, second))
    assert said["verdict"] == " ".join(printed.split("\n\n")[-1].splitlines()) and "A is worse than B" in printed
    assert [row[0] for row in said["rows"]] == re.findall(r"\| ((?:other|these) .+?) \|", printed)
    assert (
        said["narrows"] in " ".join(printed.split()) and said["rows"][2][3] is None and "It has no p" in said["narrows"]
    )
    share = [(row[2] - row[1]) ** 2 for row in said["rows"]]  # half widths add up as squares
    narrower = 1 - math.sqrt(1 - share[0] / share[2])
    assert f"without the luck of the seeds it would be {narrower:.0%} narrower" in said["narrows"]
    turned = comparison_in_words(*read_pair(str(two), second, first))
    assert said["turned"] == " ".join(turned.split("\n\n")[-1].splitlines()) and "B is better than A" in turned


def test_images_that_every_seed_of_one_and_none_of_the_other_gets_right_are_counted(two: Path) -> None:
    found = compared(two)
    first, second = in_order(found, "A", "B")
    answers = {"A": [right(x, s) for s, x in enumerate((0.7, 0.72, 0.71))], "B": [right(x, s + 7) for s, x in enumerate((0.9, 0.91, 0.93))]}  # fmt: skip
    only = 0
    for image in range(400):
        mine, theirs = ([bool(seed[image]) for seed in answers[name]] for name in (first, second))
        only += all(mine) and not any(theirs)
    assert pair(found, "A", "B")["counts"][1] == only


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"momentum": 0.5}, "differ in more than the seed (momentum)"),
        ({"seed": 1}, "have the same seed"),
        ({"status": "interrupted"}, "has not finished: it is interrupted"),
        ({"untested": True}, "1 of the 4 runs of A is not tested yet: `python evaluate.py --checkpoint A "),
        ({"images": 300}, "A is not wholly tested on the same images"),
    ],
)
def test_a_group_that_is_no_one_recipe_is_not_compared_and_says_why(two: Path, damage: dict, why: str) -> None:
    status, untested, images = damage.pop("status", None), damage.pop("untested", 0), damage.pop("images", 400)
    odd = evaluated_run(two, "odd", right(0.9, images=images), group="A", **{"seed": 9, **damage})
    if status:
        odd.update_summary(status=status)
    if untested:
        odd.evaluated().report.unlink()
    data = page.collect(two)
    row = next(row for row in data["compared"]["groups"] if row["name"] == "A")
    assert why in row["note"] == data["compared"]["why_not"]["A"] and "A" not in data["compared"]["sides"]


@pytest.mark.parametrize(
    "values", [{"group": ["A"]}, {"group": {"a": 1}}, {"seed": "x"}, {"seed": [1]}, {"image_size": []}, {"preset": 5}]
)
def test_a_strangers_config_costs_its_own_group_at_most(two: Path, values: dict) -> None:
    config = two / "A-seed1" / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **values}))
    assert "B" in compared(two)["sides"]


@pytest.mark.parametrize("images", [1, 2])
def test_groups_tested_on_an_image_or_two_are_told_to_tell_nothing(tmp_path: Path, images: int) -> None:
    for group, lr in (("A", 0.1), ("B", 0.2)):
        for seed in range(2):
            answer = np.arange(images) < seed + (group == "B")
            evaluated_run(tmp_path, f"{group}{seed}", answer, group=group, seed=seed, lr=lr)
    assert "better than" not in pair(compared(tmp_path), "A", "B")["verdict"].partition(" is shown")[0]


def test_a_setting_that_an_earlier_version_did_not_write_has_its_default(two: Path) -> None:
    config = two / "A-seed1" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    del values["layer_decay"]
    config.write_text(yaml.safe_dump(values))
    assert "A" in compared(two)["sides"] and compared(two)["settings"]["layer_decay"] == 1.0


# --- which recipe is better -------------------------------------------------------------------------------------------


def test_where_there_are_groups_the_better_recipe_is_named_and_how_sure_it_is(two: Path) -> None:
    data = page.collect(two)
    (said,) = data["recipes"]
    assert "Of 2 recipes B has the highest accuracy" in said["text"] and "(mean ± sd of 3 seeds)" in said["text"]
    assert "lr 0.5 instead of 0.001" in said["text"] and said["pair"] == ["B", "A"]
    assert said["sure"].startswith("B is better than A by ") and "begin from the settings of B" in said["next"]
    assert "luck of its seed" in data["best"][0]["text"] and "Next is" not in data["best"][0]["text"]


def test_where_it_is_not_sure_the_seeds_to_train_next_are_the_same_recipes(tmp_path: Path) -> None:
    make(tmp_path, "A", [0.70, 0.70, 0.71])
    make(tmp_path, "B", [0.69, 0.80, 0.89], draw=3, lr=0.5, epochs=2, data_dir="-d", nesterov=True, max_steps=7)
    (said,) = page.collect(tmp_path)["recipes"]
    assert "B is better than A" not in said["sure"] and "more seeds would tell; train 6 of each" in said["next"]
    assert len(said["commands"]) == 2
    for command, run in zip(said["commands"], ("B-seed0", "A-seed0"), strict=True):
        script, *words = words_of(command)
        config, there = parse_train(words), load_config(RunFolder(tmp_path / run))
        assert script == "train.py" and recipe_settings(config) == recipe_settings(there)
        assert config.run.group == there.run.group and config.identity.seeds == 6
        assert config.place.data_dir == there.place.data_dir and config.run.runs_dir == str(tmp_path)


def test_a_single_run_beside_a_group_is_a_recipe_of_one_seed_that_can_not_tell(tmp_path: Path) -> None:
    make(tmp_path, "A", [0.70, 0.72, 0.71])
    evaluated_run(tmp_path, "alone", right(0.9, 5), lr=0.5)
    (said,) = page.collect(tmp_path)["recipes"]
    assert said["sure"].startswith("One seed can't tell which recipe is better")
    assert any(words_of(command)[-1] == "alone-seeds" or "alone-seeds" in command for command in said["commands"])


def test_a_group_that_is_not_wholly_tested_is_no_recipe_yet_and_the_command_that_makes_it_one_is_told(
    two: Path,
) -> None:
    RunFolder(two / "B-seed2").evaluated().report.unlink()
    (said,) = page.collect(two)["recipes"]
    assert said["text"].startswith("A is right on 71.0 ± 1.0 % (mean ± sd of 3 seeds)") and said["pair"] is None
    assert said["next"].startswith("1 of the 3 runs of B is not tested yet: `python evaluate.py --checkpoint B ")


def test_two_runs_of_one_seed_each_are_ranked_as_runs_and_the_recipes_left_to_more_seeds(tmp_path: Path) -> None:
    for name, accuracy, lr in (("a", 0.8, 0.1), ("b", 0.9, 0.2), ("c", 0.7, 0.3)):
        evaluated_run(tmp_path, name, right(accuracy), lr=lr)
    data = page.collect(tmp_path)
    (said,) = data["recipes"]
    assert (
        "the best of 3 runs. Next is a" in data["best"][0]["text"] and said["text"] == "" and said["pair"] == ["b", "a"]
    )
    assert "one seed of each can't tell which recipe is better; train 3 of each" in said["next"]
    assert ["--group a-seeds" in command or "--group b-seeds" in command for command in said["commands"]] == [True] * 2


def test_recipes_at_guessing_level_are_not_called_the_best(tmp_path: Path) -> None:
    make(tmp_path, "A", [0.50, 0.51, 0.49])
    make(tmp_path, "B", [0.48, 0.51, 0.49], draw=3, lr=0.5)
    (said,) = page.collect(tmp_path)["recipes"]
    assert said["text"].startswith("No recipe surely beats one answer for all") and not said["sure"]


def test_without_groups_nothing_is_said_of_recipes_and_scipys_tests_are_not_imported(tmp_path: Path) -> None:
    evaluated_run(tmp_path, "a", right(0.8))
    evaluated_run(tmp_path, "b", right(0.9))
    code = (
        "import sys; from pathlib import Path; from common.dashboard.page import collect; "
        f"data = collect(Path({str(tmp_path)!r})); assert not any(said['text'] for said in data['recipes']) and len(data['compared']['pairs']) == 1; "
        "assert not {'scipy.stats', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

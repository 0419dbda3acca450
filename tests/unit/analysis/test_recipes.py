"""Two groups' evaluations → what compare.py says of them, and what it refuses."""

import numpy as np
import pytest
import yaml
from evaluated_runs import evaluated_run, evaluation
from run_folders import SPLIT, words_of

import compare
from common.analysis.recipes import comparison_in_words, group_in_words, read_pair
from common.base.errors import UserError
from common.config import TrainConfig
from common.runs import groups as groups_room
from common.runs.folder import RunFolder, create_run
from common.runs.groups import find_group, find_recipe, groups


def right(accuracy: float, seed: int = 0, images: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(images) < round(accuracy * images))


def make(runs_dir, group: str, accuracies, seeds=None, **settings) -> None:
    for seed, accuracy in zip(seeds or range(len(accuracies)), accuracies, strict=True):
        evaluated_run(runs_dir, f"{group}-seed{seed}", right(accuracy, seed), group=group, seed=seed, **settings)


def said(runs_dir, a="A", b="B") -> str:
    return comparison_in_words(*read_pair(str(runs_dir), a, b))


def verdict(runs_dir, a="A", b="B") -> str:
    return " ".join(said(runs_dir, a, b).split("\n\n")[-1].splitlines())


@pytest.fixture
def two(tmp_path):
    make(tmp_path, "A", [0.7, 0.72, 0.71])
    make(tmp_path, "B", [0.9, 0.91, 0.92], lr=0.5, schedule="cosine")
    return tmp_path


def test_a_comparison_names_runs_accuracies_settings_and_a_verdict_in_80_columns(two):
    text = said(two)
    assert "| 1 | A-seed1 | 0.7200 |" in text and "0.9100 ± 0.0100 (mean ± sd of 3 seeds) on 400 images" in text
    assert "+0.2000 ± 0.0100 (mean ± sd of 3 pairs of the same seed)" in text
    assert "- `--lr`: 0.001 → 0.5" in text and "- `--schedule`: constant → cosine" in text and "--seed`" not in text
    assert text.split("\n\n")[-1].startswith("B is better than A by ")
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_other_way_round_it_says_the_same_of_the_other_as_its_difference_does(two):
    assert verdict(two, "B", "A") == verdict(two).replace("B is better than A", "A is worse than B")
    assert "A is worse than B" in verdict(two, "B", "A") and "-0.2000" in said(two, "B", "A")


def test_little_difference_is_not_claimed_to_be_one(tmp_path):
    make(tmp_path, "A", [0.8, 0.82, 0.81])
    make(tmp_path, "B", [0.82, 0.81, 0.815])
    assert verdict(tmp_path).startswith("Neither is shown to be better: B may be -")
    assert "No setting differs but the seeds." in said(tmp_path)


def test_one_seed_each_is_about_the_two_networks_alone(tmp_path):
    make(tmp_path, "A", [0.6])
    make(tmp_path, "B", [0.9])
    assert verdict(tmp_path, "A-seed0", "B").startswith(
        "One seed can't tell which recipe is better; on other images too"
    )
    text = said(tmp_path)
    assert "+0.3000 with one seed" in text and "over" in text and "other seeds" not in text


def test_what_holds_with_these_networks_alone_is_said_to(tmp_path):
    make(tmp_path, "A", [0.70, 0.70, 0.70])
    make(tmp_path, "B", [0.71, 0.80, 0.89])
    assert verdict(tmp_path) == (
        "On other images too, the networks of B are better than those of A; with other seeds they may not be."
    )


def test_what_holds_on_these_images_alone_is_said_to(tmp_path):
    """Seeds agree, but few images make the difference."""
    base = np.arange(60) < 40
    for seed in range(4):
        better = base.copy()
        better[40 : 42 + (seed == 3)] = True
        evaluated_run(tmp_path, f"A-{seed}", base, group="A", seed=seed)
        evaluated_run(tmp_path, f"B-{seed}", better, group="B", seed=seed, lr=0.5)
    assert (
        verdict(tmp_path)
        == "B is better than A on these very images with other seeds too; on other images it may not be."
    )


def test_seeds_that_are_not_the_same_are_not_paired(tmp_path):
    make(tmp_path, "A", [0.7, 0.72])
    make(tmp_path, "B", [0.9, 0.91, 0.92], seeds=[5, 6, 7])
    assert "their seeds are not the same, so they are not paired" in said(tmp_path)
    assert verdict(tmp_path).startswith("B is better")


def test_seeds_that_happen_to_agree_leave_nothing_to_say(tmp_path):
    make(tmp_path, "A", [0.7, 0.72])
    make(tmp_path, "B", [0.8, 0.82])
    assert verdict(tmp_path).startswith("Nothing can be said")


def test_runs_are_in_the_group_that_their_config_names_by_seed(tmp_path):
    make(tmp_path, "A", [0.7, 0.7], seeds=[12, 3])
    evaluated_run(tmp_path, "single", right(0.8))
    (tmp_path / "bent").mkdir()
    (tmp_path / "bent" / "config.yaml").write_text("group: [A\n")
    assert {name: [folder.id for folder, _ in runs] for name, runs in groups(tmp_path).items()} == {
        "A": ["A-seed3", "A-seed12"]
    }
    assert find_group(tmp_path, "single") is find_group(tmp_path, "nothing") is find_group(tmp_path, None) is None


@pytest.mark.parametrize("find", [find_group, find_recipe])
def test_a_group_s_configs_are_read_once_and_what_it_may_lack_is_said_once(tmp_path, monkeypatch, capsys, find):
    make(tmp_path, "A", [0.7, 0.7])
    for name in ("bent", "killed"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "bent" / "config.yaml").write_text("group: [A\n")
    read = []
    load = groups_room.load_config
    monkeypatch.setattr(groups_room, "load_config", lambda folder: (read.append(folder.id), load(folder))[1])
    assert len(find(tmp_path, "A").runs) == 2
    assert sorted(read) == ["A-seed0", "A-seed1", "bent"]
    said = capsys.readouterr().err
    assert said.count("may lack a run") == 1 and "bent" in said and "killed" not in said


def test_of_a_group_its_mean_is_said_and_a_command_that_works(two, monkeypatch, capsys):
    lines = group_in_words(find_group(two, "B"), "test")
    assert lines[0] == "group B: test accuracy 0.9100 ± 0.0100 (mean ± sd of 3 seeds: 0.9000, 0.9100, 0.9200)"
    script, *words = words_of(lines[1].removeprefix("next: "))
    compare.main(compare.parse(compare.CompareConfig, argv=words))
    assert script == "compare.py" and "## B − A" in capsys.readouterr().out


# --- refused ----------------------------------------------------------------------------------------------------------


def refusal(runs_dir, a="A", b="B") -> str:
    with pytest.raises(UserError) as error:
        said(runs_dir, a, b)
    return str(error.value)


def test_an_unknown_name_is_refused_with_what_there_is(two, tmp_path):
    assert "C is no group and no run in" in refusal(two, b="C") and "the groups A, B" in refusal(two, b="C")
    assert "there are none at all" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("b", ["A", "A-seed1"])
def test_a_run_is_not_compared_with_itself(two, b):
    assert "is in both" in refusal(two, b=b)


def test_what_is_not_evaluated_is_named_with_the_command(two):
    RunFolder(two / "B-seed2").evaluated().report.unlink()
    message = refusal(two)
    command = message.partition("first: ")[2]
    assert "B-seed2 is not evaluated" in message
    assert words_of(command) == ["evaluate.py", "--checkpoint", "B", "--runs_dir", str(two)]


def test_weights_that_were_trained_further_are_to_be_evaluated_again(two):
    RunFolder(two / "B-seed1").best.write_bytes(b"other weights")
    assert "of other weights than" in refusal(two) and "evaluate.py --checkpoint B" in refusal(two)
    RunFolder(two / "B-seed1").best.unlink()  # to save space: the evaluation still stands
    assert verdict(two).startswith("B is better")


def test_other_images_and_classes_are_refused(two):
    evaluated_run(two, "fewer", right(0.9, images=300))
    evaluated_run(two, "pixels", right(0.9), digest="other")
    evaluated_run(two, "labels", right(0.9), first_label=1)
    evaluated_run(two, "classes", right(0.9), classes=("no", "yes", "perhaps"))
    for name in ("fewer", "pixels", "labels"):
        assert f"A-seed0 and {name} were evaluated on other images" in refusal(two, b=name)
    assert "other classes (2 and 3 of them)" in refusal(two, b="classes")


def test_ones_own_photos_may_be_decoded_to_another_size(tmp_path):
    for name, size, digest in (("a", 64, "x"), ("b", 96, "y"), ("c", 64, "z")):
        photos = {"dataset": "folder", "data_dir": "photos"}
        evaluated_run(tmp_path, name, right(0.9), name="folder", digest=digest, image_size=size, **photos)
    assert said(tmp_path, "a", "b")
    assert "other images" in refusal(tmp_path, "a", "c")


def test_a_group_of_several_recipes_is_refused_by_its_flags(two):
    evaluated_run(two, "odd", right(0.9), group="A", seed=9, momentum=0.5)
    assert "A: its runs differ in more than the seed: --momentum (A-seed0 0.9, odd 0.5)" in refusal(two)


def test_a_seed_that_is_there_twice_is_refused(two):
    evaluated_run(two, "again", right(0.9), group="A", seed=1)
    assert "both have seed 1" in refusal(two)


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_run_that_has_not_finished_is_refused(two, status):
    RunFolder(two / "B-seed1").update_summary(status=status)
    assert f"B-seed1 has not finished, it is {status}" in refusal(two)
    with pytest.raises(UserError, match="has not finished"):
        find_group(two, "B")


@pytest.mark.parametrize("file", ["report.json", "predictions.npz"])
def test_a_damaged_evaluation_is_refused_in_a_line_that_names_the_file(two, file):
    path = two / "A-seed1" / "evaluation" / file
    path.write_bytes(path.read_bytes()[:50])
    assert str(path) in refusal(two) and "\n" not in refusal(two)


def test_predictions_of_another_evaluation_are_refused(two):
    folder = RunFolder(two / "A-seed1")
    report = folder.evaluated().report.read_text()
    evaluation(folder, right(0.9, images=300))
    folder.evaluated().report.write_text(report)
    assert f"{folder.evaluated().predictions} is not what report.json beside it speaks of" in refusal(two)


def test_a_strangers_names_reach_no_terminal_as_they_are(two):
    config = two / "B-seed0" / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "weights": "\x1b[2J\nevil"}))
    assert "\x1b" not in refusal(two) and "\n" not in refusal(two)
    create_run(RunFolder(two / "x"), TrainConfig.of(group="\x1b]0;evil"), SPLIT)
    assert "\x1b" not in refusal(two, b="C")

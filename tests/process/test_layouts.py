"""One's own photos in any layout: train.py trains, says what it found, and the commands that it and the others print work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import words_of

import compare
import evaluate
import soup
import train
import visualize
from common.analysis import figures
from common.base.errors import UserError
from common.cli import parse, parse_train
from common.config import EvaluateConfig, VisualizeConfig
from common.dashboard.reading import read_run
from common.model.weights import load_weights
from common.runs.folder import RunFolder
from common.training import step

pytestmark = pytest.mark.usefixtures("small_networks")

SMALL = ("--dataset=folder", "--weights=none", "--image_size=16", "--max_steps=2", "--device=cpu", "--lr=0.05")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "of_report", lambda *_: {})  # drawing takes most of the time


def photos(folder: str | Path, seed: int = 0, **classes: int) -> None:
    """Noise of a colour of its own for each class."""
    random = np.random.default_rng(seed)
    for name, count in classes.items():
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 100, (20, 20, 3), dtype=np.uint8)
            pixels[..., len(name) % 3] += 100
            Image.fromarray(pixels).save(Path(folder) / name / f"{i:02d}.png")


def trained(*flags: str, run: str = "one", data: str = "photos") -> RunFolder:
    assert train.start(parse_train([*SMALL, "--data_dir", data, "--run_id", run, *flags])) == 0
    return RunFolder(Path("runs") / run)


def printed(output: str, script: str) -> list[str]:
    """The words of the last command of that script in the output."""
    commands = [line[line.index(f"python {script}") :] for line in output.splitlines() if f"python {script}" in line]
    return words_of(commands[-1])[1:]


def split_of(run: RunFolder) -> dict:
    return json.loads(run.split.read_text())


def report_of(run: RunFolder, split: str = "test") -> dict:
    return json.loads(run.evaluated(split).report.read_text())


# --- a validation folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", ["0.1", "0"])
def test_a_validation_folder_is_validated_on_and_evaluated_also_alone(fraction, capsys):
    photos("photos/train", ant=6, bear=6)
    photos("photos/Valid", seed=1, ant=2, bear=3)
    run = trained("--validation_fraction", fraction)
    output = capsys.readouterr().out
    assert "12 training and 5 validation images" in output
    assert "note     photos/Valid is the validation set: --validation_fraction is not used" in output
    assert "1 step an epoch" in output and "6 images each; guessing gives 50.0%" in output
    assert "         always 'bear' would be right on 60.0% of the 5 validation images" in output.splitlines()
    assert split_of(run)["validation"] == [12, 13, 14, 15, 16] and split_of(run)["validation_folder"] == "Valid"
    words = printed(output, "evaluate.py")
    assert words[-2:] == ["--split", "validation"]  # there is no test set
    shutil.rmtree("photos/train")
    evaluate.main(parse(EvaluateConfig, argv=words))
    report = report_of(run, "validation")
    assert report["dataset"]["size"] == 5
    assert report["metrics"]["validation/accuracy"] == load_weights(run.best)[1]["metrics"]["validation/accuracy"]
    visualize.main(
        parse(VisualizeConfig, argv=[*printed(capsys.readouterr().out, "visualize.py"), "--which", "random"])
    )


def test_a_photo_in_two_classes_is_named_until_it_is_dropped(capsys):
    photos("photos/train", ant=6, bear=6)
    shutil.copy("photos/train/ant/03.png", "photos/train/bear/copy.png")
    trained("--max_steps=1")
    said = "note     the same photo is in several classes: train/ant/03.png = train/bear/copy.png; remove"
    assert said in capsys.readouterr().out
    Path("fixes.csv").write_text("image,fix\ntrain/bear/copy.png,drop\n")
    trained("--max_steps=1", "--label_fixes=fixes.csv", run="two")
    assert "several classes" not in capsys.readouterr().out


def test_label_fixes_of_a_validation_folder_hold_for_its_evaluation_as_they_did_for_the_training(capsys):
    photos("photos/train", ant=6, bear=6)
    photos("photos/val", seed=1, ant=2, bear=3)
    rows = ["image,fix", "train/ant/00.png,drop", "val/ant/00.png,drop", "val/bear/00.png,ant", "val/bear/01.png,ant"]
    Path("fixes.csv").write_text("\n".join(rows))
    run = trained("--label_fixes", "fixes.csv")
    evaluate.main(EvaluateConfig("one", split="validation"))
    assert "the run's label_fixes.csv holds for these images, too" in capsys.readouterr().out
    report = report_of(run, "validation")
    assert report["dataset"]["size"] == 4
    assert [row["support"] for row in report["per_class"]] == [3, 1]
    assert report["metrics"]["validation/accuracy"] == load_weights(run.best)[1]["metrics"]["validation/accuracy"]


def test_a_run_of_before_there_were_validation_folders_goes_on_without_it(capsys):
    photos("photos/train", ant=8, bear=8)
    run = trained("--validation_fraction", "0.25", "--epochs", "2")
    first = split_of(run)
    photos("photos/val", seed=1, ant=2, bear=2)  # was there then, too, but nothing read it
    capsys.readouterr()
    assert train.start(parse_train(["--resume", "one", "--max_steps", "3"])) == 0
    assert "12 training and 4 validation images" in capsys.readouterr().out
    assert split_of(run) == first and "validation_folder" not in first
    evaluate.main(EvaluateConfig("one", split="validation"))
    assert np.load(run.evaluated("validation").predictions)["indices"].tolist() == first["validation"]


def test_a_run_whose_split_knew_no_duplicates_goes_on_with_it(capsys):
    photos("photos/train", ant=8, bear=8)
    for name in ("ant", "bear"):
        shutil.copy(f"photos/train/{name}/00.png", f"photos/train/{name}/99.png")
    run = trained("--validation_fraction", "0.25", "--epochs", "2")
    split = split_of(run)
    assert ({0, 8} <= set(split["validation"])) == (8 in split["validation"])
    before = {**split, "validation": [0, 3, 10, 12]}  # a copy of 0 is trained on
    run.split.write_text(json.dumps(before))
    assert train.start(parse_train(["--resume", "one", "--max_steps", "3"])) == 0
    assert split_of(run) == before
    summary = json.loads(run.summary.read_text())
    assert (summary["train_size"], summary["validation_size"]) == (14, 4)


def test_other_data_is_still_no_data_to_go_on_with():
    photos("photos/train", ant=8, bear=8)
    trained("--epochs", "2")
    photos("photos/train", seed=1, ant=9)
    with pytest.raises(UserError, match="--resume one: the training data has changed since"):
        train.start(parse_train(["--resume", "one", "--max_steps", "3"]))


# --- without a test set -----------------------------------------------------------------------------------------------


def test_without_a_test_set_every_next_command_names_what_works(capsys):
    photos("photos/train", ant=10, bear=10)
    run = trained("--validation_fraction", "0.2")
    output = capsys.readouterr().out
    assert split_of(run)["test_files"] == []
    with pytest.raises(UserError) as error:
        evaluate.main(EvaluateConfig("one"))
    assert "photos has no test set: --split validation" in str(error.value) and "\n" not in str(error.value)
    assert not run.evaluation.exists()
    with pytest.raises(UserError, match="--split validation"):
        visualize.main(VisualizeConfig("one"))
    shown = read_run(run.path)
    assert shown["evaluate"] == "python evaluate.py --checkpoint one --split validation"
    assert all("--split validation" in row["command"] for row in shown["commands"])
    evaluate.main(parse(EvaluateConfig, argv=printed(output, "evaluate.py")))
    assert read_run(run.path)["report"].split == "validation"
    photos("photos/test", seed=2, ant=2, bear=2)  # comes later, and is then what is evaluated
    evaluate.main(EvaluateConfig("one"))
    assert report_of(run)["dataset"]["size"] == 4


def test_several_seeds_and_their_soup_without_a_test_set_name_what_works(capsys):
    photos("photos/train", ant=10, bear=10)
    trained("--validation_fraction", "0.2", "--seeds", "2", run="A")
    words = printed(capsys.readouterr().out, "evaluate.py")
    assert words == ["--checkpoint", "A", "--split", "validation"]
    evaluate.main(parse(EvaluateConfig, argv=words))
    assert "compare.py" not in capsys.readouterr().out
    with pytest.raises(UserError, match="has no test set to be compared on"):
        compare.main(compare.CompareConfig("A-seed0", "A-seed1"))
    trained("--validation_fraction", "0.2", run="b")
    soup.main(soup.SoupSettings(("A-seed0", "b"), device="cpu"))
    assert printed(capsys.readouterr().out, "evaluate.py")[-2:] == ["--split", "validation"]


def test_with_nothing_to_evaluate_it_is_said_what_to_add(capsys):
    photos("photos/train", ant=4, bear=4)
    trained("--validation_fraction", "0")
    assert "neither a test set nor a validation set: add photos/test/<class>/ first" in capsys.readouterr().out
    with pytest.raises(UserError, match="photos has no test set: add photos/test/<class>/"):
        evaluate.main(EvaluateConfig("one"))


# --- one folder of class folders --------------------------------------------------------------------------------------


def test_one_folder_trains_and_is_evaluated_on_exactly_the_recorded_photos(capsys):
    photos("photos", ant=15, bear=20)
    run = trained("--validation_fraction", "0.2")
    output = capsys.readouterr().out
    assert "note     7 of the 35 photos in photos are its test set" in output
    test_files = split_of(run)["test_files"]
    assert len(test_files) == 7 and "22 training and 6 validation images" in output
    for i, name in enumerate(("ant", "bear")):
        Image.new("RGB", (20, 20), (i, 0, 9)).save(f"photos/{name}/-new.png")
    evaluate.main(parse(EvaluateConfig, argv=printed(output, "evaluate.py")))
    said = capsys.readouterr().out
    assert "2 photos came to photos since the run began: they are not in its test set" in said
    saved = np.load(run.evaluated().predictions)
    assert saved["labels"].tolist() == [int(name.startswith("bear")) for name in test_files]
    for name in test_files:
        target = Path("alone") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"photos/{name}", target)
    evaluate.main(EvaluateConfig("one", data_dir="alone"))  # the split that is evaluated is enough
    np.testing.assert_array_equal(np.load(run.evaluated().predictions)["logits"], saved["logits"])


def test_one_folder_goes_on_and_gives_a_temperature(capsys):
    photos("photos", ant=15, bear=20)
    run = trained("--validation_fraction", "0.2", "--epochs", "2")
    before = split_of(run)
    assert train.start(parse_train(["--resume", "one", "--max_steps", "3"])) == 0
    assert split_of(run) == before
    evaluate.main(EvaluateConfig("one"))
    assert "6 validation images" in report_of(run)["calibration"]["note"]


def test_seeds_share_the_test_set_of_one_folder():
    photos("photos", ant=15, bear=20)
    trained("--seeds", "2", run="A")
    one, two = (split_of(RunFolder(Path("runs") / f"A-seed{seed}")) for seed in (0, 1))
    assert one["test_files"] == two["test_files"] and one["digest"] == two["digest"]
    assert one["validation"] != two["validation"]


def test_weights_without_their_run_folder_are_tested_on_the_same_photos(tmp_path):
    photos("photos", ant=15, bear=20)
    run = trained("--validation_fraction", "0.2")
    evaluate.main(EvaluateConfig("one"))
    logits = np.load(run.evaluated().predictions)["logits"]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(run.best, "elsewhere/w.safetensors")
    evaluate.main(EvaluateConfig("elsewhere/w.safetensors", runs_dir="elsewhere"))
    again = RunFolder(Path("elsewhere/one"))
    np.testing.assert_array_equal(np.load(again.evaluated().predictions)["logits"], logits)


# --- classes by name --------------------------------------------------------------------------------------------------


def test_another_order_and_a_subset_of_classes_are_matched_by_name(capsys):
    photos("photos/train", ant=6, bear=6, cow=6)
    photos("photos/test", seed=1, ant=2, bear=2, cow=2)
    run = trained("--validation_fraction", "0.2")
    evaluate.main(EvaluateConfig("one"))
    whole = np.load(run.evaluated().predictions)
    shutil.rmtree("photos/test/bear")
    shutil.rmtree("photos/train")
    capsys.readouterr()
    evaluate.main(EvaluateConfig("one"))
    assert "has no photos of 1 of the 3 classes: bear" in capsys.readouterr().out
    part, kept = np.load(run.evaluated().predictions), whole["labels"] != 1
    assert part["labels"].tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(part["logits"], whole["logits"][kept], atol=1e-5)
    report = report_of(run)
    assert report["metrics"]["test/accuracy"] == (whole["logits"][kept].argmax(1) == part["labels"]).mean()
    photos("photos/test", emu=1)
    with pytest.raises(UserError, match=r"has 1 class that it doesn't know \(emu\)"):
        evaluate.main(EvaluateConfig("one"))


# --- small sets -------------------------------------------------------------------------------------------------------


def test_22_photos_train_with_the_defaults_and_the_batch_that_shrinks_is_said(capsys):
    photos("photos/train", ant=12, bear=10)
    run = trained()
    assert "note     --batch_size 32 shrinks to the 20 training images" in capsys.readouterr().out
    assert json.loads(run.summary.read_text())["step"] == 2
    with pytest.raises(UserError, match="--batch_size is 33, but must be from 2 to the number of training images, 20"):
        trained("--batch_size", "33", run="two")


def test_batches_of_two_never_leave_one_image_alone(monkeypatch):
    photos("photos/train", ant=4, bear=3)
    sizes = []
    whole = step.train_step

    def train_step(network, images, *rest):
        sizes.append(len(images))
        return whole(network, images, *rest)

    monkeypatch.setattr(step, "train_step", train_step)
    trained("--validation_fraction", "0", "--batch_size", "2", "--max_steps", "6")
    assert sizes == [3, 2, 2] * 2

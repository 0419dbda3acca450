"""evaluate.py on photos some of which are in train, and where train is gone."""

import json
import shutil

import numpy as np
from helpers import run_script
from PIL import Image


def test_photos_that_are_in_train_are_named_and_without_train_it_is_said_that_nobody_knows(tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 14), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                coarse.resize((40, 40), Image.Resampling.BILINEAR).save(folder / f"{part}{number}.png")
    train, test = tmp_path / "photos" / "train", tmp_path / "photos" / "test"
    shutil.copy(train / "cat" / "train3.png", test / "cat" / "copied.png")
    shutil.copy(train / "dog" / "train5.png", test / "cat" / "mislabelled.png")
    run_script(
        *("train.py", "--dataset", "folder", "--data_dir", "photos", "--weights", "none", "--image_size", 32),
        *("--batch_size", 4, "--epochs", 1, "--max_steps", 2, "--run_id", "seen"),
        cwd=tmp_path,
    )
    done = run_script("evaluate.py", cwd=tmp_path)
    report = json.loads((tmp_path / "runs/seen/evaluation/report.json").read_text())
    pairs = {(pair["file"], pair["seen_file"]) for pair in report["duplicates"]["pairs"] if pair["exact"]}
    assert pairs == {
        ("test/cat/copied.png", "train/cat/train3.png"),
        ("test/cat/mislabelled.png", "train/dog/train5.png"),
    }
    assert report["duplicates"]["exact"] == 2 and report["duplicates"]["other_label"] == 1
    assert "honest accuracy" in done.stdout and "2 pixel by pixel" in done.stdout
    assert report["metrics"]["test/honest_accuracy"] == report["duplicates"]["accuracy_without"]
    assert (tmp_path / "runs/seen/evaluation" / report["figures"]["duplicates"]).exists()
    shutil.rmtree(train)
    done = run_script("evaluate.py", cwd=tmp_path)
    report = json.loads((tmp_path / "runs/seen/evaluation/report.json").read_text())
    assert "honest accuracy      not known: " in done.stdout and report["duplicates"]["pairs"] == []
    assert "duplicates" not in report["figures"] and "test/honest_accuracy" not in report["metrics"]

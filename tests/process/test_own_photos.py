"""A folder with photos that can't be read, from training to evaluation: they end it by name, or are skipped and said everywhere."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import Resize

import evaluate
import soup
import train
import visualize
from common.analysis import figures
from common.base.errors import UserError
from common.cli import parse_train
from common.config import EvaluateConfig, SoupSettings, TrainConfig, VisualizeConfig
from common.data.batches import normalize
from common.data.pixels import read_photo
from common.model.load import load_model
from common.model.weights import read_metadata

pytestmark = pytest.mark.usefixtures("small_networks")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(figures, "of_report", lambda *_: {})  # which take most of the time
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Wide photos of two colours; one of each class in train and in test can't be read."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (16, 32, 3), dtype=np.uint8) + np.uint8(150 * label)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            (folder / "broken.jpg").write_bytes(b"no photo")
            (folder / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


def settings(photos: Path, **changes) -> TrainConfig:
    return TrainConfig.of(
        **{
            "dataset": "folder",
            "data_dir": str(photos),
            "weights": "none",
            "image_size": 16,
            "batch_size": 6,
            "device": "cpu",
        },
        **{"amp": "none", "epochs": 1, "run_id": "run", **changes},
    )


def test_unreadable_photos_begin_no_run_and_all_are_named(photos, tmp_path):
    with pytest.raises(UserError, match="2 photos .*cat/broken.jpg .*dog/broken.jpg .*--unreadable skip"):
        train.main(settings(photos))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_skips_says_so_and_its_weights_see_photos_as_it_did(photos, tmp_path, capsys):
    assert train.main(settings(photos, unreadable="skip", fit="pad", decode_size=24, validation_fraction=0.2)) == 0
    said = capsys.readouterr().out
    assert "16 training and 4 validation images" in said and "2 .txt (cat/notes.txt, dog/notes.txt)" in said
    assert "skipped" in said and "cat/broken.jpg is not an image" in said and "dog/broken.jpg" in said
    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["skipped"] == ["cat/broken.jpg", "dog/broken.jpg"] and summary["unused"] == {".txt": 2}
    about = read_metadata(run / "checkpoints" / "best.safetensors")
    assert (about["fit"], about["decode_size"], about["unreadable"]) == ("pad", 24, "skip")

    evaluate.main(EvaluateConfig("run"))  # as the run did, with no flag
    said = capsys.readouterr().out
    assert "8 test images" in said and "cat/broken.jpg is not an image" in said
    assert "training images are not those" not in said  # the validation images are found, too
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert report["dataset"]["size"] == 8 and report["dataset"]["skipped"] == ["cat/broken.jpg", "dog/broken.jpg"]
    assert report["dataset"]["unused"] == {".txt": 2}
    names = [photos / "test" / name / f"{i}.png" for name in ("cat", "dog") for i in range(4)]
    padded = torch.from_numpy(np.stack([read_photo(name, 24, "pad") for name in names]))
    with torch.no_grad():
        logits = load_model("run", "runs", CPU).model(normalize(Resize([16, 16], antialias=True)(padded)))
    with np.load(run / "evaluation" / "predictions.npz") as saved:
        np.testing.assert_allclose(saved["logits"], logits, atol=1e-4)

    visualize.main(VisualizeConfig("run", images=(str(names[5]),)))
    (row,) = json.loads((run / "visualization" / "predictions.json").read_text())["predictions"]
    assert row["confidence"] == pytest.approx(float(logits[5].softmax(0).max()), abs=1e-4)

    visualize.main(VisualizeConfig("run", which="class", count=1))
    for row in json.loads((run / "visualization" / "predictions.json").read_text())["predictions"]:
        assert row["file"].startswith(f"test/{row['true']}/") and names[row["index"]] == photos / row["file"]

    before = (run / "evaluation" / "report.json").read_bytes()
    with pytest.raises(UserError, match="2 photos in .*test can't be read"):
        evaluate.main(EvaluateConfig("run", unreadable="stop"))
    assert (run / "evaluation" / "report.json").read_bytes() == before


def test_runs_that_skipped_can_be_averaged(photos, tmp_path):
    for name, lr in (("a", 0.01), ("b", 0.02)):
        train.main(
            settings(photos, unreadable="skip", fit="pad", decode_size=24, validation_fraction=0.2, run_id=name, lr=lr)
        )
    soup.main(
        SoupSettings(("a", "b"), device="cpu", run_id="mean")
    )  # which reads the same images, or would refuse them


def test_a_run_of_before_these_flags_crops_and_stops(photos, tmp_path):
    """Its config lacks what is new."""
    for broken in photos.rglob("broken.jpg"):
        broken.unlink()
    train.main(settings(photos))
    config = tmp_path / "runs" / "run" / "config.yaml"
    config.write_text(
        "".join(line for line in config.read_text().splitlines(True) if not line.startswith(("fit:", "unreadable:")))
    )
    assert train.main(parse_train(["--resume", "run", "--epochs", "2"])) == 0


def test_photos_that_change_while_a_run_trains_are_said_and_the_next_start_is_refused(
    photos, tmp_path, monkeypatch, capsys
):
    real = train.validate

    def validate(run):
        Image.new("RGB", (16, 16), "red").save(photos / "train" / "cat" / "3.png")
        os.unlink(photos / "train" / "dog" / "4.png")
        return real(run)

    for broken in photos.rglob("broken.jpg"):
        broken.unlink()
    monkeypatch.setattr(train, "validate", validate)
    assert train.main(settings(photos)) == 0
    said = capsys.readouterr().err
    assert "2 photos in" in said and "changed or vanished while the run trained, among them cat/3.png" in said
    with pytest.raises(UserError, match="the training data has changed since"):
        train.main(parse_train(["--resume", "run", "--epochs", "2"]))

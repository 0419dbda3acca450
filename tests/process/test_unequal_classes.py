"""Unequal classes are said, weigh alike where that is asked for, and nothing about them is passed over in an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate
import train
from common.config import PRESETS, EvaluateConfig
from common.dashboard.reading import read_run
from common.data.batches import normalize, resized
from common.data.load import load_dataset
from common.data.split import split_indices
from common.model.build import build_model
from common.runs.folder import RunFolder, load_config, read_metrics
from common.training import step

pytestmark = pytest.mark.usefixtures("small_networks")

COUNTS = {"train": {"cat": 61, "dog": 12, "owl": 6}, "test": {"cat": 8, "dog": 2, "owl": 1}}
TRAINED = {"cat": 55, "dog": 11, "owl": 5}  # without the validation's


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, classes in COUNTS.items():
        for name, count in classes.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture
def run(photos, tmp_path, monkeypatch):
    """Trains a head on the photos, in 9 steps an epoch → the run's folder."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    base = PRESETS["digits"].replace(
        dataset="folder", data_dir=str(photos), device="cpu", runs_dir=str(tmp_path), image_size=16, batch_size=8,
        finetune="head", augment="none", epochs=1, warmup_epochs=0, validation_fraction=0.1,
    )  # fmt: skip

    def trained(run_id: str = "run", **flags: object) -> RunFolder:
        assert train.main(base.replace(run_id=run_id, **flags)) == 0
        return RunFolder(tmp_path / run_id)

    return trained


def test_the_start_says_the_counts_what_guessing_gives_and_what_to_do(run, capsys):
    folder = run()
    said = capsys.readouterr().out
    assert "classes  cat: 55, dog: 11, owl: 5; always 'cat' would be right on 77.5%" in said
    (warning,) = [line for line in said.splitlines() if line.startswith("warning")]
    assert "'cat' has 11 times the images of 'owl'" in warning
    for word in ("--balance loss", "--balance sampling", "--best_by macro_f1", "validation/balanced_accuracy"):
        assert word in warning
    (told, *_) = read_run(folder.path)["remedies"]
    assert folder.read_summary().class_counts == [55, 11, 5] and "'cat' has 11 times the images of 'owl'" in told


@pytest.mark.parametrize("balance", ["none", "loss", "sampling"])
def test_only_the_training_is_balanced(run, balance, monkeypatch):
    shown, train_step = [], step.train_step
    monkeypatch.setattr(step, "train_step", lambda *args: shown.append(args[2]) or train_step(*args))
    folder = run(balance=balance, lr=1e-12)
    (row,) = [row for row in read_metrics(folder) if "train/loss" in row]
    counts = torch.bincount(torch.cat(shown)).tolist()
    assert counts == list(TRAINED.values()) if balance != "sampling" else sorted(counts) == [23, 24, 24]
    assert row["validation/loss"] == pytest.approx(by_hand(folder, "validation"), rel=1e-3)
    if balance != "sampling":
        weights = torch.tensor([71 / (3 * count) for count in TRAINED.values()]) if balance == "loss" else None
        assert row["train/loss"] == pytest.approx(by_hand(folder, "train", weights), rel=1e-3)


def by_hand(folder: RunFolder, part: str, weights: torch.Tensor | None = None) -> float:
    """The mean loss of the run's network on a part of its images, each counted by the weight of its class."""
    model = build_model("resnext50_32x4d", 3, "none")
    model.load_state_dict(torch.load(folder.last, weights_only=True)["model"])
    data = load_dataset("folder", load_config(folder).place.data_dir, "train", 16)
    indices = split_indices(data.labels, 0.1, 0)[part == "validation"]
    with torch.no_grad():
        logits = model.eval()(normalize(resized(data.images[indices], 16)))
    labels = data.labels[indices]
    losses = nn.CrossEntropyLoss(reduction="none")(logits, labels)
    return float((losses * (1 if weights is None else weights[labels])).mean())


def test_an_evaluation_names_the_baseline_and_every_class_that_fails(run, capsys, tmp_path):
    run(lr=1e-12)
    capsys.readouterr()
    evaluate.main(EvaluateConfig(checkpoint="run", runs_dir=str(tmp_path), device="cpu"))
    said = capsys.readouterr().out
    assert "baseline to beat     0.7273   always 'cat'" in said and "balanced accuracy" in said
    assert "classes that fail: " in said

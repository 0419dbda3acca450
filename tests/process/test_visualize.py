"""visualize.py on run folders of the digits: which images it shows, what it says of them, and where the network looked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_runs import make_run
from PIL import Image

import evaluate
import visualize
from common.analysis import figures, gallery
from common.base.errors import UserError
from common.config import EvaluateConfig, VisualizeConfig
from common.data.batches import normalize, resized
from common.data.load import load_dataset
from common.model.build import ARCHITECTURES
from common.model.gradcam import grad_cam
from common.model.load import load_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_networks) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    make_run(runs_dir, "first")
    return runs_dir


def show(runs: Path, **flags) -> dict:
    """predictions.json, and the pictures' sizes under `sizes`."""
    visualize.main(VisualizeConfig("first", runs_dir=str(runs), **flags))
    folder = runs / "first" / "visualization"
    saved = json.loads((folder / "predictions.json").read_text())
    assert not list(folder.glob("*.tmp*"))
    return saved | {"sizes": [Image.open(folder / name).size for name in saved["figures"]]}


def test_random_images_are_the_seeds_and_their_predictions_the_networks(runs):
    shown = show(runs, count=12, seed=3)
    assert shown["figures"] == ["random.png"]
    rows, data = shown["predictions"], load_dataset("digits", None, "test", 24)
    indices = [row["index"] for row in rows]
    assert len(set(indices)) == 12
    model = load_model("first", str(runs), CPU).model
    with torch.no_grad():
        probabilities = model(normalize(resized(data.images[indices], 24))).softmax(dim=1)
    for row, index, expected in zip(rows, indices, probabilities, strict=True):
        assert row["true"] == data.classes[data.labels[index]]
        assert row["predicted"] == data.classes[expected.argmax()] == row["top5"][0][0]
        assert row["confidence"] == pytest.approx(float(expected.max()), abs=1e-4)
        assert [p for _, p in row["top5"]] == sorted((p for _, p in row["top5"]), reverse=True)
    assert [row["index"] for row in show(runs, count=12, seed=3)["predictions"]] == indices
    assert [row["index"] for row in show(runs, count=12, seed=4)["predictions"]] != indices


def test_errors_are_the_most_confident_mistakes_with_or_without_an_evaluation(runs, monkeypatch, capsys):
    anew = show(runs, which="errors", count=10)["predictions"]
    assert ": 10 mistakes on the test images, the most confident first" in capsys.readouterr().out
    monkeypatch.setattr(figures, "of_report", lambda *_: {})
    evaluate.main(EvaluateConfig("first", runs_dir=str(runs)))
    monkeypatch.setattr(gallery, "predict_images", None)  # what evaluate.py has saved is enough
    assert [row["index"] for row in show(runs, which="errors", count=10)["predictions"]] == [
        row["index"] for row in anew
    ]
    saved = np.load(runs / "first" / "evaluation" / "predictions.npz")
    probabilities = torch.from_numpy(saved["logits"]).softmax(dim=1).numpy()
    wrong = [i for i in range(len(probabilities)) if probabilities[i].argmax() != saved["labels"][i]]
    surest = sorted(wrong, key=lambda i: -probabilities[i].max())[:10]
    assert [row["confidence"] for row in anew] == pytest.approx([probabilities[i].max() for i in surest], abs=1e-4)
    assert all(row["true"] != row["predicted"] for row in anew)


def test_a_faultless_network_has_no_errors_to_show(runs, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "confident_mistakes", lambda *_: torch.empty(0, dtype=torch.int64))
    before = sorted((runs / "first").rglob("*"))
    visualize.main(VisualizeConfig("first", which="errors", runs_dir=str(runs)))
    assert "no mistake" in capsys.readouterr().out
    assert sorted((runs / "first").rglob("*")) == before


def test_each_class_gets_its_row(runs):
    shown = show(runs, which="class", count=2)
    assert [row["true"] for row in shown["predictions"]] == [str(digit) for digit in range(10) for _ in range(2)]
    (width, _), *_ = shown["sizes"]
    assert sum(height for _, height in shown["sizes"]) > 3 * width


def test_many_rows_are_spread_over_pages_and_older_pages_removed(runs, monkeypatch):
    monkeypatch.setattr(gallery, "ROWS_A_PAGE", 4)
    shown = show(runs, which="class", count=1)
    assert shown["figures"] == ["class-01.png", "class-02.png", "class-03.png"]
    folder = runs / "first" / "visualization"
    Image.new("RGB", (9, 9)).save(folder / "class-07.png")  # somebody's own
    (folder / "class-08.png").write_text("no picture")
    Image.open(folder / "class-01.png").copy().save(folder / "class-notes.png")
    monkeypatch.setattr(gallery, "ROWS_A_PAGE", 20)
    assert show(runs, which="class", count=1)["figures"] == ["class.png"]
    left = ["class-07.png", "class-08.png", "class-notes.png", "class.png"]
    assert sorted(path.name for path in folder.glob("class*")) == left
    for name in left[:3]:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("which_classes", "count"),
    [(2, 1), (2, 8), (2, 100), (10, 1), (10, 16), (100, 1), (100, 8), pytest.param(100, 100, marks=pytest.mark.slow)],
)
def test_pages_of_classes_fit_a_screen_and_cut_no_class_that_fits_one(which_classes, count):
    rows = [
        {"true": f"class {n // count}", "predicted": "x", "confidence": 0.5, "file": None, "top5": []}
        for n in range(which_classes * count)
    ]
    pages = gallery.pages(rows, np.zeros((len(rows), 3, 8, 8), np.uint8), "Classes", by_class=True)
    names = []
    for number, page in enumerate(pages, start=1):
        axes = page.axes[0]
        bold = [
            text.get_text() for text in axes.texts if text.get_fontweight() == "bold" and "class" in text.get_text()
        ]
        assert bold and len({round(text.get_position()[1], 3) for text in axes.texts if "true" in text.get_text()}) <= 6
        assert page.get_size_inches()[1] <= 15
        if len(pages) > 1:
            assert axes.texts[0].get_text() == f"Classes, page {number} of {len(pages)}"
        names += bold
    assert sum(len(page.axes[0].get_images()) for page in pages) == len(rows)
    assert list(dict.fromkeys(names)) == [f"class {n}" for n in range(which_classes)]
    assert len(names) == which_classes or count > 6 * gallery.COLUMNS


def test_ones_own_photos_are_predicted_as_the_network_would_have_them(runs, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a photo.png")
    shown = show(runs, images=(str(tmp_path / "a photo.png"),))
    (row,) = shown["predictions"]
    assert shown["which"] == "photos" and shown["figures"] == ["photos.png"]
    assert (row["index"], row["file"], row["true"]) == (None, str(tmp_path / "a photo.png"), None)
    assert f"a photo.png: {row['predicted']} (" in capsys.readouterr().out
    square = torch.from_numpy(gallery.read_photo(tmp_path / "a photo.png", 24))[None]
    with torch.no_grad():
        expected = load_model("first", str(runs), CPU).model(normalize(square)).softmax(dim=1).max()
    assert row["confidence"] == pytest.approx(float(expected), abs=1e-4)


def test_an_unreadable_photo_is_named_and_nothing_written(runs, tmp_path):
    (tmp_path / "words.jpg").write_text("not a photo")
    before = sorted((runs / "first").rglob("*"))
    with pytest.raises(UserError, match="words.jpg"):
        visualize.main(VisualizeConfig("first", images=(str(tmp_path / "words.jpg"),), runs_dir=str(runs)))
    assert sorted((runs / "first").rglob("*")) == before


def test_an_explanation_stands_beside_the_image_it_explains(runs):
    loaded, data = load_model("first", str(runs), CPU), load_dataset("digits", None, "test", 24)
    indices = torch.tensor([5, 3])
    plain, pictures = gallery.look(loaded, data, indices, CPU, explain=False)
    explained, doubles = gallery.look(loaded, data, indices, CPU, explain=True)
    np.testing.assert_array_equal(pictures, resized(data.images[indices], 24))  # denormalized, the very pixels
    np.testing.assert_array_equal(doubles[..., :24], pictures)
    assert doubles.shape == (2, 3, 24, 49) and (doubles[..., 24] == 255).all()
    np.testing.assert_array_equal(plain.logits, explained.logits)
    assert show(runs, count=3, explain=True)["figures"] == ["random-explained.png"]


def test_a_map_says_which_class_it_explains(runs):
    loaded, data = load_model("first", str(runs), CPU), load_dataset("digits", None, "test", 24)
    predictions, doubles = gallery.look(loaded, data, torch.arange(12), CPU, explain=True)
    rows = gallery.records(predictions, data.classes)
    (page,) = gallery.pages(rows, doubles, "Digits", by_class=False)
    captions = [text.get_text() for text in page.axes[0].texts if "true:" in text.get_text()]
    assert [caption.split("\n")[-1] for caption in captions] == [f"map: for {row['predicted']}" for row in rows]
    (plain,) = gallery.pages(rows, doubles[..., :24], "Digits", by_class=False)
    assert not [text for text in plain.axes[0].texts if "map" in text.get_text()]


def test_grad_cam_at_the_last_stage_is_the_class_activation_map():
    """With a global average before a linear head, Grad-CAM is CAM: the head's weights over the channels (its paper, 3.1)."""
    torch.manual_seed(0)
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=5).eval()
    images, classes = torch.randn(3, 3, 128, 128), torch.tensor([0, 4, 2])
    features = {}
    handle = model.layer4.register_forward_hook(lambda module, inputs, output: features.update(last=output.detach()))
    with torch.no_grad():
        model(images)
    handle.remove()
    expected = torch.einsum("bk,bkhw->bhw", model.fc.weight[classes].detach(), features["last"]).relu()
    expected = torch.nn.functional.interpolate(expected[:, None], (128, 128), mode="bilinear")[:, 0]
    expected /= expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    heat = grad_cam(model, images, classes)
    assert expected.amax() == 1
    torch.testing.assert_close(heat, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stage"), [(16, "layer1"), (32, "layer2"), (64, "layer3"), (128, "layer4"), (224, "layer4")]
)
def test_grad_cam_looks_where_there_is_still_a_map(size, stage):
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=5).eval()
    sides = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(
            lambda m, i, output, name=name: sides.update({name: output.shape[-1]})
        )
    heat = grad_cam(model, torch.randn(1, 3, size, size), torch.tensor([1]))
    assert heat.shape == (1, size, size) and 0 <= heat.min() and heat.max() <= 1
    assert max((name for name in sides if sides[name] >= 4), default="layer1") == stage
    assert not any(parameter.grad is not None for parameter in model.parameters())

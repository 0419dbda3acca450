"""What one imports in a notebook: README's lines, photo by photo what evaluate.py says, and what is said where something is missing."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_runs import make_new_and_evaluated
from helpers import ROOT, script_environment
from PIL import Image

import common
from common import Report, load_model, predict
from common.analysis.metrics import softmax
from common.analysis.predictions import Predictions
from common.base.errors import UserError
from common.data.batches import resized
from common.data.load import load_dataset
from common.model.load import load_model as load_weights
from common.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_networks) -> Path:
    """A folder with `runs`, of which `RUN` was evaluated and `new` was not, and twenty of its test images as `photos`."""
    folder = tmp_path_factory.mktemp("notebook")
    make_new_and_evaluated(folder / "runs", "RUN")
    (folder / "photos").mkdir()
    for index, image in enumerate(resized(load_dataset("digits", None, "test", 24).images[:20], 24)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "photos" / f"{index:02}.png")
    return folder


def photos(place: Path) -> list[Path]:
    return sorted((place / "photos").iterdir())


def test_each_photo_gets_evaluate_s_class_and_its_calibrated_confidence(place):
    folder = RunFolder(place / "runs" / "RUN")
    report, logits = Report.load(folder.path), Predictions.load(folder.evaluated().predictions).logits[:20]
    model = load_model("RUN", place / "runs")
    assert model.classes == report.classes and model.metadata.image_size == 24
    assert model.temperature == report.calibration.temperature and not model.why
    answers = predict(model, photos(place), batch_size=8)
    assert [answer.photo for answer in answers] == photos(place)
    assert [answer.name for answer in answers] == [report.classes[label] for label in logits.argmax(axis=1)]
    expected = softmax(logits / report.calibration.temperature).max(axis=1)
    np.testing.assert_allclose([answer.confidence for answer in answers], expected, atol=1e-4)
    assert predict(model, []) == []


def test_a_run_that_was_not_evaluated_predicts_without_a_temperature_and_says_why(place):
    model = load_model(place / "runs" / "new", place / "runs")
    assert model.temperature is None and "there is no evaluation of " in model.why
    assert "; run python evaluate.py --checkpoint new" in model.why
    assert predict(model, map(str, photos(place)[:1]))[0].name in model.classes


def test_a_temperature_of_other_weights_or_of_mirrored_images_is_not_taken(place, tmp_path):
    folder = RunFolder(place / "runs" / "RUN")
    file, before = folder.evaluated().report, folder.evaluated().report.read_bytes()
    report = Report.load(file)
    for odd, why in (
        (replace(report, checkpoint=replace(report.checkpoint, sha256="0")), "other weights"),
        (replace(report, tta="flip"), "--tta flip"),
    ):
        odd.save(file)
        try:
            model = load_model("RUN", place / "runs")
            assert model.temperature is None and why in model.why
        finally:
            file.write_bytes(before)


def test_what_is_not_there_is_named_in_a_line(place):
    with pytest.raises(UserError, match="load_model: nothing is no file, and no run"):
        load_model("nothing", place / "runs")
    with pytest.raises(UserError, match=r"Report.load: nothing is no run in .*RUN"):
        Report.load("nothing", place / "runs")
    with pytest.raises(UserError, match=r"report.json can't be read as JSON"):
        Report.load("new", place / "runs")
    (place / "text.jpg").write_text("no photo")
    with pytest.raises(UserError, match="text.jpg is not an image"):
        predict(load_model("RUN", place / "runs"), [*photos(place), place / "text.jpg"])


def test_a_report_is_found_by_run_folder_and_file(place):
    folder = RunFolder(place / "runs" / "RUN")
    by_file = Report.load(folder.evaluated().report)
    assert Report.load("RUN", place / "runs") == Report.load(str(folder.path)) == by_file


def test_importing_common_brings_no_torch_and_names_what_it_has():
    program = (
        "import common, sys; assert 'torch' not in sys.modules; assert hasattr(common, 'load_model'); common.nothing"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip().endswith("module 'common' has no attribute 'nothing'")
    assert set(common.__all__) == {"load_model", "predict", "Report"}


def test_the_lines_of_the_readme_run_as_they_stand(place):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## In Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2 and all(len(block.splitlines()) <= 5 for block in blocks)
    for name in ("photo.jpg", "other.jpg"):
        if not (place / name).exists():
            Image.open(photos(place)[0]).save(place / name)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=place,
        env=script_environment(place),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = Report.load("RUN", place / "runs")
    assert str(report.metrics["test/accuracy"]) in done.stdout and "photo.jpg" in done.stdout


def test_the_network_is_the_one_that_evaluate_runs(place):
    mine = load_model("RUN", place / "runs", device="cpu").loaded
    theirs = load_weights("RUN", str(place / "runs"), torch.device("cpu"))
    assert (mine.sha256, mine.path, mine.metadata) == (theirs.sha256, theirs.path, theirs.metadata)

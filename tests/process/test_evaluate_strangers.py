"""evaluate.py and visualize.py on weights and run folders of a stranger: only their own files are written, and only in the run's folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_runs import make_run
from matplotlib.figure import Figure
from PIL import Image

import evaluate
import visualize
from common.analysis import figures
from common.base import drawing
from common.base.errors import UserError
from common.config import EvaluateConfig, VisualizeConfig
from common.model.weights import load_weights, save_weights
from common.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(autouse=True)
def no_figures_and_no_wandb(monkeypatch):
    monkeypatch.setattr(figures, "of_report", lambda *_: {})
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_networks) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("trained"), "run")


@pytest.fixture
def run(tmp_path, trained) -> RunFolder:
    """A run of its own, for a test to tamper with."""
    shutil.copytree(trained.path, tmp_path / "runs" / "run")
    return RunFolder(tmp_path / "runs" / "run")


@pytest.fixture
def victim(tmp_path) -> Path:
    """Somebody's pictures, where an evaluation would write and delete."""
    for place in ("victim", "victim/evaluation", "victim/visualization", "victim/wandb"):
        (tmp_path / place).mkdir()
        for name in ("confusion.png", "holiday.png", "thumbnails.jpg", "errors.png", "report.json"):
            (tmp_path / place / name).write_bytes(b"somebody's")
    return tmp_path / "victim"


def contents(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def tell(path: Path, run: RunFolder, **changes: object) -> Path:
    """The run's weights with another header; `...`: without that field."""
    state, header = load_weights(run.best)
    save_weights(path, state, {key: value for key, value in {**header, **changes}.items() if value is not ...})
    return path


def both(checkpoint: object, runs_dir: Path) -> list[str]:
    """What the two scripts refuse it with."""
    said = []
    for script, config in ((evaluate, EvaluateConfig), (visualize, VisualizeConfig)):
        try:
            script.main(config(checkpoint=str(checkpoint), runs_dir=str(runs_dir)))
        except UserError as refused:
            said.append(str(refused))
    return said


@pytest.mark.parametrize("run_id", ["../victim", "{victim}", "..", "sweeps", "", "run/../../victim", "link"])
def test_no_run_id_in_a_header_leads_out_of_runs_dir(run, victim, tmp_path, run_id):
    (run.path.parent / "link").symlink_to(victim)
    weights = tell(tmp_path / "strange.safetensors", run, run_id=run_id.format(victim=victim))
    before = contents(tmp_path)
    assert len([line for line in both(weights, run.path.parent) if "strange.safetensors" in line]) == 2
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in ("model", "classes", "dataset", "image_size", "run_id")),
        *(
            {name: 10**400}
            for name in (
                "model",
                "classes",
                "dataset",
                "data_dir",
                "image_size",
                "seed",
                "validation_fraction",
                "project",
                "epoch",
            )
        ),
        *({"image_size": size} for size in (-1, 0, 10**9, 24.5, "24", None, True)),
        *(
            {"classes": classes}
            for classes in ([], [1, 2], "0123456789", {"0": 1}, [["0"]] * 10, ["\x1b[2J"] * 10, ["0"] * 11)
        ),
        {"model": "vgg16"},
        {"model": "\x1b]0;title\a"},
        {"validation_fraction": 2},
        {"dataset": "cifar100", "data_dir": "{victim}"},
        {"dataset": "cifar100", "data_dir": "~nobody-of-that-name/data"},
        {"dataset": "folder"},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_a_header_that_no_run_wrote_is_refused_in_a_line_and_nothing_is_written(run, victim, tmp_path, changes):
    changes = {k: v.format(victim=victim) if isinstance(v, str) else v for k, v in changes.items()}
    weights = tell(tmp_path / "strange.safetensors", run, **changes)
    before = contents(tmp_path)
    assert len(both(weights, run.path.parent)) == 2
    assert contents(tmp_path) == before and not (victim / "cifar-100-python").exists()


@pytest.mark.parametrize("place", ["evaluation", "visualization", "wandb"])
def test_no_link_in_a_run_folder_leads_results_out_of_it(run, victim, place):
    (run.path / place).symlink_to(victim / place)
    before = contents(victim)
    assert any(f"{place} is a link that leads out of" in line for line in both("run", run.path.parent))
    assert contents(victim) == before


def test_an_artifact_s_record_names_no_weights_elsewhere(run, victim):
    (victim / "checkpoints").mkdir()
    tell(victim / "checkpoints" / "best.safetensors", run)
    files = ["../../victim/checkpoints/best.safetensors"]
    entry = {
        "name": "net",
        "type": "model",
        "aliases": ["best"],
        "digest": "d",
        "files": files,
        "time": 1.0,
        "run_id": "run",
    }
    run.tracking.write_text(json.dumps({"artifacts": [entry]}))
    before = contents(victim)
    assert len([line for line in both("net:best", run.path.parent) if "net:best" in line]) == 2
    assert contents(victim) == before


def test_only_what_an_evaluation_makes_is_replaced(run):
    for name in ("holiday.png", "scan.jpg", "confusion.png", "thumbnails.jpg"):
        run.evaluation.mkdir(exist_ok=True)
        (run.evaluation / name).write_bytes(b"earlier")
    run.visualization.mkdir()
    for name in ("random-2024.png", "random-1st.png", "random-03.png"):
        Image.new("RGB", (2, 2)).save(run.visualization / name)
    drawing.save(Figure(), run.visualization / "random-02.png")
    assert both("run", run.path.parent) == []
    assert (run.evaluation / "holiday.png").read_bytes() == (run.evaluation / "scan.jpg").read_bytes() == b"earlier"
    assert not (run.evaluation / "confusion.png").exists()
    assert {path.name for path in run.visualization.glob("random-*")} == {
        "random-2024.png",
        "random-1st.png",
        "random-03.png",
    }


@pytest.mark.parametrize("validation", [[0, 10**6], [3, 3], [-1], [2**62]])
def test_validation_images_that_are_none_are_refused_in_a_line(run, validation):
    split = json.loads(run.split.read_text())
    run.split.write_text(json.dumps({**split, "validation": validation}))
    with pytest.raises(UserError, match="split.json"):
        evaluate.main(EvaluateConfig(checkpoint="run", split="validation", runs_dir=str(run.path.parent)))


def test_predictions_of_other_images_are_not_shown(run):
    """A stranger's evaluation may say that it is of these images, and name others."""
    assert both("run", run.path.parent) == []
    place = run.evaluated()
    with np.load(place.predictions) as saved:
        arrays = dict(saved)
    np.savez(place.predictions, **{**arrays, "indices": arrays["indices"] + 10**6})
    visualize.main(VisualizeConfig(checkpoint="run", which="errors", count=4, runs_dir=str(run.path.parent)))
    shown = json.loads(run.shown.read_text())["predictions"]
    assert shown and all(row["index"] < len(arrays["indices"]) for row in shown)


def test_weights_too_large_for_their_header_are_refused(run, tmp_path):
    state, header = load_weights(run.best)
    save_weights(tmp_path / "strange.safetensors", {**state, "extra": torch.zeros(1)}, header)
    assert all("unknown extra" in line for line in both(tmp_path / "strange.safetensors", run.path.parent))

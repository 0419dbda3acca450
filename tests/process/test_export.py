"""export.py: what it writes is the run, for programs that know nothing of this project; or nothing is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from digit_runs import make_new_and_evaluated
from helpers import ROOT
from PIL import Image

import evaluate
import export
import train
from common import Report
from common.analysis import figures
from common.analysis.predictions import Predictions
from common.base.errors import RunError, UserError
from common.config import EvaluateConfig, TrainConfig
from common.data.batches import normalize, resized
from common.data.load import load_dataset
from common.export import check
from common.export.onnx_file import open_onnx, read_onnx
from common.model.build import ARCHITECTURES
from common.runs.folder import RunFolder
from export import ExportConfig

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_networks) -> Path:
    """`run` was evaluated; `new` was not."""
    runs_dir = tmp_path_factory.mktemp("runs")
    make_new_and_evaluated(runs_dir, "run")
    return runs_dir


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> Path:
    """`logits.onnx`, `pixels.onnx` and the folder `hub`."""
    place = tmp_path_factory.mktemp("exports")
    for output, settings in {
        "logits.onnx": {},
        "pixels.onnx": {"preprocessing": True},
        "hub": {"format": "hub"},
    }.items():
        export.main(ExportConfig("run", output=str(place / output), runs_dir=str(runs), **settings))
    return place


@pytest.fixture(scope="module")
def report(runs) -> Report:
    return Report.load("run", runs)


@pytest.fixture(scope="module")
def evaluated(runs) -> Predictions:
    return Predictions.load(RunFolder(runs / "run").evaluated().predictions)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """uint8: the test images as the network sees them."""
    return resized(load_dataset("digits", None, "test", 24).images, 24)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# --- onnx -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 359])
def test_the_onnx_file_gives_evaluate_s_logits_for_any_number_of_images(exported, evaluated, pixels, count):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "logits.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": normalize(pixels[:count]).contiguous().numpy()})
    np.testing.assert_allclose(logits, evaluated.logits[:count], rtol=1e-3, atol=1e-4)


def test_with_preprocessing_pixels_go_in_and_calibrated_probabilities_come_out(exported, evaluated, report, pixels):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "pixels.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": pixels.contiguous().numpy()})
    np.testing.assert_allclose(found, softmax(evaluated.logits / report.calibration.temperature), atol=1e-4)


def test_the_onnx_file_is_sound_self_contained_and_says_what_goes_in_and_what_comes_out(exported, report):
    for name, preprocessing in (("logits.onnx", False), ("pixels.onnx", True)):
        model = onnx.load(exported / name)
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
        (images,) = model.graph.input
        assert [entry.dim_param or entry.dim_value for entry in images.type.tensor_type.shape.dim] == ["n", 3, 24, 24]
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert said.pop("format") == "resnext-finetuning export 1" and len(said.pop("sha256")) == 64
        values = {key: json.loads(value) for key, value in said.items()}
        assert len(values.pop("version")) > 3
        assert values == {
            "classes": [str(digit) for digit in range(10)],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "image_size": 24,
            "decode_size": 24,
            "fit": "crop",
            "temperature": report.calibration.temperature,
            "preprocessing": preprocessing,
            "model": "resnext50_32x4d",
            "dataset": "digits",
            "run_id": "run",
        }
        assert str(ROOT).encode() not in (exported / name).read_bytes()
    assert sorted(path.name for path in exported.iterdir()) == ["hub", "logits.onnx", "pixels.onnx"]


def changed(file: Path, how) -> bytes:
    model = onnx.load(file)
    how(model)
    return model.SerializeToString()


def test_an_onnx_file_that_another_program_has_changed_is_refused_by_name(exported, tmp_path):
    file = exported / "logits.onnx"

    def without_metadata(model):
        del model.metadata_props[:]

    def other_value(key, value):
        def change(model):
            next(entry for entry in model.metadata_props if entry.key == key).value = value

        return change

    def other_weight(model):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.raw_data)
        tensor.raw_data = bytes(len(tensor.raw_data))

    def other_step(model):
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"

    cases = {
        "no metadata": changed(file, without_metadata),
        "not ours": changed(file, other_value("format", "somebody's")),
        "no JSON": changed(file, other_value("classes", "[")),
        "no classes": changed(file, other_value("classes", "[]")),
        "no side": changed(file, other_value("image_size", '"24"')),
        "weights": changed(file, other_weight),
        "a step": changed(file, other_step),
        "no ONNX": b"ONNX",
        "cut short": file.read_bytes()[:-1000],
        "empty": b"",
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{re.escape(str(path))}.*(changed|can't be read|not written by)"):
            open_onnx(path)
    with pytest.raises(UserError, match="missing.onnx can't be read as ONNX: No such file"):
        read_onnx(tmp_path / "missing.onnx")


# --- hub --------------------------------------------------------------------------------------------------------------


def test_the_hub_s_folder_has_torchvision_s_tensors_and_what_timm_and_transformers_read(exported, evaluated, pixels):
    folder = exported / "hub"
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    classes = [str(digit) for digit in range(10)]
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("resnext50_32x4d", 10, classes)
    assert config["id2label"] == {str(label): name for label, name in enumerate(classes)}
    assert config["label2id"] == {name: label for label, name in enumerate(classes)}
    assert {key: config["pretrained_cfg"][key] for key in ("input_size", "mean", "std", "crop_pct", "classifier")} == {
        "input_size": [3, 24, 24],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 1.0,
        "classifier": "fc",
    }
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=10)
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    with torch.no_grad():
        logits = model.eval()(normalize(pixels))
    np.testing.assert_allclose(logits, evaluated.logits, rtol=1e-3, atol=1e-4)


def test_the_lines_of_the_card_load_the_network_without_this_repository(exported, evaluated, report, tmp_path, pixels):
    text = (exported / "hub" / "README.md").read_text()
    (lines,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(lines.splitlines()) <= 10 and "common" not in lines
    (tmp_path / "model.safetensors").symlink_to(exported / "hub" / "model.safetensors")
    (tmp_path / "lines.py").write_text(f"import torchvision, tiny_models\n{TINY}\n{lines}")
    for index in (0, 100):
        Image.fromarray(pixels[index].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
        os.replace(tmp_path / "photo.png", tmp_path / "photo.jpg")  # Pillow looks at the content: no loss
        path = str(ROOT / "tests" / "fakes")
        done = subprocess.run(
            [sys.executable, "lines.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        expected = softmax(evaluated.logits[index : index + 1] / report.calibration.temperature)[0]
        confidence, name = done.stdout.strip("()\n").split(", ")
        assert int(name.strip("'")) == expected.argmax()
        assert float(confidence) == pytest.approx(expected.max(), abs=1e-3)


TINY = "torchvision.models.resnext50_32x4d = tiny_models.tiny_architectures()['resnext50_32x4d']"

# --- photos, by a script that has neither torch nor this project ------------------------------------------------------


def picture(rng: np.random.Generator, label: int) -> Image.Image:
    """A wide or tall picture of large coloured blocks, redder or bluer by its class."""
    height, width = rng.integers(30, 120, 2)
    blocks = rng.integers(0, 140, (5, 7, 3), dtype=np.uint8)
    blocks[..., 2 * label] += np.uint8(90)
    return Image.fromarray(blocks).resize((int(width), int(height)))


@pytest.fixture
def photos(tmp_path) -> Path:
    """JPEG, PNG, transparent, grey, palette, turned by EXIF, and large enough to be decoded at a half."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label, name in enumerate(("red", "blue")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                photo = picture(rng, label)
                exif = Image.Exif()
                exif[274] = int(rng.integers(1, 9))
                if i % 4 == 0:
                    photo.resize((400, 300)).save(folder / f"{i}.jpg", exif=exif)
                elif i % 4 == 1:
                    photo.putalpha(photo.convert("L"))
                    photo.save(folder / f"{i}.png")
                elif i % 4 == 2:
                    photo.convert("P").save(folder / f"{i}.gif")
                else:
                    photo.convert("L" if i == 3 else "RGB").save(folder / f"{i}.webp", lossless=True, exif=exif)
    return tmp_path / "photos"


@pytest.mark.parametrize("settings", [{}, {"fit": "pad", "decode_size": 24}], ids=["crop", "pad"])
def test_the_example_without_torch_gives_evaluate_s_classes_photo_by_photo(photos, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "of_report", lambda *_: {})
    flags = {"dataset": "folder", "data_dir": str(photos), "weights": "none", "image_size": 16, "epochs": 3, "lr": 0.2}
    assert train.start(TrainConfig.of(**flags, batch_size=4, run_id="run", amp="none", **settings)) == 0
    evaluate.main(EvaluateConfig("run"))
    preprocessing = bool(settings)
    export.main(ExportConfig("run", output="a.onnx", preprocessing=preprocessing, temperature=1.5))
    predictions = Predictions.load(RunFolder(tmp_path / "runs" / "run").evaluated().predictions)
    data = load_dataset("folder", str(photos), "test", 16)
    files = [str(photos / name) for name in data.names]
    assert len(files) == 16 and all(Path(file).is_file() for file in files)

    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'common', 'onnx']))\n"
    script = blocked + (ROOT / "docs" / "onnx_example.py").read_text(encoding="utf-8")
    assert len(script.splitlines()) <= 41
    done = subprocess.run(
        [sys.executable, "-c", script, "a.onnx", *files], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == files
    assert [row[1] for row in rows] == [data.classes[label] for label in predictions.predicted]
    assert len({row[1] for row in rows}) == 2, "both classes are named, or nothing was shown"
    expected = softmax(predictions.logits / 1.5).max(axis=1)
    np.testing.assert_allclose([float(row[2]) for row in rows], expected, atol=2e-3 if not settings else 2e-2)


def test_the_example_refuses_a_file_that_another_program_has_changed(exported, tmp_path):
    model = onnx.load(exported / "logits.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    words = [sys.executable, ROOT / "docs" / "onnx_example.py", tmp_path / "other.onnx", "photo.jpg"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "another program has changed it" in done.stderr
    )


# --- compared, or not written -----------------------------------------------------------------------------------------


def test_what_was_compared_and_what_comes_next_is_said(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export.main(ExportConfig("run", format="hub", runs_dir=str(runs)))
    printed = capsys.readouterr().out
    assert "compared on 359 test images of digits" in printed and "temperature" in printed
    assert re.search(
        r"largest difference of logits: \S+, of logits up to \S+ \(allowed: .*; 0 of 359 classes differ", printed
    )
    assert "written: run-hub" in printed and "hf upload YOU/NAME run-hub" in printed


@pytest.mark.parametrize("kind", ["hub", "onnx"])
def test_an_export_that_differs_leaves_nothing_behind_and_the_earlier_one_in_place(
    runs, exported, tmp_path, monkeypatch, kind
):
    name = {"hub": "hub", "onnx": "logits.onnx"}[kind]
    output = tmp_path / name
    subprocess.run(["cp", "-r", exported / name, output], check=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("common.export.write.answers_of", lambda *_: lambda images: torch.zeros(len(images), 10))
    with pytest.raises(RunError, match="was not written: .* --tolerance"):
        export.main(ExportConfig("run", format=kind, output=str(output), overwrite=True, runs_dir=str(runs)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(RunError):
        export.main(ExportConfig("run", format=kind, output=str(tmp_path / f"new-{name}"), runs_dir=str(runs)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_tolerance_that_nothing_meets_and_numbers_that_are_none_are_refused():
    assert not check.Compared(1, float("nan"), 1.0, 0, "logits").within(1.0)
    assert check.Compared(1, 2e-4, 10.0, 0, "logits").within(1e-4)
    assert not check.Compared(1, 2e-4, 1.0, 0, "probabilities").within(1e-4)


def test_without_test_images_validation_images_are_compared_and_without_any_noise_is(
    runs, tmp_path, monkeypatch, capsys
):
    def missing(*parts):
        def load_part(loaded, split, *rest):
            if split in parts:
                raise UserError(f"there is no {split}")
            return real(loaded, split, *rest)

        return load_part

    real = check.load_part
    for parts, said in ((["test"], r"\d+ validation images of digits"), (["test", "validation"], "64 images of noise")):
        monkeypatch.setattr(check, "load_part", missing(*parts))
        output = tmp_path / "-".join(parts)
        export.main(ExportConfig("run", format="hub", output=str(output), runs_dir=str(runs)))
        assert re.search(said, capsys.readouterr().out) and output.is_dir()


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(match: str, runs: Path, **settings) -> None:
    with pytest.raises(UserError, match=match):
        export.main(ExportConfig(**{"run": "run", "runs_dir": str(runs), "format": "hub", **settings}))


def test_what_exists_is_replaced_only_on_request_and_only_if_it_is_an_export(runs, exported, tmp_path):
    for kind, name in (("hub", "hub"), ("onnx", "logits.onnx")):
        refused("exists; give another, or --overwrite True", runs, format=kind, output=str(exported / name))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "only.jpg").write_bytes(b"mine")
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(exported / "hub")
    subprocess.run(["cp", "-r", exported / "hub", tmp_path / "with-more"], check=True)
    (tmp_path / "with-more" / "notes.txt").write_text("mine")
    for kind, name in (
        ("hub", "photos"),
        ("hub", "link"),
        ("hub", "with-more"),
        ("hub", "mine.onnx"),
        ("onnx", "mine.onnx"),
    ):
        refused("so it is not replaced", runs, format=kind, output=str(tmp_path / name), overwrite=True)
    refused("there is no folder", runs, output=str(tmp_path / "no" / "where"))
    assert (tmp_path / "photos" / "only.jpg").read_bytes() == (tmp_path / "mine.onnx").read_bytes() == b"mine"

    export.main(ExportConfig("new", format="hub", output=str(tmp_path / "new"), runs_dir=str(runs)))
    again = {"format": "hub", "output": str(tmp_path / "new"), "runs_dir": str(runs), "overwrite": True}
    export.main(ExportConfig("run", **again))
    assert json.loads((tmp_path / "new" / "config.json").read_text())["resnext_finetuning"]["run_id"] == "run"


def test_probabilities_without_a_temperature_are_refused_unless_one_is_given(runs, tmp_path):
    pixels = {"run": "new", "format": "onnx", "preprocessing": True, "output": str(tmp_path / "a.onnx")}
    refused("no temperature to calibrate by .*evaluate.py --checkpoint new.*--temperature", runs, **pixels)
    refused("--preprocessing is True, but must be False with format hub", runs, preprocessing=True)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_and_an_unknown_model_are_each_a_line(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(
        r"needs onnxscript, which isn't installed: pip install -r requirements-export.txt",
        runs,
        format="onnx",
        output=str(tmp_path / "a.onnx"),
    )
    monkeypatch.delitem(ARCHITECTURES, "resnext50_32x4d")
    refused("of the unknown model 'resnext50_32x4d'", runs, output=str(tmp_path / "hub"))
    refused("^RUN nothing is no file, and no run", runs, run="nothing", output=str(tmp_path / "hub"))
    assert not list(tmp_path.iterdir())

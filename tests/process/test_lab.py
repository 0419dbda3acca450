"""The lab as a student runs it: train, evaluate, visualize, on CIFAR-100 from ImageNet weights, both downloaded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from archives import environment, make_cifar100, make_weights, serve
from helpers import run_script, script_environment
from PIL import Image
from sklearn import metrics as sk

# The lab as it stands, made small: every value that is not given is the lab's own.
SMALL = (
    "--image_size",
    32,
    "--epochs",
    2,
    "--batch_size",
    50,
    "--log_every",
    2,
    "--lr",
    0.01,
    "--validation_fraction",
    0.25,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder in which the three scripts ran, and what each printed. W&B is offline."""
    folder, source = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("served")
    make_cifar100(source, train=4, test=2)
    make_weights(source, "resnext50_32x4d")
    with serve(source) as served:
        env = {**script_environment(folder, WANDB_MODE="offline", TINY_FIGURES=None), **environment(served)}
        train = run_script("train.py", *SMALL, "--run_id", "lab", cwd=folder, env=env)
        evaluate = run_script("evaluate.py", cwd=folder, env=env)
        visualize = run_script(
            "visualize.py", "--which", "errors", "--count", 6, "--explain", "True", cwd=folder, env=env
        )
    return folder, served, {"train": train, "evaluate": evaluate, "visualize": visualize}


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_data_and_weights_are_downloaded_once_with_progress_bars(lab):
    _, served, printed = lab
    asked = [Path(path).name for path in served.requests]
    # torchvision asks for where an address leads before it downloads; torch.hub does not.
    assert asked.count("cifar-100-python.tar.gz") <= 2
    assert sum(name.startswith("resnext50_32x4d") for name in asked) == 1
    bars = printed["train"].stderr
    assert bars.count("100%") >= 2  # archive, weights


def test_every_epoch_is_told_in_a_line(lab):
    folder, _, printed = lab
    lines = [line for line in printed["train"].stdout.splitlines() if line.startswith("epoch")]
    rows = [row for row in rows_of(folder / "runs" / "lab") if "train/loss" in row]
    best = max(rows, key=lambda row: row["validation/accuracy"])
    for line, row in zip(lines, rows, strict=True):
        number = int(row["epoch"])
        assert line.startswith(
            f"epoch {number}/2  train loss {row['train/loss']:.3f} accuracy {row['train/accuracy']:.3f}  "
            f"validation loss {row['validation/loss']:.3f} accuracy {row['validation/accuracy']:.3f}  lr {row['lr']:.2g}  "
        )
        assert (" left" in line) == (number == 1) and (row is best) <= line.endswith("  best")


def test_what_the_console_said_is_kept_without_bars(lab):
    kept = (lab[0] / "runs" / "lab" / "console.log").read_text().splitlines()
    printed = [line for line in lab[2]["train"].stdout.splitlines() if line]
    assert kept[0].startswith("--- 20") and [line for line in kept[1:] if line in printed] == printed
    assert not [line for line in kept if "images/s]" in line or "100%" in line]


def test_how_busy_the_machine_was_is_kept(lab):
    rows = [json.loads(line) for line in (lab[0] / "runs" / "lab" / "system.jsonl").read_text().splitlines()]
    assert rows and all(0 < row["seconds"] <= 11 and 0 < row["process_memory"] for row in rows)
    assert any(0 < row["process_cores"] <= 1.1 * row["cores"] for row in rows)
    assert sorted(row["time"] for row in rows) == [row["time"] for row in rows]


def test_the_start_says_what_is_trained_on_what(lab):
    text = lab[2]["train"].stdout
    for word in (
        "device   cpu",
        "cardinality 4",
        "width",
        "GFLOPs",
        "parameters",
        "300 training and 100 validation images",
        "100 classes",
    ):
        assert word in text, text


def test_a_run_leaves_exactly_these_files(lab):
    run = lab[0] / "runs" / "lab"
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and "wandb" not in p.relative_to(run).parts}
    trained = {"config.yaml", "metrics.jsonl", "summary.json", "split.json", "tracking.json", "loss.png", ".lock"}
    trained |= {"checkpoints/last.pt", "checkpoints/best.safetensors", "console.log", "system.jsonl"}
    assert trained <= files
    evaluated = {
        "evaluation/report.json",
        "evaluation/report.txt",
        "evaluation/predictions.npz",
        "evaluation/confusion.png",
    }
    assert evaluated <= files
    assert {"visualization/errors-explained.png", "visualization/predictions.json"} <= files
    assert not [name for name in files if ".tmp" in name]
    assert not [p for p in (lab[0] / "runs").iterdir() if p.name != "lab"]


def test_rows_have_the_documented_keys_and_one_row_a_step(lab):
    rows = rows_of(lab[0] / "runs" / "lab")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    batch = {"step", "time", "epoch", "lr", "train/batch_loss", "throughput/images_per_second"}
    epoch = {"train/loss", "train/accuracy", "validation/loss", "validation/accuracy", "validation/top5_accuracy"}
    epoch |= {"validation/macro_f1", "validation/balanced_accuracy"}
    assert set(rows[0]) == batch
    assert set(rows[2]) == set(rows[5]) == batch | epoch
    assert [rows[2]["epoch"], rows[5]["epoch"]] == [1, 2]


def test_the_config_on_disk_repeats_the_run_as_flags(lab):
    from common.cli import parse_train
    from common.config import as_dict

    config = yaml.safe_load((lab[0] / "runs" / "lab" / "config.yaml").read_text())
    flags = [f"--{key}={value}" for key, value in config.items() if key not in ("tags", "run_id")]
    repeated = as_dict(parse_train(flags))
    expected = {"image_size": 32, "dataset": "cifar100", "weights": "IMAGENET1K_V2"}
    assert {key: repeated[key] for key in expected} == expected


def test_the_evaluation_equals_scikit_learns_numbers(lab):
    folder = lab[0] / "runs" / "lab" / "evaluation"
    report = json.loads((folder / "report.json").read_text())
    saved = np.load(folder / "predictions.npz")
    logits, labels = saved["logits"], saved["labels"]
    answers = logits.argmax(axis=1)
    assert len(labels) == 200 and logits.shape == (200, 100)
    assert report["metrics"]["test/accuracy"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert report["metrics"]["test/macro_f1"] == pytest.approx(
        sk.f1_score(labels, answers, average="macro", zero_division=0)
    )
    top5 = sk.top_k_accuracy_score(labels, logits, k=5, labels=range(100))
    assert report["metrics"]["test/top5_accuracy"] == pytest.approx(top5)
    groups = np.array(report["superclass_of"])
    assert report["metrics"]["test/superclass_accuracy"] == pytest.approx((groups[labels] == groups[answers]).mean())
    assert np.array_equal(report["confusion"], sk.confusion_matrix(labels, answers, labels=range(100)))
    text = lab[2]["evaluate"].stdout
    assert (
        sk.classification_report(
            labels, answers, labels=range(100), target_names=report["classes"], zero_division=0
        ).split()[8]
        in text
    )
    assert "macro avg" in text and "runs/lab/evaluation" in text


def test_pictures_are_whole_images(lab):
    run = lab[0] / "runs" / "lab"
    pictures = [*run.glob("*.png"), *run.glob("evaluation/*.png"), *run.glob("visualization/*.png")]
    assert len(pictures) >= 5
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors(256) or range(257)) > 10, f"{path} is empty"


def test_every_script_leaves_an_offline_run_that_wandb_reads(lab):
    run = lab[0] / "runs" / "lab"
    jobs = {job["job_type"]: job for job in json.loads((run / "tracking.json").read_text())["runs"]}
    assert set(jobs) == {"train", "evaluate", "visualize"}
    summaries = {}
    for name, job in jobs.items():
        (directory,) = job["dirs"]
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(run / directory)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        summaries[name] = json.loads(shown.stdout)
    assert {summary["state"] for summary in summaries.values()} == {"finished"}
    last = rows_of(run)[-1]
    train = summaries["train"]["summary"]
    assert train["validation/accuracy"] == last["validation/accuracy"] and train["_step"] == last["step"]
    assert train["best/validation_accuracy"] == max(row.get("validation/accuracy", 0) for row in rows_of(run))
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert summaries["evaluate"]["summary"]["test/accuracy"] == report["metrics"]["test/accuracy"]
    for name in ("train", "evaluate", "visualize"):
        assert "wandb leet" in lab[2][name].stdout and "wandb sync" in lab[2][name].stdout


def test_one_s_own_photos_are_predicted(lab):
    folder = lab[0]
    Image.effect_noise((90, 60), 80).convert("RGB").save(folder / "a photo.jpg")
    done = run_script("visualize.py", "--images", "a photo.jpg", cwd=folder)
    assert "a photo.jpg: " in done.stdout and done.stdout.count("%") >= 5
    assert (folder / "runs" / "lab" / "visualization" / "photos.png").exists()

"""The table of the peers, and the images that they are handed. Their scripts need other environments and are not run here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers.__main__ import alike, done, main, summary_table
from benchmarks.peers.runs import PeersConfig, Run, check, split_folder, version
from common.base.errors import UserError
from common.data.load import load_dataset
from common.data.split import split_indices


@pytest.fixture
def config(tmp_path) -> PeersConfig:
    for split, count in {"train": 5, "test": 2}.items():
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):  # each of another colour
                color = (40 * i, 200 * label, 100 * (split == "test"))
                Image.new("RGB", (16, 16), color).save(tmp_path / "photos" / split / name / f"{i}.png")
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    return PeersConfig(
        data_dir=str(tmp_path / "photos"),
        weights=str(weights),
        validation_fraction=0.4,
        runs_dir=str(tmp_path / "runs"),
        seeds=2,
        peers=("ours", "fastai"),
    )


def row(run: Run, **values: object) -> dict[str, object]:
    return {**run.key, "validation": 0.5, "test": 0.5, "seconds": 60.0, "steps": 8, "version": "1.0", **values}


def test_a_row_has_mean_and_deviation_over_the_seeds_of_the_same_peer_and_flags(config):
    runs = [Run(config, peer, seed) for seed in (0, 1) for peer in ("ours", "fastai")]
    rows = [row(run, test=0.5 + 0.1 * run.seed, validation=0.7, seconds=60 * (1 + run.seed)) for run in runs]
    other = Run(PeersConfig(**{**vars(config), "ours": "--preset lab"}), "ours", 0)
    lines = summary_table([*rows, row(other)]).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    deviation = f"{100 * np.std([0.5, 0.6], ddof=1):.1f}"
    assert cells == [
        ["ours 1.0", "`--preset best`", "70.0 ± 0.0", f"55.0 ± {deviation}", "2", "1.5", "8"],
        ["fastai 1.0", "`fine_tune's defaults`", "70.0 ± 0.0", f"55.0 ± {deviation}", "2", "1.5", "8"],
        ["ours 1.0", "`--preset lab`", "50.0", "50.0", "1", "1.0", "8"],
    ]


def test_a_commit_between_two_seeds_begins_no_new_row(config):
    rows = [row(Run(config, "ours", seed), version=commit) for seed, commit in enumerate(("a1", "b2"))]
    (line,) = summary_table(rows).splitlines()[2:]
    assert line.startswith("| ours a1, b2 |") and "| 2 |" in line


def test_runs_at_another_size_or_on_other_data_are_not_compared(config):
    larger = PeersConfig(**{**vars(config), "image_size": 128})
    rows = [row(Run(config, "ours", 0)), row(Run(larger, "ours", 0))]
    assert alike(rows, Run(config, "fastai", 1).key) == rows[:1]
    assert done(rows, Run(config, "ours", 0).key) and not done(rows, Run(config, "ours", 1).key)


def test_the_command_goes_on_where_it_stopped(config, monkeypatch, capsys):
    measured: list[tuple[str, int]] = []

    def measure(run: Run) -> dict[str, object]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((run.peer, run.seed))
        return {"validation": 0.5, "test": 0.5, "seconds": 1.0, "steps": 8, "version": "1.0"}

    monkeypatch.setattr(Run, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    results = Path(config.runs_dir) / "results.jsonl"
    assert [json.loads(line)["seed"] for line in results.read_text().splitlines()] == [0, 0, 1]
    measured.clear()
    main(config)
    assert measured == [("fastai", 1)]
    assert capsys.readouterr().out.count("| 2 |") == 2


def test_the_peers_train_and_validate_on_the_images_that_ours_does(config):
    folder = split_folder(config, seed=1)
    data = load_dataset("folder", config.data_dir, "train", 16)
    for part, indices in zip(("train", "validation"), split_indices(data.labels, 0.4, seed=1), strict=True):
        for label, name in enumerate(data.classes):
            pixels = [np.asarray(Image.open(file)) for file in sorted((folder / part / name).iterdir())]
            own = [i for i in indices.tolist() if data.labels[i] == label]
            np.testing.assert_array_equal(np.stack(pixels), data.images[own].permute(0, 2, 3, 1).numpy())
    assert sum(1 for _ in (folder / "test").rglob("*.png")) == 4
    assert split_folder(config, seed=1) == folder, "made once"


def test_timm_without_its_script_is_refused_in_a_line(config, tmp_path):
    check(config)
    given = {**vars(config), "peers": ("timm",)}
    with pytest.raises(UserError, match=r"--peers timm needs --timm_train: train\.py in a checkout .* tag v"):
        check(PeersConfig(**given))
    (tmp_path / "train.py").touch()
    with pytest.raises(UserError, match=r"validate\.py is no file"):
        check(PeersConfig(**{**given, "timm_train": str(tmp_path / "train.py")}))
    with pytest.raises(UserError, match="--weights .* is no file"):
        shutil.move(config.weights, tmp_path / "gone")
        check(config)


def test_timms_script_is_of_the_version_that_is_installed():
    from benchmarks.peers.runs import TIMM_TAG

    assert f"v{version('timm')}" == TIMM_TAG

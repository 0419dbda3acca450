"""Pictures in a page of several runs: what stands under their images can be read."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import make_run
from PIL import Image
from sklearn.datasets import load_sample_images

from common.analysis import figures
from common.base import drawing
from common.dashboard import page, pictures

SMALLEST = 0.75  # of its size, at which a figure's 9 points are 10 pixels


def sheet(count: int, seed: int) -> figures.Figure:
    """Of crops of real photos."""
    photos, generator = load_sample_images().images, np.random.default_rng(seed)
    tiles = []
    for n in range(count):
        photo, (y, x) = photos[n % 2], generator.integers(0, 300, 2)
        tiles.append(
            figures.Tile(photo[y : y + 96, x : x + 96].transpose(2, 0, 1), "true: cat\npredicted: dog\n97 %", n % 3 > 0)
        )
    with drawing.own_style():
        return figures.grid(tiles, "Images", columns=8)


def sizes_in(run: dict) -> dict[str, tuple[int, int]]:
    decoded = {p["title"]: base64.b64decode(p["src"].partition(",")[2]) for p in run["pictures"]}
    return {title: Image.open(io.BytesIO(data)).size for title, data in decoded.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "runs", "run", tested=False)
    (folder / "visualization").mkdir()
    return folder


def test_captions_stay_legible_in_a_page_of_many_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PAGE_BYTES", 0)  # as of so many runs that each gets the least
    monkeypatch.setattr(
        pictures, "LEAST_RUN_BYTES", pictures.LEAST_RUN_BYTES // 2
    )  # the other half are confused images
    for n, count in enumerate((32, 48, 16, 32)):
        drawing.save(sheet(count, n), folder / "visualization" / f"grid{'abcd'[n]}.png")
    (run,) = page.collect(folder.parent)["runs"]
    shown = sizes_in(run)
    assert len(shown) >= 2 and len(shown) + int((run["pictures_note"] or "0").split()[0]) == 4
    for title, (width, _) in shown.items():
        assert width >= SMALLEST * Image.open(folder / title).width, title
    assert sum(len(p["src"]) for p in run["pictures"]) <= pictures.LEAST_RUN_BYTES


def test_a_grid_of_many_pages_leaves_room_for_the_others(folder: Path) -> None:
    for n, name in enumerate([*(f"class-{number:02d}" for number in range(1, 18)), "errors", "random"]):
        path = folder / "visualization" / f"{name}.png"
        Image.new("RGB", (40, 40), (n, n, n)).save(path)
        os.utime(path, (1_000 + n, 1_000 + n))
    (run,) = page.collect(folder.parent)["runs"]
    titles = [Path(picture["title"]).stem for picture in run["pictures"]]
    assert titles == ["random", "errors", "class-01", "class-02", "class-03", "class-04"]
    assert run["pictures_note"].startswith("13 more pictures lie in ")


def test_a_damaged_picture_takes_no_other_s_place(folder: Path) -> None:
    (folder / "visualization" / "a.png").write_bytes(b"\x89PNG" + bytes(5_000_000))
    drawing.save(sheet(16, 0), folder / "visualization" / "b.png")
    (run,) = page.collect(folder.parent)["runs"]
    assert list(sizes_in(run)) == ["visualization/b.png"]

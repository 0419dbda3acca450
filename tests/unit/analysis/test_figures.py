"""Pictures that can be read: nothing is cut off or drawn over, and nothing is told by colour alone."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from common.analysis import figures
from common.analysis.report import Bin, Calibration, ConfusedPair
from common.base import drawing
from common.data.cifar import CIFAR100_SUPERCLASSES
from common.training import curves

LONG = ["a class name that goes on and on, with spaces", "under_scored_" * 5, "g" * 70, "$x^2$ costs $", "Ünïcödé"]


def drawn(figure):
    """The figure's renderer, once it has drawn it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def extents(texts, renderer):
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


def overlapping(boxes) -> list:
    """Pairs of boxes that share more than a pixel."""
    found = []
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            if width > 1 and height > 1:
                found.append((a, b))
    return found


def epoch_rows(count: int, validation: bool = True) -> list[dict]:
    rows = [{"epoch": 0.5, "train/batch_loss": 3.0}]
    for epoch in range(1, count + 1):
        row = {"epoch": epoch, "train/loss": 2 / epoch, "train/accuracy": 1 - 1 / (epoch + 1)}
        rows.append(row | ({"validation/loss": 3 / epoch, "validation/accuracy": 0.5} if validation else {}))
    return rows


def test_curves_draw_the_epochs_rows_and_mark_the_best_epoch():
    loss, accuracy = curves.curves(epoch_rows(5), best_epoch=3).axes
    train, validation, best = loss.get_lines()
    np.testing.assert_allclose(train.get_xydata(), [(e, 2 / e) for e in range(1, 6)])
    np.testing.assert_allclose(validation.get_xydata(), [(e, 3 / e) for e in range(1, 6)])
    assert list(best.get_xdata()) == [3, 3]
    assert train.get_linestyle() != validation.get_linestyle() and train.get_marker() != validation.get_marker()
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["train", "validation", "best epoch: 3"]


def test_curves_do_with_one_epoch_with_none_and_without_validation():
    for rows, best in [(epoch_rows(1), 1), ([], None), (epoch_rows(3, validation=False), 3)]:
        figure = curves.curves(rows, best)
        drawn(figure)
        assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks() if 0.5 < tick < 3.5 and rows)


def random_confusion(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.diag(rng.integers(50, 150, count)) + rng.poisson(0.1, (count, count))


def test_a_confusion_matrix_has_its_counts_in_its_cells():
    matrix = random_confusion(10)
    axes = figures.confusion(matrix, [f"class {n}" for n in range(10)]).axes[0]
    cells = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert cells == {(column, row): count for (row, column), count in np.ndenumerate(matrix) if count}


@pytest.mark.parametrize("count", [2, 10, 25])
def test_names_at_a_confusion_matrix_do_not_touch(count):
    classes = [f"{LONG[n % len(LONG)]} {n}" for n in range(count)]
    figure = figures.confusion(random_confusion(count), classes)
    renderer, axes = drawn(figure), figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert len(labels) == count
        assert not overlapping(extents(labels, renderer))
        assert min(label.get_fontsize() for label in labels) >= 5


def test_at_100_classes_superclasses_stand_together_between_lines():
    classes = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)
    superclasses = list(CIFAR100_SUPERCLASSES)
    group_of = [next(i for i, names in enumerate(CIFAR100_SUPERCLASSES.values()) if name in names) for name in classes]
    figure = figures.confusion(random_confusion(100), classes, superclasses, group_of)
    renderer, axes = drawn(figure), figure.axes[0]
    assert not overlapping(extents(axes.get_xticklabels(), renderer))
    assert min(label.get_fontsize() for label in axes.get_yticklabels()) >= 5
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [name for names in CIFAR100_SUPERCLASSES.values() for name in sorted(names)]
    names = [text for text in axes.texts if text.get_text() in superclasses]
    assert [text.get_text() for text in names] == superclasses
    assert not overlapping(extents(names, renderer) + [figure.axes[1].get_window_extent(renderer)])
    heights = [text.get_window_extent(renderer).y0 for text in names]
    assert heights == sorted(heights, reverse=True)
    assert len(axes.patches) == 20


def test_hundreds_of_classes_still_make_a_picture(tmp_path):
    drawing.save(
        figures.confusion(random_confusion(300), [f"class {n}" for n in range(300)]), tmp_path / "c.png", dpi=50
    )
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 2000


def calibration(temperature: float | None) -> Calibration:
    bins = [Bin(n / 15, (n + 1) / 15, n, (n + 0.5) / 15, n / 15) for n in range(1, 15)]
    bins = [Bin(0, 1 / 15, 0, None, None), *bins]
    if temperature is None:
        return Calibration(0.123, 1.0, bins)
    return Calibration(0.123, 1.0, bins, temperature, 0.01, 0.9, bins)


def test_reliability_shows_both_versions_apart_without_colour():
    top, bottom = figures.reliability(calibration(1.5)).axes
    _, before, after = top.get_lines()
    assert len(before.get_xdata()) == 14  # the empty bin is left out
    assert before.get_marker() != after.get_marker() and before.get_linestyle() != after.get_linestyle()
    assert {patch.get_hatch() for patch in bottom.patches} == {None, "///"}
    assert "0.123" in top.get_legend().get_texts()[1].get_text()
    assert len(figures.reliability(calibration(None)).axes[0].get_lines()) == 2


def test_how_many_images_have_a_confidence_is_read_off_in_numbers_and_one_alone_is_seen():
    bins = [Bin(n / 15, (n + 1) / 15, n % 2 * (1 + n % 3), (n + 0.5) / 15, 0.5) for n in range(15)]
    bottom = figures.reliability(Calibration(0.1, 1.0, bins)).axes[1]
    low, high = bottom.get_ylim()
    ticks = [(tick, text.get_text()) for tick, text in zip(bottom.get_yticks(), bottom.get_yticklabels(), strict=True)]
    assert [text for tick, text in ticks if low <= tick <= high] == ["1", "3"]
    assert low < 0.7 and not len(bottom.get_yticks(minor=True))  # or a bar of one image has no height


def tile(name: str = "cat", correct: bool | None = True, size: int = 32) -> figures.Tile:
    return figures.Tile(
        np.full((3, size, size), 128, np.uint8), f"true: {drawing.shortened(name)}\npredicted: dog, 97%", correct
    )


def test_right_and_wrong_differ_in_mark_and_border():
    axes = figures.grid([tile(correct=True), tile(correct=False)], "Images", columns=2).axes[0]
    right, wrong = axes.patches
    assert right.get_linestyle() != wrong.get_linestyle()
    assert [text.get_text() for text in axes.texts if text.get_text() in "✓✗"] == ["✓", "✗"]


def test_captions_of_long_names_touch_neither_each_other_nor_an_image():
    tiles = [tile(name) for name in LONG * 3]
    figure = figures.sheet([("A heading " * 20, tiles[:8]), ("", tiles[8:])], "A long title " * 20)
    renderer, axes = drawn(figure), figure.axes[0]
    written = [text for text in axes.texts if text.get_text() not in ("✓", "✗")]
    images = [image.get_window_extent(renderer) for image in axes.get_images()]
    assert len(images) == 15
    assert not overlapping(extents(written, renderer) + images)
    page = axes.get_window_extent(renderer)
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in extents(written, renderer))


def test_a_dollar_in_a_name_is_drawn_as_a_dollar():
    figure = figures.confusion(np.eye(2, dtype=int), ["$x^2$", "a $ alone"])
    drawn(figure)
    assert [label.get_text().replace("\\", "") for label in figure.axes[0].get_yticklabels()] == ["$x^2$", "a $ alone"]


def test_wrapping_loses_no_character_but_the_spaces_at_breaks():
    for name in LONG:
        lines = drawing.wrapped(name, 16)
        assert max(map(len, lines)) <= 16
        assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert drawing.wrapped("large_man-made_outdoor_things", 16) == ["large_man-made_", "outdoor_things"]


def test_an_overlay_leaves_the_image_and_brightens_where_the_heat_is():
    image = np.random.default_rng(0).random((3, 8, 8)) * 0.3
    heat = np.zeros((8, 8))
    heat[0, 0] = 1
    both = figures.overlay(image, heat)
    assert both.shape == (3, 8, 17) and 0 <= both.min() and both.max() <= 1
    np.testing.assert_array_equal(both[:, :, :8], image)
    assert (both[:, :, 8] == 1).all()  # a white gap, so that nobody takes the two for one
    assert both[:, 0, 9].mean() > both[:, 4, 13].mean() + 0.2


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_sheet_with_maps_has_a_scale_of_their_colours_that_covers_nothing(width):
    image, ramp = np.full((3, 64, 64), 0.5), np.tile(np.linspace(0, 1, 64), (64, 1))
    double = figures.overlay(image, ramp)
    figure = figures.sheet([("cat", [figures.Tile(double, "map: for cat", True)] * width)], "Maps", with_maps=True)
    renderer, axes = drawn(figure), figure.axes[0]
    scale, *images = axes.get_images()
    strip = np.asarray(scale.get_array())[0]
    np.testing.assert_allclose(strip[[0, -1]], double[:, 0, [-64, -1]].T, atol=1e-6)  # the very colours of the maps
    words = [text for text in axes.texts if text.get_text() not in ("✓", "✗")]
    assert {"nothing", "most"} <= {text.get_text() for text in words}
    boxes = [image.get_window_extent(renderer) for image in (scale, *images)]
    assert len(images) == width and not overlapping(extents(words, renderer) + boxes)
    assert len(figures.sheet([("", [tile()])], "No maps").axes[0].get_images()) == 1


def test_thumbnail_n_is_image_n(tmp_path):
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(0, 256, (60, 3, 1, 1), dtype=np.uint8), 48, 2).repeat(48, 3)
    confused = [ConfusedPair(0, 1, 39, 0.5, list(range(59, 20, -1))), ConfusedPair(1, 0, 10, 0.5, list(range(10)))]
    about = figures.save_thumbnails(confused, images, tmp_path / "thumbnails.jpg")
    assert about.images == [*range(59, 20, -1), *range(10)]
    with Image.open(tmp_path / about.file) as sprite:
        pixels = np.asarray(sprite).astype(int)
    for position, index in enumerate(about.images):
        row, column = divmod(position, about.columns)
        middle = pixels[row * about.size + 24, column * about.size + 24]
        assert np.abs(middle - images[index, :, 0, 0]).max() < 12
    assert figures.save_thumbnails([], images, tmp_path / "none.jpg") is None


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    drawing.save(curves.curves(epoch_rows(2), 1), path)
    before = path.read_bytes()
    figure = curves.curves(epoch_rows(3), 1)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drawing.save(figure, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["loss.png"]


# --- names in any script ----------------------------------------------------------------------------------------------


@pytest.fixture
def fonts(monkeypatch):
    """Fonts as if nothing had been drawn yet; a function that makes another than DejaVu the first."""
    monkeypatch.setattr(drawing, "_families", [])
    monkeypatch.setattr(drawing, "_said", set())
    caches = (drawing._has_font, drawing._codes, drawing._other_families)
    for cache in caches:
        cache.cache_clear()
    yield lambda family: monkeypatch.setattr(drawing, "FONT", family)
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def picture_of(names: list[str], path) -> np.ndarray:
    with drawing.own_style():
        figure = figures.confusion(random_confusion(len(names)), names)
    drawing.save(figure, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.filterwarnings("error")
def test_a_font_of_the_system_draws_what_the_first_one_lacks(fonts, tmp_path, capfd):
    names = ["кот", "собака", "γάτα"]
    fonts("cmr10")  # as if there were a first font with Latin letters alone
    assert [drawing.shortened(name) for name in names] == names
    assert drawing._families
    cyrillic = picture_of(names, tmp_path / "names.png")
    assert not np.array_equal(cyrillic[:, :300], picture_of(["ток", "акабос", "ατάγ"], tmp_path / "other.png")[:, :300])
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error")
def test_what_no_font_has_is_drawn_as_code_points_and_said_once(fonts, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(drawing, "_other_families", lambda: [])
    names = ["中文", "日本語の猫", "🐈 cat", "👩‍🚀", "caf\udce9", "bell\x07", "हिन्दी", "plain", "\U0010ffff"]
    assert drawing.drawable("中文 cat") == "[U+4E2D 6587] cat"
    assert drawing.drawable("👩‍🚀") == "[U+1F469 1F680]" and drawing.drawable("❤\ufe0f") == "❤"
    assert drawing.drawable("a\n\tb\u3000c") == "a  b c" and drawing.drawable("cafe\u0301") == "café"
    picture_of(names, tmp_path / "names.png")
    drawing.save(figures.grid([tile(name) for name in names], "中文", columns=3), tmp_path / "grid.png")
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "[U+4E2D 6587]" in err and "Noto Sans" in err


def test_wide_characters_count_twice_where_a_line_is_broken(fonts, monkeypatch):
    monkeypatch.setattr(drawing, "_has_font", lambda character: True)
    assert drawing.wrapped("中文图像类别", 5) == ["中文", "图像", "类别"]
    assert drawing.shortened("日" * 50) == "日" * 19 + "…" and drawing.shortened("日" * 20) == "日" * 20


def test_settings_of_matplotlib_change_no_figure(tmp_path):
    names = ["a", "b"]
    before = picture_of(names, tmp_path / "before.png")
    odd = {"text.usetex": True, "axes.facecolor": "red", "font.size": 30, "savefig.dpi": 9, "font.family": "nowhere"}
    with matplotlib.rc_context(odd):
        np.testing.assert_array_equal(picture_of(names, tmp_path / "odd.png"), before)
        assert matplotlib.rcParams["axes.facecolor"] == "red"

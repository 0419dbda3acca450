"""Numbers and images → pictures. Pure: each function returns a Figure, `save` writes it.

Nothing is told by colour alone: lines differ in dash and marker, right and wrong in mark and border. Names come from users,
so they are shortened, wrapped where space is short, and never read as mathematics.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray
from PIL import Image

from common.analysis.predictions import Predictions
from common.analysis.report import (
    Answers,
    Calibration,
    Comparison,
    ConfusedPair,
    DuplicatePair,
    Duplicates,
    LabelIssue,
    Report,
    Thumbnails,
)
from common.base.drawing import BLUE, ORANGE, POINTS_PER_INCH, drawable, own_style, plain, shortened, wrapped
from common.base.files import atomic_path
from common.base.text import counted

PAIRS_DRAWN, ISSUES_DRAWN, IMAGES_A_SIDE, DUPLICATES_DRAWN = 10, 32, 12, 32
LOG_TICKS = [factor * 10**power for power in range(8) for factor in (1, 3)]  # images


# --- matrices ---------------------------------------------------------------------------------------------------------


def confusion(
    matrix: NDArray,
    classes: Sequence[str],
    superclasses: Sequence[str] | None = None,
    superclass_of: Sequence[int] | None = None,
    title: str = "Confusion matrix",
) -> Figure:
    """The confusion matrix (K, K), row = true class, counts in the cells and, on a log scale, as colour.

    With superclasses, the classes of one stand together, between lines. Beyond 120 classes only some are named.
    """
    count = len(classes)
    group_of = np.zeros(count, int) if superclass_of is None else np.asarray(superclass_of)
    order = np.argsort(group_of, kind="stable")
    matrix = np.asarray(matrix)[np.ix_(order, order)]
    cell_inches = np.clip(8 / count, 0.17, 0.7) if count <= 120 else 20 / count
    side = max(3.0, cell_inches * count)
    figure = Figure(figsize=(side + 3, side + 2))
    axes = figure.add_axes((1.5 / (side + 3), 1.5 / (side + 2), side / (side + 3), side / (side + 2)))
    # From a half, so that a single error differs from none, which is white.
    norm = LogNorm(vmin=0.5, vmax=max(1, matrix.max()))
    picture = axes.imshow(np.ma.masked_equal(matrix, 0), cmap="Blues", norm=norm, interpolation="nearest")
    _colour_bar(figure, axes, picture, has_groups=superclasses is not None)
    cell_points = side / count * POINTS_PER_INCH
    size = float(np.clip(cell_points * 0.55, 5.5, 10))
    ticks = np.arange(0, count, math.ceil(count / 120))
    names = [plain(shortened(classes[order[tick]])) for tick in ticks]
    axes.set_xticks(ticks, names, fontsize=size, rotation=90)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xlabel("predicted", fontsize=12)
    axes.set_ylabel("true", fontsize=12)
    right = np.trace(matrix) / max(1, matrix.sum())
    axes.set_title(
        f"{title}: {counted(int(matrix.sum()), 'image')}, {right:.1%} on the diagonal", fontsize=13, loc="left", pad=10
    )
    if count <= 120:
        _write_counts(axes, matrix, size, cell_points, norm)
    if superclasses is not None:
        _mark_groups(axes, group_of[order], superclasses, size)
    return figure


def _colour_bar(figure: Figure, axes: Axes, picture: Any, has_groups: bool) -> None:
    """Of a fixed width at any size of the matrix, right of the superclasses' names where there are some."""
    left, bottom, width, height = axes.get_position().bounds
    inch = 1 / figure.get_size_inches()[0]
    gap = 2.6 * inch if has_groups else 0.2 * inch
    place = figure.add_axes((left + width + gap, bottom, 0.18 * inch, height))
    bar = figure.colorbar(picture, cax=place, ticks=LOG_TICKS, format="{x:g}")
    bar.ax.minorticks_off()
    bar.set_label("images (log scale)")


def _write_counts(axes: Axes, matrix: NDArray, size: float, cell_points: float, norm: LogNorm) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "clip_on": True}
    for row, column in zip(*np.nonzero(matrix), strict=True):
        count = matrix[row, column]
        colour = "white" if norm(count) > 0.6 else "black"
        axes.text(
            column, row, str(count), color=colour, fontsize=min(size, cell_points / len(str(count)) * 1.4), **style
        )


def _mark_groups(axes: Axes, groups: NDArray, names: Sequence[str], size: float) -> None:
    """Lines between superclasses, boxes around them on the diagonal, and their names on the right."""
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        start, length = members[0] - 0.5, len(members)
        for line in (axes.axhline, axes.axvline):
            line(start, color="0.6", linewidth=0.6)
        axes.add_patch(Rectangle((start, start), length, length, fill=False, edgecolor="black", linewidth=1.2))
        middle = (members.mean() - len(groups) / 2 + 0.5) / -len(groups) + 0.5
        axes.text(
            1.005, middle, plain(shortened(names[group])), transform=axes.transAxes, va="center", fontsize=size + 1
        )


# --- calibration ------------------------------------------------------------------------------------------------------


def reliability(calibration: Calibration) -> Figure:
    """Accuracy against confidence, and how many images have which confidence; before and after the temperature."""
    figure = Figure(figsize=(5.5, 7), layout="constrained")
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "fontsize": 9, "alignment": "left"}
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="perfectly calibrated")
    bar: dict[str, Any] = {"color": BLUE, "alpha": 0.5}
    versions = [("as trained", calibration.ece, calibration.bins, BLUE, "o-", bar)]
    if calibration.found and calibration.ece_after is not None and calibration.bins_after:
        name, bar = f"temperature {calibration.temperature:.2f}", {"fill": False, "edgecolor": ORANGE, "hatch": "///"}
        versions.append((name, calibration.ece_after, calibration.bins_after, ORANGE, "s--", bar))
    for name, ece, all_bins, colour, style, bar in versions:
        bins = [b for b in all_bins if b.count]
        text = f"{name}: calibration error {ece:.3f}"
        top.plot([b.confidence for b in bins], [b.accuracy for b in bins], style, color=colour, label=text)
        lows, widths = [b.low for b in bins], [b.high - b.low for b in bins]
        bottom.bar(lows, [b.count for b in bins], widths, align="edge", label=name, **bar)
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    top.legend(**above, title="Is its confidence to be trusted?")
    top.grid(alpha=0.3)
    # From a half, so that a bar of one image is seen.
    most = max((b.count for _, _, all_bins, *_ in versions for b in all_bins), default=1)
    bottom.set(xlabel="confidence", ylabel="images (log scale)", yscale="log", ylim=(0.5, 2 * max(1, most)))
    bottom.yaxis.set_major_locator(FixedLocator(LOG_TICKS))
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.minorticks_off()
    bottom.legend(**above, ncols=2)
    return figure


def risk_coverage(answers: Answers) -> Figure:
    """The share that is wrong against the share that is answered, the surest first, and the thresholds."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    versions = [
        ("these images", answers.curve, BLUE, "-"),
        ("those the thresholds are of", answers.fitted, ORANGE, "--"),
    ]
    for name, points, colour, style in versions:
        if points:
            coverages = [point.count / points[-1].count for point in points]
            axes.plot(coverages, [1 - p.correct / p.count for p in points], style, color=colour, label=name)
    for row, mark in zip(answers.thresholds, "osD^v", strict=False):
        if row.coverage is not None and row.accuracy is not None:
            label = f"for {row.target:.0%}: confidence {row.confidence:.2f}"
            axes.plot([row.coverage], [1 - row.accuracy], mark, color="black", fillstyle="none", label=label)
    axes.set(
        xlim=(0, 1.02),
        ylim=(0, None),
        xlabel="share of the images that is answered",
        ylabel="share of these that is wrong",
    )
    title = f"When should it not answer? Area {answers.aurc:.4f}"
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, alignment="left", title=title, ncols=2
    )
    axes.grid(alpha=0.3)
    return figure


# --- sheets of images -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """An image in a sheet."""

    image: NDArray
    """(3, H, W), uint8 or float in [0, 1]"""
    caption: str = ""
    """below it; `\\n` begins a new line"""
    correct: bool | None = None
    """draws a mark and a border; None: neither"""


def chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[start : start + size] for start in range(0, len(items), size))


def grid(tiles: Sequence[Tile], title: str, columns: int) -> Figure:
    """Tiles in rows of `columns`."""
    return sheet([("", row) for row in chunks(tiles, columns)], title)


def sheet(
    rows: Sequence[tuple[str, Sequence[Tile]]], title: str, tile_inches: float = 1.5, with_maps: bool = False
) -> Figure:
    """Rows of images, each under a heading (empty: none). All in one axes whose unit is the inch, so that the space a text
    needs is known before it is drawn. with_maps: the images are those of `overlay`, and a scale says what their colours mean."""
    size, gap = 9.0, 0.15
    line_inches = size * 1.25 / POINTS_PER_INCH
    aspect = max(tile.image.shape[2] / tile.image.shape[1] for _, tiles in rows for tile in tiles)
    tile_width = tile_inches * aspect
    width = max(5.0, max(len(tiles) for _, tiles in rows) * (tile_width + gap) + gap)
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))

    def fits(inches: float, of_size: float = size) -> int:  # characters of DejaVu Sans, mostly narrower than this
        return max(8, int(inches * POINTS_PER_INCH / (of_size * 0.65)))

    def write(x: float, y: float, lines: list[str], **style: Any) -> None:
        axes.text(x, y, plain("\n".join(lines)), va="top", linespacing=1.25, **{"fontsize": size, **style})

    heading = wrapped(drawable(title), fits(width, 12))
    write(gap, gap, heading, fontsize=12)
    y = gap + len(heading) * 12 * 1.25 / POINTS_PER_INCH + gap
    if with_maps:
        _draw_scale(axes, gap, y, width - 2 * gap, write)
        y += 2 * line_inches + gap
    for name, tiles in rows:
        if name:
            lines = wrapped(drawable(name), fits(width))
            write(gap, y, lines, fontweight="bold")
            y += len(lines) * line_inches + 0.05
        captions = [
            [part for line in tile.caption.split("\n") for part in wrapped(drawable(line), fits(tile_width))]
            if tile.caption
            else []
            for tile in tiles
        ]
        for column, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            x = gap + column * (tile_width + gap)
            _draw_tile(axes, tile, x, y, tile_inches)
            write(x, y + tile_inches + 0.06, caption)
        y += tile_inches + 0.06 + max(map(len, captions)) * line_inches + gap
    figure.set_size_inches(width, y)
    axes.set(xlim=(0, width), ylim=(y, 0))
    axes.axis("off")
    return figure


def _draw_tile(axes: Axes, tile: Tile, x: float, y: float, height: float) -> None:
    width = height * tile.image.shape[2] / tile.image.shape[1]
    # Small images as the squares they are made of: smoothing would hide how little there is to see.
    smooth = "nearest" if tile.image.shape[1] * 2 < height * 110 else "antialiased"
    axes.imshow(
        tile.image.transpose(1, 2, 0), extent=(x, x + width, y + height, y), aspect="auto", interpolation=smooth
    )
    if tile.correct is not None:
        colour, style, mark = (BLUE, "-", "✓") if tile.correct else (ORANGE, (0, (3, 1.5)), "✗")
        border: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": 2.5}
        axes.add_patch(Rectangle((x, y), width, height, **border))
        box = {"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"}
        corner = (x + width - 0.05, y + 0.05)
        axes.text(*corner, mark, color="white", fontsize=10, fontweight="bold", ha="right", va="top", bbox=box)


def _draw_scale(axes: Axes, x: float, y: float, width: float, write: Callable[..., None]) -> None:
    """What the colours of a map mean: a strip of them over grey, between what they stand for."""
    size, strip = 9.0, min(1.5, width / 3)
    height = size / POINTS_PER_INCH
    colours = _under(np.full((3, 1, 256), 0.5), np.linspace(0, 1, 256)[None]).transpose(1, 2, 0)
    axes.imshow(colours, extent=(x, x + strip, y + height, y), aspect="auto")
    write(x, y + height + 0.03, ["nothing"])
    write(x + strip, y + height + 0.03, ["most"], ha="right")
    lines = wrapped(
        "how much each place of an image speaks for the class that its map is for", int((width - strip) / 0.08)
    )
    write(x + strip + 0.15, y - 0.02, lines[:2])


def overlay(image: NDArray, heat: NDArray) -> NDArray:
    """The image, and beside it, after a white gap, the same image under `heat` (H, W) in [0, 1]: float (3, H, 2 W + W / 16) in [0, 1]."""
    return _side_by_side(image, _under(image, heat), white=1.0)


def _under(image: NDArray, heat: NDArray) -> NDArray:
    """float (3, H, W) in [0, 1]: the image in grey, more of the heat's colour where it is greater."""
    colours = colormaps["inferno"](heat)[..., :3].transpose(2, 0, 1)
    grey = np.broadcast_to(image.mean(axis=0), image.shape)
    opacity = 0.2 + 0.5 * heat
    return (1 - opacity) * grey + opacity * colours


def _side_by_side(first: NDArray, second: NDArray, white: float) -> NDArray:
    """(3, H, 2 W + W / 16), with a gap between them."""
    gap = np.full((*first.shape[:2], max(1, first.shape[2] // 16)), white, dtype=first.dtype)
    return np.concatenate([first, gap, second], axis=2)


# --- an evaluation ----------------------------------------------------------------------------------------------------


NAMES = ("confusion", "reliability", "answers", "superclasses", "confused", "label_issues", "duplicates", "comparison")


@own_style()
def of_report(
    report: Report, images: NDArray, seen: NDArray | None = None, predictions: Predictions | None = None
) -> dict[str, Figure]:
    """All figures of an evaluation by their `NAMES`, without those that would be empty.

    images: uint8 (N, 3, H, W), the dataset's, which the report's indices point into; seen: those of train, for the duplicates;
    predictions: those that the report is of, for the captions.
    """
    classes, superclasses = report.classes, report.superclasses
    said = _said(predictions) if predictions else {}
    figures = {
        "confusion": confusion(np.array(report.confusion), classes, superclasses, report.superclass_of),
        "reliability": reliability(report.calibration),
    }
    if report.answers:
        figures["answers"] = risk_coverage(report.answers)
    if superclasses:
        figures["superclasses"] = confusion(np.array(report.superclass_confusion), superclasses, title="Superclasses")
    if report.confused:
        figures["confused"] = _of_confused(report.confused[:PAIRS_DRAWN], classes, images, said)
    if report.label_issues:
        figures["label_issues"] = _of_label_issues(report.label_issues, classes, images)
    if report.duplicates and report.duplicates.pairs and seen is not None:
        figures["duplicates"] = _of_duplicates(report, report.duplicates, images, seen)
    if report.comparison and (report.comparison.only_this_images or report.comparison.only_other_images):
        figures["comparison"] = _of_comparison(report.comparison, classes, images, said)
    return figures


def _said(predictions: Predictions) -> dict[int, tuple[int, int, float]]:
    """Image → its label, what it was taken for, and with what confidence."""
    columns = predictions.labels, predictions.predicted, predictions.confidences
    rows = zip(predictions.indices.tolist(), *(column.tolist() for column in columns), strict=True)
    return {index: (label, guess, sure) for index, label, guess, sure in rows}


def _of_confused(
    pairs: Sequence[ConfusedPair],
    classes: Sequence[str],
    images: NDArray,
    said: dict[int, tuple[int, int, float]],
) -> Figure:
    rows = [
        (
            f"{classes[pair.true]} taken for {classes[pair.predicted]}: {counted(pair.count, 'image')}, "
            f"{pair.share:.0%} of its class",
            [Tile(images[index], f"{said[index][2]:.0%} sure" if index in said else "") for index in pair.images],
        )
        for pair in pairs
    ]
    return sheet(rows, "Most confused, the most confident mistakes first", tile_inches=1.2)


def _of_label_issues(issues: Sequence[LabelIssue], classes: Sequence[str], images: NDArray) -> Figure:
    tiles = [
        Tile(
            images[issue.index],
            f"labelled {shortened(classes[issue.given])} ({issue.given_probability:.0%})\n"
            f"looks like {shortened(classes[issue.suggested])} ({issue.suggested_probability:.0%})",
        )
        for issue in issues[:ISSUES_DRAWN]
    ]
    some = f": {len(tiles)} of {len(issues)}" * (len(tiles) < len(issues))
    return grid(tiles, f"Labels that may be wrong, the most doubtful first{some}", columns=8)


def _of_duplicates(report: Report, found: Duplicates, images: NDArray, seen: NDArray) -> Figure:
    """Pairs side by side, from the surest to the least sure."""
    classes = report.classes
    tiles = [
        Tile(
            _side_by_side(images[pair.index], seen[pair.seen], white=255),
            f"{pair.file or f'{report.split} {pair.index}'}: {shortened(classes[pair.label])}\n"
            f"{pair.seen_file or f'{pair.part} {pair.seen}'}: {shortened(classes[pair.seen_label])}\n"
            + ("every pixel is equal" if pair.exact else f"similarity {pair.similarity:.3f}")
            + (", mirrored" if pair.mirrored else "")
            + (", ANOTHER LABEL" if pair.label != pair.seen_label else ""),
        )
        for pair in _spread(found.pairs, DUPLICATES_DRAWN)
    ]
    title = f"{report.split} images (left) that the training had seen (right): {found.count}, from the surest to the least sure"
    return grid(tiles, title, columns=4)


def _spread(pairs: Sequence[DuplicatePair], count: int) -> list[DuplicatePair]:
    """So many of them, from the surest to the least sure: the doubtful ones are what one must look at."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[round(i * (len(pairs) - 1) / (count - 1))] for i in range(count)]


def _of_comparison(
    comparison: Comparison, classes: Sequence[str], images: NDArray, said: dict[int, tuple[int, int, float]]
) -> Figure:
    def tile(index: int) -> Tile:
        if index not in said:
            return Tile(images[index])
        label, guess, sure = said[index]
        caption = f"true: {shortened(classes[label])}\nhere: {shortened(classes[guess])} ({sure:.0%})"
        return Tile(images[index], caption, label == guess)

    here = f"right here, wrong in {comparison.other}: {counted(comparison.only_this, 'image')}"
    there = f"wrong here, right in {comparison.other}: {counted(comparison.only_other, 'image')}"
    sides = [(here, comparison.only_this_images), (there, comparison.only_other_images)]
    rows = [(name, [tile(index) for index in chosen[:IMAGES_A_SIDE]]) for name, chosen in sides if chosen]
    return sheet(rows, "Images that one of the two alone gets right, the surest first", tile_inches=1.2)


def save_thumbnails(confused: Sequence[ConfusedPair], images: NDArray, path: Path) -> Thumbnails | None:
    """The images of all confused pairs in one JPEG → what report.json says of it; None when there are none."""
    chosen = [index for pair in confused for index in pair.images]
    if not chosen:
        return None
    size, columns = 48, min(40, len(chosen))
    picture = Image.new("RGB", (size * columns, size * math.ceil(len(chosen) / columns)), "white")
    for position, index in enumerate(chosen):
        row, column = divmod(position, columns)
        tile = Image.fromarray(np.ascontiguousarray(images[index].transpose(1, 2, 0))).resize((size, size))
        picture.paste(tile, (column * size, row * size))
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=85)
    return Thumbnails(path.name, size, columns, chosen)

"""The loss graph."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.base.drawing import BLUE, ORANGE, own_style


@own_style()
def curves(rows: Sequence[dict[str, Any]], best_epoch: float | None) -> Figure:
    """Loss and accuracy per epoch, of train and of validation, the best epoch marked.

    rows: those of metrics.jsonl; of these, the ones of whole epochs are drawn.
    """
    rows = [row for row in rows if "train/loss" in row and "epoch" in row]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour, style in (("train", BLUE, "o-"), ("validation", ORANGE, "s--")):
            points = [(row["epoch"], row[f"{part}/{quantity}"]) for row in rows if f"{part}/{quantity}" in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, label=part, markersize=4)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.4", linestyle=":", label=f"best epoch: {best_epoch:g}")
        axes.set(xlabel="epoch", ylabel=quantity, title=f"{quantity} per epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if rows:
            axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
        if axes.get_lines():
            axes.legend()
    return figure

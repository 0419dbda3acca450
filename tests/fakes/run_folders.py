"""Run folders made by hand, with no data behind them."""

from common.runs.records import Split

SPLIT = Split(
    "digits", None, ("0", "1"), None, None, seed=0, validation_fraction=0.1, digest="then", train_size=9, validation=[3]
)

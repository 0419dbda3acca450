"""What a run's settings and numbers mean, by one rule for all that say it or act on it. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.base.text import printable

UNEQUAL = 3  # times: "mild" in Google's crash course on imbalanced data, a quarter of the images in the smaller of two classes
OF_HEAD = "the head's: nothing else had been fine-tuned then."  # a best epoch, where `is_of_head_alone`


def is_of_head_alone(epoch: float | None, head_epochs: object) -> bool:
    """Whether weights of this epoch are of those in which the head alone was trained, before the rest."""
    return epoch is not None and isinstance(head_epochs, int) and epoch <= head_epochs


def epochs_on_features(settings: Mapping[str, Any]) -> float:
    """How many of its first epochs a run trains the head on features that are kept; infinite where all. settings: by the flags' names; a
    stranger's may be anything, and an earlier version's lack some."""
    # Features of images that are mixed or grow change with the epoch, and are not kept.
    changing = any(settings.get(key) for key in ("mixup_alpha", "cutmix_alpha", "progressive_from"))
    if settings.get("finetune") == "head" and settings.get("feature_views") and not changing:
        return math.inf
    head_epochs = settings.get("head_epochs")
    return head_epochs if isinstance(head_epochs, int) else 0


def unequal_classes(
    classes: Sequence[str], counts: Sequence[int], balance: str | None, best_by: str | None
) -> tuple[str, str] | None:
    """What is unequal, and those remedies that are not taken, flags in backticks: where the largest class has `UNEQUAL` times the training
    images of the smallest that has any, or more. From there on the accuracy says more about the large classes than about the network.
    counts: not all 0; best_by: None without a validation."""
    present = [(count, name) for count, name in zip(counts, map(printable, classes), strict=True) if count]
    (most, largest), (least, smallest) = (choose(present, key=lambda pair: pair[0]) for choose in (max, min))
    advice = ["train with `--balance loss` or `--balance sampling`"] if balance == "none" else []
    advice += ["keep the best epoch with `--best_by macro_f1`"] if best_by in ("accuracy", "loss") else []
    if most < UNEQUAL * least or not advice:
        return None
    what = f"classes are unequal: {largest!r} has {most / least:.3g} times the images of {smallest!r}"
    return what, "; ".join(advice)

"""What an export says of itself: the same in ONNX's metadata and in the Hub's config.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval, Len

from common.base.errors import UserError
from common.base.records import parse_record
from common.base.version import code_version
from common.data.pixels import MEAN, STD
from common.runs.records import Metadata

FORMAT = "resnext-finetuning export 1"
Side = Annotated[int, Interval(ge=16, le=1024)]


@dataclass(frozen=True, kw_only=True)
class About:
    """How to give the network an image, and what its answer means."""

    format: str = FORMAT
    model: str
    classes: Annotated[list[str], Len(1, 100_000)]
    mean: tuple[float, float, float] = MEAN
    """per channel, of images in [0, 1]"""
    std: tuple[float, float, float] = STD
    image_size: Side
    """side in pixels of what the network sees"""
    decode_size: Side
    """side in pixels that a photo is made a square of first"""
    fit: Literal["crop", "pad"]
    temperature: Annotated[float, Gt(0)] | None
    """what the logits are divided by for calibrated probabilities; None: not known"""
    preprocessing: bool = False
    """whether uint8 goes in and probabilities come out, or normalized float and logits"""
    dataset: str
    run_id: str
    version: str
    """of this code: its commit"""

    def __post_init__(self) -> None:
        """Errors: `ValueError`."""
        if self.format != FORMAT:
            raise ValueError(f"its format is {self.format[:60]!r}, not {FORMAT!r}")

    def as_text(self) -> dict[str, str]:
        """Each value as JSON, but the format as it is: for headers that hold only text."""
        return {name: value if name == "format" else json.dumps(value) for name, value in asdict(self).items()}


def about(metadata: Metadata, temperature: float | None, preprocessing: bool) -> About:
    return About(
        model=metadata.model,
        classes=metadata.classes,
        image_size=metadata.image_size,
        decode_size=metadata.decoded_size,
        fit=metadata.fit,
        temperature=temperature,
        preprocessing=preprocessing,
        dataset=metadata.dataset,
        run_id=metadata.run_id,
        version=code_version() or "unknown",
    )


def from_text(values: Mapping[str, str], source: object) -> About:
    """What `About.as_text` wrote. Errors: `UserError` naming `source`, where another program has changed it, or it is none of ours."""
    if values.get("format") != FORMAT:
        raise UserError(
            f"{source} was not written by export.py, or another program has changed it: its metadata does not say {FORMAT!r}"
        )
    try:
        known = {name: value if name == "format" else json.loads(value) for name, value in values.items()}
    except (ValueError, RecursionError):
        raise UserError(f"{source} was changed by another program: its metadata is damaged") from None
    return parse_record(json.dumps(known).encode(), About, f"{source}, which another program has changed,")

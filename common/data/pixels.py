"""One photo → a square of uint8, upright and as bright as it is meant."""

import errno
import os
import re
import stat
import struct
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from common.base.errors import RunError, UserError
from common.data.photos import HEIC_SUFFIXES, formats

Fit = Literal["crop", "pad"]
Unreadable = Literal["stop", "skip"]
# ImageNet's, per channel, for images in [0, 1]: what torchvision's weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PAD_COLOUR = (124, 116, 104)  # ImageNet's mean: zero to a network whose images are normalized by it
BILINEAR = Image.Resampling.BILINEAR
DARKEST = (
    1 / 16
)  # of white: a photo of more than 8 bits whose brightest pixel is below it has other values than it says
ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO, LARGEST, LARGEST_OF_OTHERS = 274, 258, 262, 0, 281, 341  # tags of TIFF
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class Decoding(NamedTuple):
    """How photos become images."""

    image_size: int
    """side in pixels"""
    fit: Fit = "crop"
    """`crop` = the centre square; `pad` = all of it, with `PAD_COLOUR` beside it"""
    unreadable: Unreadable = "stop"
    """what a photo that can't be read does to the set"""


class UnreadablePhoto(UserError):
    """A file that is no whole image. `reason`: what follows its name in a message."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}; replace or remove the file")
        self.reason = reason


def read_photo(path: Path, image_size: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """One photo as uint8 (3, image_size, image_size): upright by its EXIF tag, RGB, what is transparent white; the short side
    resized and the centre cropped, or as `fit` says.

    Errors: `UnreadablePhoto` when it is not a whole image, or does not say how bright it is; `RunError` for lack of memory.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep one waiting
            raise OSError(errno.EINVAL, "it is no file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tags: what makes pixels wrong is an error
            square = _square(path, image_size, fit)
    except UnidentifiedImageError as error:
        if path.suffix.lower() in HEIC_SUFFIXES and "HEIF" not in formats():
            raise UnreadablePhoto(path, "is a HEIC photo, which needs pillow-heif: pip install pillow-heif") from error
        raise UnreadablePhoto(path, "is not an image of a known format") from error
    except MemoryError as error:  # no fault of the photo's, which must not be skipped for it
        raise RunError(f"there is not enough memory to decode {path}; free some, and begin again") from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        reason = getattr(error, "strerror", None) or error
        raise UnreadablePhoto(path, f"can't be read as an image ({reason})") from error
    return np.array(square).transpose(2, 0, 1)


def _square(path: Path, image_size: int, fit: Fit) -> Image.Image:
    size = (image_size, image_size)
    with Image.open(path, formats=formats()) as image:
        # JPEG decodes a large photo at a half, a quarter or an eighth; twice the size wanted keeps it sharp.
        image.draft("RGB", (2 * image_size, 2 * image_size))
        if isinstance(image, TiffImageFile):  # it would read and write all of the EXIF, and stumble over odd ones
            setattr(image, "load_end", lambda: None)  # noqa: B010
        rawmode = str(image.tile[0].args) if image.tile else ""  # gone when it is loaded
        image.load()
        upright = _to_rgb(image, rawmode)
        turn = TURNS.get(_orientation(image))
        upright = upright if turn is None else upright.transpose(turn)
    return ImageOps.pad(upright, size, BILINEAR, PAD_COLOUR) if fit == "pad" else ImageOps.fit(upright, size, BILINEAR)


# --- upright ----------------------------------------------------------------------------------------------------------


def _orientation(image: Image.Image) -> int:
    """EXIF's, from 1 to 8; 1 where there is none. Nothing else in the block is looked at: Pillow's reader ends at the first entry
    that leads out of it, and its `exif_transpose` writes the block anew, which an odd entry makes fail."""
    if isinstance(image, TiffImageFile):
        return _one_of(image.tag_v2, ORIENTATION) or 1
    block = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:  # a PNG by ImageMagick
        block = _unhexed(str(image.info["Raw profile type exif"]))
    try:
        return _orientation_in(re.sub(rb"^(Exif\0\0){1,2}", b"", block or b""))
    except struct.error:
        return 1


def _orientation_in(block: bytes) -> int:
    """block: EXIF as a TIFF of one folder. Source: EXIF 2.32, 4.6.2 and 4.6.4. Errors: `struct.error` where it ends too early."""
    order = ">" if block[:2] == b"MM" else "<"
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", block, place)
        if tag == ORIENTATION:
            (value,) = struct.unpack_from(order + {1: "B", 4: "I"}.get(kind, "H"), block, place + 8)
            return int(value)
    return 1


def _unhexed(text: str) -> bytes:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


# --- as bright as it is meant -----------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, rawmode: str) -> Image.Image:
    """Errors: `ValueError` when nothing says how bright it is."""
    if image.mode[0] in "IF":
        return Image.fromarray(_grey(image)).convert("RGB")
    deep = re.search(r"\b(L|LA|RGB[AaX]*);16[BLN]", rawmode)  # Pillow has taken each value's first 8 bits
    if deep and isinstance(image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    rgb = _on_white(image) if image.has_transparency_data else image.convert("RGB")
    if deep:
        brightest = max(high for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]
        said = _largest_said(image, 256 * brightest) or 65535
        if brightest < 256 * DARKEST or said < 65535:
            raise ValueError("its colours have fewer than the 16 bits that it has room for; save it with 8 or 16")
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """16 or 32 bits of grey, or numbers with a fraction, as 8 bits (height, width). Pillow would clip them.

    Errors: `ValueError` when nothing says what is white, or the values can't be of it."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are no finite numbers")
    transparent = values == image.info["transparency"] if "transparency" in image.info else False
    said = _largest_said(image, values.max())
    white = said or _white(image)
    if white is None:
        raise ValueError("nothing says which value of its 32 bits is white; save it with 8 or 16 bits")
    if _one_of(getattr(image, "tag_v2", {}), PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns that round in 8 bits only
        values = white - values
    low, high = values.min(), values.max()
    if said is None and image.mode == "F" and not (-0.01 <= low and high <= 1.01):
        raise ValueError(f"its values go from {low:g} to {high:g}, not from 0 to 1; save it with 8 or 16 bits")
    if 0 < high < DARKEST * white:
        raise ValueError(
            f"its brightest value is {high:g}, where white is {white:g}: it would be black; save it with 8 bits"
        )
    grey = (255 * values / white).round().clip(0, 255).astype(np.uint8)
    return np.where(transparent, np.uint8(255), grey)


def _white(image: Image.Image) -> float | None:
    """The value that is white by the kind of the image; None: nobody knows."""
    if image.mode.startswith("I;16"):
        bits = _one_of(getattr(image, "tag_v2", {}), BITS) or 16
        return float(2 ** min(bits, 16) - 1)
    if image.mode == "I":
        return 65535.0 if image.format == "PPM" else None  # which Pillow has scaled to 16 bits
    return 1.0


def _largest_said(image: Image.Image, largest: float) -> float | None:
    """What a TIFF says its largest value can be, as one of 12 bits in 16 does. It may only be the largest that there is: a number
    that is not all ones says nothing of white, nor does one that is below the `largest` in it."""
    tags = getattr(image, "tag_v2", {})
    said = _one_of(tags, LARGEST) or _one_of(tags, LARGEST_OF_OTHERS) or 0
    all_ones = said > 0 and int(said) == said and (int(said) + 1).bit_count() == 1
    return float(said) if all_ones and said >= largest else None


def _one_of(tags: Any, tag: int) -> Any:
    """The tag's value, or the first of several; None where it is no number."""
    try:
        value = tags.get(tag)
    except Exception:  # a damaged entry
        return None
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int | float) else None

"""Photos as tests of single parts want them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.data.decode import load
from common.data.photos import Photos
from common.data.pixels import Decoding


def load_photos(folder: Path, names: Sequence[str], image_size: int) -> torch.Tensor:
    """The photos `names`, paths relative to `folder`, all of them, as `load` gives them."""
    return load(Photos(Path(folder), list(names)), Decoding(image_size))[0]

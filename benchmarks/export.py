"""ONNX Runtime on the CPU beside PyTorch, with the same weights: what `export.py --format onnx` gains or costs.

    python -m benchmarks.export

PyTorch is the network as evaluate.py runs it: convolution and BatchNorm fused, channels_last, 1x1 convolutions as matrix products,
`inference_mode`. ONNX Runtime has the exported file and as many threads. Both get one image and many at a time, in turn. No goal.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.timing import alternate, ratios, spread, table
from common.data.pixels import MEAN, STD
from common.export.about import About
from common.export.onnx_file import open_onnx, write_onnx
from common.model.build import build_model
from common.model.device import on_device
from common.model.load import fused

CLASSES = 100


@dataclass(frozen=True)
class ExportConfig:
    model: str = "resnext50_32x4d"
    sizes: tuple[int, ...] = (224,)
    """Sides in pixels."""
    batches: tuple[int, ...] = (1, 32)
    """Images at a time."""
    rounds: int = 7
    """One batch a turn."""


def measure(config: ExportConfig, size: int) -> list[list[str]]:
    """A row for each number of images."""
    network = build_model(config.model, CLASSES, "none").eval()
    about = About(
        model=config.model,
        classes=[str(label) for label in range(CLASSES)],
        mean=MEAN,
        std=STD,
        image_size=size,
        decode_size=size,
        fit="crop",
        temperature=None,
        dataset="cifar100",
        run_id="benchmark",
        version="?",
    )
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(Path(folder) / "network.onnx", fused(network), about)
        exported = open_onnx(Path(folder) / "network.onnx")
    pytorch = on_device(network, torch.device("cpu"))
    rows = []
    for count in config.batches:
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        channels_last = images.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            sides = {"pytorch": lambda x=channels_last: pytorch(x), "onnx": lambda x=images: exported(x)}
            seconds = alternate(sides, config.rounds)
            apart = float((pytorch(channels_last) - exported(images)).abs().max())
        speeds = [f"{count / statistics.median(seconds[name]):.1f}" for name in ("pytorch", "onnx")]
        faster = spread(ratios(seconds["pytorch"], seconds["onnx"]))
        rows.append([f"{size} px, {count}", *speeds, faster, f"{apart:.1e}"])
    return rows


def main(config: ExportConfig) -> None:
    print(f"### {config.model}, {torch.get_num_threads()} threads\n")
    header = ["images", "PyTorch, images/s", "ONNX Runtime, images/s", "times PyTorch", "logits apart"]
    print(table(header, [row for size in config.sizes for row in measure(config, size)]), flush=True)


if __name__ == "__main__":
    from common.cli import parse

    main(parse(ExportConfig, description=__doc__))

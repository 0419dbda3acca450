"""A table of a network's stages: output size, block structure, parameters and GFLOPs.

    python -m tools.layers                                    ResNeXt-50 (32x4d) beside ResNet-50
    python -m tools.layers --model resnext101_32x8d --compare None

The rows follow Table 1 of Xie et al., "Aggregated Residual Transformations for Deep Neural Networks"
(2017, https://arxiv.org/abs/1611.05431). For ResNeXt-50 the last row says 25.0 M parameters.
Nothing is computed on real numbers: the network lives on PyTorch's meta device, which keeps shapes only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.base.errors import UserError, report_errors
from common.base.text import markdown_table
from common.cli import parse
from common.config import MODELS
from common.model.build import ARCHITECTURES

# What the stages are called in the paper, and the modules of torchvision's ResNet that make each one up.
STAGES = {
    "conv1": ("conv1", "bn1", "relu"),
    "pool": ("maxpool",),
    "conv2": ("layer1",),
    "conv3": ("layer2",),
    "conv4": ("layer3",),
    "conv5": ("layer4",),
    "head": ("avgpool", "fc"),
}


@dataclass(frozen=True)
class LayersConfig:
    model: MODELS = "resnext50_32x4d"
    """Architecture from torchvision."""
    compare: MODELS | None = "resnet50"
    """Another one, shown beside it."""
    image_size: int = 224
    """Side of the input in pixels."""
    num_classes: int = 1000
    """Outputs of the head; 1000 are ImageNet's, as in published figures."""

    def __post_init__(self) -> None:
        if not 32 <= self.image_size <= 1024:
            raise UserError(f"--image_size is {self.image_size}, but must be from 32 to 1024")
        if self.num_classes < 1:
            raise UserError(f"--num_classes is {self.num_classes}, but must be 1 or more")


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str  # the paper's name of the stage
    output: str  # height × width of what leaves it, or the number of classes
    structure: str  # the convolutions of one block, and how many blocks
    parameters: int
    gflops: float  # per image; one multiply-add is two operations


def stages(model: nn.Module, image_size: int = 224) -> list[Stage]:
    """The stages of a torchvision ResNet or ResNeXt, in order.

    Args:
        model: on any device; the meta device is enough.
        image_size: height and width of the input, in pixels.
    """
    shapes: dict[str, torch.Size] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            shapes[name] = output.shape

        return hook

    children = dict(model.named_children())
    hooks = [child.register_forward_hook(remember(name)) for name, child in children.items()]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.empty(1, 3, image_size, image_size, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    # The counter's keys are "ResNet", "ResNet.layer1", "ResNet.layer1.0", …
    root = type(model).__name__
    flops = {name: sum(counter.get_flop_counts().get(f"{root}.{name}", {}).values()) for name in children}

    rows = []
    for stage, names in STAGES.items():
        shape = shapes[names[-1]]
        rows.append(
            Stage(
                name=stage,
                output=f"{shape[2]}×{shape[3]}" if len(shape) == 4 else f"{shape[1]} classes",
                structure=" → ".join(filter(None, (_structure(children[name]) for name in names))),
                parameters=sum(p.numel() for name in names for p in children[name].parameters()),
                gflops=sum(flops[name] for name in names) / 1e9,
            )
        )
    return rows


def _structure(module: nn.Module) -> str:
    """How a stage is built, in the notation of the paper: `[1×1, 128; 3×3, 128, C=32; 1×1, 256] × 3`."""
    match module:
        case nn.Conv2d():
            size = f"{module.kernel_size[0]}×{module.kernel_size[1]}, {module.out_channels}"
            groups = f", C={module.groups}" if module.groups > 1 else ""
            stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
            return size + groups + stride
        case nn.MaxPool2d():
            return f"{module.kernel_size}×{module.kernel_size} max, stride {module.stride}"
        case nn.AdaptiveAvgPool2d():
            return "global average"
        case nn.Linear():
            return f"linear, {module.in_features} → {module.out_features}"
        case nn.Sequential():
            # The last block of a stage, since the first one also carries the stride and the projection.
            block = module[-1]
            convolutions = (_structure(child) for child in block.children() if isinstance(child, nn.Conv2d))
            return f"[{'; '.join(convolutions)}] × {len(module)}"
        case _:
            return ""


def table(networks: dict[str, list[Stage]]) -> str:
    """Markdown: three columns for each network, a row for each stage, and the totals."""
    header = ["stage", "output"]
    total = ["**total**", ""]
    for name, rows in networks.items():
        header += [name, "parameters", "GFLOPs"]
        parameters, gflops = sum(row.parameters for row in rows), sum(row.gflops for row in rows)
        total += [f"**{parameters / 1e6:.1f} M**", f"{parameters:,}", f"{gflops:.2f}"]
    lines = []
    for stage in zip(*networks.values(), strict=True):
        line = [stage[0].name, stage[0].output]
        for row in stage:
            line += [row.structure, f"{row.parameters:,}", f"{row.gflops:.2f}"]
        lines.append(line)
    return markdown_table(header, [*lines, total], numbers=("parameters", "GFLOPs"))


def layers(model: str, image_size: int = 224, num_classes: int = 1000) -> list[Stage]:
    """The stages of an architecture known by its name."""
    with torch.device("meta"):
        return stages(ARCHITECTURES[model](weights=None, num_classes=num_classes), image_size)


def main(argv: list[str] | None = None) -> None:
    config = parse(LayersConfig, argv=argv, description=__doc__.splitlines()[0])
    names = dict.fromkeys(name for name in (config.model, config.compare) if name)
    print(table({name: layers(name, config.image_size, config.num_classes) for name in names}))


if __name__ == "__main__":
    with report_errors():
        main()

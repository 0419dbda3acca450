"""Small networks of the large ones' family, and a small figure, for tests in this process and in those it starts."""

from collections.abc import Callable
from typing import Any

from torchvision.models.resnet import Bottleneck, ResNet


class TinyBottleneck(Bottleneck):
    """Torchvision's block without the fourfold width of its output."""

    expansion = 1


def no_curves(rows: Any, best_epoch: Any) -> Any:
    """In the place of the loss figure, which takes longer to draw than a small network to train: a figure with nothing in it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


def tiny_architectures() -> dict[str, Callable[..., ResNet]]:
    """ResNeXts and a ResNet with torchvision's stages, blocks and names of parameters, a hundredth of their number."""

    def tiny(groups: int, layers: list[int]) -> Callable[..., ResNet]:
        def build(num_classes: int = 1000, **options) -> ResNet:
            return ResNet(TinyBottleneck, layers, num_classes, groups=groups, width_per_group=8 // groups, **options)

        return build

    return {
        "resnext50_32x4d": tiny(4, [1, 1, 1, 1]),
        "resnext101_32x8d": tiny(4, [1, 2, 1, 1]),
        "resnext101_64x4d": tiny(8, [1, 1, 1, 1]),
        "resnet50": tiny(1, [1, 1, 1, 1]),
    }

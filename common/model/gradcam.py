"""Where the network looked: Grad-CAM."""

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

SMALLEST_MAP = 4  # positions a side, below which a map says nothing about where


def grad_cam(model: ResNet, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, ICCV, eq. 1 and 2): what in each image spoke for its class.

    images: float (b, 3, s, s), normalized; classes: int64 (b,). Returns float (b, s, s) in [0, 1], on the CPU: the stage's
    channels, weighted by the mean gradient of the class's logit, summed, what is negative set to 0, the largest value 1.
    """
    stage = _stage_to_look_at(model, images.shape[-1])
    captured: list[Tensor] = []

    def capture(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[0]  # the graph begins here, so that the backward pass is no longer than it must be

    handle = stage.register_forward_hook(capture)
    try:
        with torch.enable_grad():
            logits = model(images)
            (gradients,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), captured)
    finally:
        handle.remove()
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * captured[0].detach()).sum(dim=1, keepdim=True).relu()
    maps = nn.functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu()


def _stage_to_look_at(model: ResNet, image_size: int) -> nn.Module:
    """The last stage, as in the paper, or for small images an earlier one: at 32 px the last stage is a single position."""
    for stage, stride in ((model.layer4, 32), (model.layer3, 16), (model.layer2, 8)):
        if image_size >= SMALLEST_MAP * stride:
            return stage
    return model.layer1

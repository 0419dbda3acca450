"""A network computes the same on its device as torchvision's own, in the form that is fast there."""

import copy

import pytest
import torch
from tiny_models import tiny_architectures
from torch import nn

from common.model.device import Conv1x1, on_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("stride", "size", "bias"), [(1, 6, False), (1, 1, True), (2, 6, True), (2, 7, False), ((1, 3), 5, True)]
)
def test_a_matrix_product_is_the_convolution_with_its_gradients(stride, size, bias, layout):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 1, stride, bias=bias).double()
    product = on_device(copy.deepcopy(convolution), CPU)
    assert isinstance(product, Conv1x1)
    images = torch.randn(4, 3, size, size + 1, dtype=torch.float64).contiguous(memory_format=layout)
    theirs, ours = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected, got = convolution(theirs), product(ours)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for one, other in zip(product.parameters(), convolution.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_plain_1x1_convolution_stays_as_it_is():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1)
    )
    assert [type(layer) for layer in on_device(layers, CPU)] == [nn.Conv2d, nn.Conv2d, nn.Conv2d, Conv1x1]


def test_a_networks_values_and_names_stay():
    model = tiny_architectures()["resnext50_32x4d"](10).eval()
    images = torch.randn(3, 3, 40, 40)
    with torch.no_grad():
        expected, names = model(images), list(model.state_dict())
        model = on_device(model, CPU)
        torch.testing.assert_close(model(images), expected)
    assert list(model.state_dict()) == names
    assert {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d, Conv1x1}


def test_elsewhere_than_on_a_cpu_convolutions_stay():
    model = on_device(tiny_architectures()["resnet50"](10), torch.device("meta"))
    assert not any(isinstance(module, Conv1x1) for module in model.modules())

"""The table of layers agrees with PyTorch's own counts and with the published figures."""

import pytest
import torch
from torchvision import models

from tools.layers import layers, main, stages, table

ARCHITECTURES = {
    "resnext50_32x4d": models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1,
    "resnext101_32x8d": models.ResNeXt101_32X8D_Weights.IMAGENET1K_V1,
    "resnext101_64x4d": models.ResNeXt101_64X4D_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_totals_are_those_that_torchvision_publishes(name):
    published = ARCHITECTURES[name].meta
    rows = layers(name)
    assert sum(row.parameters for row in rows) == published["num_params"]
    # torchvision counts a multiply-add as one operation, torch's counter as two.
    assert sum(row.gflops for row in rows) / 2 == pytest.approx(published["_ops"], abs=0.01)


def test_resnext50_has_25_million_parameters():
    assert f"{sum(row.parameters for row in layers('resnext50_32x4d')) / 1e6:.1f}" == "25.0"


def test_the_stages_parameters_add_up_to_the_models():
    with torch.device("meta"):
        model = models.resnext50_32x4d(num_classes=7)
    assert sum(row.parameters for row in stages(model)) == sum(p.numel() for p in model.parameters())


def test_the_structure_shows_cardinality_32_and_width_4():
    conv2 = next(row for row in layers("resnext50_32x4d") if row.name == "conv2")
    assert conv2.structure == "[1×1, 128; 3×3, 128, C=32; 1×1, 256] × 3"  # 128 channels / 32 groups = width 4
    assert conv2.output == "56×56"


def test_a_grouped_convolution_has_its_share_of_the_operations():
    with torch.device("meta"):
        model = models.resnext50_32x4d(num_classes=10)
    conv2 = next(row for row in stages(model, image_size=64) if row.name == "conv2")
    by_hand = 0
    for block in model.layer1:
        convolutions = [block.conv1, block.conv2, block.conv3] + ([block.downsample[0]] if block.downsample else [])
        for c in convolutions:
            kernel = c.kernel_size[0] * c.kernel_size[1]
            by_hand += 2 * 16 * 16 * c.out_channels * (c.in_channels // c.groups) * kernel
    assert conv2.gflops == by_hand / 1e9


def test_measuring_leaves_the_model_as_it_was():
    with torch.device("meta"):
        model = models.resnext50_32x4d(num_classes=10).train()
    stages(model, image_size=64)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_the_command_prints_one_or_two_networks(capsys):
    main(["--model", "resnext50_32x4d", "--compare", "None"])
    assert capsys.readouterr().out.strip() == table({"resnext50_32x4d": layers("resnext50_32x4d")})
    main([])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 7 + 1 and "resnet50" in printed[0]
    assert len({line.count("|") for line in printed}) == 1


@pytest.mark.parametrize("flags", [["--image_size", "8"], ["--num_classes", "0"]])
def test_a_value_out_of_range_is_refused_by_the_flags_name(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    assert f"{flags[0]} is {flags[1]}" in capsys.readouterr().err


def test_an_unknown_architecture_is_refused():
    with pytest.raises(SystemExit) as stop:
        main(["--model", "vgg16"])
    assert stop.value.code == 2

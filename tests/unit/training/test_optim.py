"""Losses, learning rates and averages are those of the formulas, written out as plain loops."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from tiny_models import tiny_architectures
from torch import nn
from torch.nn import functional as F

from common.config import Recipe
from common.model.build import set_trainable
from common.training.optim import (
    Average,
    balanced_weights,
    build_loss,
    build_sgd,
    focal_loss,
    lr_factor,
    parameter_groups,
    set_lr,
)
from common.training.state import TrainState

CPU = torch.device("cpu")


def tiny(finetune: str = "full", num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return set_trainable(tiny_architectures()["resnext50_32x4d"](num_classes), finetune)


def scored(count: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits, labels and soft labels"""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=random)
    soft = torch.rand(count, classes, generator=random)
    return logits, torch.randint(classes, (count,), generator=random), soft / soft.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma):
    logits, labels, soft = scored()
    hard, mixed = [], []
    for row, label, weights in zip(logits.tolist(), labels.tolist(), soft.tolist(), strict=True):
        p = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        hard.append(-((1 - p[label]) ** gamma) * math.log(p[label]))
        mixed.append(-sum(w * (1 - q) ** gamma * math.log(q) for w, q in zip(weights, p, strict=True)))
    assert float(focal_loss(logits, labels, gamma)) == pytest.approx(sum(hard) / len(hard), rel=1e-5)
    assert float(focal_loss(logits, soft, gamma)) == pytest.approx(sum(mixed) / len(mixed), rel=1e-5)


def test_focal_loss_of_gamma_0_is_cross_entropy():
    logits, labels, soft = scored()
    for targets in (labels, soft):
        torch.testing.assert_close(
            build_loss("focal", focal_gamma=0)(logits, targets), F.cross_entropy(logits, targets)
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_where_the_network_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, -200.0]] * 2, requires_grad=True)
    focal_loss(logits, torch.tensor([0, 2]), gamma).backward()
    assert logits.grad.isfinite().all()


def test_cross_entropy_is_torchs_with_the_smoothing_asked_for():
    logits, labels, _ = scored()
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(build_loss("cross_entropy", 0.1)(logits, labels), expected)


@pytest.mark.parametrize("counts", [[300, 60, 20], [5, 5], [7], [40, 0, 3, 1]], ids=str)
def test_balanced_weights_are_scikit_learns_and_their_mean_over_images_is_1(counts):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    present = sorted(set(labels))
    weights = balanced_weights(torch.tensor(counts))
    expected = compute_class_weight("balanced", classes=np.array(present), y=labels)
    assert weights[present].tolist() == pytest.approx(expected.tolist())
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert all(weights[label] == 0 for label, count in enumerate(counts) if count == 0)


WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 0.5, 7.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_torchs_for_soft_targets_and_its_sum_over_images_for_hard_ones(smoothing):
    logits, labels, soft = scored()
    loss = build_loss("cross_entropy", smoothing, class_weights=WEIGHTS)
    torchs = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, soft), torchs(logits, soft))
    torch.testing.assert_close(loss(logits, labels), torchs(logits, F.one_hot(labels, 5).float()))
    # torch's mean for hard targets, but for what it divides by
    torch.testing.assert_close(loss(logits, labels), torchs(logits, labels) * WEIGHTS[labels].mean())


def test_the_weighted_focal_loss_of_gamma_0_is_weighted_cross_entropy():
    logits, labels, soft = scored()
    for targets in (labels, soft):
        focal = build_loss("focal", focal_gamma=0, class_weights=WEIGHTS)(logits, targets)
        torch.testing.assert_close(focal, build_loss("cross_entropy", class_weights=WEIGHTS)(logits, targets))
    focal, plain = build_loss("focal", class_weights=torch.ones(5)), build_loss("focal")
    assert torch.equal(focal(logits, labels), plain(logits, labels))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_parts_of_a_batch_weighted_by_their_images_add_up_to_its_weighted_loss(name):
    logits, labels, _ = scored(7)
    loss = build_loss(name, class_weights=WEIGHTS)
    parts = [len(part) / 7 * loss(logits[part], labels[part]) for part in torch.arange(7).split([4, 2, 1])]
    torch.testing.assert_close(sum(parts), loss(logits, labels))


@pytest.mark.parametrize("finetune", ["full", "partial", "head"])
def test_each_trained_parameter_is_in_one_group_and_vectors_do_not_decay(finetune):
    model = tiny(finetune)
    groups = parameter_groups(model, 0.1, 5e-4, 0.25)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(trained) and set(rates) == set(trained.values())
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decaying = isinstance(module, nn.Conv2d | nn.Linear) and kind == "weight"
                assert decays[parameter] == (5e-4 if decaying else 0), f"{name}.{kind}"
                assert rates[parameter] == (0.1 if module is model.fc else 0.025), f"{name}.{kind}"


def test_each_stage_towards_the_image_learns_at_a_smaller_rate():
    model = tiny("full")
    groups = parameter_groups(model, 0.1, 5e-4, 0.5, layer_decay=0.7)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    expected = [0.05 * 0.16807, 0.05 * 0.16807, 0.05 * 0.2401, 0.05 * 0.343, 0.05 * 0.49, 0.05 * 0.7, 0.1]
    parts = [model.conv1, model.bn1, model.layer1, model.layer2, model.layer3, model.layer4, model.fc]
    for part, rate in zip(parts, expected, strict=True):
        found = {rates[parameter] for parameter in part.parameters()}
        assert len(found) == 1 and found.pop() == pytest.approx(rate)


def test_a_head_trained_alone_has_the_heads_learning_rate():
    groups = parameter_groups(tiny("head").fc, 0.1, 5e-4, 0.25, 0.5)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 5e-4), (0.1, 0.0)]


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (8, 0.5 * (1 + math.cos(math.pi / 4))), (12, 0.5), (20, 0.0)],
)
def test_the_learning_rate_warms_up_and_falls_by_half_a_cosine(step, factor):
    assert lr_factor(step, 20, 4, "cosine") == pytest.approx(factor, abs=1e-12)


def test_a_constant_learning_rate_is_constant_after_the_warmup():
    assert [lr_factor(step, 6, 2, "constant") for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    assert lr_factor(0, 10, 0, "cosine") == 1
    assert [lr_factor(step, 2, 2, "cosine") for step in range(2)] == [0.5, 1]


def test_the_schedule_moves_all_groups_together_and_tells_the_heads_rate():
    optimizer = build_sgd(parameter_groups(tiny(), 0.1, 0, 0.25), 0.1, 0.9, False, CPU)
    for factor in (0.5, 0.1, 1.0):  # from the base rate each time, not from the last
        assert set_lr(optimizer, factor) == pytest.approx(0.1 * factor)
        assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx(
            [0.025 * factor, 0.1 * factor]
        )


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_its_formula(nesterov):
    layer = nn.Linear(3, 2)
    optimizer = build_sgd(parameter_groups(layer, 0.1, 0.01), 0.1, 0.9, nesterov, CPU)
    expected = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    velocity = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    for step in range(3):
        layer(torch.full((4, 3), 0.5 + step)).square().mean().backward()
        for name, parameter in layer.named_parameters():
            gradient = parameter.grad + (0.01 * expected[name] if name == "weight" else 0)
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] -= 0.1 * (gradient + 0.9 * velocity[name] if nesterov else velocity[name])
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name])


def test_the_average_is_a_warmed_up_exponential_one_of_weights_and_statistics():
    model, decay = tiny(), 0.3
    average, expected = Average(model, decay), None
    random = torch.Generator().manual_seed(1)
    for n in range(6):
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=random))
        average.update_parameters(model)
        now = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        share = min(decay, (1 + n) / (10 + n))
        expected = now if n == 0 else {k: share * expected[k] + (1 - share) * now[k] for k in now}
    state = average.module.state_dict()
    assert {"bn1.running_mean", "layer4.0.bn3.running_var", "fc.weight"} <= set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, msg=name)


def test_every_step_of_a_run_moves_the_average():
    model = tiny("head")
    state = TrainState(model, Recipe(ema_decay=0.5), 0, None, sums=torch.zeros(3))
    for value in (1.0, 2.0):
        nn.init.constant_(model.fc.bias, value)
        state.add(torch.tensor([0.5, 1.0, 2.0]))
    bias = 2.0 + (1.0 - 2.0) * 2 / 11  # the warmed-up decay of the second update
    torch.testing.assert_close(state.weights()["fc.bias"], torch.full((10,), bias))
    assert state.evaluated is not model and state.sums.tolist() == [1.0, 2.0, 4.0]


def test_a_head_alone_which_has_no_buffers_is_averaged_too():
    head = nn.Linear(3, 2)
    average = Average(head, 0.5)
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(head.bias, value)
        average.update_parameters(head)
    expected = 4 + (2 + (1 - 2) * 2 / 11 - 4) * 3 / 12  # (1 + n) / (10 + n) for n = 1 and 2
    torch.testing.assert_close(average.module.bias, torch.full((2,), expected))


def test_the_averages_count_is_read_without_a_gpu_and_is_part_of_its_state():
    average = Average(tiny(), 0.9)
    assert average.n_averaged.device == CPU
    average.update_parameters(tiny())
    assert int(average.state_dict()["n_averaged"]) == 1


def test_the_averaged_networks_mode_is_its_own():
    model = tiny("head")
    average = Average(model, 0.9)
    model.train()
    average.module.eval()
    assert model.training and model.fc.training and not average.module.fc.training
    average.module.train()
    model.eval()
    assert average.module.training and average.module.fc.training and not model.fc.training
    other = copy.deepcopy(model).train()
    assert other.training and not model.training and not other.bn1.training  # frozen, in the copy as well

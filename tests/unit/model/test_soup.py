"""The mean of weights against a plain one, and the greedy choice against the recipe written out with plain loops."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from common.model.build import ARCHITECTURES
from common.model.soup import add_to_mean, greedy_soup, unlike_statistics, with_statistics

pytestmark = pytest.mark.usefixtures("small_networks")


def network(seed: int) -> dict[str, torch.Tensor]:
    """A tiny network's state, its statistics and counters those of a few batches."""
    torch.manual_seed(seed)
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=5)
    with torch.no_grad():
        for _ in range(seed + 1):
            model(torch.randn(8, 3, 32, 32))
    return model.state_dict()


def mean_of_all(states):
    mean = states[0]
    for count, state in enumerate(states[1:], 1):
        mean = add_to_mean(mean, count, state)
    return mean


def test_the_mean_is_the_plain_one_of_every_weight_and_statistic():
    states = [network(seed) for seed in range(5)]
    before = {name: tensor.clone() for name, tensor in states[0].items()}
    mean = mean_of_all(states)
    assert list(mean) == list(states[0])
    for name, tensor in mean.items():
        assert tensor.dtype == states[0][name].dtype
        if tensor.is_floating_point():
            plain = sum(state[name].double() for state in states) / len(states)
            torch.testing.assert_close(tensor.double(), plain, rtol=1e-5, atol=1e-6)
        else:  # BatchNorm's counters of batches
            assert torch.equal(tensor, states[0][name])
        assert torch.equal(states[0][name], before[name]), "a run's own weights changed"


def test_what_all_networks_share_stays_to_the_last_bit():
    state = network(0)
    heads = [{**state, "fc.weight": torch.randn(5, 64, generator=torch.Generator().manual_seed(n))} for n in range(7)]
    mean = mean_of_all(heads)
    assert all(torch.equal(mean[name], state[name]) for name in state if name != "fc.weight")
    assert not torch.equal(mean["fc.weight"], heads[0]["fc.weight"])


# Linear classifiers of 200 points, some of them far off.


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator)
    centres = torch.randn(4, 6, generator=generator)
    return centres[labels] + 0.8 * torch.randn(200, 6, generator=generator), labels, centres


def accuracy_on(points):
    inputs, labels, _ = points
    return lambda state: (nn.functional.linear(inputs, state["weight"]).argmax(dim=1) == labels).double().mean().item()


def same(state):
    """No BatchNorm, whose statistics would be measured anew."""
    return state


def recipe_1(states, accuracy):
    """Wortsman et al. 2022, recipe 1, word for word: the ingredients' numbers."""
    ingredients: list[int] = []

    def average(numbers):
        return {"weight": sum(states[number]["weight"].double() for number in numbers).div(len(numbers)).float()}

    for number in range(len(states)):
        if not ingredients or accuracy(average([*ingredients, number])) >= accuracy(average(ingredients)):
            ingredients.append(number)
    return ingredients, accuracy(average(ingredients))


@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_choice_is_that_of_the_paper(points, seed):
    generator, accuracy = torch.Generator().manual_seed(seed), accuracy_on(points)
    noise = [0.5, 0.7, 0.9, 1.1, 1.3, 3.0]
    states = [{"weight": points[2] + scale * torch.randn(4, 6, generator=generator)} for scale in noise]
    states.sort(key=accuracy, reverse=True)
    expected, expected_accuracy = recipe_1(states, accuracy)
    tries = list(greedy_soup(states[0], accuracy(states[0]), states[1:], same, accuracy))
    assert [0] + [number for number, tried in enumerate(tries, 1) if tried.taken] == expected
    assert tries[-1].count == len(expected) and tries[-1].accuracy == expected_accuracy == accuracy(tries[-1].soup)
    for tried in tries:
        assert tried.accuracy == tried.accuracy_with if tried.taken else tried.accuracy > tried.accuracy_with


def test_the_seeds_above_take_some_and_leave_some_out(points):
    accuracy, counts = accuracy_on(points), set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        states = [
            {"weight": points[2] + s * torch.randn(4, 6, generator=generator)} for s in (0.5, 0.7, 0.9, 1.1, 1.3, 3)
        ]
        counts.add(len(recipe_1(sorted(states, key=accuracy, reverse=True), accuracy)[0]))
    assert len(counts) > 2 and 6 not in counts


def test_a_network_that_changes_nothing_is_taken_and_one_that_harms_is_not(points):
    accuracy, good = accuracy_on(points), {"weight": points[2]}
    harmful = {"weight": -20 * points[2]}
    again, worse = greedy_soup(good, accuracy(good), [good, harmful], same, accuracy)
    assert again.taken and again.count == 2 and torch.equal(again.soup["weight"], good["weight"])
    assert not worse.taken and worse.count == 2 and worse.soup is again.soup


# BatchNorm


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(9)
    return [(torch.randn(size, 3, 32, 32, generator=generator) + 1, torch.zeros(size)) for size in (8, 8, 7)]


def test_statistics_measured_anew_are_those_of_torchs_own_update_bn():
    state = network(0)
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=5)
    model.load_state_dict(state)
    reference, names = copy.deepcopy(model), unlike_statistics(state, network(1))
    assert names == {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    update_bn(batches(), reference)
    found = with_statistics(model, names, batches())
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
        if "running" in name:
            assert not torch.equal(found[name], state[name])
    assert all(layer.momentum == 0.1 for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    model.load_state_dict(state)
    assert not torch.equal(found["bn1.running_mean"], state["bn1.running_mean"]), "the state is the model's own memory"


def test_frozen_statistics_are_known_by_being_equal_and_stay():
    state = network(0)
    other = {
        **state,
        "layer4.0.bn1.running_var": state["layer4.0.bn1.running_var"] + 1,
        "fc.bias": state["fc.bias"] + 1,
    }
    assert unlike_statistics(state, state) == set()
    assert unlike_statistics(state, other) == {"layer4.0.bn1"}
    model = ARCHITECTURES["resnext50_32x4d"](num_classes=5)
    model.load_state_dict(state)
    found = with_statistics(model, {"layer4.0.bn1"}, batches())
    changed = {name for name in state if not torch.equal(found[name], state[name])}
    assert changed == {f"layer4.0.bn1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}

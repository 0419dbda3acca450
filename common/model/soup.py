"""One network out of several: a greedy soup of their weights (Wortsman et al. 2022, "Model soups", recipe 1).

BatchNorm's running statistics are measured anew after averaging, since the mean of the networks' own is not what the mean of
their weights gives rise to (Izmailov et al. 2018, "Averaging weights leads to wider optima", section 3.2).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class Tried:
    """A soup after one more network was tried."""

    soup: State
    count: int
    """networks in it"""
    accuracy: float
    """of the soup"""
    accuracy_with: float
    """of the soup with the network that was tried"""
    taken: bool
    """whether that is in the soup now"""


def greedy_soup(
    first: State,
    first_accuracy: float,
    others: Iterable[State],
    settled: Callable[[State], State],
    accuracy: Callable[[State], float],
) -> Iterator[Tried]:
    """Begins with the most accurate network, tries the others, in order of their accuracy, and takes each that the soup does not
    become less accurate by. settled: what makes a mean a network again, `with_statistics`."""
    soup, count, best = first, 1, first_accuracy
    for state in others:
        candidate = settled(add_to_mean(soup, count, state))
        found = accuracy(candidate)
        taken = found >= best
        if taken:
            soup, count, best = candidate, count + 1, found
        yield Tried(soup, count, best, found, taken)


def add_to_mean(mean: State, count: int, state: State) -> State:
    """The mean of `count` networks, with one more. What is equal in all stays so to the last bit; counters are the first's."""
    return {
        name: own.lerp(state[name], 1 / (count + 1)) if own.is_floating_point() else own for name, own in mean.items()
    }


def unlike_statistics(one: State, other: State) -> set[str]:
    """The names of the BatchNorms whose running statistics differ: none that was frozen in both."""
    statistics = {name for name in one if name.endswith((".running_mean", ".running_var"))}
    return {name.rpartition(".")[0] for name in statistics if not torch.equal(one[name], other[name])}


@torch.no_grad()
def with_statistics(
    model: nn.Module, names: Collection[str], batches: Iterable[tuple[Tensor, Tensor]], amp: torch.dtype | None = None
) -> State:
    """`model`'s state with the running statistics of the BatchNorms `names` measured anew: the means over `batches`, which are
    images float (b, 3, s, s) and labels. As `torch.optim.swa_utils.update_bn`, which has no way to leave frozen ones alone.
    Changes `model`; the state is on the CPU and its own."""
    model.eval()
    layers = [layer for name, layer in model.named_modules() if name in names and isinstance(layer, nn.BatchNorm2d)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a mean of all batches with equal weights
        layer.train()
    for images, _ in batches:
        with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
            model(images)
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    model.eval()
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}

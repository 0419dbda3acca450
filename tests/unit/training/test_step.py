"""A step trains, weighs every image alike, and never waits for the device."""

import contextlib

import pytest
import torch
from sklearn import metrics as sk
from tiny_models import tiny_architectures
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.model.predict import predict
from common.training.optim import Average, build_loss, build_sgd, parameter_groups, set_lr
from common.training.step import scores, train_step

CPU = torch.device("cpu")


def tiny(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return tiny_architectures()["resnext50_32x4d"](num_classes)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))


def batch(count: int = 8, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 16, 16, generator=random), torch.randint(classes, (count,), generator=random)


class Training:
    """A network and what trains it."""

    def __init__(self, model: nn.Module | None = None, lr: float = 0.05, amp: torch.dtype | None = None) -> None:
        self.model, self.amp = model or tiny(), amp
        self.optimizer = build_sgd(parameter_groups(self.model, lr, 0.0), lr, 0.9, False, CPU)
        self.scaler = torch.amp.GradScaler("cpu", enabled=amp is torch.float16)
        self.loss_fn = build_loss("cross_entropy")

    def step(self, images: torch.Tensor, labels: torch.Tensor, weight: float = 1.0, parts=()) -> torch.Tensor:
        return train_step(
            self.model, images, labels, self.loss_fn, self.optimizer, self.scaler, self.amp, weight=weight, parts=parts
        )


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16], ids=str)
def test_one_batch_can_be_learned_by_heart(amp):
    images, labels = batch()
    # A CPU convolves slowly in half precision.
    training = Training(small() if amp else tiny(), amp=amp)
    sums = [training.step(images, labels).tolist() for _ in range(30)]
    assert sums[0][0] / 8 > 1.5
    assert sums[-1][0] / 8 < 0.1 and sums[-1][1:] == [8, 8]


def test_half_precision_that_overflows_skips_the_step_and_scales_down():
    training, (images, labels) = Training(small(), amp=torch.float16), batch()
    before = {name: parameter.clone() for name, parameter in training.model.named_parameters()}
    training.step(images, labels, weight=1e38)
    assert training.scaler.get_scale() == 2.0**15
    assert all(torch.equal(parameter, before[name]) for name, parameter in training.model.named_parameters())
    training.step(images, labels)
    assert not torch.equal(training.model[1].weight, before["1.weight"])


def test_the_sums_are_those_of_the_batch_whatever_its_weight():
    images, labels = batch(6)
    model = tiny()
    with torch.no_grad():
        logits = model.train()(images)
    for weight in (1.0, 0.5):
        loss, right, count = Training(tiny()).step(images, labels, weight).tolist()
        assert loss == pytest.approx(float(F.cross_entropy(logits, labels, reduction="sum")), rel=1e-5)
        assert (right, count) == (int((logits.argmax(dim=1) == labels).sum()), 6)


def test_two_unequal_shares_weighted_by_their_images_make_the_whole_batchs_step():
    images, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    layers = [nn.Linear(5, 3) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    start = layers[0].weight.detach().clone()
    Training(layers[0]).step(images, labels)
    parts = slice(0, 4), slice(4, 6)
    for layer, part in zip(layers[1:], parts, strict=True):
        Training(layer).step(images[part], labels[part], weight=len(images[part]) * 2 / 6)
    steps = [layer.weight.detach() - start for layer in layers]
    torch.testing.assert_close(steps[0], (steps[1] + steps[2]) / 2)


@pytest.mark.parametrize("parts", [[8], [4, 4], [3, 3, 2], [1] * 8], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("amp", [None, torch.float16], ids=str)
def test_a_batch_in_parts_gives_the_step_of_the_whole(parts, soft, amp):
    images, labels = batch()
    if soft:
        labels = torch.softmax(torch.randn(8, 10, generator=torch.Generator().manual_seed(1)), dim=1)
    whole, divided = Training(small(), amp=amp), Training(small(), amp=amp)
    close = {"rtol": 1e-5, "atol": 1e-6} if amp is None else {"rtol": 1e-3, "atol": 1e-4}
    for _ in range(3):  # the momentum, too
        expected, found = whole.step(images, labels), divided.step(images, labels, parts=parts)
        torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(divided.model[1].weight, whole.model[1].weight, **close)
    assert all(parameter.grad is None for parameter in divided.model.parameters())


def test_a_batch_in_parts_is_a_plain_loop_that_adds_gradients_up():
    """With BatchNorm, which sees a part at a time, whatever does it."""
    images, labels = batch()
    ours, plain = Training(tiny(), lr=0.01), tiny()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        ours.step(images, labels, parts=[5, 3])
        optimizer.zero_grad()
        for part in (slice(0, 5), slice(5, 8)):
            (F.cross_entropy(plain(images[part]), labels[part], reduction="sum") / 8).backward()
        optimizer.step()
    torch.testing.assert_close(ours.model.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)


def test_several_processes_wait_for_each_other_in_the_last_part_alone():
    alone = []

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.quiet = small(), False

        def no_sync(self):
            @contextlib.contextmanager
            def quiet():
                self.quiet = True
                yield
                self.quiet = False

            return quiet()

        def forward(self, images):
            alone.append((len(images), self.quiet))
            return self.model(images)

    Training(Wrapped()).step(*batch(), parts=[3, 3, 2])
    Training(Wrapped()).step(*batch())
    assert alone == [(3, True), (3, True), (2, False), (8, False)]


def test_a_mixed_image_is_right_when_its_larger_part_is_named():
    layer = nn.Linear(3, 3, bias=False)
    nn.init.eye_(layer.weight)
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.3, 0.7, 0.0]])
    assert Training(layer).step(torch.tensor([[9.0, 0, 0], [9.0, 0, 0]]), soft).tolist()[1:] == [1, 2]


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU: a tensor's value read by Python, or a size that depends on one.

    on_cpu: a tensor that is on the CPU in any case; it, and what is computed from it alone, may be read.
    """

    WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "_unique2", "is_nonzero"}

    def __init__(self, on_cpu: torch.Tensor | None = None) -> None:
        super().__init__()
        self.on_cpu = [] if on_cpu is None else [on_cpu]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        free = bool(tensors) and all(any(value is known for known in self.on_cpu) for value in tensors)
        name = function.overloadpacket.__name__
        masked = name.startswith("index") and any(value.dtype == torch.bool for value in tensors[1:])
        if (name in self.WAITS or masked) and not free:
            raise AssertionError(f"{function} waits for the device")
        result = function(*args, **(kwargs or {}))
        if free and isinstance(result, torch.Tensor):
            self.on_cpu.append(result)
        return result


def test_the_guard_against_waiting_sees_every_way_to_wait():
    value = torch.tensor([1.0, 0.0])
    for wait in (lambda: value[0].item(), lambda: bool(value[0]), lambda: value[value > 0], lambda: float(value[1])):
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            wait()


@pytest.mark.parametrize("soft", [False, True])
def test_a_step_never_waits_for_the_device(soft, monkeypatch):
    images, labels = batch()
    labels = F.one_hot(labels, 10).float() if soft else labels
    training, sums = Training(), torch.zeros(3)
    average = Average(training.model, 0.9)
    for method in ("cpu", "numpy", "tolist"):

        def refuse(*args, method=method):
            raise AssertionError(f"{method} waits for the device")

        monkeypatch.setattr(torch.Tensor, method, refuse)
    with NoWaiting(on_cpu=average.n_averaged):
        for step in range(2):
            set_lr(training.optimizer, 1 / (1 + step))
            sums += training.step(images, labels)
            average.update_parameters(training.model)
    monkeypatch.undo()
    assert sums[2] == 16 and int(average.n_averaged) == 2


def test_predictions_come_in_order_on_the_cpu_and_change_nothing():
    model, (images, labels) = tiny().train(), batch(10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, targets = predict(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], CPU)
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(images))
    assert torch.equal(targets, labels) and logits.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_what_counting_gives():
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 10, generator=random), torch.randint(10, (40,), generator=random)
    first = fifth = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(10), key=row.__getitem__, reverse=True)
        first, fifth = first + (ranked[0] == label), fifth + (label in ranked[:5])
    measured = scores(logits, labels, build_loss("cross_entropy"))
    assert measured["validation/accuracy"] == pytest.approx(first / 40)
    assert measured["validation/top5_accuracy"] == pytest.approx(fifth / 40)
    assert measured["validation/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)))
    for classes, count in ((10, 40), (10, 3), (4, 40)):  # the last classes of few images don't occur
        guesses, truth = logits[:count, :classes], labels[:count] % classes
        measured = scores(guesses, truth, build_loss("cross_entropy"))
        named = guesses.argmax(dim=1)
        every = {"labels": range(classes), "average": "macro", "zero_division": 0}
        assert measured["validation/macro_f1"] == pytest.approx(sk.f1_score(truth, named, **every))
        expected = sk.balanced_accuracy_score(truth, named)
        assert measured["validation/balanced_accuracy"] == pytest.approx(expected)
    for classes in (3, 5):  # all are among the first five
        assert "validation/top5_accuracy" not in scores(
            logits[:, :classes], labels % classes, build_loss("cross_entropy")
        )

"""Steps on a real GPU: the same numbers as on the CPU, and none of them waits. Each test runs on the CPU as well, so that its
first meeting with a GPU is not its first run."""

import copy

import numpy as np
import pytest
import torch
from devices import DEVICES, exact_float32, no_waiting
from tiny_models import tiny_architectures
from torch.nn import functional as F

from common.base.processes import Processes
from common.data.augment import mixing
from common.data.batches import Batches
from common.data.decode import _as_tensor
from common.model.build import set_trainable
from common.model.predict import predict
from common.training.features import FeatureBatches
from common.training.optim import Average, build_loss, build_scaler, build_sgd, parameter_groups
from common.training.step import train_step

CLASSES = 10


def tiny(finetune: str = "full") -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return set_trainable(tiny_architectures()["resnext50_32x4d"](num_classes=CLASSES), finetune)


def photos(count: int = 40, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Coarse random pictures."""
    coarse = torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return coarse.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3), torch.arange(count) % CLASSES


def batches(device: str, images: torch.Tensor | None = None, size: int = 24, **options) -> Batches:
    own, labels = photos()
    images = own if images is None else images
    return Batches(images, labels, torch.arange(len(images)), 8, size, torch.device(device), **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augment", ["none", "basic"])
def test_batches_are_those_of_the_cpu_to_a_shade(augment, device):
    """The order, crops and mirror images are the same; a resized pixel is rounded on another device, to the neighbour at most."""
    options = {"augment": augment, "flip": True, "training": True}
    for same, size in ((True, 32), (False, 24)):
        pairs = zip(
            batches(device, size=size, **options).epoch(1), batches("cpu", size=size, **options).epoch(1), strict=True
        )
        for (images, labels), (expected, expected_labels) in pairs:
            assert images.device.type == device and labels.cpu().tolist() == expected_labels.tolist()
            assert images.is_contiguous(memory_format=torch.channels_last)
            shade = 1.01 / (255 * 0.224)  # in normalized units
            torch.testing.assert_close(images.cpu(), expected, atol=1e-5 if same else shade, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_first_step_that_overflows_is_skipped_and_leaves_no_trace(device):
    parameter = torch.nn.Parameter(torch.ones(1000, device=device))
    junk = [torch.full((1000,), float("nan"), device=device) for _ in range(50)]
    del junk  # what uninitialized memory may hold
    optimizer = build_sgd([{"params": [parameter]}], 0.1, 0.9, False, torch.device(device))
    scaler = build_scaler(optimizer, torch.float16, torch.device(device))
    expected = 1.0
    for loss, velocity in ((float("inf"), 0.0), (1.0, 1.0), (1.0, 1.9)):
        scaler.scale(parameter.sum() * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        expected -= 0.1 * velocity
        torch.testing.assert_close(parameter.detach().cpu(), torch.full((1000,), expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mapped", [False, True])
def test_logits_are_those_of_the_cpu(mapped, device, tmp_path):
    model, images = tiny(), None
    if mapped:
        np.save(tmp_path / "images.npy", photos()[0].permute(0, 2, 3, 1).contiguous().numpy())
        images = _as_tensor(np.load(tmp_path / "images.npy", mmap_mode="c"))
    on_device = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    with exact_float32():
        logits, labels = predict(on_device, batches(device, images, 32).epoch(0), torch.device(device))
    expected, expected_labels = predict(model, batches("cpu", size=32).epoch(0), torch.device("cpu"))
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(labels, expected_labels)
    rounded, _ = predict(on_device, batches(device, images, 32).epoch(0), torch.device(device), torch.bfloat16)
    assert (rounded - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_trains_the_weights_that_it_trains_on_the_cpu(device):
    states = []
    for place in (device, "cpu"):
        model = tiny().to(place, memory_format=torch.channels_last).train()
        optimizer = build_sgd(parameter_groups(model, 0.01, 5e-4), 0.01, 0.9, True, torch.device(place))
        scaler = torch.amp.GradScaler(place, enabled=False)
        sums = torch.zeros(3, device=place)
        with exact_float32():
            for images, labels in batches(place, size=32, training=True).epoch(0):
                sums += train_step(model, images, labels, build_loss("cross_entropy", 0.1), optimizer, scaler)
        states.append({**{name: tensor.cpu() for name, tensor in model.state_dict().items()}, "loss": sums.cpu()[0]})
    torch.testing.assert_close(states[0], states[1], atol=2e-3, rtol=1e-2)


RECIPES = {
    "plain": {},
    "augmented": {"augment": "basic"},
    "mixed": {"augment": "basic", "mix": mixing(0.2, 1.0, CLASSES)},
    "growing": {"progressive_from": 16, "epochs": range(4)},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_waits_for_the_device(recipe, amp, device):
    if recipe == "growing" and amp is torch.bfloat16 and device == "cpu":
        pytest.skip("no CPU trains 16 px in bf16")
    if amp is torch.float16 and device == "cpu":
        pytest.skip("auto takes it on a GPU alone")
    model = tiny().to(device, memory_format=torch.channels_last).train()
    optimizer = build_sgd(parameter_groups(model, 0.01, 5e-4), 0.01, 0.9, True, torch.device(device))
    scaler = build_scaler(optimizer, amp, torch.device(device))
    average, sums = Average(model, 0.9), torch.zeros(3, device=device)
    made = batches(device, training=True, flip=True, **RECIPES[recipe])

    def epoch(number: int) -> None:
        for images, labels in made.epoch(number):
            sums.add_(train_step(model, images, labels, build_loss("cross_entropy", 0.1), optimizer, scaler, amp))
            average.update_parameters(model)

    epoch(0)  # cuDNN and cuBLAS are opened, momenta and the scale are made
    with no_waiting(device):
        epoch(1)
    assert sums[2] == 80 and torch.isfinite(sums).all() and int(average.n_averaged) == 10


@pytest.mark.parametrize("device", DEVICES)
def test_no_batch_of_a_mapped_file_or_of_kept_features_waits_for_the_device(device, tmp_path):
    np.save(tmp_path / "images.npy", photos()[0].permute(0, 2, 3, 1).contiguous().numpy())
    mapped = batches(
        device, _as_tensor(np.load(tmp_path / "images.npy", mmap_mode="c")), training=True, augment="basic"
    )
    assert mapped.file is not None
    features = FeatureBatches(torch.zeros(40, 2, 7, device=device), photos()[1].to(device), 8, 0, Processes())
    for warm in (True, False):
        with no_waiting("cpu" if warm else device):
            assert len(list(mapped.epoch(0))) == len(list(features.epoch(1))) == 5


@pytest.mark.gpu
def test_the_check_sees_what_waits():
    with no_waiting("cuda"), pytest.raises(RuntimeError, match="synchroniz"):
        torch.zeros(3, device="cuda").sum().item()
    with no_waiting("cuda"), pytest.raises(RuntimeError, match="synchroniz"):
        torch.zeros(3).to("cuda")


@pytest.mark.parametrize("device", DEVICES)
def test_the_compiled_network_learns_what_the_network_learns(device):
    if device == "cpu":
        backend = "eager"  # the compiler takes a minute on a CPU; what a GPU adds is its code
    else:
        backend = "inductor"
    losses = []
    for wrap in (lambda model: model, lambda model: torch.compile(model, backend=backend)):
        model = tiny().to(device, memory_format=torch.channels_last).train()
        network, sums = wrap(model), torch.zeros(3, device=device)
        optimizer = build_sgd(parameter_groups(model, 0.01, 0.0), 0.01, 0.9, False, torch.device(device))
        scaler = torch.amp.GradScaler(device, enabled=False)
        with exact_float32():
            for images, labels in batches(device, training=True).epoch(0):
                sums += train_step(network, images, labels, F.cross_entropy, optimizer, scaler)
        losses.append(sums[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)

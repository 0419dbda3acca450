"""A head trained on kept features is the head that would have been trained on images; what is frozen costs nothing."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import safetensors.torch
import torch
from tiny_models import tiny_architectures
from torch import nn

from common.base.processes import Processes
from common.data.batches import Batches
from common.model.build import set_trainable
from common.model.predict import predict
from common.training.features import (
    FeatureBatches,
    backbone_of,
    cache_key,
    cached_features,
    extract,
    read_features,
    write_features,
)
from common.training.optim import build_loss, build_sgd, parameter_groups
from common.training.step import train_step

CPU = torch.device("cpu")
COUNT, EPOCHS = 22, 3


def tiny(finetune: str = "head") -> nn.Module:
    """A network whose BatchNorm statistics are not those of a new one."""
    torch.manual_seed(0)
    model = tiny_architectures()["resnext50_32x4d"](10)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 16, 16) * 2 + 1)
    return set_trainable(model, finetune)


def make(training: bool = True, **options) -> Batches:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, 16, 16), dtype=torch.uint8, generator=random)
    labels = torch.randint(10, (30,), generator=random)
    indices = torch.randperm(30, generator=random)
    indices = indices[:COUNT] if training else indices[COUNT:]
    options = {"augment": "basic", "flip": True, "seed": 3, **options}
    return Batches(images, labels, indices, 8, 16, CPU, training=training, **options)


def cached(model: nn.Module, feature_views: int = EPOCHS, in_file: bool = False, **options) -> tuple:
    digest = "data" if in_file else None
    return tuple(
        cached_features(model, batches, views, None, Processes(), lambda: False, "", digest)
        for batches, views in ((make(**options), feature_views), (make(training=False), 1))
    )


def trained(network: nn.Module, batches) -> nn.Module:
    optimizer = build_sgd(parameter_groups(network, 0.1, 5e-4), 0.1, 0.9, False, CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for epoch in range(EPOCHS):
        network.train()
        for images, labels in batches.epoch(epoch):
            train_step(network, images, labels, build_loss("cross_entropy"), optimizer, scaler)
    return network


def test_a_head_trained_on_kept_features_is_the_one_trained_on_images():
    model = tiny()
    whole = trained(copy.deepcopy(model), make())
    kept, _ = cached(model)
    head = trained(model.fc, kept)
    assert not torch.equal(head.weight, tiny().fc.weight)
    torch.testing.assert_close(head.weight, whole.fc.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.bias, whole.fc.bias, rtol=1e-4, atol=1e-5)


def test_kept_features_come_in_the_images_batches_and_views_repeat():
    model, batches = tiny(), make()
    kept, _ = cached(model, feature_views=2)
    assert len(kept) == len(batches) and [kept.size(s) for s in range(3)] == [batches.size(s) for s in range(3)]
    for epoch, start in ((0, 0), (1, 2)):
        pairs = zip(kept.epoch(epoch, start), batches.epoch(epoch, start), strict=True)
        for (features, labels), (images, expected) in pairs:
            assert torch.equal(labels, expected)
            torch.testing.assert_close(features, backbone_of(model.eval())(images), rtol=1e-4, atol=1e-5)
    views = [torch.cat([features for features, _ in kept.epoch(epoch)]).sum(dim=0) for epoch in range(3)]
    torch.testing.assert_close(views[0], views[2])  # of all images, in whatever order
    assert not torch.allclose(views[0], views[1])


def test_validation_on_features_gives_the_whole_networks_logits():
    model = tiny()
    _, kept = cached(model)
    logits, labels = predict(model.fc, kept.epoch(0), CPU)
    expected, expected_labels = predict(model, make(training=False).epoch(0), CPU)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize(("augment", "views"), [("basic", 2), ("none", 1)])
def test_the_backbone_sees_each_image_once_a_view(augment, views):
    model, seen = tiny(), []
    model.layer4.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    kept, validation = cached(model, feature_views=2, augment=augment)  # views that aren't augmented are the same
    for network_input in (kept, validation):
        for epoch in range(3):
            list(network_input.epoch(epoch))
    assert sum(seen) == views * COUNT + (30 - COUNT)


@dataclass(frozen=True)
class ProcessesOfThreads(Processes):
    parts: dict[int, torch.Tensor] = field(default_factory=dict)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        self.parts[self.rank] = mine
        self.barrier.wait(120)
        gathered = torch.cat([self.parts[rank] for rank in range(self.world)])
        self.barrier.wait(120)
        return gathered


def test_two_processes_compute_half_of_the_features_each_and_keep_all():
    first = ProcessesOfThreads(0, 2)
    teams, models, labels = [first, replace(first, rank=1)], [tiny(), tiny()], make().labels[make().indices]
    expected = extract(tiny(), make(), 2, None, Processes(), lambda: False, "")

    def extracted(processes: Processes) -> torch.Tensor:
        return extract(
            models[processes.rank], make(rank=processes.rank, world=2), 2, None, processes, lambda: False, ""
        )

    with ThreadPoolExecutor(2) as pool:
        for features in pool.map(extracted, teams):
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    alone, *shares = [FeatureBatches(expected, labels, 8, 3, processes).epoch(1) for processes in (Processes(), *teams)]
    for (features, _), *parts in zip(alone, *shares, strict=True):
        for rank, (part, _) in enumerate(parts):
            assert torch.equal(part, features[rank::2])


def test_a_head_trained_on_balanced_features_is_the_one_trained_on_balanced_images():
    """The augmented pixels of an image that is drawn twice are others, those of its features are not: without augmentation."""
    labels, indices = make().labels[make().indices], torch.arange(COUNT)
    rare = torch.where(labels < 8, 0, 1)  # 18 and 4 of 22
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (COUNT, 3, 16, 16), dtype=torch.uint8, generator=random)
    batches = Batches(pictures, rare, indices, 8, 16, CPU, seed=3, training=True, balanced=True)
    model = tiny()
    whole = trained(copy.deepcopy(model), batches)
    kept = cached_features(model, batches, 1, None, Processes(), lambda: False, "")
    for epoch in range(2):
        shown = torch.cat([labels for _, labels in kept.epoch(epoch)])
        assert torch.equal(shown, torch.cat([labels for _, labels in batches.epoch(epoch)]))
        assert torch.bincount(shown).tolist() == [COUNT // 2] * 2
    torch.testing.assert_close(trained(model.fc, kept).weight, whole.fc.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.labels, rare)  # in the file, and in memory, each image is there once


def test_no_validation_images_have_no_features():
    empty = Batches(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1), torch.arange(0), 8, 16, CPU)
    assert extract(tiny(), empty, 1, None, Processes(), lambda: False, "").shape == (0, 1, tiny().fc.in_features)


def test_features_kept_in_a_file_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    first, _ = cached(tiny(), in_file=True)
    model = tiny()
    model.layer4.register_forward_hook(lambda *_: pytest.fail("the backbone ran again"))
    again, _ = cached(model, in_file=True)
    assert torch.equal(first.features, again.features)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])  # damaged: computed anew
        assert read_features(file) is None
    assert torch.equal(cached(tiny(), in_file=True)[0].features, first.features)


def test_a_flipped_bit_anywhere_in_kept_features_is_said_and_they_are_computed_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    write_features(tmp_path / "kept.safetensors", torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0)))
    whole, random = (tmp_path / "kept.safetensors").read_bytes(), torch.Generator().manual_seed(1)
    kept = read_features(tmp_path / "kept.safetensors")
    for bit in torch.randint(8 * len(whole), (200,), generator=random).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "kept.safetensors").write_bytes(damaged)
        read = read_features(tmp_path / "kept.safetensors")  # a space in the header may go without a loss
        assert read is None or torch.equal(read, kept), bit

    first, _ = cached(tiny(), in_file=True)
    assert capsys.readouterr().err.count("damaged") == 0
    for file in (tmp_path / "features").iterdir():
        damaged = bytearray(file.read_bytes())
        damaged[-5] ^= 4  # a number that is another, and finite
        file.write_bytes(damaged)
        again, _ = cached(tiny(), in_file=True)
        assert torch.equal(again.features, first.features)
        assert f"{file} is damaged" in capsys.readouterr().err and read_features(file) is not None


def test_features_kept_by_an_earlier_version_without_a_checksum_are_computed_anew(tmp_path):
    safetensors.torch.save_file({"features": torch.ones(3, 1, 2)}, tmp_path / "kept.safetensors")
    assert read_features(tmp_path / "kept.safetensors") is None


def test_the_files_name_depends_on_all_that_features_depend_on():
    def key(model=None, views=1, amp=None, digest="data", **options) -> str:
        return cache_key(model or tiny(), make(**options), views, amp, digest)

    changed, other_head = tiny(), tiny()
    changed.bn1.running_mean[0] += 1e-3
    with torch.no_grad():
        other_head.fc.weight.add_(1)
    keys = [key(), key(changed), key(views=2), key(amp=torch.bfloat16), key(digest="other"), key(seed=4)]
    keys += [
        key(flip=False),
        key(augment="randaugment"),
        key(augment="photos"),
        key(training=False),
        key(augment="none"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(other_head)
    assert key(augment="none", seed=4) == key(augment="none")


@pytest.mark.parametrize("finetune", ["partial", "head"])
def test_what_is_frozen_builds_no_graph_and_keeps_its_statistics(finetune):
    model = tiny(finetune)
    frozen = {"partial": "layer2", "head": "layer4"}[finetune]
    outputs = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, make())
    assert not outputs[frozen].requires_grad and outputs["fc"].requires_grad
    moved = {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == ({"layer3", "layer4", "fc"} if finetune == "partial" else {"fc"})

"""The networks are torchvision's own, their weights what the file holds, and what is frozen stays as it was."""

import copy
import io
import pickle
import socket
from functools import partial
from pathlib import Path

import archives
import pytest
import safetensors.torch
import torch
from helpers import Malicious
from tiny_models import tiny_architectures
from torch import nn
from torchvision import models

from common.base import terminal
from common.base.errors import UserError
from common.model.build import ARCHITECTURES, FROZEN_PREFIX, build_model, describe, set_trainable

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny(monkeypatch):
    """Small networks in the large ones' place."""
    for name, build in tiny_architectures().items():
        monkeypatch.setitem(ARCHITECTURES, name, build)
    return tiny_architectures()


@pytest.fixture
def trained(tiny) -> models.ResNet:
    """A network whose every parameter and statistic is unlike those of a new one."""
    model = tiny["resnext50_32x4d"]()
    random = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=random))
        else:
            tensor.fill_(11)
        assert tensor.any(), name
    return model.eval()


def saved(model: nn.Module, path: Path) -> str:
    state = model.state_dict()
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return str(path)


def features(model: models.ResNet) -> torch.Tensor:
    """What enters the head."""
    model = copy.deepcopy(model).eval()
    model.fc = nn.Identity()
    with torch.no_grad():
        return model(IMAGES)


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# weights


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_weights_file_gives_torchvisions_features_under_a_new_head(suffix, trained, tmp_path):
    model = build_model("resnext50_32x4d", 7, saved(trained, tmp_path / f"weights{suffix}"))
    assert torch.equal(features(model), features(trained))
    assert model.fc.weight.shape == (7, trained.fc.in_features)
    assert model(IMAGES).shape == (4, 7)


def test_weights_that_torchvisions_reference_scripts_save_are_read(trained, tmp_path):
    torch.save({"model": trained.state_dict(), "epoch": 3}, tmp_path / "model_3.pth")
    assert torch.equal(features(build_model("resnext50_32x4d", 7, str(tmp_path / "model_3.pth"))), features(trained))


def test_weights_from_before_batchnorm_counted_are_read(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert torch.equal(features(build_model("resnext50_32x4d", 7, str(tmp_path / "old.pth"))), features(trained))


def test_published_weights_are_downloaded_once_through_torch_hub(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(terminal.Lines, "spare", 1)
    path = archives.make_weights(tmp_path / "served")
    with archives.serve(path.parent) as served:
        archives.patch(archives.downloads(served), monkeypatch.setattr)
        first = build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
        assert "100%" in capsys.readouterr().err
        again = build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
        assert served.requests == [f"/{path.name}"]
        cached = tmp_path / "torch" / "hub" / "checkpoints" / path.name
        damaged = bytearray(cached.read_bytes())
        damaged[len(damaged) // 2] ^= 16
        cached.write_bytes(damaged)
        capsys.readouterr()
        mended = build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
        assert f"{cached} is damaged: it is downloaded anew" in capsys.readouterr().err
        assert cached.read_bytes() == path.read_bytes() and torch.equal(features(mended), features(first))
    published = tiny["resnext50_32x4d"]()
    published.load_state_dict(torch.load(path))
    assert torch.equal(features(first), features(published)) and torch.equal(features(again), features(published))

    cached.write_bytes(cached.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{cached} is damaged .*delete it"):
        build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
    cached.write_bytes(torch_bytes(Malicious(tmp_path / "executed")))
    with pytest.raises(UserError, match=f"{cached} is damaged"):
        build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ["breaks off", "other content", "nobody listens"])
def test_weights_that_cannot_be_downloaded_are_named_with_their_place(damage, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = archives.make_weights(tmp_path / "served")
    with archives.serve(path.parent) as served, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens: connections are refused
        known = archives.downloads(served)
        if damage == "nobody listens":
            known["url"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        elif damage == "breaks off":
            served.break_off_after = 10_000
        else:
            path.write_bytes(path.read_bytes()[::-1])
        archives.patch(known, monkeypatch.setattr)
        with pytest.raises(UserError) as refused:
            build_model("resnext50_32x4d", 7, "IMAGENET1K_V2")
    for part in (f"{known['url']}/{path.name}", str(tmp_path / "torch"), "--weights none", "--preset digits"):
        assert part in str(refused.value)
    assert [file for file in (tmp_path / "torch").rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architectures_are_torchvisions_own(name):
    assert ARCHITECTURES[name] is models.get_model_builder(name)


@pytest.mark.parametrize(
    ("name", "weights", "allowed"),
    [
        ("resnext50_32x4d", "imagenet", "IMAGENET1K_V1, IMAGENET1K_V2, none, or a path"),
        ("resnext101_64x4d", "IMAGENET1K_V2", "IMAGENET1K_V1, none, or a path"),
    ],
)
def test_unknown_weights_are_refused_with_what_there_is(name, weights, allowed, tiny):
    with pytest.raises(UserError, match=f"--weights is '{weights}', but for {name} must be {allowed}"):
        build_model(name, 7, weights)


def test_random_weights_and_the_new_head_depend_on_the_seed_alone(tiny):
    before = torch.get_rng_state()
    first = build_model("resnext50_32x4d", 7, "none", seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers change
    torch.rand(1)
    same, other = (build_model("resnext50_32x4d", 7, "none", seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("other", ["resnet50", "resnext101_32x8d", "resnext101_64x4d"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_another_architecture_are_refused_in_a_line(other, suffix, tiny, tmp_path):
    path = saved(tiny[other](), tmp_path / f"other{suffix}")
    with pytest.raises(UserError, match=rf"--weights {path} (is of another architecture|does not fit): ") as refused:
        build_model("resnext50_32x4d", 7, path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize("write", [torch_bytes, partial(pickle.dumps, protocol=2)], ids=["torch.save", "pickle"])
def test_a_weights_file_that_would_execute_something_is_refused_and_does_not(write, tiny, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(write({"conv1.weight": Malicious(tmp_path / "executed")}))
    with pytest.raises(UserError, match=f"--weights {path} can't be read") as refused:
        build_model("resnext50_32x4d", 7, str(path))
    assert not (tmp_path / "executed").exists() and "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_weights_file_is_refused(suffix, kept, trained, tmp_path):
    path = Path(saved(trained, tmp_path / f"weights{suffix}"))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=f"--weights {path} can't be read: truncated") as refused:
        build_model("resnext50_32x4d", 7, str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {1: torch.ones(1)}, torch.ones(3)])
def test_a_file_that_holds_no_weights_is_refused(value, tiny, tmp_path):
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no weights: expected a mapping of names to tensors"):
        build_model("resnext50_32x4d", 7, str(tmp_path / "other.pth"))


@pytest.mark.parametrize("path", ["missing.pth", "missing.safetensors", "folder/", "folder/missing"])
def test_a_weights_file_that_is_not_there_is_refused(path, tiny, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="does not exist; give a .pth or .safetensors file, IMAGENET1K_V2"):
        build_model("resnext50_32x4d", 7, f"{tmp_path}/{path}")


# what is trained


@pytest.mark.parametrize(
    ("finetune", "trained_modules"),
    [
        ("full", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
        ("partial", {"layer3", "layer4", "fc"}),
        ("head", {"fc"}),
    ],
)
def test_a_training_step_changes_what_is_trained_and_nothing_else(finetune, trained_modules, tiny):
    model = set_trainable(build_model("resnext50_32x4d", 7, "none"), finetune)
    # zero_init_residual holds the gradient back from inner layers in the very first step
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(IMAGES).square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.partition(".")[0] for name in changed} == trained_modules
    # There everything changes: weights, and BatchNorm's running statistics too.
    assert changed == {name for name in before if name.partition(".")[0] in trained_modules}


@pytest.mark.parametrize("finetune", FROZEN_PREFIX)
def test_a_deep_copy_switches_modes_on_its_own(finetune, tiny):
    model = set_trainable(build_model("resnext50_32x4d", 7, "none"), finetune)
    copied = copy.deepcopy(model).eval()
    assert model.training and model.fc.training and not copied.training and not copied.fc.training
    copied.train()
    assert copied.bn1.training == (finetune == "full")
    model.eval()
    assert not any(module.training for module in model.modules()) and copied.training


# figures


def test_resnext50_has_32_groups_of_width_4_and_the_published_parameters_and_flops():
    told = describe(build_model("resnext50_32x4d", 1000, "none"), 224)
    assert (told["cardinality"], told["width_per_group"]) == (32, 4)
    assert told["parameters_total"] == told["parameters_trainable"] == 25_028_904
    published = models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1.meta
    assert told["parameters_total"] == published["num_params"]
    # torchvision counts a multiplication and an addition as one operation, torch's counter as two
    assert told["gflops_per_image"] == pytest.approx(8.5, abs=0.05)
    assert told["gflops_per_image"] == pytest.approx(2 * published["_ops"], abs=0.01)


@pytest.mark.parametrize(
    ("name", "cardinality", "width"),
    [("resnext101_32x8d", 32, 8), ("resnext101_64x4d", 64, 4), ("resnet50", 1, 64)],
)
def test_cardinality_and_width_of_the_others_are_in_their_names(name, cardinality, width):
    with torch.device("meta"):
        told = describe(ARCHITECTURES[name](), 32)
    assert (told["cardinality"], told["width_per_group"]) == (cardinality, width)


@pytest.mark.parametrize("finetune", FROZEN_PREFIX)
def test_describing_counts_what_is_trained_and_changes_nothing(finetune, tiny):
    model = set_trainable(build_model("resnext50_32x4d", 7, "none"), finetune)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    told = describe(model, 64)
    assert told["parameters_trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (told["parameters_trainable"] == told["parameters_total"]) == (finetune == "full")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert told["gflops_per_image"] > 0

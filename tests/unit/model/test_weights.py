"""What is saved comes back as it was; what is damaged, foreign or malicious is refused, whatever bit it is."""

import random
import resource
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import Malicious
from tiny_models import tiny_architectures

from common.base.errors import RunError, UserError
from common.model.weights import load_into, load_weights, read_metadata, save_weights
from common.training.state import load_training_state, save_training_state

METADATA = {
    "model": "resnext50_32x4d",
    "classes": ["aquarium_fish", "Käfer", 'a "quoted"\nname'],
    "superclass_of": None,
    "image_size": 224,
    "mean": [0.485, 0.456, 0.406],
    "metrics": {"validation/accuracy": 0.1 + 0.2},
}


def tensors() -> dict[str, torch.Tensor]:
    """Every kind that a model may have: a scalar counter, half precision, a view that isn't contiguous."""
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return {
        "fc.weight": values,
        "fc.bias": values[:, 0],
        "transposed": values.T,
        "half": values.bfloat16(),
        "bn1.num_batches_tracked": torch.tensor(12345),
    }


def training_state() -> dict[str, Any]:
    return {
        "model": tensors(),
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.ones(6, 4)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "rng": torch.get_rng_state()[:64],
        "epoch": 3,
        "best": 0.75,
        "wandb_id": None,
    }


def same(a: Any, b: Any) -> bool:
    """Equal in type, value and, for tensors, dtype and shape."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def save(kind: str, folder: Path) -> Path:
    path = folder / {"weights": "best.safetensors", "training state": "last.pt"}[kind]
    if kind == "weights":
        save_weights(path, tensors(), METADATA)
    else:
        save_training_state(path, training_state())
    return path


LOAD = {"weights": load_weights, "training state": load_training_state}
both_files = pytest.mark.parametrize("kind", LOAD)


def test_weights_and_what_they_say_of_themselves_come_back(tmp_path):
    path = save("weights", tmp_path / "checkpoints")
    assert same(load_weights(path), (tensors(), METADATA))
    assert read_metadata(path) == METADATA
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_weights_can_be_read_by_safetensors_alone(tmp_path):
    assert same(safetensors.torch.load_file(save("weights", tmp_path)), tensors())


def test_a_training_state_comes_back(tmp_path):
    loaded = load_training_state(save("training state", tmp_path))
    loaded.pop("format")
    assert same(loaded, training_state())


@both_files
def test_saving_again_replaces_the_file_and_not_what_was_loaded_from_it(kind, tmp_path):
    path = save(kind, tmp_path)
    before = LOAD[kind](path)
    if kind == "weights":
        save_weights(path, {"fc.weight": torch.zeros(6, 4)}, {"model": "other"})
        assert read_metadata(path) == {"model": "other"}
        assert same(before, (tensors(), METADATA))
    else:
        save_training_state(path, {"epoch": 4})
        assert load_training_state(path)["epoch"] == 4 and before["epoch"] == 3
    assert list(tmp_path.iterdir()) == [path]


@both_files
def test_a_flipped_bit_anywhere_is_detected_or_changes_nothing(kind, tmp_path):
    path = save(kind, tmp_path)
    whole, data = LOAD[kind](path), path.read_bytes()
    chance, detected = random.Random(0), 0
    positions = chance.sample(range(len(data)), min(len(data), 400))
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(LOAD[kind](path), whole), f"byte {position} of {len(data)}"
        except UserError:
            detected += 1
    assert detected > len(positions) / 3  # the rest is padding between a zip file's records


@pytest.mark.parametrize("name", list(tensors()))
def test_a_flipped_bit_in_any_weight_is_detected(name, tmp_path):
    path = save("weights", tmp_path)
    state = safetensors.torch.load_file(path)
    flipped = state[name].reshape(-1).view(torch.uint8)
    flipped[-1] ^= 1
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    safetensors.torch.save_file(state, path, metadata=header)
    with pytest.raises(UserError, match=f"{path} is damaged: its checksum"):
        load_weights(path)


@both_files
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_in_a_line(kind, kept, tmp_path):
    path = save(kind, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=f"{path} can't be read") as refused:
        LOAD[kind](path)
    assert "\n" not in str(refused.value)


@both_files
def test_a_missing_file_is_named(kind, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / 'none'} does not exist"):
        LOAD[kind](tmp_path / "none")


@both_files
def test_a_file_of_another_kind_is_refused(kind, tmp_path):
    other = save("training state" if kind == "weights" else "weights", tmp_path)
    with pytest.raises(UserError, match=f"{other} can't be read"):
        LOAD[kind](other)
    with pytest.raises(UserError, match=f"{tmp_path} can't be read"):
        LOAD[kind](tmp_path)


def test_weights_that_others_wrote_are_refused(tmp_path):
    safetensors.torch.save_file(tensors() | {"transposed": torch.ones(1), "fc.bias": torch.ones(6)}, tmp_path / "w")
    with pytest.raises(UserError, match="was not written by train.py"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}])
def test_a_torch_file_that_is_no_training_state_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "last.pt")
    with pytest.raises(UserError, match="last.pt is not a training state"):
        load_training_state(tmp_path / "last.pt")


def test_a_training_state_that_would_execute_something_is_refused_and_does_not(tmp_path):
    save_training_state(tmp_path / "last.pt", {"epoch": Malicious(tmp_path / "executed")})
    with pytest.raises(UserError, match="last.pt can't be read"):
        load_training_state(tmp_path / "last.pt")
    assert not (tmp_path / "executed").exists()


@both_files
def test_a_save_that_fails_keeps_the_earlier_file(kind, tmp_path):
    path = save(kind, tmp_path)
    before = path.read_bytes()
    with pytest.raises((TypeError, AttributeError)):
        if kind == "weights":
            save_weights(path, tensors(), {"unsaveable": object()})
        else:
            save_training_state(path, {"unsaveable": lambda: None})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@both_files
def test_a_full_disk_is_named_and_keeps_the_earlier_file(kind, tmp_path):
    path = save(kind, tmp_path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # no file may grow beyond; Python ignores the signal
    try:
        with pytest.raises(RunError, match=path.name):
            save(kind, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_weights_are_copied_into_a_model_that_fits():
    source, target = (tiny_architectures()["resnext50_32x4d"](num_classes=5) for _ in range(2))
    load_into(target, source.state_dict(), "best.safetensors")
    assert same(dict(target.state_dict()), dict(source.state_dict()))


@pytest.mark.parametrize(
    ("name", "classes", "problem"),
    [
        ("resnext50_32x4d", 7, r"does not fit: fc.bias has shape \(7,\), the model's is \(5,\)"),
        ("resnet50", 5, r"does not fit: layer1.0.conv2.weight has shape \(8, 8, 3, 3\)"),
        ("resnext101_32x8d", 5, "is of another architecture: it has an unknown layer2.1.bn1.bias; choose the --model"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(name, classes, problem):
    model = tiny_architectures()["resnext50_32x4d"](num_classes=5)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=f"best.safetensors {problem}"):
        load_into(model, tiny_architectures()[name](num_classes=classes).state_dict(), "best.safetensors")
    assert same(dict(model.state_dict()), before)

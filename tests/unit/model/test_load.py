"""A network that predicts computes what the trained one does, and comes back from its file."""

import copy

import pytest
import torch
from torch import nn

from common.base.errors import UserError
from common.base.files import sha256_of
from common.model.build import ARCHITECTURES
from common.model.load import fused, load_model
from common.model.weights import save_weights

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_networks")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(name: str = "resnext50_32x4d", num_classes: int = 7) -> nn.Module:
    """A network whose BatchNorm scales, shifts and statistics are all unlike those of a new one."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name](num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 32, 32) * 2 + 1)
    return model.eval()


def saved(network: nn.Module, path, **changes) -> None:
    about = {"model": "resnext50_32x4d", "classes": [f"class {n}" for n in range(7)], "run_id": "first"}
    about |= {"dataset": "digits", "image_size": 24, **changes}
    save_weights(path, network.state_dict(), {key: value for key, value in about.items() if value is not None})


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(IMAGES)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_32x8d", "resnet50"])
def test_a_fused_network_gives_the_same_logits_without_batchnorm(name):
    model = trained(name)
    fast = fused(copy.deepcopy(model))
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert logits(model).std() > 0.01
    torch.testing.assert_close(logits(fast), logits(model), rtol=1e-4, atol=1e-4)


def test_a_saved_network_comes_back_ready_to_predict(tmp_path):
    model, path = trained(), tmp_path / "first" / "checkpoints" / "best.safetensors"
    saved(model, path, image_size=32)
    for reference in (None, "first", str(path), str(path.parent.parent)):
        loaded = load_model(reference, str(tmp_path), CPU)
        torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-4, atol=1e-4)
        assert not loaded.model.training
        assert (loaded.path, loaded.folder.path, loaded.artifact) == (path, path.parent.parent, None)
        assert loaded.sha256 == sha256_of(path) and loaded.metadata.image_size == 32


def test_a_file_away_from_its_run_belongs_to_the_run_it_names(tmp_path):
    saved(trained(), tmp_path / "copied.safetensors")
    loaded = load_model(str(tmp_path / "copied.safetensors"), str(tmp_path / "runs"), CPU)
    assert loaded.folder.path == tmp_path / "runs" / "first"


def test_a_downloaded_artifact_is_loaded_under_its_name(tmp_path):
    saved(trained(), tmp_path / "downloaded.safetensors")
    loaded = load_model("net:v3", str(tmp_path), CPU, lambda reference: tmp_path / "downloaded.safetensors")
    assert loaded.artifact == "net:v3" and loaded.metadata.run_id == "first"


@pytest.mark.parametrize("missing", ["model", "classes", "run_id"])
def test_a_header_that_lacks_what_is_needed_is_named(missing, tmp_path):
    saved(trained(), tmp_path / "odd.safetensors", **{missing: None})
    with pytest.raises(UserError, match=f"odd.safetensors.*'{missing}'"):
        load_model(str(tmp_path / "odd.safetensors"), str(tmp_path), CPU)


def test_weights_of_another_network_are_refused(tmp_path):
    saved(trained(), tmp_path / "odd.safetensors", model="unheard_of")
    with pytest.raises(UserError, match="unheard_of"):
        load_model(str(tmp_path / "odd.safetensors"), str(tmp_path), CPU)
    saved(trained("resnext101_32x8d"), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other.safetensors.*another architecture"):
        load_model(str(tmp_path / "other.safetensors"), str(tmp_path), CPU)

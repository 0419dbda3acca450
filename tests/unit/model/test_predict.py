"""Flip at test time: against torchvision's own mirror image and a plain loop."""

from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import horizontal_flip

from common.base.errors import UserError
from common.data.load import load_dataset
from common.model.build import ARCHITECTURES
from common.model.load import Loaded
from common.model.predict import Mirrored, predict
from common.runs.folder import RunFolder
from common.runs.records import Metadata

CPU = torch.device("cpu")
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
LABELS = torch.arange(6)
pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ARCHITECTURES["resnext50_32x4d"](7).eval().to(memory_format=torch.channels_last)


def in_batches(images):
    return [(images[:4], LABELS[:4]), (images[4:], LABELS[4:])]


def test_a_flip_gives_the_mean_logits_of_every_image_and_its_mirror_image(network):
    logits, labels = predict(Mirrored(network), in_batches(IMAGES), CPU)
    with torch.no_grad():
        for image, found in zip(IMAGES, logits, strict=True):
            expected = (network(image[None]) + network(horizontal_flip(image)[None])) / 2
            torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)
    alone, _ = predict(network, in_batches(IMAGES), CPU)
    assert (logits - alone).abs().max() > 1e-3
    assert labels.tolist() == LABELS.tolist()


def test_images_that_are_mirrored_already_give_the_same_to_the_last_bit(network):
    once, _ = predict(Mirrored(network), in_batches(IMAGES), CPU)
    mirrored, _ = predict(Mirrored(network), in_batches(horizontal_flip(IMAGES)), CPU)
    assert torch.equal(once, mirrored)


def test_in_mixed_precision_the_mean_is_of_float32(network):
    logits, _ = predict(Mirrored(network), in_batches(IMAGES), CPU, torch.bfloat16)
    both = [predict(network, in_batches(images), CPU, torch.bfloat16)[0] for images in (IMAGES, IMAGES.flip(3))]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, (both[0] + both[1]) / 2, rtol=0, atol=0)


def test_only_images_that_may_be_mirrored_are(network):
    about = Metadata(model="resnet50", classes=["a", "b"], dataset="digits", image_size=24, run_id="run")
    loaded = Loaded(network, about, Path("best.safetensors"), RunFolder(Path("run")), "aa", None)
    digits = load_dataset("digits", None, "test", 24)
    assert loaded.with_tta("none", digits.flip) is loaded
    with pytest.raises(UserError, match="--tta is flip, but must be none for digits"):
        loaded.with_tta("flip", digits.flip)
    flipped = loaded.with_tta("flip", True)
    assert flipped.tta == "flip" and isinstance(flipped.model, Mirrored)

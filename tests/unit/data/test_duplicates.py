"""Images that are the same pixel by pixel."""

import torch
from photos import load_photos
from PIL import Image

from common.data import duplicates
from common.data.duplicates import contradictions, of_contradictions, pixel_digests


def some_images(count: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_equal_digests_are_equal_pixels_however_they_lie_in_memory(monkeypatch):
    images = torch.cat([some_images(), some_images()[2:4]])
    digests = pixel_digests(images)
    for i, first in enumerate(images):
        for j, second in enumerate(images):
            assert (digests[i] == digests[j]) == torch.equal(first, second)
    assert pixel_digests(images.to(memory_format=torch.channels_last)) == digests
    monkeypatch.setattr(duplicates, "_CHUNK_BYTES", 3 * 6 * 6 * 2)  # two images at a time
    assert pixel_digests(images) == digests


def test_a_single_pixel_and_the_order_of_channels_make_another_image():
    image = some_images(1)
    other = image.clone()
    other[0, 1, 2, 3] += 1
    assert len({*pixel_digests(image), *pixel_digests(other), *pixel_digests(image.flip(1))}) == 3


def test_a_mapped_set_has_the_digests_of_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    for i, image in enumerate(some_images(5)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(5)]
    in_memory = pixel_digests(load_photos(tmp_path, names, 6))
    monkeypatch.setattr("common.data.decode.IN_MEMORY_BYTES", 0)
    assert pixel_digests(load_photos(tmp_path, names, 6)) == in_memory == pixel_digests(some_images(5))


def test_equal_images_of_several_labels_are_named_once_each():
    same, labels = "abacbadd", [0, 1, 1, 2, 1, 0, 3, 4]
    names = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    assert contradictions(same, labels, range(8)) == [[0, 2, 5], [6, 7]]
    assert contradictions(same, labels, [0, 5, 6, 3]) == []
    (line,) = of_contradictions([[0, 2, 5], [6, 7]], names)
    assert "several classes: 0/0.jpg = 1/2.jpg = 0/5.jpg; 3/6.jpg = 4/7.jpg; remove" in line
    (line,) = of_contradictions([[0, 2]] * 5, names)
    assert line.count("=") == 3 and "; … 5 in all; remove" in line
    assert of_contradictions([], names) == []

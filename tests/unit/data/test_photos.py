"""Of a folder with photos nothing is passed over in silence: what is used, what is not and why, and what can't be read."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import common.data.decode
import common.data.workers
from common.base.errors import LONGEST_MESSAGE, UserError
from common.data.decode import load
from common.data.load import load_dataset
from common.data.photos import find_photos, list_photos
from common.data.pixels import Decoding, read_photo


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FINETUNE_CACHE", str(folder))
    return folder / "photos"


@pytest.fixture
def root(tmp_path) -> Path:
    """Ten photos each of two classes, in train and in test, all different."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def load_train(root: Path, unreadable: str = "stop", fit: str = "crop"):
    return load_dataset("folder", str(root), "train", 8, fit, unreadable)


# what is found


def test_every_file_is_a_photo_or_counted_by_its_reason(root):
    train = root / "train"
    for name in (
        "cat/a.txt",
        "cat/b.TXT",
        "dog/c.xml",
        "cat/no_suffix",
        "dog/film.mp4",
        "cat/raw.cr2",
        "cat/drawing.eps",
    ):
        (train / name).write_text("x")
    for name in ("Thumbs.db", "cat/.DS_Store", "cat/desktop.ini", "dog/._0.png", "dog/.hidden.png"):
        (train / name).write_text("x")
    for name in ("__MACOSX/cat", ".git", "cat/@eaDir", "dog/.cache"):
        (train / name).mkdir(parents=True)
    (train / "__MACOSX/cat/0.png").write_text("x")
    (train / "loose.png").write_text("x")
    (root / "elsewhere").mkdir()
    (train / "dog" / "link").symlink_to(root / "elsewhere")
    dataset = load_train(root)
    assert dataset.classes == ("cat", "dog") and len(dataset.labels) == 20
    assert dataset.photos.counts() == {
        ".txt": 2, ".xml": 1, ".mp4": 1, ".cr2": 1, ".eps": 1, "without a suffix": 1, "in no class folder": 1,
        "links to folders": 1, "hidden or of a system": 9,
    }  # fmt: skip
    (said,) = dataset.photos.said()
    assert f"not used in {train}" in said and "2 .txt (cat/a.txt, cat/b.TXT)" in said
    assert (
        "9 hidden or of a system (Thumbs.db, " in said and ", …)" in said and "1 in no class folder (loose.png)" in said
    )


def test_where_all_is_used_nothing_is_said(root):
    assert load_train(root).photos.said() == [] and load_train(root).notes == ""


def test_photos_of_any_suffix_that_pillow_reads_are_used(root):
    photo = root / "train" / "cat" / "0.png"
    for suffix in ("jfif", "JPE", "Avif", "ppm", "jp2", "tga", "qoi"):
        Image.open(photo).convert("RGB").save(root / "train" / "cat" / f"1.{suffix}")
    assert len(load_train(root).labels) == 27


def test_a_class_without_photos_says_what_it_has_instead(root):
    for photo in (root / "train" / "dog").iterdir():
        photo.rename(photo.with_suffix(".txt"))
    with pytest.raises(UserError, match="the class folder .*dog has no photos .*but 10 other files"):
        load_train(root)


def closed(folder: Path, monkeypatch) -> None:
    """As without permission, which root's processes have everywhere."""
    real = os.scandir

    def scandir(path="."):
        if Path(os.fsdecode(path)) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_without_permission_is_named_and_can_be_skipped(root, monkeypatch):
    inner = root / "train" / "cat" / "inner"
    inner.mkdir()
    os.replace(root / "train" / "cat" / "3.png", inner / "3.png")
    closed(inner, monkeypatch)
    with pytest.raises(UserError, match="cat/inner can't be read .Permission denied.*--unreadable skip"):
        load_train(root)
    dataset = load_train(root, "skip")
    assert len(dataset.labels) == 19 and dataset.photos.skipped() == ["cat/inner"]
    assert "cat/inner can't be read (Permission denied)" in dataset.notes


def test_a_class_folder_without_permission_is_refused_either_way(root, monkeypatch):
    closed(root / "train" / "cat", monkeypatch)
    for unreadable in ("stop", "skip"):
        with pytest.raises(UserError, match="cat can't be read .Permission denied"):
            load_train(root, unreadable)


# what can't be read


def damage(root: Path, *names: str) -> None:
    for name in names:
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:60] if path.exists() else b"")


DAMAGED = ("cat/0.png", "cat/7.png", "dog/9.png", "dog/new.tif")


def test_all_that_cant_be_read_is_in_one_message(root, cache):
    damage(root, *DAMAGED)
    (root / "train" / "cat" / "gone.jpg").symlink_to(root / "nowhere")
    os.mkfifo(root / "train" / "cat" / "pipe.jpg")
    with pytest.raises(UserError) as refused:
        load_train(root)
    message = str(refused.value)
    assert message.startswith(f"6 photos in {root / 'train'} can't be read: ") and "--unreadable skip" in message
    for name in (*DAMAGED, "cat/gone.jpg can't be read as an image (No such file", "cat/pipe.jpg"):
        assert name in message
    assert "\n" not in message and list(cache.iterdir()) == []


def test_many_that_cant_be_read_are_listed_in_a_file(root, cache):
    names = [f"cat/{'long name ' * 10}{i:03}.png" for i in range(100)]
    damage(root, *names)
    with pytest.raises(UserError) as refused:
        load_train(root)
    message = str(refused.value)
    assert message.startswith("100 photos") and "--unreadable skip" in message and len(message) < LONGEST_MESSAGE
    file = Path(message.partition("all are listed in ")[2].partition(";")[0])
    lines = file.read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == [str(root / "train" / name) for name in names]
    assert all("not an image" in line for line in lines)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_skipping_gives_what_the_folder_without_them_gives(mapped, workers, root, tmp_path, monkeypatch):
    monkeypatch.setattr(common.data.decode, "workers_for", lambda files: workers)
    monkeypatch.setattr(common.data.workers, "CHUNK_BYTES", 3 * 8 * 8 * 3)  # several tasks
    if mapped:
        monkeypatch.setattr(common.data.decode, "IN_MEMORY_BYTES", 0)
    damage(root, *DAMAGED)
    for _ in range(2):  # decoded, and from the cache
        dataset = load_train(root, "skip")
        assert dataset.photos.skipped() == list(DAMAGED)
        assert dataset.photos.names == [
            name for name in list_photos(root / "train", ("cat", "dog"))[0] if name not in DAMAGED
        ]
        assert dataset.labels.tolist() == [0] * 8 + [1] * 9
        for name, image in zip(dataset.photos.names, dataset.images, strict=True):
            assert np.array_equal(image, read_photo(root / "train" / name, 8))
        common.data.decode.release(dataset.images)
        assert all(name in dataset.notes for name in DAMAGED[:3]) and "4 in all" in dataset.notes
    for name in DAMAGED:
        (root / "train" / name).unlink()
    clean = load_train(root)
    assert torch.equal(clean.images, dataset.images) and torch.equal(clean.labels, dataset.labels)


def test_what_was_skipped_stops_a_run_that_does_not_skip(root):
    damage(root, *DAMAGED)
    load_train(root, "skip")
    with pytest.raises(UserError, match="4 photos in .* can't be read"):
        load_train(root)


def test_a_class_of_which_nothing_can_be_read_is_refused(root):
    damage(root, *(f"dog/{i}.png" for i in range(10)))
    with pytest.raises(UserError, match="no photo in .*dog can be read"):
        load_train(root, "skip")


def test_a_damaged_cache_of_a_set_with_skipped_photos_is_made_anew(root, cache, capsys):
    damage(root, *DAMAGED)
    first = load_train(root, "skip").images.clone()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for place in (len(whole) - 1, len(whole) - 6, len(whole) - 20, len(whole) // 2):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        dataset = load_train(root, "skip")
        assert torch.equal(dataset.images, first) and dataset.photos.skipped() == list(DAMAGED)
        assert f"{file} is damaged" in capsys.readouterr().err
        assert file.read_bytes() == whole


# photos that change


def test_photos_that_change_while_they_are_decoded_are_refused(root, monkeypatch, cache):
    first, real = root / "train" / "cat" / "0.png", common.data.workers.read_photo

    def changing(path: Path, image_size: int, fit: str) -> np.ndarray:
        if path.name == "9.png":
            Image.new("RGB", (30, 30), "red").save(first)
        return real(path, image_size, fit)

    monkeypatch.setattr(common.data.workers, "read_photo", changing)
    with pytest.raises(UserError, match="1 of the photos in .*changed while they were decoded, among them cat/0.png"):
        load_train(root)
    assert list(cache.iterdir()) == []


def test_photos_that_changed_since_they_were_read_are_told(root):
    photos, train = load_train(root).photos, root / "train"
    assert photos.changed() == []
    (train / "cat" / "2.png").unlink()
    before = os.stat(train / "dog" / "4.png")
    pixels = np.asarray(Image.open(train / "dog" / "4.png"))
    Image.fromarray(pixels[::-1]).save(train / "dog" / "4.png")
    os.utime(train / "dog" / "4.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times does
    assert photos.changed() == ["cat/2.png", "dog/4.png"]


def test_a_photo_of_the_same_size_and_time_with_other_pixels_is_decoded_anew(root):
    """A BMP has the same size whatever it shows, and a copy may keep its time."""
    photo = root / "train" / "cat" / "0.bmp"
    Image.new("RGB", (12, 12), "red").save(photo)
    before = os.stat(photo)
    load_train(root)
    Image.new("RGB", (12, 12), "blue").save(photo)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(photo).st_size == before.st_size
    assert load_train(root).images[0, :, 4, 4].tolist() == [0, 0, 255]


# the fit, and names


def test_each_fit_has_a_cache_of_its_own(root, cache):
    photos = replace(find_photos(root / "train", ("cat",)), names=["cat/wide.png"], labels=[0])
    Image.new("RGB", (32, 8), "red").save(root / "train" / "cat" / "wide.png")
    for _ in range(2):
        crop, pad = (load(photos, Decoding(16, fit))[0] for fit in ("crop", "pad"))
        assert (crop[0, 0] == 255).all() and (pad[0, 0] == 255).sum() == 16 * 4
    assert len(list(cache.iterdir())) == 2


def test_names_that_are_no_utf8_are_read_and_can_be_said(root):
    folder = os.fsencode(root / "train" / "cat")
    os.rename(folder + b"/0.png", folder + b"/caf\xe9.png")
    Path(os.fsdecode(folder + b"/bad\xff.png")).write_bytes(b"")
    Path(os.fsdecode(folder + b"/note\xfe.txt")).write_bytes(b"")
    with pytest.raises(UserError) as refused:
        load_train(root)
    dataset = load_train(root, "skip")
    assert len(dataset.labels) == 20 and os.fsdecode(b"cat/caf\xe9.png") in dataset.photos.names
    assert dataset.photos.skipped() == [r"cat/bad\udcff.png"]
    for text in (str(refused.value), dataset.notes, *dataset.photos.skipped(), *dataset.photos.counts()):
        text.encode()  # as a file and an output need it

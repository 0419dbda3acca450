"""Photos are decoded as a viewer shows them, once, and the cache never gives other pixels than the files hold now."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from photos import load_photos
from PIL import Image, ImageOps
from torchvision.transforms import v2
from tqdm import tqdm

import common.data.decode
import common.data.workers
from common.base.errors import RunError, UserError
from common.data.decode import mapped_file, release
from common.data.pixels import read_photo
from common.data.workers import workers_for

ORIENTATION = 0x0112  # the EXIF tag


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "photos"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the photos that were decoded in this process, in order."""
    names = []

    def counting(path: Path, image_size: int, fit: str) -> np.ndarray:
        names.append(path.name)
        return read_photo(path, image_size, fit)

    monkeypatch.setattr(common.data.workers, "read_photo", counting)
    return names


def picture(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth colours, which resizing and JPEG change little; no two corners alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def make_photos(folder: Path, count: int = 6) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(i).save(folder / f"{i:03}.png")
    return [f"{i:03}.png" for i in range(count)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


# one photo


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (24, 24), (7, 90)])
def test_a_photo_is_its_centre_square_resized(size, tmp_path):
    picture(0, *size).save(tmp_path / "photo.png")
    photo = read_photo(tmp_path / "photo.png", 16)
    assert photo.shape == (3, 16, 16) and photo.dtype == np.uint8
    # Torchvision's transforms cut whole pixels of the resized photo; here the square is cut at its exact place.
    theirs = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(Image.open(tmp_path / "photo.png"))
    assert np.abs(photo.astype(int) - pixels(theirs)).mean() < 8


def test_a_square_photo_of_the_size_wanted_keeps_every_pixel(tmp_path):
    picture(0, 32, 32).save(tmp_path / "photo.png")
    assert np.array_equal(read_photo(tmp_path / "photo.png", 32), pixels(picture(0, 32, 32)))


def test_a_large_photo_is_decoded_at_a_fraction_and_stays_what_it_was(tmp_path):
    picture(2, 800, 600).save(tmp_path / "photo.jpg", quality=95)
    picture(2, 800, 600).save(tmp_path / "photo.png")
    fast, exact = (read_photo(tmp_path / name, 32).astype(int) for name in ("photo.jpg", "photo.png"))
    assert np.abs(fast - exact).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_its_exif_tag_says(orientation, tmp_path):
    stored = picture(1)
    stored.getexif()[ORIENTATION] = orientation
    stored.save(tmp_path / "photo.jpg", exif=stored.getexif(), quality=95)
    # By the EXIF standard: where the stored picture's row 0 and column 0 belong.
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    upright = Image.fromarray(np.ascontiguousarray(turn(np.asarray(picture(1)))))
    expected = pixels(ImageOps.fit(upright, (16, 16), Image.Resampling.BILINEAR))
    assert np.abs(read_photo(tmp_path / "photo.jpg", 16).astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    "name",
    ["1.png", "L.png", "LA.png", "P.png", "P-alpha.png", "P.gif", "RGBA.png", "RGBA.webp", "CMYK.jpg", "I;16.png"],
)
def test_any_colour_mode_becomes_the_rgb_that_it_shows(name, tmp_path):
    mode = Path(name).stem.partition("-")[0]
    if mode == "I;16":  # Pillow has no conversion to 16 bits of grey
        image = Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)
    else:
        image = picture().convert(mode)
    image.save(tmp_path / name, **({"transparency": bytes(range(256))} if "alpha" in name else {}))
    grey = mode in ("1", "L", "LA", "I;16")
    shown = picture().convert("1" if mode == "1" else "L" if grey else "RGB").convert("RGB")
    if "alpha" in name:  # its colour 0 is transparent, 255 opaque: it is shown on white
        colours, alpha = np.asarray(image.convert("RGB"), np.float64), np.asarray(image)[..., None] / 255
        shown = Image.fromarray((colours * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
    expected = pixels(ImageOps.fit(shown, (16, 16), Image.Resampling.BILINEAR))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = read_photo(tmp_path / name, 16)
    assert np.abs(photo.astype(int) - expected).mean() < (12 if mode in ("P", "CMYK") or "webp" in name else 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: b"<html>404</html>", "not an image of a known format"),
        (lambda whole: b"", "not an image of a known format"),
        (None, "No such file"),
    ],
    ids=["truncated", "another file", "empty", "missing"],
)
def test_an_unreadable_photo_is_refused_by_name(content, reason, tmp_path):
    photo = tmp_path / "photo.jpg"
    if content:
        picture(0, 200, 200).save(photo)
        photo.write_bytes(content(photo.read_bytes()))
    with pytest.raises(UserError, match=rf"{photo} .*{reason}") as refused:
        read_photo(photo, 16)
    assert "\n" not in str(refused.value)


def test_a_picture_that_unpacks_to_far_more_than_it_weighs_is_refused(tmp_path, monkeypatch):
    picture(0, 200, 200).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="bomb.png can't be read"):
        read_photo(tmp_path / "bomb.png", 16)


# many photos


def test_photos_come_in_the_order_asked_for(tmp_path):
    names = make_photos(tmp_path / "train")
    names.reverse()
    images = load_photos(tmp_path / "train", names, 16)
    assert images.dtype == torch.uint8 and images.is_contiguous(memory_format=torch.channels_last)
    for name, image in zip(names, images, strict=True):
        assert np.array_equal(image, read_photo(tmp_path / "train" / name, 16))


def test_a_bar_shows_the_decoding_and_the_second_time_there_is_none(tmp_path, decoded, capsys):
    names = make_photos(tmp_path / "train")
    first = load_photos(tmp_path / "train", names, 16)
    assert "decoding train: 100%" in capsys.readouterr().err
    assert decoded == names
    again = load_photos(tmp_path / "train", names, 16)
    assert decoded == names and capsys.readouterr().err == ""
    assert torch.equal(first, again)


def another_name(folder: Path, names: list[str]) -> None:
    os.replace(folder / names[0], folder / "renamed.png")
    names[0] = "renamed.png"


def other_content_and_size(folder: Path, names: list[str]) -> None:
    before = os.stat(folder / names[0])
    picture(99, 80, 60).save(folder / names[0])
    os.utime(folder / names[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(folder / names[0]).st_size != before.st_size


def another_time(folder: Path, names: list[str]) -> None:
    before = os.stat(folder / names[0])
    os.utime(folder / names[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def one_more(folder: Path, names: list[str]) -> None:
    picture(50).save(folder / "extra.png")
    names.append("extra.png")


def one_fewer(folder: Path, names: list[str]) -> None:
    names.pop()


def another_order(folder: Path, names: list[str]) -> None:
    names.reverse()


@pytest.mark.parametrize(
    "change",
    [
        another_name,
        other_content_and_size,
        another_time,
        one_more,
        one_fewer,
        another_order,
    ],
)
def test_a_change_of_the_sources_decodes_them_anew(change, tmp_path, decoded, cache):
    names = make_photos(tmp_path / "train")
    load_photos(tmp_path / "train", names, 16)
    decoded.clear()
    change(tmp_path / "train", names)
    images = load_photos(tmp_path / "train", names, 16)
    assert decoded == names
    for name, image in zip(names, images, strict=True):
        assert np.array_equal(image, read_photo(tmp_path / "train" / name, 16))
    assert len(list(cache.iterdir())) == 1  # what is outdated is gone


def test_each_size_and_folder_has_a_cache_of_its_own(tmp_path, decoded, cache):
    for folder in ("a/train", "b/train", "a/test"):
        make_photos(tmp_path / folder, 2)
    for _ in range(2):
        for folder in ("a/train", "b/train", "a/test"):
            for size in (16, 24):
                assert load_photos(tmp_path / folder, ["000.png", "001.png"], size).shape == (2, 3, size, size)
    assert len(decoded) == 12 and len(list(cache.iterdir())) == 6


def test_the_cache_is_in_the_home_folder_when_none_is_named(tmp_path, monkeypatch):
    names = make_photos(tmp_path / "train", 1)
    monkeypatch.delenv("FINETUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_photos(tmp_path / "train", names, 16)
    assert len(list((tmp_path / "home/.cache/resnext-finetuning/photos").glob("*.npy"))) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: b"", lambda data: b"\x93NUMPY?" + data[7:]])
def test_a_damaged_cache_is_made_anew(damage, tmp_path, decoded, cache):
    names = make_photos(tmp_path / "train")
    first = load_photos(tmp_path / "train", names, 16)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(load_photos(tmp_path / "train", names, 16), first)
    assert decoded == names * 2


@pytest.mark.parametrize("mapped", [False, True])
def test_a_flipped_bit_anywhere_in_a_cache_is_said_and_the_photos_are_decoded_anew(
    mapped, tmp_path, monkeypatch, cache, capsys
):
    monkeypatch.setattr(common.data.decode, "_BLOCK_BYTES", 1000)  # several blocks to read
    if mapped:
        monkeypatch.setattr(common.data.decode, "IN_MEMORY_BYTES", 0)
    names = make_photos(tmp_path / "train", 3)
    first = load_photos(tmp_path / "train", names, 16).clone()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    random = np.random.default_rng(mapped)
    for place in [0, 100, len(whole) - 1, *random.integers(len(whole), size=20).tolist()]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        capsys.readouterr()
        assert torch.equal(load_photos(tmp_path / "train", names, 16), first), place
        assert f"{file} is damaged: the photos are decoded anew" in capsys.readouterr().err
        assert file.read_bytes() == whole
    load_photos(tmp_path / "train", names, 16)
    assert capsys.readouterr().err == ""


def test_who_needs_a_set_that_another_decodes_waits_for_it(tmp_path, decoded, cache, monkeypatch):
    names = make_photos(tmp_path / "train")
    begun, counting = threading.Event(), common.data.workers.read_photo

    def slow(path: Path, image_size: int, fit: str) -> np.ndarray:
        begun.set()
        time.sleep(0.05)
        return counting(path, image_size, fit)

    monkeypatch.setattr(common.data.workers, "read_photo", slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(load_photos, tmp_path / "train", names, 16)
        assert begun.wait(60)
        others = [pool.submit(load_photos, tmp_path / "train", names, 16) for _ in range(2)]
        images = first.result(60)
        assert all(torch.equal(other.result(60), images) for other in others)
    assert decoded == names and len(list(cache.iterdir())) == 1


def test_a_mapped_set_equals_one_in_memory(tmp_path, monkeypatch):
    names = make_photos(tmp_path / "train")
    in_memory = load_photos(tmp_path / "train", names, 16)
    monkeypatch.setattr(common.data.decode, "IN_MEMORY_BYTES", 0)
    mapped = load_photos(tmp_path / "train", names, 16)
    assert mapped_file(in_memory) is None
    for part in (mapped, mapped[2:4]):
        path, start = mapped_file(part)
        assert path.read_bytes()[start:][: part.numel()] == part.permute(0, 2, 3, 1).numpy().tobytes()
    assert torch.equal(mapped, in_memory)
    for images in (mapped, in_memory):
        release(images)
        assert torch.equal(images, in_memory)


def test_writing_to_a_mapped_set_changes_no_other(tmp_path, monkeypatch):
    names = make_photos(tmp_path / "train")
    monkeypatch.setattr(common.data.decode, "IN_MEMORY_BYTES", 0)
    mine, other = (load_photos(tmp_path / "train", names, 16) for _ in range(2))
    before = other.clone()
    mine.zero_()
    assert torch.equal(other, before)
    assert torch.equal(load_photos(tmp_path / "train", names, 16), before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_released_set_is_no_longer_resident(tmp_path, monkeypatch):
    names = make_photos(tmp_path / "train", 4) * 50
    monkeypatch.setattr(common.data.decode, "IN_MEMORY_BYTES", 0)
    images = load_photos(tmp_path / "train", names, 128)  # 9.8 MB

    def resident_bytes() -> int:
        smaps = Path("/proc/self/smaps").read_text().split("VmFlags")
        (mine,) = [block for block in smaps if ".npy" in block]
        return 1024 * int(mine.partition("Rss:")[2].split()[0])

    assert images.sum() > 0 and resident_bytes() == pytest.approx(images.numel(), rel=0.1)
    release(images)
    assert resident_bytes() < 0.1 * images.numel()


def test_decoding_in_parallel_gives_what_one_process_gives(tmp_path, monkeypatch, cache):
    names = make_photos(tmp_path / "train", 150)
    serial = load_photos(tmp_path / "train", names, 16)
    (file,) = cache.iterdir()
    written = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(common.data.decode, "workers_for", lambda files: 2)
    monkeypatch.setattr(common.data.workers, "CHUNK_BYTES", 3 * 16 * 16 * 10)  # 15 tasks
    assert torch.equal(load_photos(tmp_path / "train", names, 16), serial)
    assert file.read_bytes() == written

    (tmp_path / "train" / names[77]).write_bytes(b"")
    with pytest.raises(UserError, match=f"{names[77]} is not an image"):
        load_photos(tmp_path / "train", names, 16)
    assert list(cache.iterdir()) == [file]  # the earlier one; nothing half-written


def test_a_decoding_process_that_is_killed_is_said_in_a_line_and_leaves_nothing(tmp_path, monkeypatch, cache):
    names = make_photos(tmp_path / "train", 150)
    monkeypatch.setattr(common.data.decode, "workers_for", lambda files: 2)
    monkeypatch.setattr(common.data.workers, "CHUNK_BYTES", 3 * 16 * 16 * 10)  # 15 tasks

    class Killing(tqdm):
        def update(self, n):
            for process in multiprocessing.active_children():
                process.kill()

    monkeypatch.setattr(common.data.decode, "progress_bar", Killing)
    with pytest.raises(RunError, match="was killed"):
        load_photos(tmp_path / "train", names, 16)
    assert list(cache.iterdir()) == []


def test_workers_are_as_many_as_this_process_may_use_and_only_where_they_pay(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert [workers_for(files) for files in (1, 499, 500, 10**6)] == [1, 1, 3, 3]


def test_an_unreadable_photo_leaves_no_cache(tmp_path, cache):
    names = make_photos(tmp_path / "train")
    (tmp_path / "train" / names[3]).write_bytes(b"no image")
    with pytest.raises(UserError, match=names[3]):
        load_photos(tmp_path / "train", names, 16)
    assert list(cache.iterdir()) == []
    (tmp_path / "train" / names[3]).unlink()
    with pytest.raises(UserError, match=f"{names[3]} can't be read"):
        load_photos(tmp_path / "train", names, 16)


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path, cache):
    names = make_photos(tmp_path / "train")
    load_photos(tmp_path / "train", names, 16)
    (file,) = cache.iterdir()
    old, young = (cache / f".{file.stem}.{pid}-abc.tmp.npy" for pid in (1, 2))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    load_photos(tmp_path / "train", names[:-1], 16)
    assert young.exists() and not old.exists()


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(tmp_path, monkeypatch):
    names = make_photos(tmp_path / "train")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=rf"can't be written to {tmp_path / 'file'}.*set FINETUNE_CACHE"):
        load_photos(tmp_path / "train", names, 16)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_can_reserve_no_room_decodes_all_the_same(number, tmp_path, monkeypatch):
    def refuse(*args: int) -> None:
        raise OSError(number, os.strerror(number))

    names = make_photos(tmp_path / "train")
    here = load_photos(tmp_path / "train", names, 16)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    np.testing.assert_array_equal(load_photos(tmp_path / "train", names, 16), here)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, cache):
    names = make_photos(tmp_path / "train")
    script = f"""
from pathlib import Path
from common.base.errors import report_errors
from common.data.decode import load
from common.data.photos import Photos
from common.data.pixels import Decoding
with report_errors():
    load(Photos(Path({str(tmp_path / "train")!r}), {names!r}), Decoding(64))
"""

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        preexec_fn=small_files_only,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the decoded photos (0.1 MB) can't be written to")
    assert "Traceback" not in done.stderr and "FINETUNE_CACHE" in done.stderr and "100%" not in done.stderr
    assert list(cache.iterdir()) == []

"""A photo is upright, as bright as it is meant and on white where it is transparent; what can't be told is refused, never black."""

import importlib.util
import os
import struct
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from common.base.errors import RunError, UserError
from common.data import photos, pixels
from common.data.pixels import read_photo

MAX_SAMPLE_VALUE, SAMPLE_FORMAT = 281, 339  # tags of TIFF
GREY = np.linspace(0, 1, 24 * 24).reshape(24, 24)  # black to white
SHOWN = (255 * GREY).round()


def grey_of(path: Path) -> np.ndarray:
    """The photo of `GREY`, float (24, 24)."""
    photo = read_photo(path, 24).astype(float)
    assert (photo[0] == photo[1]).all() and (photo[0] == photo[2]).all()
    return photo[0]


def exif(*entries: tuple[int, int, int, int], order: str = "<", count: int | None = None, after: int = 0) -> bytes:
    """A block of entries (tag, type, count, value), whole or not."""
    block = {"<": b"II", ">": b"MM"}[order] + struct.pack(
        f"{order}HIH", 42, 8, len(entries) if count is None else count
    )
    for tag, kind, number, value in sorted(entries):
        short = struct.pack(f"{order}H", value & 0xFFFF) + b"\0\0"
        block += struct.pack(f"{order}HHI", tag, kind, number) + (
            short if kind == 3 else struct.pack(f"{order}I", value)
        )
    return b"Exif\0\0" + block + struct.pack(f"{order}I", after)


# Entries that other programs write beside the orientation: of no type, of the wrong one, too long, outside the block.
ODD = [
    (tag, kind, number, value)
    for tag in (271, 282, 700, 34665, 34853)
    for kind in (0, 2, 3, 4, 5, 7, 12, 99)
    for number, value in ((0, 0), (1, 5), (200, 4), (5, 0xFFFFFFF0), (2**31, 9))
]


# upright


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_orientation_is_found_whatever_else_is_in_the_exif_block(suffix, order, tmp_path):
    stored = Image.new("RGB", (24, 24), "red")
    stored.paste("blue", (0, 0, 12, 24))  # on the left: turned by 6, on top
    blocks = [exif((274, 3, 1, 6), odd, order=order) for odd in ODD]
    blocks += [exif((274, 3, 1, 6), order=order, count=500), exif((274, 3, 1, 6), order=order, after=999_999)]
    blocks += [exif((274, 4, 1, 6), order=order), exif((274, 3, 1, 6), order=order)[:-3]]
    refused = 0
    for number, block in enumerate(blocks):
        photo = tmp_path / f"{number}.{suffix}"
        stored.save(photo, quality=95, exif=block)
        pixels = read_photo(photo, 24).astype(int)
        assert (pixels[2, :10] > 150).all() and (pixels[0, 14:] > 150).all(), block
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ImageOps.exif_transpose(Image.open(photo))
            except Exception:
                refused += 1
    assert refused > 3, "by Pillow, or the blocks are no longer odd"


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0XX*\0\x08\0\0\0", exif((274, 3, 1, 9)), exif((274, 3, 1, 0)),
                                   exif((274, 2, 9, 99)), exif((271, 2, 3, 0)), exif(count=65535), b"garbage" * 9])  # fmt: skip
def test_an_exif_block_without_an_orientation_turns_nothing(block, tmp_path):
    picture = Image.radial_gradient("L").resize((24, 24)).convert("RGB")
    picture.paste("red", (0, 0, 5, 5))
    picture.save(tmp_path / "photo.png", exif=block)
    assert np.array_equal(read_photo(tmp_path / "photo.png", 24), np.asarray(picture).transpose(2, 0, 1))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("tag", [34665, 34853, 700])
def test_a_tiff_is_upright_whatever_its_other_tags_say(tag, compression, tmp_path):
    stored = Image.new("RGB", (24, 24), "red")
    stored.paste("blue", (0, 0, 12, 24))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    tags.tagtype[tag], tags[tag] = (4, 0xFFFFFF0) if tag in (34665, 34853) else (7, b"\xff" * 50)
    stored.save(tmp_path / "photo.tif", tiffinfo=tags, compression=compression)
    pixels = read_photo(tmp_path / "photo.tif", 24)
    assert (pixels[2, :12] == 255).all() and (pixels[0, 12:] == 255).all()


# as bright as it is meant


def save_tiff(path: Path, values: np.ndarray, **tags: int) -> None:
    """tags: by their numbers, as `t281`."""
    Image.fromarray(values).save(path, tiffinfo={int(tag[1:]): value for tag, value in tags.items()})


@pytest.mark.parametrize(
    "values, tags",
    [
        ((GREY * 65535).astype(np.uint16), {}),
        ((GREY * 65535).astype(">u2"), {}),
        ((GREY * 4095).astype(np.uint16), {"t281": 4095}),
        ((GREY * 1023).astype(np.uint16), {"t281": 1023}),
        ((GREY * 65535).astype(np.uint16), {"t281": 255}),
        ((GREY * 65535).astype(np.int32), {"t281": 65535}),
        ((GREY * 255).astype(np.int32), {"t281": 255}),
        (GREY.astype(np.float32), {}),
        (((1 - GREY) * 65535).astype(np.uint16), {"t262": 0}),
        ((1 - GREY).astype(np.float32), {"t262": 0}),
    ],
    ids=[
        "16",
        "16 big-endian",
        "12 in 16",
        "10 in 16",
        "16, a tag that is wrong",
        "16 in 32",
        "8 in 32",
        "float",
        "16, 0 is white",
        "float, 0 is white",
    ],
)
def test_a_tiff_of_many_bits_keeps_its_brightness(values, tags, tmp_path):
    save_tiff(tmp_path / "photo.tif", values, **tags)
    assert np.abs(grey_of(tmp_path / "photo.tif") - SHOWN).max() <= 1


def test_twelve_bits_a_pixel_keep_their_brightness(tmp_path):
    """Which nobody but a camera writes: two values in three bytes."""
    values = (GREY * 4095).round().astype(int).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], axis=1)
    tags = [(256, 24), (257, 24), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 24), (279, packed.size)]
    head = b"II" + struct.pack("<HIH", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
    (tmp_path / "photo.tif").write_bytes(head.ljust(200, b"\0") + packed.astype(np.uint8).tobytes())
    assert np.abs(grey_of(tmp_path / "photo.tif") - SHOWN).max() <= 1


@pytest.mark.parametrize("name", ["photo.png", "photo.jp2", "photo.pgm"])
def test_other_formats_of_sixteen_bits_keep_their_brightness(name, tmp_path):
    values = (GREY * 65535).astype(np.uint16)
    if name == "photo.pgm":  # 12 bits, as its header says
        (tmp_path / name).write_bytes(b"P5 24 24 4095\n" + (GREY * 4095).astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    assert np.abs(grey_of(tmp_path / name) - SHOWN).max() <= 1


@pytest.mark.parametrize(
    "values, why",
    [
        ((GREY * 255).astype(np.uint16), "brightest value is 255"),
        ((GREY * 4095).astype(np.uint16), "brightest value is 4095"),
        ((GREY * 255).astype(np.int32), "32 bits"),
        ((GREY * 65535).astype(np.int32), "32 bits"),
        ((GREY * (2**31 - 1)).astype(np.int32), "32 bits"),
        ((GREY * 255).astype(np.float32), "from 0 to 255"),
        ((GREY * 2 - 1).astype(np.float32), "from -1 to 1"),
        ((GREY / 300).astype(np.float32), "brightest value"),
        (np.where(GREY > 0.5, np.nan, GREY).astype(np.float32), "no finite"),
        (np.where(GREY > 0.5, np.inf, GREY).astype(np.float32), "no finite"),
    ],
)
def test_a_tiff_that_does_not_say_what_is_white_is_refused_by_name_and_never_black(values, why, tmp_path):
    save_tiff(tmp_path / "photo.tif", values)
    with pytest.raises(UserError, match=f"photo.tif can't be read as an image .*{why}"):
        read_photo(tmp_path / "photo.tif", 24)


def test_a_black_photo_of_sixteen_bits_is_black(tmp_path):
    save_tiff(tmp_path / "photo.tif", np.zeros((24, 24), np.uint16))
    assert not read_photo(tmp_path / "photo.tif", 24).any()


def write_deep(path: Path, rgb: np.ndarray) -> None:
    """A TIFF of three channels of 16 bits, which Pillow reads and does not write."""
    tags = [
        (256, 4, 24),
        (257, 4, 24),
        (258, 3, 300),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 400),
        (277, 3, 3),
        (278, 4, 24),
        (279, 4, rgb.size * 2),
    ]
    head = b"II" + struct.pack("<HIH", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", t, kind, 3 if t == 258 else 1, value) for t, kind, value in tags)
    path.write_bytes(
        (head.ljust(300, b"\0") + struct.pack("<3H", 16, 16, 16)).ljust(400, b"\0") + rgb.astype("<u2").tobytes()
    )


def test_colours_of_sixteen_bits_keep_their_brightness_or_are_refused(tmp_path):
    write_deep(tmp_path / "whole.tif", np.stack([GREY * 65535] * 3, axis=-1))
    assert np.abs(grey_of(tmp_path / "whole.tif") - SHOWN).max() <= 1
    write_deep(tmp_path / "dark.tif", np.stack([GREY * 4095] * 3, axis=-1))
    with pytest.raises(UserError, match="dark.tif .*fewer than the 16 bits"):
        read_photo(tmp_path / "dark.tif", 24)


# transparency


@pytest.mark.parametrize(
    "name",
    ["RGBA.png", "LA.png", "P.png", "P.gif", "RGBA.webp", "L.png", "RGB.png", "I;16.png", "RGBA.tif", "RGBA.ico"],
)
def test_what_is_transparent_is_white(name, tmp_path):
    mode, _, suffix = name.partition(".")
    alpha = Image.new("L", (32, 32), 0)
    alpha.paste(255, (16, 0, 32, 32))  # the right half is to be seen
    options: dict[str, object] = {"lossless": True} if suffix == "webp" else {}
    if mode in ("RGBA", "LA"):
        picture = Image.new(mode[:-1], (32, 32), 0)
        picture.putalpha(alpha)
    elif mode == "I;16":
        picture, options = Image.fromarray((np.asarray(alpha).astype(np.uint16) // 255) * 30000), {"transparency": 0}
    else:  # one colour of all stands for nothing
        picture = Image.new(mode, (32, 32), 0)
        picture.paste(1 if mode == "P" else {"L": 90, "RGB": (90, 90, 90)}[mode], (16, 0, 32, 32))
        if mode == "P":
            picture.putpalette([0, 0, 0, 90, 90, 90])
        options = {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    picture.save(tmp_path / name, **options)
    photo = read_photo(tmp_path / name, 32)
    assert (photo[:, :, :16] == 255).all() and (photo[:, :, 17:] < 130).all()


def test_a_colour_of_sixteen_bits_that_stands_for_nothing_is_white(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + struct.pack(">3H", 1000, 2000, 3000) * 8 + struct.pack(">3H", 30000, 30000, 30000) * 8
        for _ in range(16)
    )
    parts = {b"IHDR": struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0), b"tRNS": struct.pack(">3H", 1000, 2000, 3000)}
    parts |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items()))
    photo = read_photo(tmp_path / "photo.png", 16)
    assert (photo[:, :, :8] == 255).all() and (photo[:, :, 8:] == 117).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (16, 16), (200, 100, 0, 51)).save(tmp_path / "photo.png")
    np.testing.assert_allclose(read_photo(tmp_path / "photo.png", 16)[:, 3, 3], [244, 224, 204], atol=1)


# all of it


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 33), (7, 90)])
def test_a_padded_photo_is_all_there_in_its_proportions(size, tmp_path):
    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "photo.png")
    photo = read_photo(tmp_path / "photo.png", 24, "pad").transpose(1, 2, 0).astype(int)
    scale = 24 / max(size)
    width, height = (round(side * scale) for side in size)
    left, top = (24 - width) // 2, (24 - height) // 2
    inside = photo[top : top + height, left : left + width]
    shown = Image.open(tmp_path / "photo.png").resize((width, height), Image.Resampling.BILINEAR)
    assert np.abs(inside - np.asarray(shown)).max() <= 1
    beside = np.ones((24, 24), bool)
    beside[top : top + height, left : left + width] = False
    assert (photo[beside] == pixels.PAD_COLOUR).all()


def test_a_photo_of_any_proportions_is_read(tmp_path):
    for size in ((1, 3000), (3000, 1), (1, 1)):
        Image.new("RGB", size, "red").save(tmp_path / "photo.png")
        for fit in ("crop", "pad"):
            assert read_photo(tmp_path / "photo.png", 16, fit).shape == (3, 16, 16)


# formats


@pytest.mark.parametrize(
    "suffix",
    [
        "jfif",
        "jpe",
        "avif",
        "ppm",
        "pgm",
        "pnm",
        "jp2",
        "j2k",
        "tga",
        "ico",
        "dib",
        "pcx",
        "sgi",
        "qoi",
        "apng",
        "dds",
        "icns",
        "msp",
    ],
)
def test_every_format_that_pillow_writes_is_taken_for_a_photo_and_read(suffix, tmp_path):
    picture = Image.radial_gradient("L").resize((32, 32))
    picture = picture.convert("1") if suffix == "msp" else picture.convert("RGBA" if suffix == "dds" else "RGB")
    picture.save(tmp_path / f"photo.{suffix}")
    assert f".{suffix}" in photos.photo_suffixes()
    read = read_photo(tmp_path / f"photo.{suffix}", 32)
    assert np.abs(read.astype(int) - np.asarray(picture.convert("RGB")).transpose(2, 0, 1)).mean() < 6


def test_what_another_program_would_have_to_draw_is_none(tmp_path, monkeypatch):
    called: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: called.append(given))
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photo.eps")
    os.replace(tmp_path / "photo.eps", tmp_path / "photo.jpg")
    with pytest.raises(UserError, match="not an image of a known format"):
        read_photo(tmp_path / "photo.jpg", 16)
    assert not called and not {".eps", ".ps", ".wmf", ".mpg", ".h5"} & photos.photo_suffixes()


def test_a_heic_photo_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    photos.formats.cache_clear()
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    try:
        with pytest.raises(UserError, match="photo.HEIC .*pip install pillow-heif"):
            read_photo(tmp_path / "photo.HEIC", 16)
    finally:
        photos.formats.cache_clear()


def test_pillow_heif_is_taken_when_it_is_there(monkeypatch):
    registered: list[bool] = []
    stub = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", stub)
    photos.formats.cache_clear()
    photos.formats()
    photos.formats.cache_clear()
    assert registered == [True]


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")
def test_a_heic_photo_is_read(tmp_path):
    photos.formats()
    Image.new("RGB", (64, 64), (200, 40, 0)).save(tmp_path / "photo.heic")
    np.testing.assert_allclose(read_photo(tmp_path / "photo.heic", 16)[:, 8, 8], [200, 40, 0], atol=6)


# what is no fault of the photo's


def test_lack_of_memory_is_not_taken_for_an_unreadable_photo(tmp_path, monkeypatch):
    def no_memory(*given: object) -> None:
        raise MemoryError

    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    monkeypatch.setattr(ImageOps, "fit", no_memory)
    with pytest.raises(RunError, match="not enough memory to decode .*photo.png"):
        read_photo(tmp_path / "photo.png", 16)


def test_a_pipe_in_a_photos_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match="photo.jpg can't be read .*no file"):
        read_photo(tmp_path / "photo.jpg", 16)


def test_odd_tags_print_no_warnings(tmp_path, capfd):
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.jpg", exif=exif((274, 3, 1, 6), (270, 2, 200, 4)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read_photo(tmp_path / "photo.jpg", 16)
    assert not warned and capfd.readouterr().err == ""

"""Whatever the layout of one's own photos, each photo is in the part and in the class that it belongs to."""

import dataclasses
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.base.errors import UserError
from common.data import folder as layouts
from common.data.dataset import Dataset, dataset_digest
from common.data.folder import NOTHING, Known, find_layout
from common.data.load import has_part
from common.data.pixels import Decoding

NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def load_folder(root: Path, split: str, size: int, known: Known = NOTHING) -> Dataset:
    return layouts.load_folder(root, split, Decoding(size), known)


def photo(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), colour).save(path)
    return path


def photos(folder: Path, first: int = 0, **classes: int) -> None:
    """So many photos a class; red says which class, the first in the order of names being 0, green which photo."""
    for name, count in classes.items():
        for i in range(count):
            photo(folder / name / f"{i:02d}.png", (sorted(classes).index(name) * 20, first + i, 0))


def reds(dataset) -> list[int]:
    return (dataset.images[:, 0, 4, 4] // 20).tolist()


def greens(dataset) -> list[int]:
    return dataset.images[:, 1, 4, 4].tolist()


# --- which folder is what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "VALID", "Test"),
        ("TRAIN", "Validation", "TEST"),
        ("Training", "validation", "Testing"),
        ("train", None, "test"),
        ("tRain", None, None),
        ("train", "val", None),
    ],
)
def test_parts_are_found_by_their_names_in_letters_of_any_case(train, validation, test, tmp_path):
    for folder in filter(None, (train, validation, test)):
        photos(tmp_path / folder, ant=1, bee=1)
    layout = find_layout(tmp_path)
    expected = {"train": train, "validation": validation, "test": test}
    assert layout.parts == {part: tmp_path / folder for part, folder in expected.items() if folder}
    assert not layout.is_one_folder and layout.unused == ()
    for part, folder in expected.items():
        assert layout.has(part) == has_part("folder", str(tmp_path), part) == (folder is not None)


def test_classes_that_are_called_like_parts_are_classes(tmp_path):
    photos(tmp_path, train=3, bus=3, car=3)
    assert find_layout(tmp_path).is_one_folder
    assert load_folder(tmp_path, "train", 8).classes == ("bus", "car", "train")


def test_two_folders_for_one_part_are_refused(tmp_path):
    for folder in ("train", "val", "validation"):
        photos(tmp_path / folder, ant=1, bee=1)
    with pytest.raises(UserError, match=r"has \['val', 'validation'\], each of which would be the validation part"):
        load_folder(tmp_path, "train", 8)


def test_folders_beside_the_parts_and_tests_without_classes_are_said_to_be_unused(tmp_path):
    photos(tmp_path / "train", ant=1, bee=1)
    photos(tmp_path / "extra", cow=1)
    photo(tmp_path / "test" / "unknown.png", (0, 0, 0))  # as competitions have them: no labels
    photos(tmp_path / "__MACOSX", ant=1)
    data = load_folder(tmp_path, "train", 8)
    assert len(data.labels) == 2 and data.test_files == ()
    (note,) = data.remarks
    assert "not used" in note and note.endswith("extra, test")


# --- a validation folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_the_validation_folder_is_the_validation_set_and_is_said_to_be(name, tmp_path):
    photos(tmp_path / "train", ant=2, bee=3)
    photos(tmp_path / name, first=100, ant=1, bee=2)
    data = load_folder(tmp_path, "train", 8)
    assert reds(data) == data.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 1]
    assert greens(data)[5:] == [100, 100, 101]
    assert (data.validation_folder, list(data.validation)) == (name, [5, 6, 7])
    (note,) = data.remarks
    assert note == f"{tmp_path / name} is the validation set: --validation_fraction is not used"


def test_train_alone_is_what_it_was_before_there_were_validation_folders(tmp_path):
    photos(tmp_path / "train", ant=2, bee=3)
    before = load_folder(tmp_path, "train", 8)
    photos(tmp_path / "val", first=100, ant=1, bee=2)
    data = load_folder(tmp_path, "train", 8)
    assert dataset_digest(data) != dataset_digest(before)
    assert dataset_digest(data.train_alone()) == dataset_digest(before)
    assert data.train_alone().validation_folder is None and before.train_alone() is before


def test_a_validation_folder_needs_no_other(tmp_path):
    photos(tmp_path / "val", bee=2)
    data = load_folder(tmp_path, "validation", 8, Known(["ant", "bee"]))
    assert data.labels.tolist() == [1, 1] and data.classes == ("ant", "bee")


# --- classes by name --------------------------------------------------------------------------------------------------


def test_classes_are_matched_by_name_whatever_their_order_and_number(tmp_path):
    photos(tmp_path / "test", ant=1, bee=2, cow=1)
    known = Known(["cow", "dog", "ant", "bee"])  # as another program may have ordered them
    data = load_folder(tmp_path, "test", 8, known)
    assert data.classes == ("cow", "dog", "ant", "bee")
    assert dict(zip(reds(data), data.labels.tolist(), strict=True)) == {0: 2, 1: 3, 2: 0}
    assert data.labels.tolist() == [0, 2, 3, 3]
    (note,) = data.remarks
    assert note == f"{tmp_path / 'test'} has no photos of 1 of the 4 classes: dog"


def test_a_class_that_the_checkpoint_does_not_know_is_named(tmp_path):
    photos(tmp_path / "test", ant=1, emu=1)
    with pytest.raises(UserError, match=r"has 1 class that it doesn't know \(emu\): .*test.emu") as error:
        load_folder(tmp_path, "test", 8, Known(["ant", "bee"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_may_lack_classes_of_train_which_is_said_but_has_no_others(part, tmp_path):
    photos(tmp_path / "train", ant=1, bee=1, cow=1)
    photos(tmp_path / part, bee=1)
    data = load_folder(tmp_path, "train", 8)
    assert data.labels[3:].tolist() == ([1] if part == "val" else [])
    assert data.remarks[0] == f"{tmp_path / part} has no photos of 2 of the 3 classes: ant, cow"
    photos(tmp_path / part, emu=1)
    with pytest.raises(UserError, match="it has .'emu'., which train lacks"):
        load_folder(tmp_path, "train", 8)


@pytest.mark.parametrize(("in_train", "in_test"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_unicode_forms_of_one_name_are_one_class(in_train, in_test, tmp_path):
    photos(tmp_path / "train", **{in_train: 2, "tea": 1})
    photos(tmp_path / "test", **{in_test: 1, "tea": 1})
    train = load_folder(tmp_path, "train", 8)
    assert train.classes == (in_train, "tea") and train.remarks == ()  # the name is what it was: runs of before go on
    test = load_folder(tmp_path, "test", 8, Known([in_train, "tea"]))
    assert test.labels.tolist() == reds(test) == [0, 1] and test.remarks == ()


def test_two_unicode_forms_in_one_folder_are_one_class(tmp_path):
    photos(tmp_path / "train", tea=2)
    for i, name in enumerate((NFC, NFD)):
        photo(tmp_path / "train" / name / "a.png", (0, i, 0))
    data = load_folder(tmp_path, "train", 8)
    assert len(data.classes) == 2 and data.labels.tolist() == [0, 0, 1, 1]
    assert unicodedata.normalize("NFC", data.classes[0]) == NFC


def test_a_checkpoint_that_has_both_forms_as_two_classes_tells_them_apart(tmp_path):
    photos(tmp_path / "test", **{NFD: 1, NFC: 1})
    assert load_folder(tmp_path, "test", 8, Known([NFD, NFC])).labels.tolist() == [0, 1]


# --- one folder of class folders --------------------------------------------------------------------------------------


def one_folder(root: Path) -> dict[str, list[str]]:
    """60 photos, of which some are there several times, in other formats and folders; → names of the same pixels."""
    photos(root, ant=20, bee=30)
    same: dict[str, list[str]] = {}
    for i in range(0, 10, 2):
        original = root / "bee" / f"{i:02d}.png"
        copy = root / "bee" / "copies" / f"again {i}.bmp"
        copy.parent.mkdir(exist_ok=True)
        Image.open(original).save(copy)
        shutil.copy(original, root / "bee" / f"{i:02d} (1).png")
        same[original.name] = [f"bee/{name}" for name in (original.name, f"copies/again {i}.bmp", f"{i:02d} (1).png")]
    return same


def parts_of(root: Path, size: int = 8, **known):
    train = load_folder(root, "train", size)
    return train, load_folder(root, "test", size, Known(train.classes, train.test_files, **known))


def test_one_folder_is_split_into_train_and_test_each_photo_in_one_of_them(tmp_path):
    photos(tmp_path, ant=20, bee=30, cow=10)
    train, test = parts_of(tmp_path)
    assert train.classes == test.classes == ("ant", "bee", "cow")
    assert np.bincount(test.labels).tolist() == [4, 6, 2] and np.bincount(train.labels).tolist() == [16, 24, 8]
    for data in (train, test):
        assert reds(data) == data.labels.tolist()
    both = list(zip(reds(train) + reds(test), greens(train) + greens(test), strict=True))
    assert len(set(both)) == len(both) == 60
    files = [f"{test.classes[red]}/{green:02d}.png" for red, green in zip(reds(test), greens(test), strict=True)]
    assert tuple(files) == train.test_files
    (note,) = train.remarks
    assert "12 of the 60 photos" in note and "split.json" in note


def test_the_draw_is_the_same_for_any_image_size_and_every_time(tmp_path):
    one_folder(tmp_path)
    drawn = {load_folder(tmp_path, "train", size).test_files for size in (8, 16, 65, 8)}
    assert len(drawn) == 1


def test_photos_of_the_same_pixels_are_on_one_side_of_the_draw(tmp_path):
    same = one_folder(tmp_path)
    test_files = set(load_folder(tmp_path, "train", 8).test_files)
    sides = [{name in test_files for name in names} for names in same.values()]
    assert all(len(side) == 1 for side in sides)
    # Other photos, other draws: at least one of the repeated ones should be drawn in one of them.
    for shift in range(1, 6):
        root = tmp_path / "other" / str(shift)
        names = one_folder(root)
        for extra in range(shift):
            photo(root / "bee" / f"x{extra}.png", (20, 200 + extra, 9))
        test_files = set(load_folder(root, "train", 8).test_files)
        sides += [{name in test_files for name in repeated} for repeated in names.values()]
    assert all(len(side) == 1 for side in sides) and {True} in sides and {False} in sides


def test_what_came_later_is_not_in_the_test_set_and_is_said(tmp_path):
    photos(tmp_path, ant=20, bee=30)
    train, before = parts_of(tmp_path)
    photo(tmp_path / "ant" / "-first of all.png", (0, 222, 0))
    photo(tmp_path / "bee" / "zz.png", (20, 223, 0))
    known = Known(train.classes, train.test_files, len(train.labels))
    after = load_folder(tmp_path, "test", 8, known)
    assert torch.equal(after.images, before.images) and torch.equal(after.labels, before.labels)
    assert dataset_digest(after) == dataset_digest(before)
    assert after.remarks == (f"2 photos came to {tmp_path} since the run began: they are not in its test set",)
    assert before.remarks == ()


def test_a_run_that_goes_on_has_the_train_photos_that_it_had(tmp_path):
    photos(tmp_path, ant=20, bee=30)
    train = load_folder(tmp_path, "train", 8)
    (tmp_path / train.test_files[0]).unlink()  # which another draw would depend on
    again = load_folder(tmp_path, "train", 8, Known(test_files=train.test_files))
    assert dataset_digest(again) == dataset_digest(train)


def test_test_photos_that_are_gone_are_counted_and_one_is_named(tmp_path):
    photos(tmp_path, ant=20, bee=30)
    train = load_folder(tmp_path, "train", 8)
    for name in train.test_files[:3]:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"lacks 3 of the run's 10 test photos, such as {train.test_files[0]}"):
        load_folder(tmp_path, "test", 8, Known(train.classes, train.test_files))


def test_of_a_folder_that_nothing_was_drawn_from_all_is_evaluated_and_said(tmp_path):
    photos(tmp_path, ant=2, bee=3)
    for test_files in ((), ("elsewhere/1.png",)):
        data = load_folder(tmp_path, "test", 8, Known(["ant", "bee"], test_files))
        assert len(data.labels) == 5
        assert data.remarks == (
            f"all 5 photos in {tmp_path} are evaluated: none of them was set apart when the run began",
        )


def test_a_test_folder_that_came_later_is_evaluated_and_said(tmp_path):
    photos(tmp_path, ant=20, bee=30)
    train = load_folder(tmp_path, "train", 8)
    for name in ("ant", "bee"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "train" / name)
    photos(tmp_path / "test", ant=1, bee=1)
    data = load_folder(tmp_path, "test", 8, Known(train.classes, train.test_files))
    assert len(data.labels) == 2 and "has a folder for test now" in data.remarks[0]


def test_names_of_any_bytes_and_unicode_forms_are_found_again(tmp_path):
    photos(tmp_path, ant=5, bee=5)
    names = [b"\xff\xfe.png", NFD.encode() + b".png", NFC.encode() + b" 2.png"]
    for i, name in enumerate(names):
        shutil.copy(photo(tmp_path / "tmp.png", (0, 100 + i, 0)), bytes(tmp_path / "ant") + b"/" + name)
    (tmp_path / "tmp.png").unlink()
    train = load_folder(tmp_path, "train", 8)
    " ".join(train.test_files).encode()  # can be written
    # Another system's form of the same names; all but the first, which no such system has.
    for path in list((tmp_path / "ant").glob("Caf*")):
        other = unicodedata.normalize("NFD" if unicodedata.is_normalized("NFC", path.name) else "NFC", path.name)
        path.rename(path.with_name(other))
    test = load_folder(tmp_path, "test", 8, Known(train.classes, train.test_files))
    again = load_folder(tmp_path, "train", 8, Known(test_files=train.test_files))
    assert len(test.labels) == len(train.test_files)
    assert sorted(greens(again)) == sorted(greens(train))


def test_too_few_photos_to_draw_from_are_told_in_a_line(tmp_path):
    photos(tmp_path, ant=1, bee=1)
    with pytest.raises(UserError, match=f"{tmp_path} has too few photos to set some apart for a test"):
        load_folder(tmp_path, "train", 8)


def test_a_large_set_is_one_mapped_file_for_both_parts(tmp_path, monkeypatch):
    from common.data.decode import mapped_file

    photos(tmp_path, ant=20, bee=30)
    in_memory = [dataset_digest(part) for part in parts_of(tmp_path)]
    monkeypatch.setattr("common.data.decode.IN_MEMORY_BYTES", 0)
    train, test = parts_of(tmp_path)
    assert [dataset_digest(part) for part in (train, test)] == in_memory
    (file, start), (same_file, later) = mapped_file(train.images), mapped_file(test.images)
    assert file == same_file and later - start == train.images.numel()
    assert dataclasses.replace(train).validation_folder is None

"""The subset of a folder data set that a reader makes too."""

import errno
from pathlib import Path

import pytest

from benchmarks.subset import SubsetConfig, main
from common.base.errors import UserError


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three photos of each of two classes, in train and in test."""
    root = tmp_path / "photos"
    for place in [
        f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in (2, 0, 1)
    ]:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(place.encode())
    return root


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(photos: Path, *train: int, test: int = 1) -> Path:
    target = photos.parent / "few"
    main(SubsetConfig(str(photos), str(target), train or (2,), test))
    return target


def test_it_has_the_same_photos_of_each_class_whoever_makes_it(photos):
    # By `printf cat/0.png | sha256sum` and so on: cat 1a…, 6a…, 70…, dog 74…, bc…, 82….
    names = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/2.png"]
    expected = [*(f"train/{name}" for name in names), "test/cat/0.png", "test/dog/0.png"]
    target = make(photos)
    assert files_in(target) == {place: place.encode() for place in expected}
    assert all((target / place).samefile(photos / place) for place in expected), "they are links"
    assert sorted(path.name for path in photos.parent.iterdir()) == ["few", "photos"], "nothing else is left"


def test_several_numbers_make_the_classes_unequal(photos):
    names = [place for place in files_in(make(photos, 3, 1)) if place.startswith("train")]
    assert sorted(names) == [*(f"train/cat/{i}.png" for i in range(3)), "train/dog/0.png"]


def test_where_the_file_system_has_no_links_it_copies(photos, monkeypatch):
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    linked = files_in(make(photos))
    target = (photos.parent / "few").rename(photos.parent / "linked")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = make(photos)
    assert files_in(copied) == files_in(target) == linked
    assert not any((copied / place).samefile(photos / place) for place in linked)


def test_the_same_again_changes_nothing_and_another_is_refused(photos):
    target = make(photos)
    before = files_in(target)
    make(photos)
    with pytest.raises(UserError, match=r"few is there and lacks train/cat/2\.png"):
        make(photos, 3)
    with pytest.raises(UserError, match=r"few is there and has train/cat/1\.png"):
        make(photos, 1)
    assert files_in(target) == before
    (target / "test/cat/0.png").unlink()
    (target / "test/cat/0.png").write_bytes(b"other")
    with pytest.raises(UserError, match=r"0\.png differs from"):
        make(photos)


def test_too_few_photos_are_refused_before_anything_is_made(photos):
    with pytest.raises(UserError, match=r"photos.test.cat has 3 photos, but --test is 4"):
        make(photos, test=4)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]

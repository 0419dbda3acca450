"""Every dataset is what its source says, damaged or missing ones are refused, and the split is what it promises."""

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from helpers import script_environment
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from common.base.errors import UserError
from common.data.cifar import CIFAR100_SUPERCLASSES
from common.data.dataset import dataset_digest
from common.data.load import LOADERS, load_dataset
from common.data.split import split_indices

CIFAR = {"cifar100": CIFAR100, "cifar10": CIFAR10}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder with both archives, which no test changes."""
    folder = tmp_path_factory.mktemp("source")
    archives.make_cifar100(folder, train=2, test=1)
    archives.make_cifar10(folder)
    return folder


@pytest.fixture
def served(source, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with archives.serve(source) as served:
        archives.patch(archives.downloads(served), monkeypatch.setattr)
        yield served


@pytest.fixture
def no_network(source, monkeypatch):
    """Torchvision's classes know the archives, but nothing listens at their address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens: connections are refused
        served = archives.Served(source, f"http://127.0.0.1:{closed.getsockname()[1]}")
        archives.patch(archives.downloads(served), monkeypatch.setattr)
        yield


def offered(folder: Path, name: str, files: dict, monkeypatch) -> None:
    """Puts an archive of other content in `folder`, its checksums being what torchvision expects."""
    archives.write_archive(folder / CIFAR[name].filename, files)
    archives.patch(archives.downloads(archives.Served(folder, "http://127.0.0.1:0")), monkeypatch.setattr)


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def everything_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def photos(folder: Path, **classes: int) -> None:
    """So many photos in each class folder, every one of them different."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (12, 10), (80 * label, 10 * i, 0)).save(folder / name / f"{i}.png")


# CIFAR


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_downloaded_with_a_progress_bar_and_equals_torchvisions_arrays(
    name, served, tmp_path, capsys, monkeypatch
):
    data_dir = tmp_path / "not" / "yet" / "there"
    splits = {split: load_dataset(name, str(data_dir), split, 224) for split in ("train", "test")}
    shown = capsys.readouterr()
    assert CIFAR[name].url in shown.out and "100%" in shown.err
    for split, ours in splits.items():
        theirs = CIFAR[name](data_dir, train=split == "train")
        assert ours.images.dtype == torch.uint8 and ours.images.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(ours.images.permute(0, 2, 3, 1), theirs.data)
        assert ours.labels.dtype == torch.int64 and ours.labels.tolist() == theirs.targets
        assert list(ours.classes) == theirs.classes
        assert (ours.name, ours.flip) == (name, True)
    kept = {CIFAR[name].filename, CIFAR[name].base_folder}
    kept |= {f"{CIFAR[name].base_folder}/{file}" for file, _ in CIFAR[name].train_list + CIFAR[name].test_list}
    assert everything_in(data_dir) == kept | {f"{CIFAR[name].base_folder}/{CIFAR[name].meta['filename']}"}


def test_the_lab_finds_the_data_it_downloaded_before(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = load_dataset("cifar10", None, "test", 224)
    asked = len(served.requests)
    again = load_dataset("cifar10", "data", "test", 224)
    assert asked and len(served.requests) == asked
    assert torch.equal(first.images, again.images)


def test_an_archive_or_its_unpacked_folder_needs_no_network(source, no_network, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes((source / archive.name).read_bytes())
    images = load_dataset("cifar10", str(tmp_path), "train", 224).images
    archive.unlink()
    assert torch.equal(load_dataset("cifar10", str(tmp_path), "train", 224).images, images)


def test_a_damaged_unpacked_file_is_unpacked_again(source, no_network, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes((source / "cifar-10-python.tar.gz").read_bytes())
    before = load_dataset("cifar10", str(tmp_path), "train", 224)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    assert dataset_digest(load_dataset("cifar10", str(tmp_path), "train", 224)) == dataset_digest(before)


def test_cifar100_has_its_twenty_superclasses_of_five_classes_each(source, served, tmp_path):
    dataset = load_dataset("cifar100", str(tmp_path), "train", 224)
    assert len(dataset.superclasses) == 20 and len(dataset.superclass_of) == 100
    assert np.bincount(dataset.superclass_of).tolist() == [5] * 20
    train = pickle.loads(members(source / CIFAR100.filename)["cifar-100-python/train"], encoding="latin1")
    meta = pickle.loads(members(source / CIFAR100.filename)["cifar-100-python/meta"], encoding="latin1")
    # The archive's own pairing of fine and coarse labels, which is the real one's.
    assert [dataset.superclass_of[label] for label in train["fine_labels"]] == train["coarse_labels"]
    assert list(dataset.superclasses) == meta["coarse_label_names"]
    assert dataset.superclasses[dataset.superclass_of[dataset.classes.index("pickup_truck")]] == "vehicles_1"


def test_cifar10_has_no_superclasses(served, tmp_path):
    dataset = load_dataset("cifar10", str(tmp_path), "test", 224)
    assert (dataset.superclasses, dataset.superclass_of) == (None, None)


def test_the_archives_have_the_keys_and_strings_of_the_real_ones(source):
    expected = {
        "cifar-100-python/train": {"filenames", "batch_label", "fine_labels", "coarse_labels", "data"},
        "cifar-10-batches-py/data_batch_1": {"batch_label", "labels", "data", "filenames"},
    }
    files = members(source / CIFAR100.filename) | members(source / CIFAR10.filename)
    for name, keys in expected.items():
        assert pickle.loads(files[name], encoding="bytes").keys() == {key.encode() for key in keys}
        assert pickle.loads(files[name], encoding="latin1").keys() == keys
        assert pickle.loads(files[name], encoding="latin1")["data"].dtype == np.uint8


@pytest.mark.parametrize("name", CIFAR)
def test_without_network_the_error_says_where_the_files_go(name, no_network, tmp_path):
    with pytest.raises(UserError) as refused:
        load_dataset(name, str(tmp_path / "data"), "train", 224)
    for part in (CIFAR[name].url, str(tmp_path / "data"), CIFAR[name].filename, "--data_dir", "--preset digits"):
        assert part in str(refused.value)
    assert everything_in(tmp_path) <= {"data"}


def test_two_that_download_into_one_folder_at_once_end_with_one_whole_copy(served, tmp_path, capsys):
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load_dataset, "cifar10", str(tmp_path), "train", 224) for _ in range(3)]
        images = [load.result(120).images for load in loads]
    assert all(torch.equal(other, images[0]) for other in images)
    assert capsys.readouterr().out.count("downloading") == 1
    unpacked = {file for file, _ in CIFAR10.train_list + CIFAR10.test_list} | {CIFAR10.meta["filename"]}
    names = {CIFAR10.filename, CIFAR10.base_folder} | {f"{CIFAR10.base_folder}/{file}" for file in unpacked}
    assert everything_in(tmp_path) == names


def test_a_download_that_breaks_off_leaves_nothing(served, tmp_path):
    served.break_off_after = 1000
    with pytest.raises(UserError, match="can't be downloaded"):
        load_dataset("cifar10", str(tmp_path), "train", 224)
    assert everything_in(tmp_path) == set()
    served.break_off_after = None
    assert len(load_dataset("cifar10", str(tmp_path), "train", 224).labels) == 100


def test_a_download_with_another_checksum_is_refused(served, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(UserError, match="can't be downloaded"):
        load_dataset("cifar10", str(tmp_path), "train", 224)
    assert everything_in(tmp_path) == set()


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "another file"])
def test_a_damaged_archive_is_refused_and_kept(damage, source, served, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    whole = (source / archive.name).read_bytes()
    half = len(whole) // 2
    archive.write_bytes(
        {
            "flipped bit": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
            "truncated": whole[:half],
            "empty": b"",
            "another file": b"<html>404</html>",
        }[damage]
    )
    with pytest.raises(UserError, match=rf"{archive} is damaged .*; delete it"):
        load_dataset("cifar10", str(tmp_path), "train", 224)
    assert everything_in(tmp_path) == {archive.name} and served.requests == []


def test_an_archive_with_a_file_missing_or_other_than_its_checksum_unpacks_nothing(source, tmp_path, monkeypatch):
    files = members(source / "cifar-10-python.tar.gz")
    del files["cifar-10-batches-py/data_batch_5"]
    offered(tmp_path, "cifar10", files, monkeypatch)
    with pytest.raises(UserError, match="can't be unpacked .*data_batch_5"):
        load_dataset("cifar10", str(tmp_path), "train", 224)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", "0" * 32]])
    with pytest.raises(UserError, match="damaged cifar-10-batches-py/data_batch_1"):
        load_dataset("cifar10", str(tmp_path), "train", 224)
    assert everything_in(tmp_path) == {"cifar-10-python.tar.gz"}


def test_what_an_archive_holds_cannot_leave_its_folder(source, tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(b"untouched")
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    link.type, link.linkname = tarfile.SYMTYPE, "../../secret"
    escaping = tarfile.TarInfo("cifar-10-batches-py")
    escaping.type, escaping.linkname = tarfile.SYMTYPE, ".."
    files = members(source / "cifar-10-python.tar.gz")
    hostile = {"../outside": b"x", str(tmp_path / "absolute"): b"x", "cifar-10-batches-py/../../outside": b"x"}
    offered(tmp_path / "data", "cifar10", {**hostile, "dir": escaping, **files}, monkeypatch)
    load_dataset("cifar10", str(tmp_path / "data"), "test", 224)
    unpacked = {"cifar-10-python.tar.gz", "cifar-10-batches-py", *(name for name in files)}
    assert everything_in(tmp_path) == {"secret", "data", *(f"data/{name}" for name in unpacked)}

    files["cifar-10-batches-py/data_batch_1"] = link
    offered(tmp_path / "other", "cifar10", files, monkeypatch)
    with pytest.raises(UserError, match="can't be unpacked"):
        load_dataset("cifar10", str(tmp_path / "other"), "test", 224)
    assert (tmp_path / "secret").read_bytes() == b"untouched"


def test_a_data_dir_that_is_a_file_is_refused(served, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be read or written .*--data_dir"):
        load_dataset("cifar10", str(tmp_path / "file"), "train", 224)


@pytest.mark.slow
def test_a_script_downloads_data_and_weights_from_the_tests_server(tmp_path):
    """What the end-to-end tests rely on: a process that is started downloads through torchvision's and torch.hub's code."""
    archives.make_cifar10(tmp_path / "served")
    archives.make_weights(tmp_path / "served")
    script = """
from common.model.build import build_model
from common.data.load import load_dataset
print(load_dataset("cifar10", None, "train", 224).images.shape)
print(sum(p.numel() for p in build_model("resnext50_32x4d", 10, "IMAGENET1K_V2").parameters()))
"""
    with archives.serve(tmp_path / "served") as served:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**script_environment(tmp_path), **archives.environment(served)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert "[100, 3, 32, 32]" in done.stdout
    assert int(done.stdout.split()[-1]) < 500_000
    assert done.stderr.count("100%") == 2  # a bar for each
    assert set(os.listdir(tmp_path / "home/torch/hub/checkpoints")) < set(os.listdir(tmp_path / "served"))


# digits


def test_digits_are_scikit_learns_with_a_fixed_fifth_for_testing():
    train, test = (load_dataset("digits", None, split, 224) for split in ("train", "test"))
    theirs = load_digits()
    found = np.concatenate([train.images, test.images])
    assert np.array_equal(found[:, 0], found[:, 1]) and np.array_equal(found[:, 0], found[:, 2])
    # From grey of 0 to 255 back to scikit-learn's 0 to 16, every image with its label, each once.
    ours = [(image.tobytes(), label) for image, label in zip(
        np.round(found[:, 0] * (16 / 255)), torch.cat([train.labels, test.labels]).tolist(), strict=True
    )]  # fmt: skip
    assert sorted(ours) == sorted(
        (image.tobytes(), int(k)) for image, k in zip(theirs.images, theirs.target, strict=True)
    )
    assert found.min() == 0 and found.max() == 255
    assert len(test.labels) == round(0.2 * 1797)
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert torch.allclose(shares, torch.tensor(0.2), atol=0.01)
    assert train.classes == tuple("0123456789")
    assert not train.flip  # a mirrored digit is no digit


def test_digits_are_the_same_every_time():
    assert dataset_digest(load_dataset("digits", None, "test", 224)) == dataset_digest(
        load_dataset("digits", "ignored", "test", 32)
    )


# folder


def test_a_folder_of_photos_becomes_labelled_images(tmp_path):
    photos(tmp_path / "train", zebra=2, ant=3)
    photos(tmp_path / "test", zebra=1, ant=1)
    dataset = load_dataset("folder", str(tmp_path), "train", 8)
    assert dataset.classes == ("ant", "zebra")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1] and dataset.labels.dtype == torch.int64
    assert dataset.images.shape == (5, 3, 8, 8) and dataset.images.dtype == torch.uint8
    assert dataset.images[:, :, 4, 4].tolist() == [[80, 0, 0], [80, 10, 0], [80, 20, 0], [0, 0, 0], [0, 10, 0]]
    assert dataset.flip and dataset.superclasses is None
    assert load_dataset("folder", str(tmp_path), "test", 8).labels.tolist() == [0, 1]


def test_nested_photos_count_and_other_files_do_not(tmp_path):
    photos(tmp_path / "train", cat=1, dog=1)
    photos(tmp_path / "train" / "cat", deeper=2, **{".hidden": 1})
    photos(tmp_path / "train", **{".cache": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no photo")
    (tmp_path / "train" / "cat" / ".DS_Store.png").write_text("no photo")
    (tmp_path / "train" / "README.md").write_text("no class")
    (tmp_path / "train" / "dog" / "0.png").rename(tmp_path / "train" / "dog" / "IMG 1.PNG")
    dataset = load_dataset("folder", str(tmp_path), "train", 8)
    assert dataset.classes == ("cat", "dog") and dataset.labels.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        (None, None, "data does not exist; --data_dir"),
        ({}, None, "train has no class folders; --data_dir"),
        ({"cat": 2}, None, "train has one class only .'cat'."),
        ({"cat": 2, "dog": 0}, None, "the class folder .*dog has no photos"),
        ({"cat": 2, "dog": 2}, {"cat": 1, "dog": 1, "emu": 1}, "it has .'emu'., which train lacks"),
        ({"cat": 2, "do\ng": 2}, None, "characters that can't be printed; rename it"),
    ],
    ids=["missing", "no classes", "one class", "empty class", "extra test class", "unprintable"],
)
def test_a_malformed_folder_is_refused_before_anything_is_decoded(train, test, problem, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))  # its absence is seen
    for split, classes in (("train", train), ("test", test)):
        if classes is not None:
            (tmp_path / "data" / split).mkdir(parents=True)
            photos(tmp_path / "data" / split, **classes)
    with pytest.raises(UserError, match=problem):
        load_dataset("folder", str(tmp_path / "data"), "train", 8)
    assert not (tmp_path / "cache").exists()


def test_a_test_set_that_is_missing_is_an_error_only_when_it_is_asked_for(tmp_path):
    photos(tmp_path / "train", cat=1, dog=1)
    assert len(load_dataset("folder", str(tmp_path), "train", 8).labels) == 2
    with pytest.raises(UserError, match="test does not exist"):
        load_dataset("folder", str(tmp_path), "test", 8)


def test_an_unreadable_photo_is_named(tmp_path):
    photos(tmp_path / "train", cat=2, dog=2)
    photo = tmp_path / "train" / "dog" / "1.png"
    photo.write_bytes(photo.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"{photo} can't be read as an image"):
        load_dataset("folder", str(tmp_path), "train", 8)


def test_a_folder_needs_its_place_and_a_name_must_be_known():
    with pytest.raises(UserError, match="--dataset folder needs --data_dir"):
        load_dataset("folder", None, "train", 8)
    with pytest.raises(UserError, match="--dataset is 'mnist': allowed are " + ", ".join(LOADERS)):
        load_dataset("mnist", None, "train", 8)


# the split


@pytest.mark.parametrize("fraction", [0.01, 0.1, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_is_disjoint_complete_sorted_and_stratified(fraction, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).choice(7, 1000, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]))
    train, validation = split_indices(labels, fraction, seed)
    assert train.dtype == validation.dtype == torch.int64
    assert sorted(train.tolist() + validation.tolist()) == list(range(1000))
    assert train.tolist() == sorted(train.tolist()) and validation.tolist() == sorted(validation.tolist())
    assert len(validation) == round(fraction * 1000)
    counts = labels[validation].bincount(minlength=7)
    assert ((counts - fraction * labels.bincount()).abs() < 1).all()
    assert (counts > 0).all() and (labels[train].bincount(minlength=7) > 0).all()


def test_the_split_equals_its_plain_description():
    """A tenth of each class, which divides evenly here: the first of a permutation, drawn class after class."""
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(5), 20))
    random, expected = np.random.default_rng(42), []
    for label in range(5):
        indices = [i for i in range(100) if labels[i] == label]
        expected += [indices[k] for k in random.permutation(20)[:2]]
    train, validation = split_indices(labels, 0.1, seed=42)
    assert validation.tolist() == sorted(expected)
    assert train.tolist() == sorted(set(range(100)) - set(expected))


def test_what_does_not_divide_goes_to_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [14, 18, 8])  # shares of 3.5, 4.5 and 2 from a quarter of 40
    _, validation = split_indices(labels, 0.25, seed=0)
    assert len(validation) == 10
    assert np.bincount(labels[validation]).tolist() == [4, 4, 2]


def test_the_split_depends_on_its_seed_alone():
    labels = torch.arange(200) % 10
    first, other = split_indices(labels, 0.2, seed=1)[1], split_indices(labels, 0.2, seed=2)[1]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(split_indices(labels, 0.2, seed=1)[1], first)
    assert not torch.equal(first, other)


def test_without_a_validation_fraction_all_is_train():
    train, validation = split_indices(torch.arange(10) % 2, 0.0, seed=0)
    assert train.tolist() == list(range(10)) and len(validation) == 0 and validation.dtype == torch.int64


def test_rare_classes_are_in_both_parts_where_they_can_be():
    labels = np.array([0] * 100 + [1] * 2 + [2])
    train, validation = split_indices(labels, 0.05, seed=0)
    assert np.bincount(labels[validation]).tolist() == [5, 1]
    assert np.bincount(labels[train]).tolist() == [95, 1, 1]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan"), 0.001, 0.999])
def test_a_fraction_that_leaves_a_part_empty_is_refused(fraction):
    with pytest.raises(UserError, match=f"--validation_fraction (is )?{fraction}"):
        split_indices(torch.arange(20) % 2, fraction, seed=0)


def test_a_split_of_classes_of_one_image_is_refused():
    with pytest.raises(UserError, match="needs a class with two images"):
        split_indices(torch.arange(20), 0.2, seed=0)


# the digest


def test_the_digest_changes_with_any_pixel_label_name_and_their_order():
    dataset = load_dataset("digits", None, "test", 32)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[5, 1, 2, 3] += 1
    labels[7] = (labels[7] + 1) % 10
    changed = [
        dataclasses.replace(dataset, images=images),
        dataclasses.replace(dataset, labels=labels),
        dataclasses.replace(dataset, classes=(*dataset.classes[:-1], "nine")),
        dataclasses.replace(dataset, images=dataset.images.flip(0), labels=dataset.labels.flip(0)),
        dataclasses.replace(dataset, images=dataset.images.reshape(-1, 3, 4, 16)),
    ]
    assert len({dataset_digest(each) for each in [dataset, *changed]}) == 6
    same = dataclasses.replace(dataset, images=dataset.images.clone(), labels=dataset.labels.clone())
    assert dataset_digest(same) == dataset_digest(dataset)


def test_the_digest_does_not_depend_on_how_it_is_read(monkeypatch):
    dataset = load_dataset("digits", None, "test", 32)
    whole = dataset_digest(dataset)
    monkeypatch.setattr("common.data.dataset._DIGEST_CHUNK_BYTES", 1000)
    assert dataset_digest(dataset) == whole
    assert len(whole) == 64 and json.dumps(whole)


def test_the_superclass_table_names_each_class_once():
    names = [name for group in CIFAR100_SUPERCLASSES.values() for name in group]
    assert len(names) == len(set(names)) == 100

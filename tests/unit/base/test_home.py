"""`~` means the same in every path flag, and where there is no home a folder stands in for it."""

import os
import pwd
from pathlib import Path

import pytest
from run_folders import SPLIT

import compare
import dashboard
import soup
import sweep
import sync
from common.base.errors import UserError
from common.base.files import cache_folder
from common.base.home import expanded, provide_home
from common.cli import parse, parse_train
from common.config import EvaluateConfig, TrainConfig, VisualizeConfig, as_dict
from common.data.load import load_dataset
from common.model.pretrained import read_weights
from common.runs.folder import RunFolder, create_run

FLAGS = [
    (TrainConfig, "runs_dir"), (TrainConfig, "data_dir"), (TrainConfig, "weights"), (EvaluateConfig, "checkpoint"),
    (EvaluateConfig, "compare"), (EvaluateConfig, "data_dir"), (EvaluateConfig, "runs_dir"), (VisualizeConfig, "images"),
    (soup.SoupConfig, "data_dir"), (soup.SoupConfig, "runs_dir"), (sync.SyncConfig, "runs_dir"),
    (dashboard.DashboardConfig, "runs_dir"), (dashboard.DashboardConfig, "output"), (sweep.SweepConfig, "runs_dir"),
]  # fmt: skip
WORDS = [(soup.SoupConfig, ["{}", "b"]), (sync.SyncConfig, ["{}"]), (sweep.SweepConfig, ["{}"]), (compare.CompareConfig, ["b", "{}"])]  # fmt: skip
GIVEN = [(cls, [f"--{flag}", "{}"]) for cls, flag in FLAGS] + WORDS


@pytest.mark.parametrize(
    "cls, words", GIVEN, ids=lambda value: value.__name__ if isinstance(value, type) else " ".join(value)
)
def test_a_tilde_means_the_home_in_every_path(cls, words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, meant in (
        ("~/a b", f"{tmp_path}/a b"),
        ("~", str(tmp_path)),
        ("~root/x", f"{pwd.getpwuid(0).pw_dir}/x"),
    ):
        values = as_dict(parse(cls, argv=[word.format(given) for word in words])).values()
        assert meant in [item for value in values for item in (value if isinstance(value, list) else [value])]
    with pytest.raises(UserError, match="is '~nosuchuser/x', but ~nosuchuser is the home of no user here"):
        parse(cls, argv=[word.format("~nosuchuser/x") for word in words])


def test_a_tilde_that_is_no_home_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse_train(["--tags", "~a", "--group=~b"]).run.group == "~b"
    assert expanded("a~/b", "--x") == "a~/b" and expanded("", "--x") == ""
    Path("~nosuchuser").mkdir()
    assert expanded("~nosuchuser", "--x") == "~nosuchuser"


def test_a_run_is_resumed_by_a_path_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    create_run(RunFolder(tmp_path / "runs" / "first"), TrainConfig.of(weights="~/old.pth", data_dir="~/old"), SPLIT)
    for words in (["--resume=~/runs/first"], ["--resume", "first", "--runs_dir=~/runs"]):
        config = parse_train(words)
        assert config.run.runs_dir == str(tmp_path / "runs")
        assert config.model.weights == "~/old.pth"  # as it was saved by an earlier version


def test_what_a_file_says_of_no_ones_home_is_told_in_a_line(monkeypatch):
    for read in (
        lambda: load_dataset("cifar10", "~nosuchuser/data", "train", 32),
        lambda: read_weights("resnet50", "~nosuchuser/weights.pth"),
        lambda: [monkeypatch.setenv("FINETUNE_CACHE", "~nosuchuser/cache"), cache_folder()],
    ):
        with pytest.raises(UserError, match="~nosuchuser is the home of no user"):
            read()


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    """No HOME, and a user that is in no list."""

    def unknown(user: object) -> None:
        raise KeyError(user)

    monkeypatch.setenv("HOME", "/")  # put back at the end, whatever is set by then
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"resnext-finetuning-{os.getuid()}"


def test_without_a_home_a_folder_of_ones_own_stands_in_and_is_named_once(no_home, capsys):
    with pytest.raises(UserError, match="--runs_dir is '~/runs', but ~ is the home of no user"):
        parse_train(["--runs_dir=~/runs"])
    parse_train([]), parse_train([])
    assert os.environ["HOME"] == str(no_home) and no_home.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count(str(no_home)) == 1
    del os.environ["HOME"]
    provide_home()  # the next process has the same
    assert os.environ["HOME"] == str(no_home)


@pytest.mark.parametrize("home, replaced", [("a file/home", True), ("/proc", False), ("new/home", False)])
def test_a_home_that_can_not_be_made_is_none_and_one_that_is_read_only_is_kept(
    home, replaced, no_home, monkeypatch, tmp_path
):
    (tmp_path / "a file").touch()
    chosen = str(tmp_path / home)
    monkeypatch.setenv("HOME", chosen)
    provide_home()
    assert os.environ["HOME"] == (str(no_home) if replaced else chosen)


@pytest.mark.parametrize("planted", ["link", "open to others"])
def test_a_folder_that_another_may_have_planted_does_not_stand_in(planted, no_home):
    if planted == "link":
        (no_home.parent / "elsewhere").mkdir(mode=0o700)
        no_home.symlink_to("elsewhere")
    else:
        no_home.mkdir()
        no_home.chmod(0o777)
    with pytest.raises(UserError, match="HOME is not set.*is another user's; set HOME"):
        provide_home()

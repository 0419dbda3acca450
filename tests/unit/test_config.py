"""Every field is a flag, takes a value as W&B's agent gives it, and comes back from a run's config as it was."""

import subprocess
import sys
import typing

import pytest
import yaml
from helpers import ROOT
from run_folders import SPLIT

from common import config
from common.base.errors import UserError
from common.cli import parse, parse_train
from common.config import (
    GROUP_OF,
    GROUPS,
    IN_SWEEPS,
    MAY_CHANGE_ON_RESUME,
    PRESETS,
    SETS_APART,
    EvaluateConfig,
    PredictSettings,
    SoupSettings,
    TrainConfig,
    VisualizeConfig,
    as_dict,
)
from common.runs.folder import RunFolder, create_run, load_config

# A valid value for each field, unlike its default.
VALUES = {
    "preset": "digits", "dataset": "cifar10", "data_dir": "my data", "validation_fraction": 0.2, "unreadable": "skip", "label_fixes": "fixed.csv", "image_size": 96, "decode_size": 256, "fit": "pad",
    "batch_size": 12, "augment": "basic", "mixup_alpha": 0.5, "cutmix_alpha": 0.7, "model": "resnet50",
    "weights": "other.pth", "finetune": "partial", "head_epochs": 2, "feature_views": 3, "feature_cache": "file", "epochs": 7, "max_steps": 9,
    "lr": 3e-05, "backbone_lr_scale": 0.1, "layer_decay": 0.75, "momentum": 0.5, "nesterov": True, "weight_decay": 1e-4, "loss": "focal",
    "label_smoothing": 0.1, "focal_gamma": 1.5, "schedule": "cosine", "warmup_epochs": 0.5, "ema_decay": 0.9,
    "balance": "sampling", "best_by": "macro_f1", "patience": 4, "accumulate": 2,
    "progressive_from": 32, "seed": 5, "device": "cpu", "amp": "bf16", "compile": True, "runs_dir": "elsewhere",
    "run_id": "a-run", "max_minutes": 2.5, "seeds": 3, "checkpoint_every": 4, "log_every": 3, "project": "p", "entity": "e", "group": "g",
    "tags": ("one", "two"), "log_weights": False, "register": "flowers/best", "alert": True, "checkpoint": "some:best", "split": "validation", "compare": "other",
    "which": "errors", "count": 3, "tta": "flip", "images": ("a.png", "b c.jpg"), "explain": True,
    "photos": ("a.png", "b c"), "output": "table.jsonl", "top": 5, "min_accuracy": 0.95, "overwrite": True,
}  # fmt: skip


def fields(cls) -> list[str]:
    return [name for name in as_dict(cls()) if name != "resume"]


def values_of(config) -> dict[str, object]:
    """Flat, as `as_dict` gives them, with tuples as they are."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in as_dict(config).items()}


def as_flags(values: dict[str, object], equals: bool) -> list[str]:
    flags: list[str] = []
    for name, value in values.items():
        if isinstance(value, tuple | list):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags += [f"--{name}={value}"] if equals else [f"--{name}", str(value)]
    return flags


@pytest.mark.parametrize("equals", [False, True], ids=["space", "equals"])
@pytest.mark.parametrize("cls", [TrainConfig, EvaluateConfig, VisualizeConfig, PredictSettings])
def test_every_flag_parses_in_both_spellings(cls, equals):
    values = {name: VALUES[name] for name in fields(cls) if name != "label_smoothing"}  # not with the focal loss
    if cls is EvaluateConfig:
        values["amp"] = "fp16"
    parsed, default = values_of(parse(cls, argv=as_flags(values, equals))), values_of(cls())
    for name, value in values.items():
        assert parsed[name] == value and type(parsed[name]) is type(value), name
        assert default[name] != value, f"{name}: the test gives the default"
    smoothed = [f"--label_smoothing{'=' if equals else ' '}0.1"] if cls is TrainConfig else []
    if smoothed:
        assert parse(cls, argv=smoothed[0].split()).recipe.label_smoothing == 0.1


@pytest.mark.parametrize("cls", [TrainConfig, EvaluateConfig, VisualizeConfig, PredictSettings])
def test_what_may_be_none_can_be_given_as_none(cls):
    groups = GROUPS.values() if cls is TrainConfig else [cls]
    hints = {name: hint for group in groups for name, hint in typing.get_type_hints(group).items()}
    optional = [name for name in fields(cls) if type(None) in typing.get_args(hints[name])]
    given = {name: VALUES[name] for name in optional}
    config = parse(
        cls, TrainConfig.of(**given) if cls is TrainConfig else cls(**given), [f"--{n}=None" for n in optional]
    )
    assert len(optional) >= 4 and all(values_of(config)[name] is None for name in optional)


@pytest.mark.parametrize("text", ["True", "False"])
@pytest.mark.parametrize("flag", ["nesterov", "compile", "log_weights"])
def test_booleans_take_a_value(flag, text):
    for argv in ([f"--{flag}", text], [f"--{flag}={text}"]):
        assert as_dict(parse_train(argv))[flag] is (text == "True")


def test_hyphens_are_as_good_as_underscores():
    assert parse_train(["--batch-size=8", "--run-id", "x"]) == TrainConfig.of(batch_size=8, run_id="x")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_defaults_that_flags_override(name):
    assert parse_train(["--preset", name]) == PRESETS[name] and PRESETS[name].start.preset == name
    for argv in (["--lr", "0.25", f"--preset={name}"], ["--preset", name, "--lr=0.25"]):
        assert parse_train(argv) == PRESETS[name].replace(lr=0.25)


def test_without_flags_it_is_the_lab():
    assert parse_train([]) == TrainConfig() == PRESETS["lab"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_runs_config_given_as_flags_repeats_the_run(name):
    changed = PRESETS[name].replace(run_id="a-run", tags=("one", "two"), seed=8)
    for equals in (False, True):
        assert parse_train(as_flags(as_dict(changed), equals)) == changed
        assert parse_train(as_flags(as_dict(PRESETS[name]), equals)) == PRESETS[name]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("validation_fraction", 1.0), ("validation_fraction", -0.1), ("image_size", 8), ("image_size", 2000),
        ("batch_size", 1), ("epochs", 0), ("max_steps", 0), ("max_minutes", 0.0), ("max_minutes", float("nan")), ("lr", 0.0), ("lr", float("nan")), ("lr", float("inf")),
        ("backbone_lr_scale", 0.0), ("backbone_lr_scale", 1.5), ("layer_decay", 0.0), ("layer_decay", 1.1), ("momentum", 1.0), ("momentum", -0.5),
        ("weight_decay", -1.0), ("weight_decay", float("nan")), ("label_smoothing", 1.0), ("focal_gamma", -1.0),
        ("warmup_epochs", 6.0), ("mixup_alpha", -1.0), ("cutmix_alpha", float("inf")), ("ema_decay", 1.0),
        ("feature_views", 101), ("progressive_from", 225), ("progressive_from", 8), ("seed", -1), ("seed", 2**31),
        ("checkpoint_every", -1), ("log_every", 0), ("dataset", "folder"), ("patience", 0), ("accumulate", 0), ("accumulate", 17),
        ("balance", "weights"), ("best_by", "f1"), ("decode_size", 223), ("decode_size", 1025),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_what_is_allowed(flag, value):
    with pytest.raises(UserError, match=r"^--\w+ is .+, but must be .+") as error:
        TrainConfig.of(**{flag: value})
    assert str(error.value).startswith("--data_dir" if flag == "dataset" else f"--{flag} is {value}")


@pytest.mark.parametrize(
    ("cls", "argv", "flag"),
    [
        (TrainConfig, ["--nesterov=True", "--momentum=0"], "nesterov"),
        (TrainConfig, ["--loss=focal", "--label_smoothing=0.1"], "label_smoothing"),
        (EvaluateConfig, ["--batch_size=-1"], "batch_size"),
        (VisualizeConfig, ["--count=-1"], "count"),
        (VisualizeConfig, ["--seed=-1"], "seed"),
        (PredictSettings, ["--top=0"], "top"),
        (PredictSettings, ["--batch_size=0"], "batch_size"),
        (PredictSettings, ["--min_accuracy=1"], "min_accuracy"),
        (PredictSettings, ["--min_accuracy=0"], "min_accuracy"),
        (PredictSettings, ["--min_accuracy=nan"], "min_accuracy"),
    ],
)
def test_a_command_line_that_is_refused_ends_with_status_2(cls, argv, flag, capsys):
    with pytest.raises(SystemExit) as ending:
        parse(cls, argv=argv)
    assert ending.value.code == 2 and f"--{flag} is " in capsys.readouterr().err


def test_a_resumed_run_has_its_own_config_of_which_few_may_change(tmp_path):
    saved = TrainConfig.of(dataset="cifar10", lr=0.5, epochs=3, runs_dir=str(tmp_path))
    create_run(RunFolder(tmp_path / "first"), saved, SPLIT)
    place = [f"--runs_dir={tmp_path}", "--resume", "first"]
    own = saved.replace(run_id="first")
    assert load_config(RunFolder(tmp_path / "first")) == own
    assert parse_train(place) == own.replace(resume="first")
    assert parse_train([*place, "--epochs=9", "--lr=0.5"]).duration.epochs == 9
    with pytest.raises(UserError, match=r"--lr \(was 0.5, now 0.1\)"):
        parse_train([*place, "--lr=0.1"])
    with pytest.raises(UserError, match="--resume second is no run"):
        parse_train([*place[:1], "--resume=second"])
    assert parse_train(["--resume=None"]) == TrainConfig()
    with pytest.raises(UserError, match=r"--run_id \(was first, now other\)"):
        parse_train([*place, "--run_id=other"])


def test_a_run_that_was_copied_elsewhere_goes_on_where_it_lies(tmp_path):
    folder = RunFolder(tmp_path / "there" / "first")
    create_run(folder, TrainConfig.of(runs_dir=str(folder.path.parent)), SPLIT)
    folder.path.parent.rename(tmp_path / "here")
    for resume in (
        ["--runs_dir", str(tmp_path / "here"), "--resume=first"],
        ["--resume", str(tmp_path / "here" / "first")],
    ):
        assert parse_train(resume).run.runs_dir == str(tmp_path / "here")


def test_help_names_every_flag_and_imports_no_torch():
    program = (
        "import sys, runpy\n"
        "sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'torchvision', 'wandb', 'matplotlib'} & set(sys.modules), 'a heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in [*fields(TrainConfig), "resume"]:
        assert f"--{name}" in done.stdout, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment", "everything"), ("loss", "mse"), ("batch_size", 14.5), ("batch_size", True), ("batch_size", "32"),
        ("lr", "0.1"), ("lr", 10**400), ("lr", None), ("lr", True), ("nesterov", 1), ("nesterov", "True"), ("tags", "one"), ("tags", (1,)),
        ("data_dir", 3), ("max_steps", 2.0), ("dataset", None), ("preset", ["lab"]),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_from_a_runs_config_as_from_the_command_line(name, value, tmp_path):
    with pytest.raises(UserError, match=rf"^--{name} is .+, but must be"):
        TrainConfig.of(**{name: value})
    folder = RunFolder(tmp_path / "run")
    create_run(folder, TrainConfig(), SPLIT)
    saved = yaml.safe_load(folder.config.read_text())
    folder.config.write_text(yaml.safe_dump({**saved, name: list(value) if isinstance(value, tuple) else value}))
    with pytest.raises(UserError, match=rf"config.yaml .*(--{name} is .+, but must be|a whole number is too large)"):
        load_config(folder)


@pytest.mark.parametrize("cls", [TrainConfig, EvaluateConfig, VisualizeConfig, SoupSettings, PredictSettings])
def test_text_that_is_no_utf8_is_refused_by_its_flag(cls, capsys):
    """As bytes of a command line come to Python; no file of a run could hold them."""
    words = {
        "data_dir": "ph\udce9tos",
        "runs_dir": "r\udcff",
        "run_id": "\udce9",
        "tags": ("fine", "\udce9"),
        "images": ("a\udce9.jpg",),
    }
    known = as_dict(cls())
    for name, text in words.items():
        if name in known:
            with pytest.raises(UserError, match=rf"^--{name} is .*\\udc.* no UTF-8") as refused:
                cls.of(**{name: text}) if cls is TrainConfig else cls(**{name: text})
            str(refused.value).encode()


def test_a_photo_s_name_may_be_of_any_bytes():
    assert PredictSettings(photos=("caf\udce9.jpg",)).photos == ("caf\udce9.jpg",)


def test_the_command_that_goes_on_gives_the_same_settings_and_those_alone():
    given = PredictSettings(photos=("a b", "-"), top=5, overwrite=True, min_accuracy=0.9, runs_dir="elsewhere")
    words = given.goes_on("run")
    assert words == ["a b", "-", *"--checkpoint run --top 5 --min_accuracy 0.9 --resume True".split()]


def test_a_setting_that_is_none_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="unknown settings colour"):
        TrainConfig.of(lr=0.1, colour="red")


def test_a_whole_number_is_a_number():
    assert TrainConfig.of(lr=1, warmup_epochs=1).recipe.lr == 1


def test_every_flag_is_in_one_group_whose_traits_it_has():
    assert sorted(GROUP_OF) == sorted(as_dict(TrainConfig()))
    assert {"epochs", "max_steps", "max_minutes", "device", "data_dir", "resume"} <= MAY_CHANGE_ON_RESUME
    assert not {"lr", "batch_size", "seed", "amp", "dataset", "weights", "preset", "run_id"} & MAY_CHANGE_ON_RESUME
    assert {"lr", "epochs", "amp", "seed"} <= SETS_APART and not {
        "feature_cache",
        "max_minutes",
        "device",
        "run_id",
        "tags",
    } & SETS_APART
    assert GROUP_OF.keys() - IN_SWEEPS == {"run_id", "seeds", "resume", "max_minutes", "group", "runs_dir"}


def test_what_the_flags_offer_can_be_loaded_and_built():
    from common.data.load import LOADERS
    from common.model.build import ARCHITECTURES, FROZEN_PREFIX

    assert set(typing.get_args(config.DATASETS)) == set(LOADERS)
    assert set(typing.get_args(config.MODELS)) == set(ARCHITECTURES)
    assert list(typing.get_args(typing.get_type_hints(config.Model)["finetune"])) == list(FROZEN_PREFIX)
    assert list(typing.get_args(config.PRESET_NAMES)) == list(PRESETS)

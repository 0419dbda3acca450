"""sweep.yaml through the hands of W&B's own agent, and back through the parser."""

import itertools

import pytest
import yaml
from helpers import ROOT

from common.cli import parse_train
from common.config import TrainConfig, as_dict

SWEEP = yaml.safe_load((ROOT / "sweep.yaml").read_text())


def as_the_agent_gives_it(values: dict) -> list[str]:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="wandb has moved its agent's argument builder")
    command = {"args": {name: {"value": value} for name, value in values.items()}}
    return utils.create_sweep_command_args(command)["args"]


def candidates(parameter: dict) -> list:
    """The values that the server may choose, a range as its two ends and a long decimal within."""
    if "min" in parameter:
        return [parameter["min"], parameter["max"], parameter["min"] + (parameter["max"] - parameter["min"]) / 3]
    return parameter["values"] if "values" in parameter else [parameter["value"]]


@pytest.mark.parametrize("name", SWEEP["parameters"])
def test_every_value_of_every_key_reaches_the_configuration_unchanged(name):
    for value in candidates(SWEEP["parameters"][name]):
        got = as_dict(parse_train(as_the_agent_gives_it({name: value})))[name]
        assert got == value and type(got) is type(value)


def test_every_combination_of_the_choices_is_a_valid_configuration():
    choices = {name: candidates(given) for name, given in SWEEP["parameters"].items()}
    lists = {name: values if "values" in SWEEP["parameters"][name] else values[:1] for name, values in choices.items()}
    for values in map(dict, itertools.product(*([(k, v) for v in vs] for k, vs in lists.items()))):
        TrainConfig.of(**values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nesterov", True),
        ("nesterov", False),
        ("compile", False),
        ("max_steps", None),
        ("max_steps", 7),
        ("data_dir", None),
        ("data_dir", "my photos/2024"),
        ("lr", 1e-05),
        ("lr", 0.1 + 0.2),
        ("seed", 0),
        ("device", "cuda:1"),
        ("preset", "digits"),
    ],
)
def test_every_kind_of_value_survives_the_agent_s_command_line(name, value):
    got = as_dict(parse_train(as_the_agent_gives_it({name: value})))[name]
    assert got == value and type(got) is type(value)


def test_numbers_are_numbers():
    """YAML reads 1e-3 as text."""
    for name, given in SWEEP["parameters"].items():
        for key in ("min", "max"):
            assert isinstance(given.get(key, 0), (int, float)), f"{name}.{key}"


def test_no_trial_uploads_its_weights_unless_asked():
    assert SWEEP["parameters"]["log_weights"] == {"value": False}


def test_false_booleans_are_not_dropped():
    assert "${args}" in SWEEP["command"] and "${args_no_boolean_flags}" not in SWEEP["command"]

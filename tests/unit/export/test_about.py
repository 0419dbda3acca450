"""What an export says of itself comes back, and from a stranger's text comes that or a line that names the file."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.errors import UserError
from common.export.about import About, from_text
from common.export.hub import OURS, read_hub

ABOUT = About(
    model="resnet50", classes=["a", "é"], image_size=24, decode_size=32, fit="pad", temperature=1.5, dataset="folder", run_id="r", version="v"
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def test_what_is_written_comes_back():
    assert from_text(ABOUT.as_text(), "file") == ABOUT


@pytest.mark.parametrize(
    "name, odd",
    [
        ("temperature", "0"), ("temperature", "NaN"), ("temperature", '"hot"'), ("classes", "[]"), ("classes", "[1]"), ("mean", "[1, 2]"),
        ("image_size", "8"), ("fit", '"stretch"'), ("preprocessing", "1"), ("model", "["), ("format", "resnext-finetuning export 99"), ("std", "[" * 100_000),
    ],
)  # fmt: skip
def test_a_changed_value_is_a_line_that_names_the_file(name, odd):
    with pytest.raises(UserError, match="^a.onnx.*changed") as refused:
        from_text({**ABOUT.as_text(), name: odd}, "a.onnx")
    assert "\n" not in str(refused.value)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(name=st.sampled_from([*ABOUT.as_text(), OURS, ""]), value=values)
def test_any_json_in_a_hub_s_config_gives_a_result_or_a_line(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("hub")
    ours = json.loads(json.dumps(vars(ABOUT)))
    whole = {"": value, OURS: {OURS: value}}.get(name, {OURS: {**ours, name: value}})
    (folder / "config.json").write_text(json.dumps(whole))
    try:
        assert isinstance(read_hub(folder), About)
    except UserError as error:
        assert "config.json" in str(error)

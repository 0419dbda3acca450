"""What a record's file may hold: what its dataclass says, or one line that names the file."""

import json
from dataclasses import asdict, dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.base.errors import UserError
from common.base.records import _may_hold_large_numbers, read_record, write_record


@dataclass(frozen=True)
class Part:
    name: str
    share: float | None


@dataclass(frozen=True)
class Whole:
    version: int
    parts: list[Part]
    bounds: tuple[float, float]
    notes: dict[str, str] = field(default_factory=dict)


WHOLE = Whole(3, [Part("a", 0.1), Part("ä\n", None)], (0.25, 1.0), {"k": "v"})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    write_record(tmp_path / "record.json", WHOLE)
    assert read_record(tmp_path / "record.json", Whole) == WHOLE
    assert json.loads((tmp_path / "record.json").read_text())["parts"][0] == {"name": "a", "share": 0.1}


def test_keys_of_later_versions_are_left_out_and_what_has_a_default_may_be_missing(tmp_path):
    (tmp_path / "record.json").write_text('{"version": 1, "parts": [], "bounds": [0, 1], "later": {"deep": [1]}}')
    assert read_record(tmp_path / "record.json", Whole) == Whole(1, [], (0.0, 1.0))


def changed(**changes: object) -> bytes:
    return json.dumps({**asdict(WHOLE), **changes}).encode()


@pytest.mark.parametrize(
    "content, named",
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[1", "JSON"),
        (b"[" * 100_000, "JSON"),
        (changed(bounds=[0, float("nan")]), "JSON"),
        (changed(bounds=[0, float("inf")]), "JSON"),
        (b"[]", "the whole"),
        (b"null", "the whole"),
        (b"{}", "version: Field required"),
        (changed(version=1.5), "version"),
        (changed(version="3"), "version"),
        (changed(version=True), "version"),
        (changed(parts={"name": "a"}), "parts"),
        (changed(parts=[{"name": "a", "share": "much"}]), "parts.0.share"),
        (changed(bounds=[1]), "bounds"),
        (changed(notes={"k": 1}), "notes.k"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_anything_else_is_refused_in_a_line_that_names_the_file_and_the_field(tmp_path, content, named):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match="record.json") as refused:
        read_record(tmp_path / "record.json", Whole)
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("number", ["9" * 19, "1" * 400, "1e309", "2.5E+400", "12345678.9e999"])
@pytest.mark.parametrize("begin", ["[", "[-", "[0, ", "[0,", '[0,"a",\n', '{"a":', '{"a": -'])
def test_a_number_that_no_reader_expects_is_refused_wherever_it_stands(tmp_path, number, begin):
    end = "]" if begin.startswith("[") else "}"
    later = changed().decode()[:-1] + f', "later": {begin}{number}{end}}}'  # in a field that no reader looks at
    (tmp_path / "record.json").write_text(later)
    with pytest.raises(UserError, match=r"record.json can't be read as JSON: a (whole )?number is too large"):
        read_record(tmp_path / "record.json", Whole)


@given(
    st.lists(
        st.text("0123456789abcdef", min_size=64, max_size=64)
        | st.floats(-1e90, 1e90)
        | st.integers(-(10**18) + 1, 10**18 - 1)
    )
)
def test_digests_and_numbers_of_usual_size_are_not_taken_for_large_ones(values):
    """Else every report would be walked through, which takes longer than all else that is done with it."""
    assert not _may_hold_large_numbers(json.dumps(values, indent=1).encode())


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json.*No such file"):
        read_record(tmp_path / "nowhere.json", Whole)


def test_what_json_can_not_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_record(tmp_path / "record.json", Part("a", float("nan")))
    assert not list(tmp_path.iterdir())

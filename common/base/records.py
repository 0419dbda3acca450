"""JSON files that one part of the program writes and another reads: a dataclass each, its fields' types checked on reading. And YAML.

A file may be a stranger's, so what comes back is what the dataclass says, or there is one line that names the file.
"""

import math
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from common.base.errors import UserError, first_line
from common.base.files import read_file, write_json

Record = TypeVar("Record")
LONGEST_JSON = 1 << 28  # bytes; the report of a thousand classes has 10 million
LONGEST_YAML = 1 << 20
LARGEST_INTEGER = 2**63 - 1  # what NumPy and SQLite hold; a JSON file may have one of 4,300 digits
YAML_VALUES, YAML_DEPTH = 10_000, 100  # at most: a few lines of aliases stand for billions of values
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")  # every digit a 0
# A number begins behind one of these, a digest behind its quote.
_LARGE = re.compile(rb"(?:^|[\s:,\[-])0(?:0{18}|[0.]*e\+?000)")


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # an eighth of a second, which `--help` need not wait for

    return TypeAdapter(kind)


def read_record(path: Path, kind: type[Record]) -> Record:
    """The file as a `kind`, a dataclass; keys that it does not know are left out.

    Errors: `UserError` naming the file, and the first field that is missing or of another type.
    """
    return parse_record(read_whole(path), kind, path)


def read_whole(path: Path) -> bytes:
    """What `parse_record` reads. Errors: `UserError` naming the file."""
    try:
        return read_file(path, LONGEST_JSON)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} can't be read as JSON: {reason}") from error


def parse_record(data: bytes, kind: type[Record], source: Path | str) -> Record:
    """JSON as a `kind`. Errors: as `read_record`, naming `source`."""
    from pydantic import ValidationError
    from pydantic_core import from_json

    try:
        if b"NaN" in data or b"Infinity" in data:  # what follows takes NaN, which no writer of ours makes
            from_json(data, allow_inf_nan=False)
        if _may_hold_large_numbers(data):
            _check_plain(from_json(data))
        return cast(Record, _adapter(cast(Any, kind)).validate_json(data, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise UserError(f"{source} can't be read as JSON: {first['ctx']['error']}") from None
        where = ".".join(map(str, first["loc"])) or "the whole"
        what = first["msg"].removeprefix("Value error, ")  # said by a dataclass's own checks
        raise UserError(f"{source} can't be read: {where}: {what}") from None
    except ValueError as error:
        raise UserError(f"{source} can't be read as JSON: {error}") from None


def _may_hold_large_numbers(data: bytes) -> bool:
    """No where all whole parts of the JSON's numbers are shorter than 19 digits and all exponents than 3: below 2**63, and far below a
    float's largest. Asked first, since walking through a report takes longer than all else that is done with it."""
    return _LARGE.search(data.translate(_SHAPE)) is not None


def _check_plain(value: Any, most: float = math.inf) -> None:
    """Errors: `ValueError` for a number that no reader expects, or more than so many values, each alias of YAML counted as all that it
    stands for."""
    left, count = [value], 0
    while left:
        item = left.pop()
        count += 1
        if count > most:
            raise ValueError(f"more than {most:,} values")
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            left += item
        elif isinstance(item, int) and abs(item) > LARGEST_INTEGER:
            raise ValueError("a whole number is too large")
        elif isinstance(item, float) and math.isinf(item):
            raise ValueError("a number is too large")


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping of text to plain values. Errors: `UserError` naming the file."""
    import yaml  # a tenth of a second, which `--help` need not wait for

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: far faster
    try:
        text = read_file(path, LONGEST_YAML).decode()
        if _depth(text, loader) > YAML_DEPTH:
            raise ValueError(f"more than {YAML_DEPTH} levels")
        values = yaml.load(text, loader)
        _check_plain(values, YAML_VALUES)
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path} can't be read as YAML: {reason}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} can't be read: it holds no mapping of names to values")
    return values


def _depth(text: str, loader: Any) -> int:
    """Of the nesting, before anything is built, which takes a call for each level."""
    import yaml

    depth = deepest = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def as_json(record: Any) -> dict[str, Any]:
    """The dataclass as its file has it: fields by their names there, where these are others (pydantic's `alias`), and without those
    whose metadata say `may_be_absent` and that have their default: one that came later changes no byte of a file without use for it."""
    values = _adapter(cast(Any, type(record))).dump_python(record, by_alias=True, warnings="none")
    absent = [p.name for p in fields(record) if p.metadata.get("may_be_absent") and values[p.name] == p.default]
    return {name: value for name, value in values.items() if name not in absent}


def write_record(path: Path, record: Any) -> None:
    """Replaces the file as a whole. NaN and infinity are refused with `ValueError`: few readers accept them."""
    write_json(path, as_json(record))

"""Dataclasses that check themselves: types, choices and ranges stand in the fields' annotations, and nowhere else.

Ranges are in the words of `annotated_types`, as in `Annotated[float, Interval(ge=0, lt=1)]`.
"""

import dataclasses
import operator
import sys
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal

from common.base.errors import UserError
from common.base.text import in_utf8, printable

PATH = "a path"
PathText = Annotated[str, PATH]
"""Text that names a file or a folder, or may do so."""

ANY_BYTES = "bytes that may be no UTF-8"
PhotoPath = Annotated[str, PATH, ANY_BYTES]
"""As `PathText`, of a file whose name no run's file has to hold."""


class Checked:
    """A dataclass whose fields hold what their annotations say. Errors: `UserError` naming the flag and what is allowed."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in hints_of(kind).items():
            value = getattr(self, name)
            for text in value if type(value) is tuple else [value]:
                if isinstance(text, str) and in_utf8(text) != text and not says(hint, ANY_BYTES):
                    raise UserError(
                        f"--{name} is {in_utf8(text)[:200]}: bytes that are no UTF-8, which no run's file can hold; rename it"
                    )
            if not fits(value, hint):
                raise UserError(f"--{name} is {printable(value, 200)}, but must be {in_words(hint)}")


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Field name → its annotation."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls)}


def names_paths(hint: Any) -> bool:
    """Whether what `hint` allows is `PathText`, or several of them."""
    return says(hint, PATH)


def says(hint: Any, what: str) -> bool:
    """Whether what `hint` allows, or a part of it, is annotated so."""
    return what in getattr(hint, "__metadata__", ()) or any(says(part, what) for part in typing.get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type, one of the choices and within the range that `hint` says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if origin is Annotated:
        return fits(value, arguments[0]) and all(_within(value, limit) for limit in arguments[1:])
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return (
            type(value) in (int, float) and abs(value) <= sys.float_info.max
        )  # neither NaN nor infinite, nor too long
    return type(value) is hint


def _within(value: Any, limit: Any) -> bool:
    bounds = {name: getattr(limit, name, None) for name in ("gt", "ge", "lt", "le")}
    return all(getattr(operator, name)(value, bound) for name, bound in bounds.items() if bound is not None)


def in_words(hint: Any) -> str:
    """What `hint` allows, for a person."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(in_words(choice) for choice in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return "a list of words"
    if origin is Annotated and arguments[0] is str:
        return in_words(str)
    if origin is Annotated:
        kind = "a whole number, " if arguments[0] is int else "a number, "
        return kind + " ".join(map(_range_in_words, arguments[1:]))
    return {type(None): "None", bool: "True or False", int: "a whole number", float: "a number", str: "text"}[hint]


def _range_in_words(limit: Any) -> str:
    gt, ge, lt, le = (getattr(limit, key, None) for key in ("gt", "ge", "lt", "le"))
    if ge is not None and le is not None:
        return f"from {ge} to {le}"
    low = f"above {gt}" if gt is not None else f"{ge} or more" if lt is None and le is None else f"at least {ge}"
    high = f"below {lt}" if lt is not None else f"at most {le}" if le is not None else ""
    return f"{low} and {high}" if high else low

"""JSON files that one part of the program writes and another reads: a dataclass each, its fields' types checked on reading.

A file may be a stranger's, so what comes back is what the dataclass says, or there is one line that names the file.
"""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from common.base.errors import UserError
from common.base.files import write_json

Record = TypeVar("Record")


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # an eighth of a second, which `--help` need not wait for

    return TypeAdapter(kind)


def read_record(path: Path, kind: type[Record]) -> Record:
    """The file as a `kind`, a dataclass; keys that it does not know are left out.

    Errors: `UserError` naming the file, and the first field that is missing or of another type.
    """
    from pydantic import ValidationError
    from pydantic_core import from_json

    try:
        data = path.read_bytes()
        from_json(data, allow_inf_nan=False)  # what follows takes NaN, which no writer of ours makes
        return cast(Record, _adapter(cast(Any, kind)).validate_json(data, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        what = first["msg"].removeprefix("Value error, ")  # said by a dataclass's own checks
        raise UserError(f"{path} can't be read: {where}: {what}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} can't be read as JSON: {reason}") from None


def as_json(record: Any) -> dict[str, Any]:
    """The dataclass as its file has it: fields by their names there, where these are others (pydantic's `alias`)."""
    return _adapter(cast(Any, type(record))).dump_python(record, by_alias=True, warnings="none")


def write_record(path: Path, record: Any) -> None:
    """Replaces the file as a whole. NaN and infinity are refused with `ValueError`: few readers accept them."""
    write_json(path, as_json(record))

"""Packages that only some commands need."""

from importlib.util import find_spec

from common.base.errors import UserError


def require(what: str, *packages: str, file: str) -> None:
    """Errors: `UserError` that says what to install where `what` needs a package that is not there. file: of the requirements."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, which isn't installed: pip install -r {file}")

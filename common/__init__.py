"""What the scripts share, in rooms with walls: `base ← runs, data ← model ← training, analysis ← scripts`.

`config` and `cli` are the flags. Beside that road stand `tracking` (W&B), `sweeps` and `dashboard`.
What a room may import is held by tests/unit/test_walls.py.

For a notebook: `from common import load_model, predict, Report`. They are loaded when they are asked for, since they bring torch with them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.analysis.notebook import load_model, predict
    from common.analysis.report import Report

__all__ = ["Report", "load_model", "predict"]

_PLACES = {
    "load_model": "common.analysis.notebook",
    "predict": "common.analysis.notebook",
    "Report": "common.analysis.report",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

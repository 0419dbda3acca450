"""What the scripts share, in rooms with walls: `base ← runs, data ← model ← training, analysis ← scripts`.

`config` and `cli` are the flags. Beside that road stand `tracking` (W&B), `sweeps` and `dashboard`.
What a room may import is held by tests/unit/test_walls.py.
"""

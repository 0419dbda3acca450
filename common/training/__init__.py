"""A run from its config to its end: prepared, trained step by step, logged, saved, and gone on with."""

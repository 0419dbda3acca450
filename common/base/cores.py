"""How many cores there are to compute on. Imports nothing, so that processes which decode photos start at once."""

import os


def usable_cores() -> int:
    """Those that this process may use, as in a container or under Slurm; where the system can't say, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

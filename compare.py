"""Is one recipe better than another, or was it luck? Compares two groups of runs, or two runs, on the same test images.

    python train.py --preset digits --seeds 3 --run_id A
    python train.py --preset digits --seeds 3 --run_id B --lr 0.05
    python evaluate.py --checkpoint A
    python evaluate.py --checkpoint B
    python compare.py A B

Prints each seed's accuracy, mean ± sd, the difference B − A with intervals over seeds, over images and over both, the settings
that differ, and a verdict in a sentence. Writes nothing.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from common.base.checked import PathText
from common.base.errors import report_errors
from common.cli import parse
from common.config import RUNS_DIR


@dataclass(frozen=True)
class CompareConfig:
    a: Annotated[PathText, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A group, or a run by id or folder."""
    b: Annotated[PathText, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another."""
    runs_dir: PathText = RUNS_DIR
    """Folder of the run folders."""


def main(config: CompareConfig) -> None:
    from common.analysis.recipes import comparison_in_words, read_pair

    print(comparison_in_words(*read_pair(config.runs_dir, config.a, config.b)))


if __name__ == "__main__":
    with report_errors():
        main(parse(CompareConfig, description=__doc__))

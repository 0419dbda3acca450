"""Averages the weights of several runs into one: a greedy soup (Wortsman et al. 2022).

    python soup.py RUN RUN …     # runs that differ in --lr, --augment, …, but not in the data, the model or the --seed

Begins with the most accurate run, tries the others in turn, and keeps those that validation accuracy does not fall by. The
result is a run folder of its own, as fast as one run. Next: `python evaluate.py`.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from common.base.checked import PathText
from common.base.errors import report_errors
from common.cli import parse
from common.config import SoupSettings


@dataclass(frozen=True)
class SoupConfig(SoupSettings):
    runs: Annotated[tuple[PathText, ...], tyro.conf.Positional] = ()
    """Ids or folders of the runs: two or more, of one architecture, image size, data and split."""


def main(config: SoupConfig) -> None:
    from common.training.soup import open_soup

    soup = open_soup(config)  # whatever can be refused is, before anything is written
    print(soup.description, flush=True)
    for line in soup.fill():
        print(line, flush=True)
    about_wandb = soup.save() if soup.helped else []
    print(*soup.ending(), *about_wandb, sep="\n")


if __name__ == "__main__":
    with report_errors():
        main(parse(SoupConfig, description=__doc__))

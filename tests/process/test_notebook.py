"""The cells of "In Colab or a notebook", executed by a kernel, as Jupyter and Colab do."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, script_environment
from nbclient import NotebookClient

PAGE = ROOT / "docs" / "lab.md"


def cells() -> list[str]:
    """All but the first, which needs a network: it clones and installs."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## In Colab or a notebook\n")[2].partition("\n## ")[0]
    install, *others = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert "git clone" in install
    return others


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project's folder, as a clone of it would be, for the runs to lie in."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "home").mkdir()
    for entry in (*ROOT.glob("*.py"), ROOT / "common"):
        (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.slow
def test_the_cells_of_the_page_work_and_their_output_can_be_read(project):
    environment = script_environment(project, WANDB_MODE=None, WANDB_SILENT=None, MPLBACKEND=None)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *filter(None, sys.path)])
    sources = [part for cell in cells() for part in (cell, *["assert _exit_code == 0"] * cell.startswith("!"))]
    # A kernel says to all it starts how a notebook would show figures.
    sources = ["import os; assert 'inline' in os.environ['MPLBACKEND']", *sources, "import matplotlib.pyplot"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(book, timeout=600, allow_errors=True, resources={"metadata": {"path": str(project)}})
    client.execute(env=environment)
    failed = [cell for cell in book.cells if any(output.output_type == "error" for output in cell.outputs)]
    assert not failed, "\n".join(f"{cell.source}\n{cell.outputs}" for cell in book.cells)

    by_source = {cell.source: cell for cell in book.cells}
    shown = [output for cell in book.cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 3
    for source in cells():
        text = text_of(by_source[source])
        assert "Traceback" not in text and "\x1b[" not in text and "error:" not in text, text
        lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
        assert len(lines) < 80, text
        if source.startswith("%run"):
            assert "\r" not in text
    assert (project / "dashboard.html").exists()
    assert {path.name for path in (project / "runs").iterdir()} >= {"first", "second"}

"""A watched page is left at rest, whichever signal ends the watching."""

import os
import signal
import threading
from pathlib import Path

import pytest
from dashboard_runs import make_run

from common.dashboard import watch


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_watching_with_its_exit_status_and_a_page_that_rests(number, status, tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "first", tested=False)
    output = tmp_path / "page.html"
    watch.build(tmp_path / "runs", output, watched=True)
    assert 'data-reload="0"' not in output.read_text()
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    assert watch.watch(tmp_path / "runs", output) == status
    assert 'data-reload="0"' in output.read_text()

"""Ctrl-C and SIGTERM are noted; what the second one does is for the block to say."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT

from common.base.signals import Interrupted, interruptible, watched

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_said_and_noted_and_gives_the_exit_status(number, status, capfd):
    with interruptible("stopping") as interrupt:
        assert (interrupt.signal, interrupt.exit_status) == (None, 0)
        os.kill(os.getpid(), number)
        assert (interrupt.signal, interrupt.exit_status) == (number, status)
    assert capfd.readouterr().err == "\nstopping\n"


def test_afterwards_signals_do_what_they_did_before():
    before = [signal.getsignal(number) for number in BOTH]
    with interruptible():
        assert [signal.getsignal(number) for number in BOTH] != before
    assert [signal.getsignal(number) for number in BOTH] == before


def test_where_they_are_only_counted_the_first_one_counts(capfd):
    with interruptible("stopping", None) as interrupt:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert (interrupt.count, interrupt.exit_status) == (3, 143)
    assert capfd.readouterr().err == "\nstopping\n"


def test_else_the_second_one_ends_the_process_at_once():
    code = """
import os, signal
from common.base.signals import interruptible
with interruptible("stopping", "stopped"):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("not at once", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "\nstopping\n\nstopped\n")


def test_a_signal_ends_a_wait():
    with interruptible() as interrupt:
        assert interrupt.sleep(0.01)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        assert not interrupt.sleep(60)
        assert time.monotonic() - began < 30
        assert not interrupt.sleep(60)


def test_a_loop_is_left_when_it_is_to_stop():
    seen: list[int] = []
    with pytest.raises(Interrupted):
        for batch in watched(range(5), stopped=lambda: len(seen) == 2):
            seen.append(batch)
    assert seen == [0, 1]

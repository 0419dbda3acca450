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


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
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


@pytest.mark.parametrize("number", [*BOTH, signal.SIGHUP])
def test_a_signal_is_noted_also_when_no_one_can_be_told(number):
    """As after a hang-up: writing to a terminal that has gone is an error."""
    code = f"""
import os, signal
from common.base.signals import interruptible
read, write = os.pipe()
os.dup2(write, 2)
os.close(read), os.close(write)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
with interruptible() as interrupt:
    os.kill(os.getpid(), {int(number)})
    print(interrupt.signal)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{int(number)}\n"


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.signal is None and not interrupt.stopped()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_time_is_up_when_it_is_looked_for_and_no_earlier(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with interruptible(seconds=60) as interrupt:
        now[0] = 159.0
        assert not interrupt.stopped() and interrupt.exit_status == 0
        now[0] = 160.0
        assert interrupt.exit_status == 0  # what has ended by then has ended by itself
        assert interrupt.stopped() and interrupt.exit_status == 124
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.exit_status == 143
    with interruptible() as interrupt:
        now[0] = 1e12
        assert not interrupt.stopped()


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

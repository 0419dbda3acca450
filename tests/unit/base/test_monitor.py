"""How busy the machine is, compared with what the system says elsewhere; and that measuring it ends nothing."""

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from places import IN_THE_WAY, blocked

from common.base import monitor


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "FIRST_SECONDS", 0.05)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def compute(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))


def test_the_cores_kept_busy_are_the_processor_time_that_was_used(tmp_path: Path) -> None:
    before = time.process_time()
    with monitor.monitored(tmp_path / "system.jsonl"):
        compute(1.0)
    used, rows = time.process_time() - before, rows_of(tmp_path / "system.jsonl")
    assert len(rows) >= 2
    assert sum(row["process_cores"] * row["seconds"] for row in rows) == pytest.approx(used, abs=0.35)
    assert all(row["machine_cores"] <= row["cores"] * 1.5 for row in rows)
    assert rows[-1]["process_memory"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert rows[-1]["machine_memory_total"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_bytes_a_second_are_what_the_counters_grew_by(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counted = [100.0], [0]
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    disk = lambda: SimpleNamespace(read_bytes=counted[0], write_bytes=3 * counted[0])  # noqa: E731
    net = lambda: SimpleNamespace(bytes_recv=5 * counted[0], bytes_sent=1000 - counted[0])  # noqa: E731
    monkeypatch.setattr(psutil, "disk_io_counters", disk)
    monkeypatch.setattr(psutil, "net_io_counters", net)
    meter = monitor.Meter()
    clock[0], counted[0] = 120.0, 400
    row = meter.read()
    assert row["seconds"] == 20 and (row["disk_read"], row["disk_written"], row["network_received"]) == (20, 60, 100)
    assert row["network_sent"] == 0  # a counter that fell, as when a device has gone, is no speed
    clock[0] = 130.0
    assert meter.read()["disk_read"] == 0


@pytest.mark.parametrize("answer", [None, PermissionError("no"), NotImplementedError("no")])
def test_what_the_system_does_not_say_is_left_out(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def refuse(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    for name in ("disk_io_counters", "net_io_counters", "cpu_times", "virtual_memory"):
        monkeypatch.setattr(psutil, name, refuse)
    row = monitor.Meter(torch.device("cuda", 0)).read()  # nor is there a GPU here
    assert row.keys() == {"seconds", "cores", "process_cores", "process_memory"}


def test_of_a_gpu_the_time_it_computed_and_its_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (asked.append(device), (30, 80))[1])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: (asked.append(device), 64)[1])
    row = monitor.Meter(torch.device("cuda", 1)).read()
    assert (row["gpu_memory"], row["gpu_memory_total"], row["gpu_percent"]) == (50, 80, 64)
    assert asked == [torch.device("cuda", 1)] * 2


@pytest.mark.parametrize("kind", [*IN_THE_WAY, "no psutil", "no thread", "a full disk"])
def test_what_can_not_be_measured_or_written_ends_nothing(tmp_path: Path, monkeypatch, kind: str) -> None:
    path, elsewhere = blocked(tmp_path / "system.jsonl", kind), tmp_path / "elsewhere"
    if kind == "no psutil":
        monkeypatch.setitem(sys.modules, "psutil", None)
    elif kind == "no thread":
        monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
    elif kind == "a full disk":
        monkeypatch.setattr(monitor, "open", full, raising=False)
    done = False
    with monitor.monitored(path):
        time.sleep(0.2)
        done = True
    assert done and not elsewhere.exists()
    with pytest.raises(KeyError), monitor.monitored(path):
        raise KeyError("of the run")


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_for_a_while_costs_rows_and_no_more(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "system.jsonl"
    with monitor.monitored(path):
        with monkeypatch.context() as patch:
            patch.setattr(monitor, "open", full, raising=False)
            time.sleep(0.2)
        time.sleep(0.4)
    assert rows_of(path)


def test_a_run_that_goes_on_adds_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    texts = []
    for _ in range(2):
        with monitor.monitored(path):
            time.sleep(0.15)
        texts.append(path.read_text())
    first, both = texts
    assert both.startswith(first) and both.count("\n") > first.count("\n") > 0


@pytest.mark.parametrize(("days", "megabytes"), [(1, 0.9), (30, 2.2), (365, 6)])
def test_the_file_grows_ever_slower(days: int, megabytes: float) -> None:
    size, seconds, line = 0, 0.0, 260
    while seconds < 86_400 * days:
        seconds += monitor.seconds_between(size)
        size += line
    assert size < megabytes * 1e6
    assert monitor.seconds_between(1 << 60) < 3600

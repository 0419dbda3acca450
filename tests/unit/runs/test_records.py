"""A run's JSON files come back as they were written, also those of earlier versions."""

import dataclasses
import json

import pytest
from run_folders import SPLIT

from common.base.errors import UserError
from common.base.records import write_record
from common.runs.find import list_runs
from common.runs.folder import RunFolder, run_state
from common.runs.records import LoggedArtifact, LoggedTable, Summary, TrackedRun, Tracking

# As versions before the records had types wrote it: no `exit_code` in what was killed, no `used`.
EARLIER = {
    "runs": [
        {"id": "first", "job_type": "train", "project": "p", "entity": None, "mode": "offline", "started": 1.5, "dirs": ["wandb/a"]},
        {"id": "ev", "job_type": "evaluate", "project": "p", "entity": "e", "mode": "online", "started": 2, "dirs": [], "exit_code": 0},
    ],
    "artifacts": [
        {"name": "n", "type": "model", "aliases": ["best"], "digest": "d", "files": ["checkpoints/best.safetensors"],
         "metadata": {"classes": ["a"]}, "run_id": "first", "time": 3.0},
    ],
    "tables": [{"key": "per_class", "run_id": "ev", "file": "evaluation/tables/per_class.json", "time": 4.0}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "first").mkdir()
    return RunFolder(tmp_path / "first")


def test_what_an_earlier_version_told_wandb_is_read(folder):
    folder.tracking.write_text(json.dumps(EARLIER))
    assert folder.read_tracking() == Tracking(
        [
            TrackedRun("first", "train", "p", None, "offline", 1.5, ["wandb/a"], exit_code=None),
            TrackedRun("ev", "evaluate", "p", "e", "online", 2.0, [], exit_code=0),
        ],
        [
            LoggedArtifact(
                "n", "model", ["best"], "d", ["checkpoints/best.safetensors"], 3.0, "first", {"classes": ["a"]}
            )
        ],
        [LoggedTable("per_class", "ev", "evaluation/tables/per_class.json", 4.0)],
    )


def test_what_wandb_was_told_comes_back_with_the_keys_it_had(folder):
    folder.tracking.write_text(json.dumps(EARLIER))
    known = folder.read_tracking()
    folder.write_tracking(known)
    assert folder.read_tracking() == known
    written = json.loads(folder.tracking.read_text())
    assert written.keys() == EARLIER.keys()
    for kind, entries in EARLIER.items():
        for entry, again in zip(entries, written[kind], strict=True):
            assert entry.items() <= again.items()


def test_a_run_that_told_wandb_nothing_has_an_empty_record(folder):
    assert folder.read_tracking() == Tracking([], [], [])
    folder.tracking.write_text("{}")
    assert folder.read_tracking() == Tracking([], [], [])


def test_a_split_comes_back_and_its_file_has_the_keys_in_the_order_they_had(folder):
    write_record(folder.split, SPLIT)
    assert folder.read_split() == SPLIT
    assert list(json.loads(folder.split.read_text())) == [
        "dataset", "data_dir", "classes", "superclasses", "superclass_of", "seed", "validation_fraction", "digest",
        "train_size", "validation",
    ]  # fmt: skip


def test_a_summary_is_added_to_and_has_no_key_that_is_not_known_yet(folder):
    assert folder.read_summary() == Summary()
    folder.update_summary(status="running", started=1.0)
    folder.update_summary(**{"best/epoch": 2, "best/validation_accuracy": 0.5}, error=None)
    written = json.loads(folder.summary.read_text())
    assert written.keys() == {"status", "started", "best/epoch", "best/validation_accuracy", "error", "updated"}
    summary = folder.read_summary()
    assert (summary.status, summary.best_epoch, summary.best_validation_accuracy) == ("running", 2.0, 0.5)
    assert summary == Summary(
        status="running", started=1.0, best_epoch=2.0, best_validation_accuracy=0.5, updated=written["updated"]
    )


def test_what_an_earlier_version_left_in_a_summary_stays_in_it(folder):
    folder.summary.write_text(json.dumps({"status": "running", "of_an_earlier_version": [1]}))
    folder.update_summary(status="finished")
    assert json.loads(folder.summary.read_text()) == {
        "status": "finished", "of_an_earlier_version": [1], "updated": folder.read_summary().updated,
    }  # fmt: skip


def test_a_key_that_no_reader_would_know_is_a_bug(folder):
    with pytest.raises(AssertionError, match="statsu"):
        folder.update_summary(statsu="finished")


@pytest.mark.parametrize("changed", [{"started": "long ago"}, {"status": 3}, {"pid": "all"}, {"best/epoch": [1]}])
def test_a_summary_of_a_stranger_is_refused_by_name_and_does_not_hide_other_runs(folder, changed):
    folder.summary.write_text(json.dumps({"status": "running", **changed}))
    with pytest.raises(UserError, match=f"summary.json.*{next(iter(changed))}"):
        run_state(folder)
    (folder.path.parent / "second").mkdir()
    RunFolder(folder.path.parent / "second").update_summary(started=1.0)
    assert [run.id for run in list_runs(folder.path.parent)] == ["second", "first"]  # by its file's time, it is newer


@pytest.mark.parametrize("changed", [{"runs": {}}, {"artifacts": "none"}, {"tables": None}])
def test_a_record_of_a_stranger_is_refused_by_name(folder, changed):
    folder.tracking.write_text(json.dumps({**EARLIER, **changed}))
    with pytest.raises(UserError, match=f"tracking.json.*{next(iter(changed))}"):
        folder.read_tracking()


ODD = [
    ("runs", {**EARLIER["runs"][0], "dirs": 5}),
    ("runs", {**EARLIER["runs"][1], "rows": "many", "id": "other"}),
    ("artifacts", {"name": "n"}),
    ("artifacts", {**EARLIER["artifacts"][0], "aliases": ["best", None]}),
    ("tables", {"key": 1}),
    ("tables", [["key", "t"]]),
    ("tables", None),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("kind", "odd"), ODD)
def test_an_odd_entry_costs_itself_alone_and_stays(folder, kind, odd, first):
    entries = [odd, *EARLIER[kind]] if first else [*EARLIER[kind], odd]
    folder.tracking.write_text(json.dumps(EARLIER))
    others = folder.read_tracking()
    folder.tracking.write_text(json.dumps({**EARLIER, kind: entries}))
    known = folder.read_tracking()
    assert dataclasses.replace(known, damaged=[]) == others
    (line,) = known.damaged
    assert f"tracking.json: {kind}.{entries.index(odd)}" in line and line.isprintable()
    with folder.changed_tracking() as tracking:
        tracking.tables.append(LoggedTable("late", "ev", "x", 9.0))
    written = json.loads(folder.tracking.read_text())
    assert odd in written[kind] and len(written[kind]) == len(entries) + (kind == "tables")
    assert [table.key for table in folder.read_tracking().tables] == ["per_class", "late"]


def test_what_a_later_version_told_wandb_stays_in_the_file(folder):
    """In the whole as in an entry, also in that of a run that goes on, whose entry is replaced."""
    later = {kind: [{**entry, "colour": [number]} for number, entry in enumerate(EARLIER[kind])] for kind in EARLIER}
    folder.tracking.write_text(json.dumps({**later, "format": {"version": 9}}))
    with folder.changed_tracking() as tracking:
        again = TrackedRun("first", "train", "p", None, "online", 7.0, ["wandb/a", "wandb/b"])
        tracking.runs = [tracking.runs[1], again]
    written = json.loads(folder.tracking.read_text())
    assert written["format"] == {"version": 9}
    assert [(run["id"], run["colour"], run["mode"]) for run in written["runs"]] == [
        ("ev", [1], "online"),
        ("first", [0], "online"),
    ]
    assert written["artifacts"][0]["colour"] == written["tables"][0]["colour"] == [0]
    assert folder.read_tracking() == tracking


def test_the_split_of_a_stranger_is_refused_by_name(folder):
    folder.split.write_text(json.dumps({**dataclasses.asdict(SPLIT), "validation": ["all"]}))
    with pytest.raises(UserError, match="split.json.*validation"):
        folder.read_split()

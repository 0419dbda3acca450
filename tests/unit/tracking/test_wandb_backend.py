"""The test server holds what the real `wandb` client sends it: nothing here replaces any part of the client."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb_backend import API_KEY, Backend, Trial

CLIENT = """
    import json, os, signal, sys, threading
    from pathlib import Path
    import wandb

    def start(run_id, finish_timeout=0, **arguments):
        settings = wandb.Settings(console="off", x_save_requirements=False, finish_timeout=finish_timeout)
        return wandb.init(project="project", id=run_id, settings=settings, **arguments)

    def log(run, *steps):
        for step in steps:
            run.log({"loss": 1 / step}, step=step, commit=True)

    def log_model(run, content, *aliases):
        Path("model.bin").write_bytes(content)
        artifact = wandb.Artifact("model", "model", metadata={"epoch": 3})
        artifact.add_file("model.bin")
        return run.log_artifact(artifact, aliases=list(aliases))

    def fails(action, *arguments, **options):
        try:
            action(*arguments, **options)
        except Exception as error:
            return type(error).__name__
"""
WANDB = str(Path(sys.executable).with_name("wandb"))


def environment(backend: Backend, home: Path, **more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return inherited | {"HOME": str(home), "PATH": path} | backend.env(home) | more


def call(backend: Backend, home: Path, *command: str, **more: str) -> str:
    """Runs a command in `home`; its output."""
    done = subprocess.run(
        command, cwd=home, env=environment(backend, home, **more), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def write_script(home: Path, code: str, name: str = "script.py") -> str:
    (home / name).write_text(textwrap.dedent(CLIENT) + textwrap.dedent(code))
    return str(home / name)


def run_code(backend: Backend, home: Path, code: str, **more: str) -> str:
    return call(backend, home, sys.executable, write_script(home, code), **more)


def steps(rows: list[dict]) -> list[int]:
    return [row["_step"] for row in rows]


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend
        assert not backend.unknown


@pytest.fixture(scope="module")
def trained(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with everything: history, an image, a Table, two artifacts, one of them used. Its id."""
    code = """
        import numpy as np
        run = start("trained", name="a name", group="a group", job_type="train", tags=["a", "b"], resume="allow",
                    config={"lr": 0.1, "nested": {"a": 1}})
        log(run, 1, 2)
        image = wandb.Image(np.zeros((4, 4, 3), np.uint8), caption="black")
        run.log({"loss": 0.25, "image": image, "table": wandb.Table(columns=["a"], data=[["x"], ["y"]])}, step=4)
        data = wandb.Artifact("data", "dataset")
        Path("data.txt").write_text("digits")
        data.add_file("data.txt", "names/data.txt")
        run.log_artifact(data).wait()
        run.use_artifact("data:latest")
        assert log_model(run, b"first", "best").wait().version == "v0"
        assert log_model(run, b"second").wait().version == "v1"
        assert log_model(run, b"second").wait().version == "v1"
        run.summary["best/loss"] = 0.25
        run.finish()
    """
    run_code(backend, tmp_path_factory.mktemp("trained"), code)
    return "trained"


@pytest.fixture(scope="module")
def evaluated(backend: Backend, trained: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Another process, with caches of its own, that uses the model and asks the public API. What it was told."""
    code = """
        run = start("evaluated", job_type="evaluate")
        artifact = run.use_artifact("model:best")
        folder = Path(artifact.download(root="downloaded"))
        seen = {"files": {path.name: path.read_text() for path in folder.iterdir()}, "version": artifact.version}
        run.summary["accuracy"] = 1
        run.finish()

        api = wandb.Api()
        run = api.run("tester/project/trained")
        seen |= {"state": run.state, "config": run.config, "loss": run.summary["loss"], "rows": list(run.scan_history())}
        seen |= {"logged": [artifact.name for artifact in run.logged_artifacts()], "last_step": run.lastHistoryStep}
        seen |= {"used": [artifact.name for artifact in run.used_artifacts()]}
        seen |= {"run_files": [file.name for file in run.files()], "runs": [run.id for run in api.runs("tester/project")]}
        model = api.artifact("tester/project/model:best")
        seen |= {"metadata": model.metadata, "digest": model.digest, "sizes": [entry.size for entry in model.files()]}
        seen |= {"logged_by": model.logged_by().id, "used_by": [run.id for run in model.used_by()]}
        seen |= {"exists": [api.artifact_exists(f"tester/project/{name}") for name in ("model:v1", "model:v7", "no:v0")]}
        try:
            api.run("tester/project/none")
        except wandb.errors.CommError as error:
            seen |= {"no_run": str(error)}
        model.aliases.append("release")
        model.save()
        print("SEEN", json.dumps(seen))
    """
    printed = run_code(backend, tmp_path_factory.mktemp("evaluated"), code)
    return json.loads(next(line for line in printed.splitlines() if line.startswith("SEEN ")).removeprefix("SEEN "))


def test_a_run_is_kept_with_its_config_history_and_summary(backend: Backend, trained: str) -> None:
    run = backend.runs[trained]
    assert (run.project, run.entity, run.display_name) == ("project", "tester", "a name")
    assert (run.group, run.job_type, run.tags, run.sweep) == ("a group", "train", ["a", "b"], None)
    assert run.config["lr"] == 0.1 and run.config["nested"] == {"a": 1}
    assert [row["loss"] for row in run.rows[:3]] == [1, 0.5, 0.25]
    assert steps(run.rows[:3]) == [1, 2, 4]
    assert run.summary["loss"] < 1 and run.summary["best/loss"] == 0.25


def test_media_and_tables_arrive_as_files(backend: Backend, trained: str) -> None:
    run = backend.runs[trained]
    row = run.rows[2]
    assert row["image"]["_type"] == "image-file" and row["image"]["caption"] == "black"
    assert run.files[row["image"]["path"]].startswith(b"\x89PNG")
    assert json.loads(run.files[row["table"]["path"]]) == {"columns": ["a"], "data": [["x"], ["y"]]}


def test_artifacts_are_kept_by_version_and_alias_with_their_lineage(
    backend: Backend, trained: str, evaluated: dict
) -> None:
    best, latest = backend.artifact("model:best"), backend.artifact("model")
    assert best is not None and latest is not None
    assert (best.files, best.version) == ({"model.bin": b"first"}, "v0")
    assert (latest.files, latest.version, latest.aliases) == ({"model.bin": b"second"}, "v1", ["latest"])
    assert (best.type, best.metadata, best.created_by, best.used_by) == ("model", {"epoch": 3}, trained, ["evaluated"])
    data = backend.artifact("data:v0")
    assert data is not None
    assert (data.files, data.used_by) == ({"names/data.txt": b"digits"}, [trained])
    assert backend.artifact("model:v2") is None
    assert set(best.aliases) == {"best", "release"}  # the evaluation gave it another


def test_another_process_downloads_the_artifact(evaluated: dict) -> None:
    assert evaluated["files"] == {"model.bin": "first"}
    assert evaluated["version"] == "v0"


def test_the_public_api_finds_runs_and_artifacts(backend: Backend, trained: str, evaluated: dict) -> None:
    run, best = backend.runs[trained], backend.artifact("model:best")
    assert best is not None
    assert (evaluated["config"]["lr"], evaluated["loss"]) == (0.1, 0.25)
    assert [row["_step"] for row in evaluated["rows"]][:3] == [1, 2, 4] and evaluated["last_step"] == 4
    assert {"model:v0", "model:v1", "data:v0"} <= set(evaluated["logged"]) and evaluated["used"] == ["data:v0"]
    assert set(evaluated["run_files"]) <= set(run.files) and "wandb-summary.json" in evaluated["run_files"]
    assert evaluated["runs"] == [trained, "evaluated"]
    assert (evaluated["metadata"], evaluated["digest"], evaluated["sizes"]) == ({"epoch": 3}, best.digest, [5])
    assert (evaluated["logged_by"], evaluated["used_by"]) == (trained, ["evaluated"])
    assert evaluated["exists"] == [True, False, False]
    assert "Could not find run" in evaluated["no_run"]


def test_a_resumed_run_continues_its_steps_and_keeps_what_it_had(
    backend: Backend, trained: str, evaluated: dict, tmp_path: Path
) -> None:
    code = """
        run = start("trained", resume="allow", config={"epochs": 2})
        assert run.resumed and run.config["lr"] == 0.1
        log(run, 4, 5, 6)  # the client drops steps that the run has already
        run.finish(exit_code=1)
    """
    run_code(backend, tmp_path, code)
    run = backend.runs[trained]
    assert steps(run.rows) == [1, 2, 4, 5, 6] and run.rows == run.history
    assert (run.config["lr"], run.config["epochs"], run.summary["best/loss"]) == (0.1, 2, 0.25)
    assert (run.resumed, run.state, run.exit_code) == (True, "failed", 1)
    assert not backend.runs["evaluated"].resumed


def test_an_offline_run_in_two_parts_arrives_by_wandb_sync(backend: Backend, tmp_path: Path) -> None:
    code = """
        for part in ((1, 2, 3), (4, 5)):  # two offline parts of one run, as after a crash
            run = start("offline", resume="allow", config={"lr": 0.1})
            log(run, *part)
            if 1 in part:
                log_model(run, b"offline", "best")
            run.finish()
    """
    run_code(backend, tmp_path, code, WANDB_MODE="offline")
    assert "offline" not in backend.runs
    call(backend, tmp_path, WANDB, "sync", *map(str, tmp_path.glob("wandb/offline-run-*")))
    run, model = backend.runs["offline"], backend.artifact("model:best")
    assert [(row["_step"], row["loss"]) for row in run.rows] == [(step, 1 / step) for step in range(1, 6)]
    assert (run.state, run.config["lr"]) == ("finished", 0.1)
    assert model is not None and (model.files, model.created_by) == ({"model.bin": b"offline"}, "offline")


@pytest.mark.slow
def test_a_sweep_hands_out_trials_stops_one_early_and_survives_a_failing_one(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "program: trial.py\nmethod: grid\nproject: project\nparameters: {lr: {values: [1]}}"
    )
    code = """
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        run = wandb.init(settings=wandb.Settings(console="off"))
        kind = sys.argv[1].removeprefix("--kind=")
        assert dict(run.config) == {"kind": kind, "lr": 0.5} and sys.argv[2] == "--lr=0.5"
        if kind == "fails":
            raise RuntimeError("a failing trial")
        log(run, 1, 2, 3)
        if kind == "stops":
            assert stop.wait(240)
        run.finish(exit_code=143 if stop.is_set() else 0)
    """
    write_script(tmp_path, code, "trial.py")
    with Backend() as backend:
        kinds = {"fails": None, "stops": 3}
        backend.trials = [Trial({"kind": kind, "lr": 0.5}, rows) for kind, rows in kinds.items()]
        call(backend, tmp_path, WANDB, "sweep", "sweep.yaml")
        [sweep] = backend.sweeps.values()
        assert (sweep.project, sweep.entity) == ("project", "tester") and "method: grid" in sweep.config
        call(backend, tmp_path, WANDB, "agent", "--count", "2", f"{sweep.entity}/{sweep.project}/{sweep.id}")
        runs = {run.config["kind"]: run for run in backend.runs.values()}
        assert {kind: (run.state, run.exit_code) for kind, run in runs.items()} == {
            "fails": ("failed", 1),
            "stops": ("failed", 143),
        }
        assert steps(runs["stops"].rows) == [1, 2, 3]
        assert [run.id for run in runs.values()] == sweep.runs == [trial.run_id for trial in backend.trials]
        assert all(run.sweep == sweep.id for run in runs.values())
        assert not backend.unknown


class Client:
    """A client that runs code line by line, to change the server in between."""

    def __init__(self, backend: Backend, home: Path, **more: str) -> None:
        script = write_script(home, "for line in sys.stdin:\n    exec(line)\n    print('DONE', flush=True)\n")
        command = [sys.executable, script]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=home, env=environment(backend, home, **more), **pipes)

    def __call__(self, line: str) -> str:
        """Runs a line of code; what it printed."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        printed = ""
        for output in self.process.stdout:
            if output == "DONE\n":
                return printed
            printed += output
        raise AssertionError(f"the client ended: {printed}")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=240)


@pytest.mark.slow
def test_rows_survive_a_server_that_fails_hangs_or_hangs_up_for_a_while(tmp_path: Path) -> None:
    with Backend() as backend, Client(backend, tmp_path, WANDB__GRAPHQL_RETRY_MAX="100") as client:
        client("run = start('faults')")
        for step, fault in enumerate(("500", "drop", "hang"), start=1):
            met = backend.faults.count("file_stream")
            backend.fault = fault
            client(f"log(run, {step})")
            backend.wait_for(lambda met=met: backend.faults.count("file_stream") > met)
            backend.fault = None
            backend.wait_for(lambda step=step: steps(backend.runs["faults"].rows) == list(range(1, step + 1)))
        client("log(run, 4); run.finish()")
        run = backend.runs["faults"]
        assert steps(run.rows) == [1, 2, 3, 4] and run.state == "finished"
        assert run.starts == 1 and not backend.unknown


@pytest.mark.slow
def test_a_full_server_loses_rows_until_the_log_is_synced_and_the_artifact_for_good(tmp_path: Path) -> None:
    with Backend() as backend:
        with Client(backend, tmp_path) as client:
            client("run = start('full')")
            client("log(run, 1)")
            backend.wait_for(lambda: steps(backend.runs["full"].rows) == [1])
            backend.fault = "full"
            client("log(run, 2); artifact = log_model(run, b'full', 'best')")
            assert "ValueError" in client("print(fails(artifact.wait))")
            backend.wait_for(lambda: "file_stream" in backend.faults)
            backend.fault = None
            client("run.finish()")
        assert steps(backend.runs["full"].rows) == [1] and backend.runs["full"].state == "running"
        assert backend.artifact("model:best") is None and backend.artifacts[0].state == "PENDING"
        call(backend, tmp_path, WANDB, "sync", "--include-online", *map(str, tmp_path.glob("wandb/run-*-full")))
        assert steps(backend.runs["full"].history) == [1, 2] and backend.runs["full"].state == "finished"
        assert backend.artifact("model:best") is None  # an online run's log does not hold its artifacts
        assert not backend.unknown


@pytest.mark.slow
def test_a_server_that_refuses_fails_the_start_and_keeps_the_end_waiting_no_longer_than_asked(tmp_path: Path) -> None:
    with Backend() as backend, Client(backend, tmp_path) as client:
        backend.fault = "refuse"
        assert "Error" in client("print(fails(start, 'early'))")
        backend.fault = None
        client("run = start('refused', finish_timeout=2); log(run, 1)")
        backend.wait_for(lambda: steps(backend.runs["refused"].rows) == [1])
        backend.fault = "refuse"
        assert "Timed out finishing run" in client("log(run, 2); run.finish()")
        assert steps(backend.runs["refused"].rows) == [1] and backend.runs["refused"].state == "running"
        assert not backend.unknown


def test_no_request_is_answered_without_the_key(tmp_path: Path) -> None:
    with Backend() as backend:
        assert API_KEY in backend.env(tmp_path).values()
        code = "assert fails(start, 'keyless')"
        run_code(backend, tmp_path, code, WANDB_API_KEY="f" * 40)
        assert not backend.runs and not backend.unknown

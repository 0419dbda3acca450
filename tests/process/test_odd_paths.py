"""Folders with any character that a file system allows: every script works in them, and what it prints works as printed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from digit_runs import make_run
from evaluated_runs import evaluation
from helpers import FAKES, run_script, script_environment
from PIL import Image
from run_folders import words_of
from wandb_backend import Backend

import compare
import dashboard
import evaluate
import soup
import sweep
import sync
import train
import visualize
from common.base.files import direct
from common.base.text import command_line
from common.cli import parse, parse_train
from common.config import EvaluateConfig, VisualizeConfig
from common.dashboard.page import collect
from common.runs.find import find_run, resolve_checkpoint
from common.runs.folder import RunFolder
from common.runs.records import TrackedRun, Tracking
from common.tracking import sync as sync_room

NAMES = {
    "of URLs and shells": 'a?b#c%20d&e=f;g:h it\'s "mine" $HOME `x` !! *\\n',
    "of HTML, a flag": "-x&lt;b&gt;<b>中🐈é<script>{{x}}",
    "blank, of terminals": " two  spaces and\n\ta line\r\x1b[2Jgone\x07\x7f\u00a0",
}
names = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


def make_photos(folder: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 100, (16, 3, 20, 24, 3), dtype=np.uint8)
    for part, count in (("train", 12), ("test", 4)):
        for label, class_name in enumerate(["中文", "it's <b>?#%", "🐈 \\n"]):
            place = folder / part / class_name
            place.mkdir(parents=True)
            for number in range(count):
                colours[number, label, ..., label] += 100
                Image.fromarray(colours[number, label]).save(place / f"{number} ?#%'.png")


def printed_command(output: str, script: str) -> list[str]:
    """The words after `python <script>` of the last such command, as a shell gives them."""
    (*_, command) = [
        line[line.index(f"python {script}") :] for line in output.splitlines() if f"python {script}" in line
    ]
    return words_of(command)[1:]


@names
@pytest.mark.usefixtures("small_networks")
def test_scripts_work_in_any_folder_and_print_the_command_that_goes_on(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / name / "cache"))
    make_photos(tmp_path / name / "photos")
    place = [f"--data_dir={name}/photos", f"--runs_dir={name}", "--run_id=one"]
    small = ["--dataset=folder", "--weights=none", "--image_size=24", "--batch_size=8", "--max_steps=2"]
    assert train.start(parse_train(small + place)) == 0
    evaluate.main(parse(EvaluateConfig, argv=printed_command(capsys.readouterr().out, "evaluate.py")))
    output = capsys.readouterr().out
    visualize.main(parse(VisualizeConfig, argv=printed_command(output, "visualize.py")))
    assert dashboard.main(parse(dashboard.DashboardConfig, argv=printed_command(output, "dashboard.py"))) == 0
    assert {path.name for path in tmp_path.iterdir()} == {name, "dashboard.html"}
    assert (tmp_path / name / "one" / "evaluation" / "confusion.png").stat().st_size > 1000


@names
def test_a_sweep_keeps_its_study_in_any_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.sweeps.run.POLL_SECONDS", 0.02)
    for variable in ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    metric = {"name": "validation/accuracy", "goal": "maximize"}
    spec = {"program": str(FAKES / "sweep_stub.py"), "method": "grid", "metric": metric}
    spec["parameters"] = {"lr": {"values": [0.1, 0.4]}}
    Path("sweep.yaml").write_text(yaml.safe_dump(spec))
    for count in (1, 2):  # the second goes on with what the first has kept
        assert sweep.main(sweep.SweepConfig("sweep.yaml", count=count, sweep_id="s", runs_dir=name)) == 0
    best = printed_command(capsys.readouterr().out, str(FAKES / "sweep_stub.py"))
    assert best == ["--lr=0.1", "--runs_dir", f"./{name}" if name.startswith("-") else name]
    assert {path.name for path in tmp_path.iterdir()} == {name, "sweep.yaml"}
    assert {"study.db", "trials.json"} <= {path.name for path in (tmp_path / name / "sweeps" / "s").iterdir()}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, small_networks) -> Path:
    """Evaluated runs of the digits that can be averaged, told W&B offline."""
    runs_dir = tmp_path_factory.mktemp("two")
    for number in (1, 2):
        folder = make_run(runs_dir, f"run{number}", lr=number / 10)
        folder.update_summary(status="finished", started=float(number))
        evaluation(folder, np.arange(40) % 5 >= number)
        (folder.path / "log").mkdir()
        folder.write_tracking(Tracking([TrackedRun(folder.id, "train", "p", None, "offline", 1.0, ["log"], 0)]))
    return runs_dir


@names
def test_soups_comparisons_pages_and_sync_take_runs_of_any_name(name, two_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs_dir, ids = Path(name), [f"{name}1", f"{name}2"]
    for number, run_id in enumerate(ids, start=1):
        shutil.copytree(two_runs / f"run{number}", runs_dir / run_id)
    place, named = f"--runs_dir={name}", ["--", *ids]

    compare.main(parse(compare.CompareConfig, argv=[place, *named]))
    assert "better" in capsys.readouterr().out
    soup.main(parse(soup.SoupConfig, argv=[place, "--run_id=soup", "--device=cpu", *named]))
    printed = parse(EvaluateConfig, argv=printed_command(capsys.readouterr().out, "evaluate.py"))
    assert resolve_checkpoint(printed.checkpoint, printed.runs_dir)[0].samefile(
        runs_dir / "soup/checkpoints/best.safetensors"
    )

    sent = []
    monkeypatch.setattr(sync_room, "logged_in", lambda: True)
    monkeypatch.setattr("common.tracking.logs._records", lambda log: iter(()))
    monkeypatch.setattr(sync_room.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(sync_room.server, "on_server", lambda record: None)
    monkeypatch.setattr(sync_room.server, "send", sent.extend)
    assert sync.main(parse(sync.SyncConfig, argv=[place, *named])) == 1
    assert len(sent) == 2 and all(
        log.samefile(runs_dir / run_id / "log") for log, run_id in zip(sent, ids, strict=True)
    )

    flags = [place, f"--output={name}/{name}.html"]
    assert dashboard.main(parse(dashboard.DashboardConfig, argv=flags)) == 0
    assert (runs_dir / f"{name}.html").stat().st_size > 1e5
    runs = {run["id"]: run for run in collect(runs_dir)["runs"]}
    assert runs.keys() == {*ids, "soup"} and {path.name for path in tmp_path.iterdir()} == {name}
    for run_id in ids:
        weights = RunFolder(runs_dir / run_id).best
        commands = [row["command"] for row in runs[run_id]["commands"]] + [runs[run_id]["evaluate"]]
        for script, config in {"evaluate.py": EvaluateConfig, "visualize.py": VisualizeConfig}.items():
            about = parse(config, argv=printed_command("\n".join(commands), script))
            assert resolve_checkpoint(about.checkpoint, about.runs_dir)[0].samefile(weights)
        (reference,) = parse(sync.SyncConfig, argv=printed_command("\n".join(commands), "sync.py")).runs
        assert find_run(name, reference, "").path.samefile(runs_dir / run_id)
    flags[0] = f"--runs_dir={name}/{ids[0]}"
    assert dashboard.main(parse(dashboard.DashboardConfig, argv=flags)) == 0


@names
@pytest.mark.slow
def test_wandb_keeps_and_shows_its_logs_in_any_folder(name, tmp_path):
    environment = script_environment(tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path / name / "logs"))
    flags = ["--preset=digits", "--max_steps=2", f"--runs_dir={name}", "--run_id=one"]
    done = run_script("train.py", *flags, cwd=tmp_path, env=environment)
    (view,) = [line for line in done.stdout.splitlines() if "view: wandb leet" in line]
    *_, log = words_of(view.partition("view: ")[2])
    assert ".." not in Path(log).parts and (tmp_path / log).is_dir()
    shown = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", log]
    rows = subprocess.run(shown, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert '"type":"history"' in rows
    with Backend() as backend:
        here = {**environment, "WANDB_MODE": "online", **backend.env(tmp_path)}
        sent = run_script("sync.py", f"--runs_dir={name}", "one", cwd=tmp_path, env=here).stdout
        assert "are whole on the server" in sent and len(backend.runs["one"].rows) >= 1


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="its shell has rules of its own")
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_words_of_any_characters_come_out_of_a_shell_as_they_went_in(shell):
    words = [*NAMES.values(), "", "100%d", "caf\udce9\udcff", "a\n", "\n\n x", "\\101", "-n", "é\u00a0z", "'", "\\"]
    command = command_line(["printf", "%s\\0", *words])
    out = subprocess.run([shell, "-c", command], capture_output=True, check=True).stdout
    assert [os.fsdecode(word) for word in out.split(b"\0")[:-1]] == words
    one_line = command_line([word for word in words if not word.endswith("\n")])
    assert one_line.isprintable()


def test_a_printed_path_makes_no_detour_but_where_a_link_would_lead_it_astray(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "deep" / "place").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/deep/place")
    assert direct(Path("runs/x/../../wandb/./log")) == Path("wandb/log")
    assert direct(Path("link/../log")) == Path("link/../log")  # a/deep/log
    assert RunFolder(Path("x/../runs/one")).command("evaluate.py") == "python evaluate.py"

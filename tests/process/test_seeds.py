"""From two recipes of two seeds to a verdict, by the commands that are printed; one of them is stopped in its second seed."""

import shlex
import signal

import pytest
from helpers import run_script, script_environment
from resumed import FLAGS, PATIENCE, assert_same_run, lines_of, start, wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Group A, trained in two parts; group B, trained at once; and what was said."""
    folder = tmp_path_factory.mktemp("seeds")
    env, flags = script_environment(folder), (*FLAGS, "--seeds", 2, "--run_id", "A")
    process = start(*flags, cwd=folder, env=env)
    wait_until(lambda: lines_of(folder / "runs" / "A-seed1") >= 2, process)
    process.send_signal(signal.SIGINT)
    (folder / "status.txt").write_text(str(process.wait(PATIENCE)))
    (folder / "first.txt").write_text((folder / "stdout.txt").read_text() + (folder / "stderr.txt").read_text())
    (folder / "second.txt").write_text(run_script("train.py", *flags, cwd=folder, env=env).stdout)
    run_script("train.py", *FLAGS, "--seeds", 2, "--run_id", "B", "--lr", 0.01, cwd=folder, env=env)
    return folder


def test_ctrl_c_ends_the_whole_and_says_how_to_go_on(folder):
    said = (folder / "first.txt").read_text()
    assert (folder / "status.txt").read_text() == "130"
    assert "go on with: python train.py --resume A-seed1\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("or go on with all seeds: ")]
    words = shlex.split(line.partition(": ")[2])
    assert words[2:] == [*map(str, FLAGS), "--seeds", "2", "--run_id", "A"]
    assert "seed 1 (2 of 2)" in said


def test_the_same_command_goes_on_with_what_is_missing(folder):
    said = (folder / "second.txt").read_text()
    assert said.count("has finished already") == 1 and said.count("finished after step 32") == 1
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["A-seed0", "A-seed1", "B-seed0", "B-seed1"]


def test_each_seeds_run_is_the_one_that_its_seed_alone_trains(folder):
    env = script_environment(folder)
    run_script("train.py", *FLAGS, "--seed", 1, "--run_id", "alone", "--runs_dir", "other", cwd=folder, env=env)
    assert_same_run(folder / "runs" / "A-seed1", folder / "other" / "alone")


@pytest.mark.slow
def test_the_printed_commands_lead_to_a_verdict(folder):
    following = (folder / "second.txt").read_text().splitlines()[-1]
    assert following == "next: python evaluate.py --checkpoint A"
    run_script("evaluate.py", *following.split()[3:], cwd=folder)
    refused = run_script("compare.py", "A", "B", cwd=folder, status=2).stderr
    assert "B-seed0 is not evaluated; first: python evaluate.py --checkpoint B" in refused and refused.count("\n") == 1
    said = run_script("evaluate.py", "--checkpoint", "B", cwd=folder).stdout.splitlines()
    assert "group B: test accuracy" in said[-2] and said[-1] == "next: python compare.py A B"
    compared = run_script(*said[-1].split()[2:], cwd=folder).stdout
    assert "## A" in compared and "## B − A" in compared and "`--lr`: 0.2 → 0.01" in compared
    assert compared.count("(mean ± sd of 2 seeds)") == 2


def test_a_group_is_not_gone_on_with_other_settings(folder):
    flags = (*FLAGS, "--seeds", 2, "--run_id", "A", "--lr", 0.5)
    done = run_script("train.py", *flags, cwd=folder, status=2)
    assert "--lr (was 0.2, now 0.5)" in done.stderr and done.stderr.count("\n") == 1

"""Labels that a person has put right, from evaluate.py's file to a run that trains with it."""

import csv
import json
import shutil
from pathlib import Path

from helpers import run_script
from resumed import FLAGS, assert_same_run


def write(path: Path, rows: list[list[object]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["image", "fix"], *rows])
    return path


def test_a_run_with_label_fixes_goes_on_from_its_own_copy(tmp_path):
    fixes = write(tmp_path / "fixes.csv", [[index, "drop"] for index in range(40)] + [[50, "3"], [51, "4"]])
    done = run_script("train.py", *FLAGS, "--run_id", "whole", "--label_fixes", fixes, cwd=tmp_path)
    assert "drops 40 images" in done.stdout
    summary, split = (json.loads((tmp_path / "runs" / "whole" / name).read_text()) for name in ("summary.json", "split.json"))  # fmt: skip
    assert summary["train_size"] + summary["validation_size"] == 1438 - 40
    assert split["train_size"] + len(split["validation"]) == 1438
    parts = tmp_path / "parts"
    parts.mkdir()
    copied = shutil.copy(fixes, parts / "fixes.csv")
    run_script(
        "train.py", *FLAGS, "--run_id", "part", "--label_fixes", copied, "--max_minutes", 1e-6, cwd=parts, status=124
    )
    write(Path(copied), [["no such image", "drop"]])
    run_script("train.py", "--resume", "part", cwd=parts)
    assert (parts / "runs" / "part" / "label_fixes.csv").read_bytes() == fixes.read_bytes()
    assert_same_run(parts / "runs" / "part", tmp_path / "runs" / "whole")


def test_what_evaluate_lists_is_trained_with_once_it_is_filled_in(tmp_path):
    run_script("train.py", *FLAGS, "--run_id", "first", cwd=tmp_path)
    run_script("evaluate.py", "--split", "validation", cwd=tmp_path)
    file = tmp_path / "runs" / "first" / "evaluation" / "validation" / "label_issues.csv"
    rows = list(csv.DictReader(file.open(newline="")))
    assert rows and all(row["fix"] == "" and row["label"] != row["suggested"] for row in rows)
    for row in rows:
        row["fix"] = row["suggested"]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = run_script("train.py", *FLAGS, "--run_id", "second", "--label_fixes", file, cwd=tmp_path)
    assert f"changes {len(rows)} labels" in done.stdout
    done = run_script("evaluate.py", "--checkpoint", "second", "--split", "validation", cwd=tmp_path)
    assert "the run's label_fixes.csv holds for these images, too" in done.stdout


def test_an_unknown_row_is_refused_before_anything_is_written(tmp_path):
    fixes = write(tmp_path / "fixes.csv", [[5, "3"], [1438, "drop"]])
    done = run_script("train.py", *FLAGS, "--label_fixes", fixes, cwd=tmp_path, status=2)
    assert "line 3 names image '1438', which is not in train" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

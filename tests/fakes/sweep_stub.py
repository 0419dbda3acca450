"""Stands in for train.py in the tests of sweeps: the same run folder and signals, in milliseconds.

Its accuracy is 1 - lr in each of two epochs. An lr in STUB_FAIL fails; one in STUB_HOLD stays after the first epoch until
SIGTERM comes or a file `release` does; one in STUB_DEAF needs two SIGTERMs, and then does not save. With --seeds=N it is N runs, of which
that of seed k is k hundredths better.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
names = ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID", "WANDB_PROJECT")
seeds, first = int(given.get("seeds", 1)), int(given.get("seed", 0))
ids = [os.environ["WANDB_RUN_ID"] + (f"-seed{first + k}" if seeds > 1 else "") for k in range(seeds)]
folder = Path(given.get("runs_dir", "runs"), ids[0])
folder.mkdir(parents=True)  # fails where another trial has been


def save(name: str, value: dict) -> None:
    (folder / f".{name}").write_text(json.dumps(value))
    (folder / f".{name}").rename(folder / name)


def stop(number: int, frame: object) -> None:
    if given["lr"] in os.environ.get("STUB_DEAF", "").split(","):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    save("summary.json", {"status": "interrupted"})
    sys.exit(143)


for name in ("SIGTERM", "SIGBREAK"):  # the second is Windows'
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), stop)
save("stub.json", {"argv": sys.argv, "pid": os.getpid(), **{name: os.environ.get(name) for name in names}})
if given["lr"] in os.environ.get("STUB_FAIL", "").split(","):
    print("loading…\rloading…\nerror: no such data\nwandb: goodbye", file=sys.stderr)
    sys.exit(3)
for k, run_id in enumerate(ids):
    folder = folder.with_name(run_id)
    folder.mkdir(exist_ok=True)
    for epoch in (1, 2):
        with open(folder / "metrics.jsonl", "a") as file:
            row = {
                "step": 2 * epoch,
                "epoch": epoch,
                "validation/accuracy": 1 - float(given["lr"]) + k / 100,
                "validation/loss": float(given["lr"]),
            }
            print(
                json.dumps({"step": 2 * epoch - 1, "epoch": epoch - 0.5, "train/batch_loss": 1}),
                json.dumps(row),
                sep="\n",
                file=file,
            )
        if epoch == 1 and given["lr"] in os.environ.get("STUB_HOLD", "").split(","):
            deadline = time.monotonic() + 120
            while not Path("release").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    save("summary.json", {"status": "finished"})

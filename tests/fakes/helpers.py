"""Running the scripts as their users do: as processes."""

import os
import subprocess
import sys
from pathlib import Path

import warm

ROOT = Path(__file__).parents[2]
FAKES = Path(__file__).parent


class Malicious:
    """Unpickled without care, it creates a folder."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def script_environment(tmp_path: Path, **changes: str | None) -> dict[str, str]:
    """This process's environment without W&B's and our own variables, at home in `tmp_path`, with tiny models.

    `TINY_MODELS` makes tests/fakes/tiny/sitecustomize.py put small networks of the same family in the large ones' place,
    `TINY_FIGURES` an empty figure in that of the loss.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "FINETUNE_", "TEST_", "XDG_"))}
    environment = {
        **kept,
        "HOME": str(tmp_path / "home"),
        "TORCH_HOME": str(tmp_path / "home" / "torch"),
        "MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib"),  # its list of fonts takes seconds to make
        "PYTHONPATH": os.pathsep.join([str(FAKES / "tiny"), str(ROOT)]),
        "TINY_MODELS": "1",
        "TINY_FIGURES": "1",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "WANDB_SILENT": "true",
        **{name: value for name, value in changes.items() if value is not None},
    }
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
    return environment


def run_script(
    script: str,
    *flags: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    status: int | None = 0,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`python script flags…` in `cwd`, whose exit status must be `status` (None: any)."""
    command = [str(ROOT / script), *map(str, flags)]
    usual = script_environment(cwd)
    environment = usual if env is None else env
    if warm.fits(environment, usual):
        done = warm.run(command, cwd, environment, timeout)
    else:
        command.insert(0, sys.executable)
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    shown = f"{' '.join(command)}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert status is None or done.returncode == status, shown
    return done

"""What every test stands on: signals as a shell leaves them, and no one's W&B account."""

import os
import signal
from collections.abc import Iterator

import pytest

from common.base.terminal import Lines

# A CI that runs in the background ignores Ctrl-C, and so would all processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

for name in [name for name in os.environ if name.startswith(("WANDB_", "FINETUNE_"))]:
    del os.environ[name]

# Each of xdist's processes would start a thread a core, and they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def lines_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees its bars' ends, however many bars the tests before it have shown in this process."""
    monkeypatch.setattr(Lines, "spare", 50)


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """Small networks of the same family in the large ones' place, a loss figure with nothing in it, and no W&B, in this process."""
    from tiny_models import no_curves, tiny_architectures

    from common.model.build import ARCHITECTURES

    with pytest.MonkeyPatch.context() as patch:
        for name, build in tiny_architectures().items():
            patch.setitem(ARCHITECTURES, name, build)
        patch.setattr("common.training.curves.curves", no_curves)
        patch.setenv("WANDB_MODE", "disabled")
        yield

"""Downloads that end: neither torchvision's nor torch.hub's have a time limit of their own."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def network_timeout(seconds: float = 30) -> Iterator[None]:
    """Within the block a server that stays silent for so long raises `TimeoutError`, an `OSError`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

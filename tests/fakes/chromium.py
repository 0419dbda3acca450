"""The browser that opens the dashboard's page."""

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Playwright


def chromium_of(playwright: "Playwright") -> str:
    """The path of a Chromium: Debian's, or the one that Playwright downloaded."""
    for path in (shutil.which("chromium"), playwright.chromium.executable_path):
        if path and os.path.exists(path):
            return path
    pytest.skip("no Chromium: apt-get install -y chromium, or playwright install chromium")

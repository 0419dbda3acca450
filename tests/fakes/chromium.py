"""The browser that opens the dashboard's page."""

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

PATIENCE = 60_000  # milliseconds, on a machine that may be busy


def chromium_of(playwright: "Playwright") -> str:
    """The path of a Chromium: Debian's, or the one that Playwright downloaded."""
    for path in (shutil.which("chromium"), playwright.chromium.executable_path):
        if path and os.path.exists(path):
            return path
    pytest.skip("no Chromium: apt-get install -y chromium, or playwright install chromium")


def watched_page(
    browser: "Browser", address: str, width: int = 1440, scheme: str = "light", inside: tuple[str, ...] = ("data:",)
) -> "Page":
    """A page for `address`, not opened yet, with `page.trouble`, whatever it will complain of or ask for. inside: what a request that
    leaves the page does not begin with."""

    def leaves(url: str) -> bool:
        return not url.startswith(inside) and url.partition("#")[0] != address

    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(message.text))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("dialog", lambda dialog: (page.trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.trouble.append(request.url) if leaves(request.url) else None)
    return page

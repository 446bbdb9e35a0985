"""A real Chromium, Debian's own, that talks to this machine and to nobody else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM: Final = "/usr/bin/chromium"
QUIET: Final = (
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*",
)
DESKTOP: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without a sandbox, because tests run as root; nothing but our own pages is opened in it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def screenshots() -> Path:
    """Where pictures of the tests are kept to be looked at; never in the repository."""
    folder = Path(os.environ.get("BSFG_SCREENSHOTS") or Path(tempfile.gettempdir()) / "bsfg-screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_picture(page: Page, name: str) -> None:
    """A screenshot of the whole page."""
    page.screenshot(path=screenshots() / f"{name}.png", full_page=True)

"""Find a browser that is installed."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSTALL = "no Chromium found; install Debian's package `chromium`, run `playwright install chromium`, or set CHROMIUM"


def find_chromium(playwright: Playwright) -> str:
    """Return the path of an installed Chromium, otherwise of Playwright's own.

    Raises:
        FileNotFoundError: neither exists; the message says what to install.
    """
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), playwright.chromium.executable_path]
    for path in candidates:
        if path and Path(path).is_file():
            return path
    raise FileNotFoundError(INSTALL)


def launch(playwright: Playwright) -> Browser:
    """Start Chromium with an empty profile."""
    return playwright.chromium.launch(executable_path=find_chromium(playwright), args=ARGUMENTS)


if __name__ == "__main__":
    with sync_playwright() as started:
        find_chromium(started)

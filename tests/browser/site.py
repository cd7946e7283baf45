"""The dashboard in a browser; pages fail the test on errors that a user might not notice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.api.conftest import ADMIN_KEY

SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "build/screenshots"))
DESKTOP = (1360, 860)
PHONE = (375, 800)
SERIOUS = ("serious", "critical")
PATIENCE_MS = 60_000  # the machine may be busy


@dataclass
class Site:
    """A running service and a browser."""

    browser: Browser
    url: str
    key: str = ADMIN_KEY
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def context(
        self, *, size: tuple[int, int] = DESKTOP, theme: str = "light", language: str = "en", signed_in: bool = True
    ) -> Iterator[BrowserContext]:
        """Open a browser profile whose pages record every error."""
        width, height = size
        settings: dict[str, Any] = {"color_scheme": theme, "locale": {"en": "en-US", "zh": "zh-CN"}[language]}
        context = self.browser.new_context(viewport={"width": width, "height": height}, **settings)
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        context.on("page", self._watch)
        context.on("request", lambda request: self._check_host(request.url))
        if signed_in:
            headers = {"Origin": self.url}
            context.request.post(f"{self.url}/v1/session", data={"key": self.key}, headers=headers)
        try:
            yield context
        finally:
            context.close()
        assert self.faults == []

    @contextmanager
    def page(self, path: str = "", **settings: Any) -> Iterator[Page]:
        """Open one page of the dashboard."""
        with self.context(**settings) as context:
            page = context.new_page()
            page.goto(f"{self.url}/dashboard/{path}")
            yield page

    def _watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda message: self._check_console(message.type, message.text))

    def _check_console(self, kind: str, text: str) -> None:
        """Record errors, including violations of the content security policy, but not responses with 4xx."""
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)

    def _check_host(self, url: str) -> None:
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"third-party request: {url}")


def violations(page: Page) -> list[str]:
    """Return the serious accessibility faults of a page."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}" for each in found if each["impact"] in SERIOUS for node in each["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    """Tell whether the page is wider than the window."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    return wide


def take_screenshot(page: Page, name: str) -> None:
    """Write a picture of the page to the output folder, which CI keeps."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

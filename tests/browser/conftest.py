"""A browser, and a service with a simulated worker that calls the job domain."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.api.conftest import Api, serving, small
from tests.browser.chromium import launch
from tests.browser.site import Site
from tests.jobs.pool import add_worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this room, so that `make test` needs no browser."""
    room = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(room):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with an empty profile."""
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """The API with a model and a worker."""
    with serving(small(tmp_path / "home", stream_poll_seconds=0.1)) as running:
        running.register_model()
        add_worker(running.database, "wrk-1", slots=4)
        yield running


@pytest.fixture
def site(browser: Browser, api: Api) -> Site:
    """The dashboard of that API."""
    return Site(browser, api.url)

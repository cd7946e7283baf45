"""The playground: chats with one model, and with two side by side."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Api, serving, small
from tests.api.openai.scripted_runner import ScriptedRunner
from tests.browser.site import Site, take_screenshot, violations
from tests.jobs.pool import add_worker
from tests.workers.deployment import RedisServer, wait_for


def serve(api: Api, model: str) -> str:
    """Begin an attempt that accepts chats on a model; return its id."""
    attempt = api.start(api.submit(kind="serve", model=model)["id"])
    api.report(attempt, accepts_chats=True)
    return attempt


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(tmp_path: Path, redis_server: RedisServer) -> Iterator[Api]:
    """An API with two models and Redis for chats."""
    with serving(small(tmp_path / "home", redis_url=redis_server.url, stream_poll_seconds=0.1)) as running:
        running.register_model()
        running.register_model("other")
        add_worker(running.database, "wrk-1", slots=4)
        yield running


@pytest.fixture
def runners(api: Api, redis_server: RedisServer) -> Iterator[tuple[ScriptedRunner, ScriptedRunner]]:
    """Scripted runners for both models."""
    first = ScriptedRunner(redis_server.url, serve(api, "base"))
    second = ScriptedRunner(redis_server.url, serve(api, "other"))
    with first.running(), second.running():
        yield first, second


def send(page: Page, text: str) -> None:
    """Write a message and press Enter."""
    message = page.get_by_role("textbox", name="Message")
    message.fill(text)
    message.press("Enter")


def test_two_models_answer_the_same_chat(
    browser: Browser, api: Api, runners: tuple[ScriptedRunner, ScriptedRunner]
) -> None:
    site = Site(browser, api.url)
    with site.page("playground?model=base") as page:
        send(page, "one two")
        expect(page.locator(".answer p")).to_have_text("one two")
        expect(page.get_by_text("2 tokens · stop")).to_be_visible()
        page.get_by_text("Settings").click()
        page.get_by_label("Seed").fill("7")
        page.get_by_label("System prompt").fill("be brief")
        page.get_by_role("button", name="Compare two models").click()
        page.get_by_label("Model", exact=True).nth(1).fill("other")
        send(page, "three")
        expect(page.locator(".answer p").last).to_have_text("three")
        expect(page.locator(".answer p")).to_have_text(["one two", "three", "three"])
        assert violations(page) == []
        take_screenshot(page, "playground")
    asked = [runner.asked[-1].request for runner in runners]
    assert [request["seed"] for request in asked] == [7, 7]
    assert [message["content"] for message in asked[0]["messages"]] == ["be brief", "one two", "one two", "three"]
    assert [message["content"] for message in asked[1]["messages"]] == ["be brief", "three"]


def test_an_answer_is_stopped_and_an_error_is_shown(
    browser: Browser, api: Api, runners: tuple[ScriptedRunner, ScriptedRunner]
) -> None:
    site = Site(browser, api.url)
    with site.page("playground?model=base") as page:
        send(page, "forever")
        expect(page.locator(".answer p")).to_contain_text("on on")
        page.get_by_role("button", name="Stop").click()
        wait_for("the abort", lambda: runners[0].aborted)
        expect(page.locator(".writing")).to_have_count(0)
        send(page, "die")
        expect(page.get_by_role("alert")).to_contain_text("the runner was killed")
        expect(page.locator(".answer p").last).to_have_text("word")
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".answer")).to_have_count(0)
        page.get_by_label("Model", exact=True).fill("nope")
        send(page, "hello")
        expect(page.get_by_role("alert")).to_contain_text("nope")

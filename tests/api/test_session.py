"""Signing in with a key or a one-time link, with a cookie that only pages of this service can use."""

from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from jobs.database.tables import Session
from tests.api.conftest import ADMIN_KEY, Api, problem_of
from tests.api.server_sent_events import following


@pytest.fixture
def browser(either_api: Api) -> Iterator[httpx.Client]:
    """A client without a key, whose writes come from a page of the service."""
    with httpx.Client(base_url=either_api.url, headers={"Origin": either_api.url}, timeout=30) as client:
        yield client


def test_a_key_becomes_a_cookie(either_api: Api, browser: httpx.Client) -> None:
    problem_of(browser.get("/v1/session"), 401, "invalid_api_key")
    made = browser.post("/v1/session", json={"key": f" {ADMIN_KEY}\n"})
    assert made.status_code == 201
    cookie = made.headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=604800"):
        assert part in cookie
    assert ADMIN_KEY not in made.text + cookie
    shown = browser.get("/v1/session").json()
    assert (shown["key"]["role"], shown["key"]["project"]) == ("admin", "default")
    assert shown["expires_at"] > 0
    assert browser.get("/v1/jobs").status_code == 200
    either_api.register_model(client=browser)
    either_api.submit(browser)
    with following(either_api, client=browser) as events:
        assert next(events).name == "ready"
    gone = browser.delete("/v1/session")
    assert gone.json()["deleted"]
    assert browser.cookies.get("baichuan_session") is None
    browser.cookies.set("baichuan_session", made.cookies["baichuan_session"])
    problem_of(browser.get("/v1/jobs"), 401, "invalid_api_key")


def test_a_link_works_once(either_api: Api, browser: httpx.Client) -> None:
    link = either_api.client.post("/v1/session/links").json()
    assert link["path"] == f"/dashboard/sign-in#link={link['token']}"
    assert browser.post("/v1/session", json={"link": link["token"]}).status_code == 201
    assert browser.get("/v1/session").json()["key"]["name"] == "first key"
    problem_of(browser.post("/v1/session", json={"link": link["token"]}), 401, "invalid_api_key")
    late = either_api.client.post("/v1/session/links").json()["token"]
    with either_api.database.writing() as connection:
        connection.execute(sa.update(Session).where(Session.kind == "link").values(expires_at=1))
    problem_of(browser.post("/v1/session", json={"link": late}), 401, "invalid_api_key")


def test_links_and_sessions_are_not_interchangeable(either_api: Api, browser: httpx.Client) -> None:
    link = either_api.client.post("/v1/session/links").json()["token"]
    browser.cookies.set("baichuan_session", link)
    problem_of(browser.get("/v1/jobs"), 401, "invalid_api_key")
    browser.cookies.clear()
    browser.post("/v1/session", json={"link": link}).raise_for_status()
    token = browser.cookies["baichuan_session"]
    problem_of(browser.post("/v1/session", json={"link": token}), 401, "invalid_api_key")


def test_a_session_ends_with_its_time_and_with_its_key(either_api: Api, browser: httpx.Client) -> None:
    key = either_api.client.post("/v1/keys", json={"name": "guest", "project": "default"}).json()
    browser.post("/v1/session", json={"key": key["secret"]}).raise_for_status()
    assert browser.get("/v1/jobs").status_code == 200
    either_api.client.delete(f"/v1/keys/{key['id']}").raise_for_status()
    problem_of(browser.get("/v1/jobs"), 401, "invalid_api_key")
    problem_of(browser.post("/v1/session", json={"key": key["secret"]}), 401, "invalid_api_key")
    browser.post("/v1/session", json={"key": ADMIN_KEY}).raise_for_status()
    with either_api.database.writing() as connection:
        connection.execute(sa.update(Session).values(expires_at=1))
    problem_of(browser.get("/v1/jobs"), 401, "invalid_api_key")


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1"])
def test_writes_with_the_cookie_must_come_from_our_dashboard(api: Api, origin: str | None) -> None:
    with httpx.Client(base_url=api.url) as browser:
        browser.post("/v1/session", json={"key": ADMIN_KEY}).raise_for_status()
        headers = {} if origin is None else {"Origin": origin}
        answer = browser.post("/v1/models", json={"id": "x", "path": "/x"}, headers=headers)
        problem_of(answer, 403, "permission_denied")
        problem_of(browser.delete("/v1/session", headers=headers), 403, "permission_denied")
        assert browser.get("/v1/jobs", headers=headers).status_code == 200
        with_key = {**headers, "Authorization": f"Bearer {ADMIN_KEY}"}
        assert browser.post("/v1/session/links", headers=with_key).status_code == 201
        if origin is not None:
            again = browser.post("/v1/session", json={"key": ADMIN_KEY}, headers=headers)
            problem_of(again, 403, "permission_denied")


@pytest.mark.parametrize("body", [{}, {"key": "a", "link": "b"}, {"key": "x" * 600}, {"token": "x"}])
def test_a_session_needs_one_secret(shared_api: Api, body: dict[str, str]) -> None:
    problem_of(httpx.post(f"{shared_api.url}/v1/session", json=body), 422, "invalid_request")
    problem_of(httpx.post(f"{shared_api.url}/v1/session", json={"key": "bj-wrong"}), 401, "invalid_api_key")

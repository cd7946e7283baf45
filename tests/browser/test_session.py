"""Signing in and out, and a service that restarts."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from playwright.sync_api import Browser, expect

from jobs.bootstrap import prepare_deployment
from tests.api.conftest import ADMIN_KEY, NO_REDIS, Api, checkpoint, small
from tests.browser.site import Site
from tests.workers.deployment import free_port, wait_for


def test_a_key_signs_in_and_is_not_stored(site: Site) -> None:
    with site.page("jobs", signed_in=False) as page:
        page.get_by_label("API key").fill("bj-wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("API key").fill(ADMIN_KEY)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert ADMIN_KEY not in stored
        assert "session" not in stored
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        page.reload()
        expect(page.get_by_label("API key")).to_be_visible()


def test_a_link_signs_in_once(api: Api, site: Site) -> None:
    path = api.client.post("/v1/session/links").json()["path"].removeprefix("/dashboard/")
    with site.page(path, signed_in=False) as page:
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        assert "link" not in page.url
    with site.page(path, signed_in=False) as page:
        expect(page.get_by_text("was already used")).to_be_visible()


def start_api(home: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the API as a process and wait until it answers."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAICHUAN_")}
    environment = {**clean, "BAICHUAN_HOME": str(home), "BAICHUAN_PORT": str(port), "REDIS_URL": NO_REDIS}
    process = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stderr=subprocess.DEVNULL)

    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
        except httpx.TransportError:
            return False

    wait_for("the API", is_ready, seconds=60)
    return process


def test_the_page_reconnects_after_the_api_has_restarted(browser: Browser, tmp_path: Path) -> None:
    settings, port = small(tmp_path / "home"), free_port()
    prepare_deployment(settings, ADMIN_KEY)
    checkpoint(settings.allowed_model_roots[0] / "base")
    process = start_api(settings.home, port)
    site = Site(browser, f"http://127.0.0.1:{port}")
    client = httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=30)
    path = str(settings.allowed_model_roots[0] / "base")
    assert client.post("/v1/models", json={"id": "base", "path": path}).is_success
    try:
        with site.page("jobs") as page:
            connection = page.locator(".connection")
            expect(connection).to_have_text("Live")
            process.terminate()
            process.wait(30)
            expect(connection).to_have_text("Reconnecting")
            process = start_api(settings.home, port)
            job = client.post("/v1/jobs", json={"kind": "quantize", "model": "base"}).json()["id"]
            expect(page.get_by_text(job)).to_be_visible()
            expect(connection).to_have_text("Live")
    finally:
        client.close()
        process.terminate()
        process.wait(30)

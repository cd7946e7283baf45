"""Serving the built dashboard: caching, content security policy, and client-side routes."""

from pathlib import Path

import httpx
import pytest

from tests.api.conftest import Api


@pytest.fixture
def page(shared_api: Api, tmp_path: Path) -> Api:
    """An API whose package has a built page."""
    bundle = tmp_path / "dist"
    (bundle / "assets").mkdir(parents=True)
    (bundle / "index.html").write_text("<!doctype html><title>page</title>")
    (bundle / "assets" / "index-1a2b.js").write_text("console.log(1)")
    (bundle / "icon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    (bundle / "link.txt").symlink_to(tmp_path / "secret.txt")
    shared_api.app.state.dashboard = bundle
    return shared_api


def test_the_page_is_served_under_all_its_addresses(page: Api) -> None:
    for address in ("/dashboard/", "/dashboard/jobs/job-1", "/dashboard/jobs?state=failed"):
        answer = httpx.get(page.url + address)
        assert answer.status_code == 200
        assert "<title>page</title>" in answer.text
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Cache-Control"] == "no-cache"
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for address in ("/", "/dashboard"):
        answer = httpx.get(page.url + address)
        assert answer.is_redirect
        assert answer.headers["Location"] == "/dashboard/"


def test_assets_are_cached_forever_and_missing_ones_are_not_found(page: Api) -> None:
    answer = httpx.get(page.url + "/dashboard/assets/index-1a2b.js")
    assert answer.text == "console.log(1)"
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Content-Security-Policy" in answer.headers
    assert httpx.get(page.url + "/dashboard/assets/index-0000.js").status_code == 404
    icon = httpx.get(page.url + "/dashboard/icon.svg")
    assert (icon.headers["Content-Type"], icon.headers["Cache-Control"]) == ("image/svg+xml", "no-cache")
    not_changed = httpx.get(page.url + "/dashboard/", headers={"If-None-Match": answer.headers["ETag"]})
    assert not_changed.status_code == 200
    assert httpx.head(page.url + "/dashboard/").status_code == 200


@pytest.mark.parametrize("path", ["..%2fsecret.txt", "assets/..%2f..%2fsecret.txt", "link.txt", "%2fetc%2fpasswd"])
def test_nothing_outside_the_bundle_is_served(page: Api, path: str) -> None:
    answer = httpx.get(f"{page.url}/dashboard/{path}")
    assert "secret" not in answer.text
    assert "root:" not in answer.text


def test_without_a_bundle_a_plain_page_says_so(page: Api, tmp_path: Path) -> None:
    page.app.state.dashboard = tmp_path / "none"
    answer = httpx.get(page.url + "/dashboard/jobs")
    assert answer.status_code == 200
    assert "dashboard/dist" in answer.text
    assert "Content-Security-Policy" in answer.headers

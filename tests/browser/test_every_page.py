"""Every page in both themes, both languages and on a phone: accessible, and never wider than the window."""

from typing import Any

import pytest
from playwright.sync_api import expect

from jobs.records import KeyRecord, WorkerRecord
from jobs.service import keys, workers
from jobs.service.metrics import Point
from jobs.specs import KINDS
from tests.api.conftest import ADMIN_KEY, Api
from tests.browser.site import DESKTOP, PHONE, Site, scrolls_sideways, take_screenshot, violations
from tests.browser.test_job_page import finetune, log_steps
from tests.jobs.pool import CPU

VARIANTS = [
    ("light", "en", DESKTOP),
    ("dark", "zh", DESKTOP),
    ("dark", "en", PHONE),
    ("light", "zh", PHONE),
]
PARTS = ("", "/log", "/curves", "/spec", "/attempts", "/files", "/code")
PAGES = ("jobs", "submit?model=base", "curves", "data", "models", "playground?model=base&two=1", "pool", "project")


def fill(api: Api) -> str:
    """Jobs in several states; returns one that runs."""
    failed = api.submit(labels={"team": "search"})["id"]
    api.client.post(f"/v1/jobs/{failed}/cancel")
    done = api.submit(kind="generate", prompts=["你好"])["id"]
    api.finish(done, api.start(done), {"completions.jsonl": b""})
    running = finetune(api, labels={"team": "search", "run": "a"})
    attempt = api.start(running)
    points = [Point(step, {"loss": 3 / step, "learning_rate": 1e-4, "grad_norm": 1.0}) for step in range(1, 301)]
    log_steps(api, attempt, points)
    progress = {"fraction": 0.6, "stage": "training", "metrics": {"loss": 0.01, "tokens_per_second": 5120.0}}
    api.report(attempt, *[f"step {step}: loss {3 / step:.4f}" for step in range(1, 101)], progress=progress)
    api.submit()
    return running


@pytest.mark.parametrize(("theme", "language", "size"), VARIANTS, ids=str)
def test_every_page_is_accessible_and_fits(
    api: Api, site: Site, theme: str, language: str, size: tuple[int, int]
) -> None:
    job = fill(api)
    addresses = [*PAGES, *(f"jobs/{job}{part}" for part in PARTS)]
    name = f"{theme}-{language}-{'phone' if size == PHONE else 'desktop'}"
    with site.page(theme=theme, language=language, size=size) as page:
        for address in addresses:
            page.goto(f"{site.url}/dashboard/{address}")
            expect(page.locator("h1")).to_be_visible()
            expect(page.locator(".skeleton")).to_have_count(0)
            take_screenshot(page, f"{address.split('?')[0].replace(job, 'job').replace('/', '-')}-{name}")
            assert violations(page) == [], address
            assert not scrolls_sideways(page), address
        assert page.locator("html").get_attribute("lang") == {"en": "en", "zh": "zh-CN"}[language]


def test_the_models_page_shows_where_a_model_is_loaded(api: Api, site: Site) -> None:
    with api.database.reading() as connection:
        (key,) = keys.authenticate(connection, [ADMIN_KEY])
    assert isinstance(key, KeyRecord)
    base = {"project_id": key.project_id, "id": "base", "source": "/models/base", "dtype": "auto", "key": "k"}
    adapter = {"adapter": None, "adapter_source": None, "engine": "transformers", "host_bytes": 7, "since": 1}
    place = {"devices": [{"uuid": CPU["uuid"], "bytes": 7}], "busy": False}
    with site.page("models") as page:
        expect(page.get_by_text("base", exact=True)).to_be_visible()
        expect(page.get_by_text("loaded on")).to_have_count(0)
        report_models(api, [{**base, **adapter, **place}])
        expect(page.get_by_text("loaded on wrk-1", exact=True)).to_be_visible()
        report_models(api, [{**base, **adapter, **place}, {**base, **adapter, **place, "busy": True}])
        expect(page.get_by_text("loaded on wrk-1, in use", exact=True)).to_have_count(1)
        take_screenshot(page, "models-loaded")
        assert violations(page) == []


def report_models(api: Api, models: list[dict[str, Any]]) -> None:
    """Report models that the worker's runners keep loaded."""
    with api.database.writing() as connection:
        workers.record_heartbeat(
            connection, WorkerRecord("wrk-1", "host", 1, "active", list(KINDS), 4, [CPU], 1, 1, models=models)
        )


def test_language_and_theme_are_remembered(site: Site) -> None:
    with site.page("models") as page:
        page.get_by_label("Language").select_option("zh")
        expect(page.get_by_role("heading", name="模型")).to_be_visible()
        page.get_by_label("主题").select_option("dark")
        page.reload()
        expect(page.get_by_role("heading", name="模型")).to_be_visible()
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"

"""One job: its sections, its log and its curves."""

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from jobs.service.metrics import Point
from jobs.state import Event
from tests.api.conftest import Api
from tests.browser.site import Site, take_screenshot
from tests.jobs.pool import hold

CONVERSATION = b'[{"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'


def finetune(api: Api, **fields: Any) -> str:
    """Submit a fine-tune."""
    form = {"purpose": "fine-tune"}
    uploaded = api.client.post("/v1/files", files={"file": ("data.json", CONVERSATION)}, data=form).json()
    job: str = api.submit(kind="finetune", training_file=uploaded["id"], **fields)["id"]
    return job


def log_steps(api: Api, attempt: str, points: list[Point]) -> None:
    """Report logged steps as a worker does."""
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).renew(None, [], points)


def test_a_job_is_watched_cancelled_and_retried(api: Api, site: Site) -> None:
    job = finetune(api)
    with site.page(f"jobs/{job}") as page:
        attempt = api.start(job)
        expect(page.locator("h1")).to_contain_text("Running")
        api.report(attempt, progress={"fraction": 0.25, "stage": "training", "metrics": {"loss": 2.5}})
        expect(page.get_by_text("25.0%")).to_be_visible()
        page.get_by_role("button", name="Cancel job").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
        expect(page.locator("h1")).to_contain_text("Cancelling")
        with api.database.writing() as connection:
            hold(connection, attempt, "wrk-1", api.settings).end(Event.STOP)
        expect(page.locator("h1")).to_contain_text("Cancelled")
        page.get_by_role("button", name="Retry").click()
        page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        expect(page.locator("h1")).to_contain_text("Queued")
        page.get_by_role("link", name="Attempts").click()
        expect(page.get_by_role("heading", name="Attempt 1")).to_be_visible()


def test_curves_grow_while_the_job_runs(api: Api, site: Site) -> None:
    job = finetune(api)
    attempt = api.start(job)
    points = [Point(step, {"loss": 3 / step, "learning_rate": 1e-4}) for step in range(1, 2001)]
    points[1200] = Point(1201, {"loss": 40.0, "learning_rate": 1e-4})
    points[1500] = Point(1501, {"loss": None, "learning_rate": 1e-4})
    log_steps(api, attempt, points)
    with site.page(f"jobs/{job}/curves") as page:
        expect(page.get_by_role("img", name="Loss of 1 run")).to_be_visible()
        expect(page.get_by_text("NaN at 1 place")).to_be_visible()
        take_screenshot(page, "curves")
        page.get_by_label("Logarithmic scale").check()
        page.get_by_label("Smoothing").select_option("100")
        chart = page.get_by_role("img", name="Loss of 1 run")
        for key in ("+", "ArrowRight", "0"):
            chart.press(key)
        log_steps(api, attempt, [Point(2001, {"loss": 0.1, "grad_norm": 1.0})])
        expect(page.get_by_role("img", name="Gradient norm of 1 run")).to_be_visible()
        chart.hover()
        expect(page.get_by_text(re.compile(r"step \d"))).to_have_count(3)


def test_a_log_opens_at_its_end_and_is_searched_and_downloaded(api: Api, site: Site, tmp_path: Path) -> None:
    job = finetune(api)
    attempt = api.start(job)
    lines = [f"line {number} of the run" for number in range(1, 3001)]
    lines[41] = "the needle that is searched"
    entries = [("log", {"stream": "stdout", "lines": lines[start : start + 500]}) for start in range(0, 3000, 500)]
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).renew(None, entries)
    with site.page(f"jobs/{job}/log") as page:
        expect(page.get_by_text("line 3000 of the run")).to_be_visible()
        page.get_by_label("Search the log").fill("NEEDLE")
        page.get_by_label("Search the log").press("Enter")
        expect(page.locator(".log-line[aria-current]")).to_contain_text("the needle")
        expect(page.get_by_text("1 of 1")).to_be_visible()
        assert page.url.endswith("line=42")
        page.reload()
        expect(page.get_by_text("the needle that is searched")).to_be_visible()
        page.get_by_role("button", name="Follow output").click()
        api.report(attempt, "a line that was just printed")
        expect(page.get_by_text("a line that was just printed")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        download.value.save_as(tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text().splitlines()[:3000] == lines


def test_the_sections_of_a_finished_job(api: Api, site: Site) -> None:
    job = api.submit(kind="generate", prompts=["1 + 1 ="], labels={"team": "search"})["id"]
    answer = '{"index": 0, "sample": 0, "prompt": "1 + 1 =", "completion": "2", "finish_reason": "stop",'
    api.finish(job, api.start(job), {"completions.jsonl": f'{answer} "completion_tokens": 1}}\n'.encode()})
    with site.page(f"jobs/{job}/answers") as page:
        expect(page.get_by_text("1 tokens · stop")).to_be_visible()
        page.get_by_role("link", name="Files").click()
        expect(page.get_by_role("link", name="completions.jsonl")).to_be_visible()
        page.get_by_role("link", name="As code").click()
        expect(page.get_by_label("As code").last).to_contain_text('"prompts":["1 + 1 ="]')
        page.get_by_role("link", name="Clone and edit").click()
        expect(page.get_by_label("Prompts")).to_have_value("1 + 1 =")
        page.get_by_label("Max new tokens").fill("7")
        page.get_by_role("button", name="Submit job").click()
        page.get_by_role("link", name="Spec", exact=True).click()
        expect(page.get_by_role("cell", name="max_new_tokens")).to_be_visible()

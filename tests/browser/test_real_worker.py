"""The dashboard in front of a whole service: a real worker trains, answers and ends what the page asks for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from tests.browser.site import Site, take_screenshot
from tests.browser.test_submit_page import FILE_ID
from tests.system.conftest import Service, start

pytestmark = pytest.mark.timeout(900)

EPOCHS = 30  # long enough that several reports of its progress are seen
WORK_MS = 240_000  # for a job to end; the machine may be busy
NOWHERE = {"rack": "none"}  # a label that no worker has, so that jobs wait


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a worker and the model "tiny", which has a setting that is not used."""
    up, running = start(tmp_path_factory.mktemp("dashboard"))
    try:
        settings = make_tiny_checkpoint(running.models / "tiny") / "generation_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"num_beams": 4}))  # a job warns of it
        assert running.register("tiny", running.models / "tiny").status_code == 201
        yield running
    finally:
        running.http.close()
        up.end()


def site_of(browser: Browser, http: httpx.Client) -> Site:
    """The dashboard as the owner of the client's key sees it."""
    key = http.headers["Authorization"].removeprefix("Bearer ")
    return Site(browser, str(http.base_url).rstrip("/"), key)


def test_a_fine_tune_from_the_form_to_its_files(browser: Browser, service: Service, tmp_path: Path) -> None:
    with site_of(browser, service.http).page("submit") as page:
        page.get_by_label("Model *").fill("tiny")
        page.get_by_label("Epochs").fill(str(EPOCHS))
        page.get_by_label("Upload a file for training_file").set_input_files(CONVERSATIONS)
        expect(page.get_by_label("Training file", exact=True)).to_have_value(FILE_ID)
        page.get_by_role("button", name="Submit job").click()
        expect(page.locator("h1")).to_contain_text("Running", timeout=WORK_MS)
        expect(page.get_by_text(re.compile(r"^(?!0\.0%)\d+\.\d%"))).to_be_visible(timeout=WORK_MS)
        expect(page.locator("h1")).to_contain_text("Succeeded", timeout=WORK_MS)
        parts = page.get_by_role("navigation", name="Sections of the job")
        parts.get_by_role("link", name="Curves").click()
        expect(page.get_by_role("img", name="Loss of 1 run")).to_be_visible()
        take_screenshot(page, "real-curves")
        parts.get_by_role("link", name="Log").click()
        expect(page.get_by_text("No output")).to_be_visible()  # training is quiet: its figures are the curves
        parts.get_by_role("link", name="Files").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="training/series.jsonl").click()
        download.value.save_as(tmp_path / "series.jsonl")
    (job,) = service.http.get("/v1/jobs", params={"kind": "finetune"}).json()["data"]
    stored = service.http.get(f"/v1/jobs/{job['id']}/artifacts/training/series.jsonl").content
    assert (tmp_path / "series.jsonl").read_bytes() == stored


def test_the_log_of_a_job_is_searched(browser: Browser, service: Service) -> None:
    job = service.run(kind="generate", model="tiny", prompts=["a"], max_new_tokens=2)
    with site_of(browser, service.http).page(f"jobs/{job['id']}") as page:
        page.get_by_role("navigation", name="Sections of the job").get_by_role("link", name="Log").click()
        page.get_by_label("Search the log").fill("NUM_BEAMS")
        page.get_by_label("Search the log").press("Enter")
        expect(page.locator(".log-line[aria-current]")).to_contain_text("num_beams=4")
        expect(page.get_by_text("1 of 1")).to_be_visible()


@pytest.mark.slow
def test_the_sample_workflow_of_an_empty_project(browser: Browser, service: Service) -> None:
    made = service.http.post("/v1/keys", json={"name": "newcomer", "project": "empty"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    with httpx.Client(base_url=service.http.base_url, headers=headers, timeout=60) as newcomer:
        body = {"id": "tiny", "path": str(service.models / "tiny")}
        assert newcomer.post("/v1/models", json=body).status_code == 201
        with site_of(browser, newcomer).page() as page:
            page.get_by_role("button", name="Run the sample workflow with tiny").click()
            steps = page.locator(".sample li")
            for number, name in enumerate(("Fine-tune on the sample conversations", "Ask the fine-tuned model")):
                expect(steps.nth(number)).to_contain_text(name, timeout=WORK_MS)
                expect(steps.nth(number)).to_contain_text("Succeeded", timeout=WORK_MS)
            take_screenshot(page, "sample-workflow")
            page.get_by_role("navigation").get_by_role("link", name="Models").click()
            expect(page.get_by_text(re.compile("^loaded on wrk-"))).to_have_count(1)
        kinds = [job["kind"] for job in newcomer.get("/v1/jobs").json()["data"]]
        assert kinds == ["generate", "finetune"]


def test_a_bulk_cancel_ends_with_the_cancelled_rows_and_their_count(browser: Browser, service: Service) -> None:
    waiting = {"kind": "generate", "model": "tiny", "prompts": ["a"], "resources": {"labels": NOWHERE}}
    for _ in range(4):
        answer = service.http.post("/v1/jobs", json={**waiting, "labels": {"team": "bulk"}})
        assert answer.status_code == 202, answer.text
    with site_of(browser, service.http).page("jobs?label=team%3Abulk") as page:
        expect(page.get_by_role("button", name="Queued")).to_contain_text("4")
        page.get_by_role("button", name="Bulk actions").click()
        page.get_by_role("button", name="Cancel 4 jobs").click()
        expect(page.get_by_role("dialog").get_by_text("4 changed")).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Close").first.click()
        expect(page.get_by_role("button", name="Cancelled")).to_contain_text("4")
        expect(page.locator("[role=rowgroup] .job-state").filter(has_text="Cancelled")).to_have_count(4)
        take_screenshot(page, "bulk-cancelled")
    states = [job["state"] for job in service.http.get("/v1/jobs", params={"label": "team:bulk"}).json()["data"]]
    assert states == ["cancelled"] * 4

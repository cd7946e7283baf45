"""The form: from the schema, with errors at their fields, and usable without a mouse."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.api.conftest import Api
from tests.browser.site import Site, take_screenshot
from tests.browser.test_job_page import CONVERSATION

MAX_TABS = 40
FILE_ID = re.compile(r"^file-[0-9a-z]{26}$")


def tab_to(page: Page, label: str) -> None:
    """Press Tab until the field with this label has the focus."""
    for _ in range(MAX_TABS):
        focused = page.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText")
        if str(focused).startswith(label):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {label}")


def test_a_fine_tune_is_submitted_from_the_form(api: Api, site: Site, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_bytes(CONVERSATION)
    with site.page("submit") as page:
        page.get_by_label("Epochs").fill("0")
        page.get_by_role("button", name="Submit job").click()
        expect(page.get_by_text("More than 0.")).to_be_visible()
        expect(page.get_by_label("Model *")).to_be_focused()
        page.get_by_label("Model *").fill("base")
        page.get_by_label("Epochs").fill("2")
        expect(page.get_by_role("heading", name="Memory")).to_be_visible()
        expect(page.get_by_text("fits", exact=True)).to_be_visible()
        page.get_by_role("button", name="Submit job").click()
        expect(page.get_by_role("alert").first).to_be_visible()  # the service asks for a file
        page.get_by_label("Upload a file for training_file").set_input_files(data)
        expect(page.get_by_label("Training file", exact=True)).to_have_value(FILE_ID)
        take_screenshot(page, "submit")
        page.get_by_role("button", name="Submit job").click()
        expect(page.locator("h1")).to_contain_text("Queued")
    (job,) = api.client.get("/v1/jobs").json()["data"]
    spec = api.client.get(f"/v1/jobs/{job['id']}").json()["spec"]
    assert (spec["model"], spec["epochs"], spec["method"]) == ("base", 2, "lora")


def test_keyboard_alone_signs_in_submits_and_cancels(site: Site) -> None:
    with site.page("submit?kind=generate", signed_in=False) as page:
        expect(page.get_by_label("API key")).to_be_visible()
        tab_to(page, "API key")
        page.keyboard.type(site.key)
        page.keyboard.press("Enter")
        expect(page.get_by_label("Model *")).to_be_visible()
        tab_to(page, "Model *")
        page.keyboard.type("base")
        page.keyboard.press("Escape")  # closes the suggestions
        tab_to(page, "Prompts")
        page.keyboard.type("你好")
        tab_to(page, "Submit job")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Queued")
        page.locator("body").press("Tab")
        tab_to(page, "Cancel job")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        tab_to(page, "Cancel job")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Cancelled")

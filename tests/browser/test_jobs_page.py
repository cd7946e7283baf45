"""The list of jobs: live, filtered, and changed in bulk."""

from playwright.sync_api import Page, expect

from tests.api.conftest import Api
from tests.browser.site import Site, take_screenshot


def rows(page: Page) -> list[str]:
    """The ids of the jobs on the page, from top to bottom."""
    return page.locator("[role=rowgroup] code").all_inner_texts()


def test_a_job_submitted_elsewhere_appears_and_changes_by_itself(api: Api, site: Site) -> None:
    first = api.submit()["id"]
    with site.page("jobs") as page:
        expect(page.get_by_text(first)).to_be_visible()
        expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        second = api.submit(labels={"team": "search"})["id"]
        expect(page.get_by_text(second)).to_be_visible()
        assert rows(page) == [second, first]
        attempt = api.start(second)
        row = page.get_by_role("row").filter(has_text=second)
        expect(row).to_contain_text("Running")
        api.report(attempt, progress={"fraction": 0.42, "stage": "training", "metrics": {"loss": 1.5}})
        expect(row).to_contain_text("42% training · loss 1.5")
        expect(page.get_by_role("button", name="Running")).to_contain_text("1")
        take_screenshot(page, "jobs-live")


def test_filters_are_kept_in_the_url(api: Api, site: Site) -> None:
    wanted = api.submit(labels={"team": "search"})["id"]
    other = api.submit()["id"]
    with site.page("jobs") as page:
        page.get_by_label("Filter by", exact=True).select_option("label")
        page.get_by_label("Text to filter by").fill("team")
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(page.get_by_text("Expected name:value")).to_be_visible()
        page.get_by_label("Text to filter by").fill("team:search")
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(page.get_by_text(other)).to_have_count(0)
        assert rows(page) == [wanted]
        page.reload()
        expect(page.get_by_text(wanted)).to_be_visible()
        assert "label=team%3Asearch" in page.url
        page.get_by_role("button", name="Failed").click()
        expect(page.get_by_text("No matching jobs")).to_be_visible()
        page.get_by_role("button", name="Failed").click()
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_text(other)).to_be_visible()


def test_a_bulk_action_is_previewed_and_confirmed(api: Api, site: Site) -> None:
    for _ in range(3):
        api.submit(labels={"team": "search"})
    api.submit()
    with site.page("jobs?label=team%3Asearch") as page:
        page.get_by_role("button", name="Bulk actions").click()
        expect(page.get_by_text("3 jobs match.")).to_be_visible()
        take_screenshot(page, "bulk-preview")
        page.get_by_role("button", name="Cancel 3 jobs").click()
        expect(page.get_by_role("dialog").get_by_text("0 changed")).to_be_visible()
        operation = api.client.get("/v1/bulk-operations").json()["data"][0]
        assert (operation["action"], operation["matched"]) == ("cancel", 3)
        assert operation["filter"]["label"] == "team:search"


def test_eight_tabs_share_one_stream(api: Api, site: Site) -> None:
    first = api.submit()["id"]
    with site.context() as context:
        pages = [context.new_page() for _ in range(8)]
        for page in pages:
            page.goto(f"{site.url}/dashboard/jobs")
            expect(page.get_by_text(first)).to_be_visible()
        second = api.submit()["id"]
        for page in pages:
            expect(page.get_by_text(second)).to_be_visible()


def test_a_new_project_offers_the_sample_workflow(api: Api, site: Site) -> None:
    with site.page() as page:
        page.get_by_role("button", name="Run the sample workflow with base").click()
        expect(page.get_by_role("link", name="Fine-tune on the sample conversations")).to_be_visible()
        job = api.client.get("/v1/jobs").json()["data"][0]
        assert (job["kind"], job["labels"]) == ("finetune", {"example": "sample-workflow"})

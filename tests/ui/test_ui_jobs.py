"""The table of jobs, a job's page and the form, as somebody uses them."""

from __future__ import annotations

from pathlib import Path

import httpx2
from playwright.sync_api import Page, expect

from runyard.client import Client
from tests.system.native import submit
from tests.ui.conftest import PATIENCE

expect.set_options(timeout=PATIENCE)
EVIL = "<img src=x onerror=document.title='taken'><script>document.title='taken'"


def test_the_table_shows_a_job_as_it_changes_and_stops_it_by_keyboard(page: Page, http: httpx2.Client) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    job = submit(http, command=["sleep", "1000"], name=f"{EVIL} table")

    row = page.locator(f"#row-{job['id']}")
    expect(row.locator(".state")).to_have_text("running")
    expect(row.locator(".name")).to_have_text(job["name"])
    stop = row.get_by_role("button", name="Stop")
    stop.focus()
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(row.locator(".state")).to_have_text("cancelled")
    expect(row.get_by_role("button")).to_have_count(0)
    expect(page).not_to_have_title("taken")


def test_the_table_is_searched_and_filtered_without_a_mouse(page: Page, client: Client) -> None:
    good = client.submit(command=["true"], name="find-me-1")
    bad = client.submit(command=["false"], name="find-me-2")
    for job in (good, bad):
        client.wait(job.id)
    page.goto("/jobs")
    search = page.get_by_label("Search")
    search.focus()
    expect(search).to_be_focused()
    page.keyboard.type("find-me")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator(f"#row-{bad.id} .state")).to_have_text("failed")
    expect(page.get_by_label("Search")).to_have_value("find-me")


def test_the_page_of_a_job_follows_its_output_to_the_end(page: Page, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo '<b>first</b>'; while [ ! -e {gate} ]; do sleep 0.05; done; echo second; echo oops >&2; exit 3"
    job = client.submit(script=script, name="follow")
    page.goto(f"/job/{job.id}")
    expect(page.locator("#output-stdout")).to_contain_text("<b>first</b>")
    expect(page.locator("#state")).to_have_text("running")
    gate.touch()
    expect(page.locator("#output-stdout")).to_contain_text("second")
    expect(page.locator("#output-stderr")).to_contain_text("oops")
    expect(page.locator("#state")).to_have_text("failed")
    expect(page.locator("#why")).to_contain_text("exit code 3")
    expect(page.locator(".events")).to_contain_text("job.failed")
    expect(page.get_by_role("button", name="Stop this job")).to_have_count(0)

    page.reload()
    expect(page.locator("#output-stdout")).to_have_text("<b>first</b>\nsecond\n")


def test_the_form_says_what_is_wrong_and_submits_what_is_right(page: Page) -> None:
    page.goto("/jobs/submit")
    page.get_by_label("Command", exact=True).fill("printenv GREETING")
    page.get_by_label("Number of nodes").fill("99")
    page.get_by_label("Environment").fill("GREETING=hello from a form")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("nodes, you requested 99")
    expect(page.get_by_label("Command", exact=True)).to_have_value("printenv GREETING")

    page.get_by_label("Number of nodes").fill("")
    page.get_by_label("Maximum runtime").fill("30m")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("status").get_by_role("link").click()
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.locator("#output-stdout")).to_have_text("hello from a form\n")

"""The table of jobs, a job's page, the form and the login, as somebody uses them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from runyard.client import Client
from tests.system.flux import accounts_of
from tests.system.native import submit
from tests.system.server import Server
from tests.ui.conftest import PATIENCE, visitor

expect.set_options(timeout=PATIENCE)
ROOT, SECRET = "boss", "correct horse battery"
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"RUNYARD_AUTH__ENABLED": "true", "FLUX_USER": ROOT, "FLUX_TOKEN": SECRET}
    server = Server(tmp_path_factory.mktemp("login"), env=env)
    try:
        server.start()
        with accounts_of(server) as accounts:
            accounts.add_user("ann", time.time(), password="annas password")
        yield server
    finally:
        server.close()


def log_in(page: Page, name: str, password: str) -> None:
    field = page.get_by_label("Name")
    field.focus()
    expect(field).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def test_a_visitor_logs_in_sees_own_jobs_and_logs_out(browser: Browser, guarded: Server, complaints: list[str]) -> None:
    with httpx2.Client(base_url=guarded.url, auth=(ROOT, SECRET), timeout=60) as root:
        other = root.post("/v1/jobs/submit", params={"command": "echo secret"}).json()
    with httpx2.Client(base_url=guarded.url, auth=("ann", "annas password"), timeout=60) as ann:
        own = ann.post("/v1/jobs/submit", params={"command": "sleep 1000"}).json()
    with visitor(browser, guarded, complaints) as page:
        page.goto(f"/job/{own['id']}")
        log_in(page, "ann", "wrong")
        expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
        log_in(page, "", "annas password")
        expect(page.get_by_role("heading", name="Job")).to_be_visible()

        page.goto("/")
        expect(page.locator(f"#row-{own['id']} .state")).to_have_text("running")
        expect(page.locator(f"#row-{other['id']}")).to_have_count(0)
        page.goto(f"/job/{other['id']}")
        expect(page.get_by_role("heading", level=1)).not_to_contain_text("Job")

        page.goto("/")
        page.locator(f"#row-{own['id']}").get_by_role("button", name="Stop").click()
        expect(page.locator(f"#row-{own['id']} .state")).to_have_text("cancelled")

        (cookie,) = page.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert page.context.cookies() == []
    # What the cookie held is worth nothing any more.
    kept = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert httpx2.get(f"{guarded.url}/v1/jobs", headers=kept, timeout=60).status_code == 401
    assert complaints == []

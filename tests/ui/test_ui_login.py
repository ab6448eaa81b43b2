"""Logging in and out, and what each account gets to see."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.system.server import Server
from tests.ui.conftest import PATIENCE, visitor

expect.set_options(timeout=PATIENCE)
ROOT, SECRET = "boss", "correct horse battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"RUNYARD_AUTH__ENABLED": "true", "FLUX_USER": ROOT, "FLUX_TOKEN": SECRET}
    server = Server(tmp_path_factory.mktemp("login"), env=env)
    try:
        server.start()
        added = server.run("user", "add", "ann", "--password-stdin", "--data-dir", str(server.data), input="annas password\n")
        assert added.returncode == 0, added.stderr
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


def test_a_visitor_logs_in_sees_own_jobs_and_logs_out(
    browser: Browser, server: Server, complaints: list[str]
) -> None:
    with httpx2.Client(base_url=server.url, auth=(ROOT, SECRET), timeout=30) as root:
        other = root.post("/v1/jobs/submit", params={"command": "echo secret"}).json()
    with httpx2.Client(base_url=server.url, auth=("ann", "annas password"), timeout=30) as ann:
        own = ann.post("/v1/jobs/submit", params={"command": "sleep 1000"}).json()
    with visitor(browser, server, complaints) as page:
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
    assert httpx2.get(f"{server.url}/v1/jobs", headers=kept, timeout=30).status_code == 401
    assert complaints == []

"""A real browser before a real server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.conftest import client, http, server
from tests.system.server import Server

__all__ = ["client", "http", "server"]

#: Milliseconds to wait for an element: only a broken page takes so long.
PATIENCE = 60_000
_OPTIONS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as the system has it."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("RUNYARD_REQUIRE_CHROMIUM") == "1":
            pytest.fail("RUNYARD_REQUIRE_CHROMIUM=1, but there is no chromium")
        pytest.skip("chromium is not installed: make chromium RUNYARD_REQUIRE_CHROMIUM=1 installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS), timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser has complained of: errors of scripts, and what the policy has blocked."""
    return []


@pytest.fixture
def page(browser: Browser, server: Server, complaints: list[str]) -> Iterator[Page]:
    """A fresh page of a fresh visitor of the shared server."""
    with visitor(browser, server, complaints) as page:
        yield page
    assert complaints == []


class visitor:
    """A page with cookies of its own; whatever the browser complains of is added to `complaints`."""

    def __init__(self, browser: Browser, server: Server, complaints: list[str]) -> None:
        self._context = browser.new_context(base_url=server.url)
        self._context.set_default_timeout(PATIENCE)
        self._complaints = complaints

    def __enter__(self) -> Page:
        page = self._context.new_page()
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        return page

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def _note(self, kind: str, text: str) -> None:
        # A refusal that a test asks for is an answer, not a defect.
        if kind == "error" and "Failed to load resource" not in text:
            self._complaints.append(text)

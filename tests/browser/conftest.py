"""A real browser, driven; the village behind the HTTP interface on loopback."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visit import Visits
from tests.headend.pages.village import Site, site_fixture, village_fixture

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on PATH; on Debian: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=[*sandbox, "--disable-dev-shm-usage"])
        yield opened
        opened.close()


village = village_fixture("package")
site = site_fixture("package")


@pytest.fixture
def visits(browser: Browser, site: Site) -> Iterator[Visits]:
    """Whatever a page complained of, or asked of somebody else, fails the test."""
    held = Visits(browser, site)
    yield held
    held.end()

"""A real browser, driven; the village behind the HTTP interface on loopback."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visit import Visits
from tests.headend.pages.village import Site, Village, serving, village_of

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


@pytest.fixture(scope="package")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    lived = village_of(tmp_path_factory.mktemp("village"))
    yield lived
    lived.aclose()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, village: Village) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site"), village) as running:
        yield running


@pytest.fixture
def visits(browser: Browser, site: Site) -> Iterator[Visits]:
    """Whatever a page complained of, or asked of somebody else, fails the test."""
    held = Visits(browser, site)
    yield held
    held.end()

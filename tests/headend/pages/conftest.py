"""One village for all tests of the pages; tests that change something use an account of their own."""

from collections.abc import Iterator

import httpx
import pytest

from tests.headend.pages.village import Site, site_fixture, village_fixture

village = village_fixture("package")
site = site_fixture("package")


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    """A browser without JavaScript that follows nothing by itself."""
    with httpx.Client(base_url=site.url, timeout=20) as opened:
        yield opened

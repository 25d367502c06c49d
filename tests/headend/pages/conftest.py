"""One village for all tests of the pages; tests that change something use an account of their own."""

from collections.abc import Iterator

import httpx
import pytest

from tests.headend.pages.village import Site, Village, serving, village_of


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
def client(site: Site) -> Iterator[httpx.Client]:
    """A browser without JavaScript that follows nothing by itself."""
    with httpx.Client(base_url=site.url, timeout=20) as opened:
        yield opened

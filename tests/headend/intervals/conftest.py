"""How much of the virtual time and of the zones a run goes through."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--intervals-full",
        action="store_true",
        help="every period at every clock change of every zone, and a month of 500 clean meters",
    )


@pytest.fixture(scope="session")
def is_full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--intervals-full", default=False))

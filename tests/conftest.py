"""Options of the whole suite, and what makes all of it cheaper."""

import gc
import os
from collections.abc import Iterator

import pytest
import structlog

from tests.databases import on_server
from tests.postgres import Postgres, postgresql

# What the tests start hundreds of times is compiled once, whatever the shell around them has set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tests that wait for other processes and for clocks, most of their time.
WAITING = (
    "tests/system/",
    "tests/interop/",
    "tests/headend/scanning/test_cli.py",
    "tests/headend/drivers/test_listener_dead_network.py",
)


def pytest_configure() -> None:
    """Logs as a terminal gets them; but errors without the variables of every frame, which took longer than what was tested."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits comes first: one worker has it while the others compute. (Each begins with a third, and takes from others later.)"""
    items.sort(key=lambda item: not item.nodeid.startswith(WAITING))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        type=int,
        default=50,
        help="kills of the running head-end (full run: 1000)",
    )
    parser.addoption("--mutations", type=int, default=200_000, help="mutated frames fed to the codec")
    parser.addoption(
        "--late-reads", type=int, default=100_000, help="reads on a line with late replies (full run: 1000000)"
    )
    parser.addoption(
        "--mqtt-kills", type=int, default=10, help="the same while a concentrator publishes (full run: 50)"
    )
    parser.addoption(
        "--malformed", type=int, default=20_000, help="malformed MQTT topics and payloads (full run: 100000)"
    )
    parser.addoption("--dead-seeds", type=int, default=8, help="streets with dead meters (full run: 50)")
    parser.addoption("--power-cuts", type=int, default=50, help="power cuts of the store (full run: 1000)")
    parser.addoption(
        "--disk-fills", type=int, default=6, help="how often the disk is full under the head-end (full run: 50)"
    )
    parser.addoption(
        "--commands", type=int, default=20_000, help="schedules of opens, and races with payments (full run: 1000000)"
    )
    parser.addoption(
        "--policy-instants", type=int, default=20_000, help="instants held against the policy (full run: 1000000)"
    )
    parser.addoption(
        "--prepaid-accounts",
        type=int,
        default=12,
        help="households of the year of prepaid supply; 12 live for some weeks only, and die in fewer places (full run: 1000)",
    )
    parser.addoption("--prepaid-lives", type=int, default=25, help="lives of prepaid accounts (full run: 2000)")
    parser.addoption(
        "--on-postgresql",
        action="store_true",
        help="all of tests/headend/prepayment and tests/headend/commands on a server",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked runs on a file and on a server."""
    if metafunc.definition.get_closest_marker("both_databases") is not None:
        metafunc.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a worker."""
    with postgresql() as server:
        yield server


@pytest.fixture(autouse=True)
def database_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """What `databases.database_url` gives to this test."""
    kind: str = getattr(request, "param", "postgresql" if request.config.getoption("on_postgresql") else "sqlite")
    if kind == "sqlite":
        yield kind
        return
    with on_server(request.getfixturevalue("postgres")):
        yield kind


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays to the end: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()

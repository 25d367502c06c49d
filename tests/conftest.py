"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often the running head-end is killed (full run: 200)")
    parser.addoption("--mutations", type=int, default=200_000, help="mutated frames fed to the codec")
    parser.addoption(
        "--late-reads", type=int, default=100_000, help="reads on a line with late replies (full run: 1000000)"
    )
    parser.addoption("--dead-seeds", type=int, default=8, help="streets with dead meters (full run: 50)")

"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often the running head-end is killed (full run: 200)")
    parser.addoption("--mutations", type=int, default=200_000, help="mutated frames fed to the codec")

"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often the running head-end is killed (full run: 200)")
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

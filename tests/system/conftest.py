"""What every test with processes has."""

from collections.abc import Iterator

import pytest

from tests.system.processes import HeadEndProcess


@pytest.fixture(autouse=True)
def no_head_end_outlives_its_test() -> Iterator[None]:
    """One that failed half-way would poll for ever. A module that has one for all of its tests ends, and restarts, it itself."""
    is_of_module = bool(HeadEndProcess.alive)
    yield
    if not is_of_module:
        for head_end in list(HeadEndProcess.alive):
            head_end.kill()

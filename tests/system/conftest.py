"""What every test with processes has."""

from collections.abc import Iterator

import pytest

from tests.system.processes import HeadEndProcess


@pytest.fixture(autouse=True)
def no_head_end_outlives_its_test() -> Iterator[None]:
    """One that failed half-way would poll for ever."""
    yield
    for head_end in list(HeadEndProcess.alive):
        head_end.kill()

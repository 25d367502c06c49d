"""One office for tests that ask for no particular one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.headend.prepayment.office_world import OfficeWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OfficeWorld]:
    found = OfficeWorld(tmp_path)
    yield found
    found.aclose()

"""The table of supported meters in README.md is made from the contracts."""

from pathlib import Path

import pytest

from firmware_contracts.contract import contract_names
from firmware_contracts.modbus_contract import modbus_names
from firmware_contracts.table import supported_meters, updated

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_contracts_of_today() -> None:
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text, "run: python -m firmware_contracts.table README.md"


def test_every_contract_has_its_line() -> None:
    lines = supported_meters().splitlines()
    assert len(lines) == 2 + len(contract_names()) + len(modbus_names())
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_a_text_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="expected one line"):
        updated("# Something else\n")

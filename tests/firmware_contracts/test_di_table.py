"""The base contracts against a table of data identifiers (di_table.csv), one line per concrete DI.

The table holds for every known item its lowest and highest DI and a block, with size, unit, sign, access, OBIS code
and decimals; `4*` is any number of 4 bytes. Contracts and table go back to the same collection of facts from the
standards and from implementations: this finds slips in the contracts' rules, and proves nothing about the facts.
"""

import csv
import re
from pathlib import Path

import pytest

from firmware_contracts.contract import load
from protocols.dlt645.items import Di, ItemSpec, fields_of, size_range
from protocols.dlt645.layout import Kind

CONTRACTS = {"2007": "dlt645/base_2007", "1997": "dlt645/base_1997"}
with (Path(__file__).parent / "di_table.csv").open(encoding="utf-8", newline="") as file:
    TABLE = list(csv.DictReader(file))

# Where the contracts decide otherwise than the table, and why.
SIGNED_BY_THE_STANDARDS_RULE = re.compile(
    r"05..0[34]..|"  # combined reactive energies in freezes
    r"061002FF|061003FF|061004FF|061005FF|"  # blocks of curves whose single items are signed in the table as well
    r"0610060[34]|"  # combined reactive energies in curves
    r"061008..|"  # present demands: signed as 02800004 and 02800005 are
    r"1[0-9A-C]..(?!01)...."
)  # items of event records: the sign is that of the item, the table has one line for all
SETTLEMENT_IN_THE_OBIS_CODE = re.compile(r"01(?:1[5-9A-E]|29|2[A-F]|3[0-2D-F]|4[0-6])000[1-9A-C]")
BLOCK_WITHOUT_OBIS_CODE = re.compile(r".{4}FF..|.{6}FF|...F")


def _rows(dialect: str) -> list[dict[str, str]]:
    return [row for row in TABLE if row["dialect"] == dialect]


def _spec(row: dict[str, str]) -> ItemSpec:
    return load(CONTRACTS[row["dialect"]]).find(Di(row["di"]))


def _problems(row: dict[str, str]) -> list[str]:
    spec = _spec(row)
    fields = fields_of(spec)
    amounts = [field for field in fields if field.wire.kind is Kind.AMOUNT]
    problems = []
    least, most = size_range(spec)
    size = row["bytes"]
    if size.endswith("*"):
        unit_size = int(size[:-1])
        if spec.di.text != "B63F" and (least % unit_size or (most or 0) % unit_size):
            problems.append(f"bytes {least}..{most}, table {size}")
    elif size and not spec.series and not (least <= int(size) and (most is None or int(size) <= most)):
        problems.append(f"bytes {least}..{most}, table {size}")
    units = {field.unit.value for field in fields if field.unit and field.unit.value}
    if row["unit"] and units != set(row["unit"].split(",")):
        problems.append(f"unit {units}, table {row['unit']}")
    if not row["unit"] and size and len(fields) == 1 and units - {"bits"}:
        problems.append(f"unit {units}, table none")
    if spec.signed != (row["signed"] == "y") and SIGNED_BY_THE_STANDARDS_RULE.fullmatch(spec.di.text) is None:
        problems.append(f"signed {spec.signed}, table {row['signed']}")
    if spec.access != row["access"]:
        problems.append(f"access {spec.access}, table {row['access']}")
    obis = spec.obis.text if spec.obis else ""
    expected = row["obis"]
    if SETTLEMENT_IN_THE_OBIS_CODE.fullmatch(spec.di.text):
        expected += f"*{100 + int(spec.di.text[-2:], 16)}"
    if obis != expected and not (expected == "" and BLOCK_WITHOUT_OBIS_CODE.fullmatch(spec.di.text)):
        problems.append(f"obis {obis!r}, table {expected!r}")
    if row["decimals"] and (not amounts or str(amounts[0].wire.decimals) != row["decimals"]):
        problems.append(f"decimals of {spec.layout}, table {row['decimals']}")
    return problems


@pytest.mark.parametrize("dialect", ["2007", "1997"])
def test_every_known_data_identifier_is_answered_as_the_table_says(dialect: str) -> None:
    rows = _rows(dialect)
    problems = {row["di"]: found for row in rows if (found := _problems(row))}
    assert problems == {}
    assert len(rows) > (1400 if dialect == "2007" else 200)


@pytest.mark.parametrize("dialect", ["2007", "1997"])
def test_every_quantity_of_the_table_is_found_by_its_obis_code(dialect: str) -> None:
    contract = load(CONTRACTS[dialect])
    for row in _rows(dialect):
        if row["obis"]:
            spec = _spec(row)
            assert spec.obis is not None
            found = contract.find_obis(spec.obis)
            assert found.obis == spec.obis or any(field.obis == spec.obis for field in fields_of(found))
            assert not found.members

"""The linter: built-in contracts are clean, and each kind of mistake is found and named."""

from pathlib import Path

import pytest

from firmware_contracts.contract import contract_names as dlt645_names
from firmware_contracts.lint import lint
from firmware_contracts.lint_units import Dimension, dimension_of_obis
from firmware_contracts.modbus_contract import modbus_names
from protocols.values import Obis

HEAD = '[contract]\nprotocol = "modbus"\nprovenance = "made up"\n[sources]\nmap = ["made up"]\n'
ROWS = '[[rows]]\nfunction = 4\nword_order = "big"\nscale = "1"\naccess = "r"\nsource = "map"\n[rows.points]\n'
NO_CONTRACTS = (
    b"\xff\xfe",
    b"[contract",
    b"",
    b"contract = 5",
    b"[contract]\nprotocol = 5",
    b'[contract]\nprotocol = "modbus"\nextends = 5',
    b'[contract]\nprotocol = "modbus"\nnotes = 5\n',
    b'[contract]\nprotocol = "modbus"\n[limits]\nwindow = "all"',
    b'rows = 7\n[contract]\nprotocol = "modbus"',
    b'limits = 7\n[contract]\nprotocol = "modbus"',
    b'[contract]\nprotocol = "modbus"\n[[rows]]\npoints = { a = 5 }',
    b'[contract]\nprotocol = "modbus"\n[sources]\nmap = "x"',
)


def findings(tmp_path: Path, points: str, sections: str = "") -> list[str]:
    path = tmp_path / "made.toml"
    path.write_text(HEAD + sections + "\n" + ROWS + points)
    return [str(finding).removeprefix(f"{path}: ") for finding in lint(str(path))]


@pytest.mark.parametrize("name", [*dlt645_names(), *modbus_names()])
def test_the_contracts_that_come_with_the_head_end_are_clean(name: str) -> None:
    assert [str(finding) for finding in lint(name)] == []


@pytest.mark.parametrize(
    ("points", "sections", "said"),
    [
        (
            'a = { address = 0, type = "uint32", unit = "V" }\nb = { address = 1, type = "uint16", unit = "V" }',
            "",
            "point a: 0000H to 0001H overlaps point b at 0001H",
        ),
        (
            'a = { address = 0, type = "uint64", unit = "" }\nb = { address = 1, type = "uint16", unit = "" }\n'
            'c = { address = 3, type = "uint16", unit = "" }',
            "",
            "point a: 0000H to 0003H overlaps point c at 0003H",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V" }\nb = { address = 0, type = "uint16", unit = "V", function = 3 }',
            "[limits]\neither_function = true",
            "point a: 0000H overlaps point b at 0000H",
        ),
        (
            'a = { address = 0xFFFF, type = "uint32", unit = "V" }',
            "",
            "point a: 2 registers from FFFFH end beyond FFFFH",
        ),
        ('a = { address = 0, type = "uint32" }', "", "point a: unit missing"),
        (
            'a = { address = 0, type = "uint32", width = 1, unit = "V" }',
            "",
            "point a: width 1: uint32 has 2 of 16 bits",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V", obis = "1-0:32.7.0" }\n'
            'b = { address = 1, type = "uint16", unit = "V", obis = "1-0:32.7.0" }',
            "",
            "point b: OBIS 1-0:32.7.0 is that of point a as well",
        ),
        (
            'a = { address = 0, type = "uint64", unit = "kWh" }',
            "[limits]\nregisters_max = 2",
            "point a: 4 registers, the meter gives 2 at most",
        ),
        (
            'a = { address = 1, type = "uint32", unit = "V" }',
            '[limits]\neven_only = true\nholes = "allowed"',
            "point a: 0001H to 0002H, but the meter wants even start and even count (even_only)",
        ),
        (
            'a = { address = 2, type = "uint16", unit = "V" }',
            '[limits]\neven_only = true\nholes = "allowed"',
            "point a: 0002H, but the meter wants even start and even count (even_only)",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "Hz", ratio = "ct" }',
            "",
            "point a: ratio 'ct' has no meaning for Hz",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "A", ratio = "ct*pt" }',
            "",
            "point a: ratio 'ct*pt' has no meaning for A",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V" }',
            "[limits]\nwindow = [0x1000, 0x8EFF]",
            "point a: 0000H to 0000H, the meter answers 1000H to 8EFFH",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "kW", obis = "1-0:1.8.0" }',
            "",
            "point a: unit 'kW', but OBIS 1-0:1.8.0 is active energy (kWh)",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "A", obis = "1-0:32.7.0" }',
            "",
            "point a: unit 'A', but OBIS 1-0:32.7.0 is a voltage (V)",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V" }',
            "[limits]\nfunctions = [3]",
            "point a: the meter does not answer function 4",
        ),
        (
            'a = { address = 0, type = "int16", unit = "kW", scale = "-1" }',
            "",
            "point a: scale -1 turns import into export: is the OBIS code the right one?",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V", invalid = ["0000"] }',
            "",
            "point a: zero as the mark of what is not measured: no voltage and no energy cannot be told",
        ),
        (
            'a = { address = 0, type = "uint16", unit = "V" }',
            '[limits]\nfunctions = [4]\n[relay]\nkind = "coil"\naddress = 0\non = 0xFF00\noff = 0\nsource = "x"\n'
            'status = { kind = "discrete", address = 0 }',
            "relay: function 5, but limits has the functions 4 only",
        ),
        ("", "", "rows: no points"),
    ],
)
def test_a_mistake_is_named(points: str, sections: str, said: str, tmp_path: Path) -> None:
    assert said in findings(tmp_path, points, sections)


def test_every_row_in_trouble_is_named_not_only_the_first(tmp_path: Path) -> None:
    found = findings(
        tmp_path,
        'a = { address = 0, type = "uint16" }\nb = { address = 1, unit = "V" }\nc = { address = 2, type = "uint16", unit = "V" }\n'
        'd = { address = 2, type = "uint16", unit = "V" }',
    )
    assert found == ["point a: unit missing", "point b: type missing", "point c: 0002H overlaps point d at 0002H"]


def test_what_is_no_contract_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    for number, content in enumerate(NO_CONTRACTS):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(content)
        assert lint(str(path)), content


def test_a_mistake_in_the_file_that_is_extended_says_where(tmp_path: Path) -> None:
    base, above = tmp_path / "base.toml", tmp_path / "above.toml"
    base.write_text(HEAD + ROWS + 'a = { address = 0, type = "uint16" }')
    above.write_text(f'[contract]\nprotocol = "modbus"\nextends = "{base}"\nprovenance = "made up"\n')
    assert [str(finding) for finding in lint(str(above))] == [f"{above}: point a: in {base}: unit missing"]


@pytest.mark.parametrize(
    ("obis", "dimension"),
    [
        ("1-0:1.8.0", Dimension.ACTIVE_ENERGY),
        ("1-0:41.8.1", Dimension.ACTIVE_ENERGY),
        ("1-0:15.8.0", Dimension.ACTIVE_ENERGY),
        ("1-0:3.8.0", Dimension.REACTIVE_ENERGY),
        ("1-0:9.8.0", Dimension.APPARENT_ENERGY),
        ("1-0:16.7.0", Dimension.ACTIVE_POWER),
        ("1-0:76.7.0", Dimension.ACTIVE_POWER),
        ("1-0:1.6.0", Dimension.ACTIVE_POWER),
        ("1-0:131.7.0", Dimension.REACTIVE_POWER),
        ("1-0:191.7.0", Dimension.REACTIVE_POWER),
        ("1-0:69.7.0", Dimension.APPARENT_POWER),
        ("1-0:32.7.0", Dimension.VOLTAGE),
        ("1-0:32.7.124", Dimension.PERCENT),
        ("1-0:32.7.3", None),
        ("1-0:71.7.0", Dimension.CURRENT),
        ("1-0:13.7.0", Dimension.NUMBER),
        ("1-0:14.7.0", Dimension.FREQUENCY),
        ("1-0:81.7.0", Dimension.ANGLE),
        ("1-0:0.8.0", None),
        ("1-0:96.1.0", None),
        ("0-0:1.8.0", None),
        ("1-0:1.8.0*1", Dimension.ACTIVE_ENERGY),
    ],
)
def test_an_obis_code_calls_for_a_unit(obis: str, dimension: Dimension | None) -> None:
    assert dimension_of_obis(Obis(obis)) is dimension

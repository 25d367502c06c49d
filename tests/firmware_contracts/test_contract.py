"""Contracts as files: what loading refuses, what `extends` changes, what a question for an unknown item is answered."""

from decimal import Decimal
from pathlib import Path

import pytest

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import BadContract, ContractError, UnknownContract, UnknownItem
from protocols.dlt645.items import Di, Separators, decode
from protocols.values import Obis, Unit

HEAD = '[contract]\nprotocol = "dlt645-2007"\n'
ROW = (
    '[[rows]]\ndi = "00010000"\nname = "Energy"\nlayout = "XXXXXX.XX"\nunit = "kWh"\naccess = "r"\n'
    'source = "S07"\nobis = "1-0:1.8.0"\n'
)


def _load(folder: Path, text: str, name: str = "meter.toml") -> Contract:
    (folder / name).write_text(text, encoding="utf-8")
    return load(str(folder / name))


def _refusal(folder: Path, text: str) -> str:
    with pytest.raises(BadContract) as caught:
        _load(folder, text)
    assert "meter.toml" in str(caught.value)
    return str(caught.value)


def test_a_concrete_item_carries_unit_sign_access_obis_and_source() -> None:
    spec = load("dlt645/base_2007").find(Di("00010302"))
    assert (spec.name, spec.unit, spec.signed, spec.access) == (
        "Forward active energy, tariff 3, settlement 2",
        Unit.KWH,
        False,
        "r",
    )
    assert spec.obis == Obis("1-0:1.8.3*102")
    assert (spec.source, spec.origin) == ("dlt645/base_2007:00010302", "S07;U;L;P")


def test_find_keeps_what_it_has_resolved() -> None:
    contract = load("dlt645/base_2007")
    assert contract.find(Di("0001FF00")) is contract.find(Di("0001ff00"))
    assert load("dlt645/base_2007") is contract


def test_present_totals_win_the_search_by_obis_code() -> None:
    contract = load("dlt645/base_2007")
    assert contract.find_obis(Obis("1-0:1.8.0")).di == Di("00010000")
    assert contract.find_obis(Obis("1-0:1.8.2*103")).di == Di("00010203")
    assert contract.find_obis(Obis("1-0:32.7.0")).di == Di("02010100")
    assert contract.find_obis(Obis("1-0:1.6.0")).di == Di("01010000")
    assert load("dlt645/base_1997").find_obis(Obis("1-0:8.8.0")).di == Di("9140")


def test_obis_code_of_one_value_finds_the_record_that_holds_it() -> None:
    spec = load("dlt645/base_2007").find_obis(Obis("1-0:52.32.0"))
    values = decode(bytes.fromhex("010000 020000 030000 040000 050000 060000"), spec)
    assert [value.content for value in values if value.obis == Obis("1-0:52.32.0")] == [Decimal(3)]
    assert [value.name for value in values][:2] == [
        "Under-voltage: phase A count",
        "Under-voltage: phase A accumulated time",
    ]


def test_quadrants_of_1997_stand_in_the_order_one_four_two_three() -> None:
    contract = load("dlt645/base_1997")
    assert [contract.find(Di(f"91{digit}0")).name for digit in "3456"] == [
        "Quadrant I reactive energy, total",
        "Quadrant IV reactive energy, total",
        "Quadrant II reactive energy, total",
        "Quadrant III reactive energy, total",
    ]


def test_unknown_items_are_answered_with_the_nearest_there_are() -> None:
    contract = load("dlt645/base_2007")
    with pytest.raises(UnknownItem) as caught:
        contract.find(Di("0400010B"))
    assert "0400010A" in str(caught.value)
    with pytest.raises(UnknownItem, match=r"no 1-0:1\.9\.0; nearest: .*1-0:1\.8\.0"):
        contract.find_obis(Obis("1-0:1.9.0"))
    with pytest.raises(UnknownItem):
        contract.find(Di("9010"))
    with pytest.raises(UnknownItem):
        contract.find(Di("0001FFFF"))


def test_unknown_contracts_are_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownContract, match="dlt645/base_1997"):
        load("dlt645/base_2006")
    with pytest.raises(UnknownContract):
        load("../secrets")
    with pytest.raises(UnknownContract):
        load("/nowhere/meter.toml")


def test_extension_holds_differences_only(tmp_path: Path) -> None:
    contract = _load(
        tmp_path,
        f'{HEAD}extends = "dlt645/base_2007"\nmaker = "Acme"\n[limits]\ntariffs = 8\n'
        '[[quirks]]\nname = "ascii_order"\nvalue = "plain"\nsource = "seen"\n'
        '[[quirks]]\nname = "separators"\nvalue = "each"\nsource = "seen"\n'
        '[tables.phase]\n"03" = { name = "phase C, inverted", zh = "C", u = "72", i = "71" }\n'
        + ROW.replace("XXXXXX.XX", "XXXXXXX.X"),
    )
    assert (contract.maker, contract.limits.tariffs, contract.limits.read_data_max) == ("Acme", 8, 200)
    assert contract.separators is Separators.EACH
    assert contract.find(Di("00010000")).layout == "XXXXXXX.X"
    assert contract.find(Di("00020000")).layout == "XXXXXX.XX"
    assert contract.find(Di("02010300")).name == "Voltage, phase C, inverted"
    (text,) = decode(b"220.0V", contract.find(Di("04000404")))
    assert text.content == "220.0V"
    assert contract.find(Di("00010000")).source == f"{tmp_path}/meter.toml:00010000"


def test_a_mode_word_is_written_down_as_the_members_of_the_freeze_block(tmp_path: Path) -> None:
    contract = _load(
        tmp_path,
        f'{HEAD}extends = "dlt645/base_2007"\n[[rows]]\ndi = "0506FFnn"\nnn = "01..3E"\n'
        'name = "Daily freeze {nn}"\nsource = "04000906 = 03H"\npartial = false\n'
        'members = ["050600nn", "050601nn", "050602nn"]\n',
    )
    values = decode(
        bytes.fromhex("0000091015 AA 78563412 01000000 AA 02000000 03000000 AA"), contract.find(Di("0506FF02"))
    )
    assert [str(value.content) for value in values] == ["1510090000", "123456.78", "0.01", "0.02", "0.03"]
    assert values[1].name == "Daily freeze 2, forward active energy: total"


@pytest.mark.parametrize("key", ["name", "layout", "unit", "access", "source"])
def test_a_row_without_a_needed_key_is_refused(tmp_path: Path, key: str) -> None:
    lines = [line for line in ROW.splitlines() if not line.startswith(key)]
    refusal = _refusal(tmp_path, HEAD + "\n".join(lines))
    assert "00010000" in refusal
    assert f"{key} missing" in refusal


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('unit = "kWh"', 'unit = "kwh"'), "'kwh' is not a unit"),
        (('unit = "kWh"', 'unit = "kWh"\ncolour = "red"'), "unknown key colour"),
        (("XXXXXX.XX", "XXXXXX.YY"), "unknown format"),
        (("XXXXXX.XX", "ASCII*0"), "size must be 1 to 200"),
        (("XXXXXX.XX", "digits7"), "must be even"),
        (("XXXXXX.XX", "RAW,XX"), "must be the last field"),
        (("XXXXXX.XX", "1..3*XX,1..3*XX"), "only one field"),
        (("XXXXXX.XX", "X" * 26), "more than 24 digits"),
        (("XXXXXX.XX", "<nothing>"), "no layout named"),
        (('access = "r"', 'access = "read"'), "expected r, rw, w or x"),
        (('"00010000"', '"0001000"'), "not a pattern"),
        (('"00010000"', '"0001tt00"'), "tt missing"),
        (('"00010000"', '"0001tt00"\ntt = "tariffs"'), "no table 'tariffs'"),
        (('"1-0:1.8.0"', '"1-0:1.8"'), "is not an OBIS code"),
        (('"1-0:1.8.0"', '"1-0:{tt}.8.0"'), "is no placeholder"),
        (('source = "S07"', 'source = "S07"\nbytes = 3'), "the layout makes 4 bytes, the row says 3"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    assert problem in _refusal(tmp_path, HEAD + ROW.replace(*change))


def test_two_rows_for_one_item_are_refused(tmp_path: Path) -> None:
    other = ROW.replace('"00010000"', '"0001tt00"\ntt = "00..3F"')
    refusal = _refusal(tmp_path, HEAD + ROW + other)
    assert "answers 00010000, as row 00010000 does" in refusal


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[contract]\n", "protocol: expected one of"),
        ("", "section missing"),
        ("rows = 3\n" + HEAD, r"expected [[rows]]"),
        (HEAD + "[limits]\nread_data = 200\n", "unknown field `read_data`"),
        (HEAD + "[quirks]\nascii_order = 'plain'\n", "expected rows: [[quirks]]"),
        (HEAD + "[items]\n", "unknown key items"),
        (HEAD + "colour = 'red'\n", "unknown key colour"),
        (HEAD + "[tables.phase]\n'0G' = { name = 'x' }\n", "expected a hex value or a range"),
        (HEAD + "[tables.phase]\n'01' = { nmae = 'x' }\n", "unknown key nmae"),
        ("[contract\n", "is not TOML"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in _refusal(tmp_path, text)


def test_a_contract_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meter.toml"
    with pytest.raises(BadContract, match="extends itself"):
        _load(tmp_path, f'{HEAD}extends = "{path}"\n')


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert _load(tmp_path, HEAD + ROW).find(Di("00010000")).name == "Energy"
    changed = tmp_path / "meter.toml"
    changed.write_text(HEAD + ROW.replace('"Energy"', '"Import"'), encoding="utf-8")
    assert load(str(changed)).find(Di("00010000")).name == "Import"


def test_every_error_of_a_contract_is_a_contract_error() -> None:
    assert issubclass(BadContract, ContractError)
    assert issubclass(UnknownContract, ContractError)
    assert issubclass(UnknownItem, ContractError)


def test_families_name_every_item_in_few_lines() -> None:
    families = {family.di: family for family in load("dlt645/base_2007").items()}
    assert families["0001tthh"].name == "Forward active energy, <tt><hh>"
    assert families["0001tthh"].obis == "1-0:1.8.<tt><hh>"
    assert families["04000503"].unit == "bits"
    assert len(families) < 1000

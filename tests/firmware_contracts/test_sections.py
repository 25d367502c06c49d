"""Sections of a contract beside its rows: quirks as named rows with a source, what is offered, serial settings."""

from pathlib import Path

import msgspec
import pytest

from firmware_contracts.contract import Contract, contract_names, load
from firmware_contracts.errors import BadContract, NotOffered
from firmware_contracts.sections import QUIRK_MEANINGS, QuirkName, Quirks
from protocols.dlt645.items import Di
from protocols.values import Obis

HEAD = '[contract]\nprotocol = "dlt645-2007"\nextends = "dlt645/base_2007"\n'


def _load(folder: Path, text: str) -> Contract:
    path = folder / "meter.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return load(str(path))


def _quirk(name: str, value: str, source: str = "seen") -> str:
    return f'[[quirks]]\nname = "{name}"\nvalue = {value}\nsource = "{source}"\n'


def test_every_quirk_has_a_field_a_default_and_a_meaning() -> None:
    names = {name.value for name in QuirkName}
    assert {field.name for field in msgspec.structs.fields(Quirks)} == names
    assert {name.value for name in QUIRK_MEANINGS} == names


def test_the_document_names_every_quirk() -> None:
    text = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    for name, meaning in QUIRK_MEANINGS.items():
        assert f"| `{name.value}` |" in text
        assert meaning in text


def test_a_quirk_replaces_the_inherited_one_of_its_name_and_leaves_the_others(tmp_path: Path) -> None:
    contract = _load(tmp_path, _quirk("cover_bit", "10") + _quirk("missing_point", '"repeat"', "capture of 2026-03-04"))
    assert (contract.quirks.cover_bit, contract.quirks.missing_point) == (10, "repeat")
    assert contract.quirks.separators == "none"
    rows = {row.name: row for row in contract.quirk_rows}
    assert rows[QuirkName.MISSING_POINT].source == "capture of 2026-03-04"
    assert rows[QuirkName.COVER_BIT].value == 10
    assert rows[QuirkName.SEPARATORS].source == "S07"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_quirk("colour", '"red"'), "no such quirk: there are ascii_order, separators"),
        (_quirk("separators", '"some"'), "quirk separators: Invalid enum value 'some'"),
        (_quirk("preamble", "5"), "quirk preamble"),
        (_quirk("preamble", '"4"'), "quirk preamble"),
        (_quirk("preamble", "4", ""), "quirk preamble"),
        ('[[quirks]]\nname = "preamble"\nvalue = 4\n', "missing required field `source`"),
        (_quirk("preamble", "4") + 'because = "so"\n', "unknown field `because`"),
        (_quirk("preamble", "4") + _quirk("preamble", "3"), "quirk preamble: stands twice"),
        ('[quirks]\nseparators = "each"\n', "expected rows: [[quirks]]"),
        ('[serial]\nparity = "X"\n', "serial"),
        ("[passwords]\nwrite = 12\n", "passwords"),
        ("[limits]\nphases = 2\n", "limits"),
        ('[offers]\nitems = ["00zz"]\n', "expected the beginning of a DI"),
        ('[offers]\nitems = ["0001", "7F"]\n', "'7F' fits no item"),
        ('[offers]\nitems = ["00010000FF"]\n', "expected the beginning of a DI"),
    ],
)
def test_what_cannot_be_right_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(BadContract) as caught:
        _load(tmp_path, text)
    assert problem in str(caught.value)
    assert "meter.toml" in str(caught.value)


def test_what_is_left_out_is_not_found_and_says_so(tmp_path: Path) -> None:
    contract = _load(tmp_path, '[offers]\nitems = ["0001", "02xx01"]\nleft_out = ["0001xx0C"]\n[limits]\ntariffs = 2\n')
    assert contract.find(Di("00010000")).name == "Forward active energy, total"
    assert contract.find(Di("0001FF00")).members
    assert contract.find(Di("02010100")).name == "Voltage, phase A"
    for left_out in ("00020000", "0001000C", "02010200", "05060001"):
        with pytest.raises(NotOffered, match=left_out):
            contract.find(Di(left_out))
    assert contract.find_obis(Obis("1-0:32.7.0")).di == Di("02010100")
    with pytest.raises(LookupError):
        contract.find_obis(Obis("1-0:52.7.0"))


def test_tariffs_beyond_the_limit_are_not_offered_and_blocks_are(tmp_path: Path) -> None:
    contract = _load(tmp_path, '[offers]\nitems = ["0001", "0090"]\n[limits]\ntariffs = 1\n')
    assert [contract.has(Di(f"0001{tariff}00")) for tariff in ("00", "01", "02", "FF")] == [True, True, False, True]
    assert contract.has(Di("00900200"))  # 02 is no tariff there


def test_samples_stand_for_all_that_is_offered() -> None:
    contract = load("dlt645/generic_submeter")
    samples = [spec.di.text for spec in contract.samples()]
    assert len(samples) == len(set(samples))
    assert {"00010000", "0001FF00", "0201FF00", "04000503"} <= set(samples)
    assert "00020000" not in samples
    assert all(contract.has(Di(di)) for di in samples)


@pytest.mark.parametrize("name", contract_names())
def test_every_contract_loads_and_says_where_it_comes_from(name: str) -> None:
    contract = load(name)
    assert contract.description
    assert all(row.source for row in contract.quirk_rows)
    if contract.offers is not None:
        assert contract.provenance
        assert contract.maker == "generic"


def test_the_submeter_has_no_parity_and_no_follow_up() -> None:
    contract = load("dlt645/generic_submeter")
    assert (contract.serial.text, contract.limits.follow_up, contract.limits.phases) == ("9600 8N1", False, 1)

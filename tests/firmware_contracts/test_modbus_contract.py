"""What the loader of Modbus contracts refuses, inherits and finds; the relay's words; loading any contract by name."""

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from firmware_contracts.contract import Contract
from firmware_contracts.errors import BadContract, BadRegister, UnknownContract, UnknownItem
from firmware_contracts.library import contract_names, load_any
from firmware_contracts.lint import lint
from firmware_contracts.modbus_contract import ModbusContract, load_modbus, modbus_names, register_point
from protocols.modbus.pdu import Bits, ReadBits, ReadRegisters, Registers, WriteCoil, WriteCoils, WriteRegister
from protocols.modbus.points import PointType, WordOrder, decode_point
from protocols.values import Obis, Unit

GOOD_ROW = {
    "function": "4",
    "address": "0x0010",
    "type": '"int32"',
    "word_order": '"big"',
    "scale": '"0.01"',
    "unit": '"kWh"',
    "access": '"r"',
    "source": '"map"',
}


def written(tmp_path: Path, changed: Mapping[str, str | None] | None = None, *, sections: str = "") -> str:
    """The path of a contract with one point, keys changed or (None) left out."""
    row = {key: text for key, text in (GOOD_ROW | dict(changed or {})).items() if text is not None}
    path = tmp_path / "one.toml"
    path.write_text(
        f'[contract]\nprotocol = "modbus"\nprovenance = "made up"\n[sources]\nmap = ["made up"]\n{sections}\n'
        f"[[rows]]\n[rows.points]\nenergy = {{ {', '.join(f'{key} = {text}' for key, text in row.items())} }}\n"
    )
    return str(path)


def test_a_row_with_all_it_needs_is_taken(tmp_path: Path) -> None:
    (point,) = load_modbus(written(tmp_path)).points
    assert (point.address, point.width, point.scale, point.unit) == (16, 2, Decimal("0.01"), Unit.KWH)
    assert point.origin == "made up"


@pytest.mark.parametrize("key", GOOD_ROW)
def test_nothing_that_a_row_needs_may_be_missing(key: str, tmp_path: Path) -> None:
    with pytest.raises(BadContract, match=f"point energy: {key} missing"):
        load_modbus(written(tmp_path, {key: None}))


@pytest.mark.parametrize(
    ("key", "given", "problem"),
    [
        ("function", "5", "expected one of 3, 4"),
        ("function", "true", "expected one of 3, 4"),
        ("address", "65536", "0x0000 to 0xFFFF"),
        ("address", "-1", "0x0000 to 0xFFFF"),
        ("address", '"0x10"', "0x0000 to 0xFFFF"),
        ("address", "0xFFFF", "2 registers from FFFFH end beyond FFFFH"),
        ("type", '"int24"', "expected one of uint16"),
        ("word_order", '"middle"', "expected one of big, little"),
        ("scale", '"0"', "other than zero"),
        ("scale", '"NaN"', "other than zero"),
        ("scale", '"1E999999999"', "other than zero"),
        ("scale", '"0.01*CT"', "other than zero"),
        ("unit", '"furlong"', "is not a unit"),
        ("access", '"x"', "expected one of r, rw, w"),
        ("source", '"hearsay"', "'hearsay' is not in"),
        ("obis", '"1.8.0"', "is not an OBIS code"),
        ("ratio", '"vt"', "expected one of ct, pt"),
        ("width", "1", "int32 has 2 of 16 bits"),
        ("invalid", '["7FFF"]', "expected 8 hex digits for int32"),
        ("invalid", "[2147483647]", "list of hex texts"),
        ("colour", '"red"', "unknown key colour"),
    ],
)
def test_a_row_that_cannot_be_is_refused(key: str, given: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadContract, match=problem):
        load_modbus(written(tmp_path, {key: given}))


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ("[limits]\nregisters_max = 126", "<= 125"),
        ('[limits]\nholes = "maybe"', "maybe"),
        ("[limits]\nwindow = [2, 1]", "behind the last"),
        ("[limits]\nspeed = 9", "speed"),
        ('[invalid]\nint8 = ["FF"]', "unknown key int8"),
        ("[colours]", "unknown key colours"),
        ("[ratios]\nvt = { }", "unknown key vt"),
        ("[ratios]\nct = 5", "expected the keys of a point"),
        ('[offers]\nleft_out = ["power"]', "'power' is no point"),
        ('[serial]\nparity = "X"', "parity"),
        (
            '[relay]\nkind = "coil"\naddress = 0\non = 1\noff = 0\nsource = "x"\nstatus = { kind = "coil", address = 0 }',
            "0xFF00",
        ),
        ('[relay]\nkind = "coil"\naddress = 0\non = 0xFF00\noff = 0\nsource = "x"', "status"),
        (
            '[relay]\nkind = "holding"\naddress = 0\non = 1\noff = 2\nsource = "x"\n'
            'status = { kind = "holding", address = 0, mask = 2, on = 1 }',
            "cannot come out of mask",
        ),
    ],
)
def test_a_section_that_cannot_be_is_refused(sections: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadContract, match=problem):
        load_modbus(written(tmp_path, sections=sections))


def test_a_file_of_another_protocol_or_without_points_is_no_modbus_contract(tmp_path: Path) -> None:
    with pytest.raises(BadContract, match="expected modbus"):
        load_modbus("dlt645/base_2007")
    empty = tmp_path / "empty.toml"
    empty.write_text('[contract]\nprotocol = "modbus"\n')
    with pytest.raises(BadContract, match="no points"):
        load_modbus(str(empty))
    with pytest.raises(UnknownContract, match="modbus/abb_b23"):
        load_modbus("modbus/nothing")


def test_a_contract_inherits_rows_and_sections_and_replaces_them_by_name() -> None:
    base, em24 = load_modbus("modbus/carlo_gavazzi_em340"), load_modbus("modbus/carlo_gavazzi_em24")
    assert (base.limits.registers_max, em24.limits.registers_max) == (50, 11)
    assert em24.limits.either_function
    assert em24.find("voltage_l1").address == base.find("voltage_l1").address
    assert (base.find("frequency").address, em24.find("frequency").address) == (0x33, 0x37)
    assert "em24.go" in em24.find("voltage_l1").origin
    assert em24.notes != base.notes


def test_inherited_points_can_be_left_out() -> None:
    names = {point.name for point in load_modbus("modbus/finder_7m38").points}
    assert "voltage" not in names
    assert {"voltage_l1", "import_active_energy"} <= names


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert load_modbus(written(tmp_path)).points[0].address == 16
    path = Path(written(tmp_path, {"address": "0x0020"}))
    os.utime(path, ns=(1, 1))
    assert load_modbus(str(path)).points[0].address == 32


def test_the_published_reply_of_an_sdm_reads_through_its_contract() -> None:
    point = load_modbus("modbus/eastron_sdm630").find_obis(Obis("1-0:32.7.0"))
    # Published in arendst/Tasmota as 230.2 V. The float next to 230.2 ends in 33H; this one is the next above it.
    assert decode_point(point, bytes.fromhex("43 66 33 34")) == Decimal("230.20001")
    assert decode_point(point, bytes.fromhex("43 66 33 33")) == Decimal("230.2")


def test_power_comes_out_in_kilowatts_exactly() -> None:
    watts = load_modbus("modbus/orno_we504").find("active_power")
    kilowatts = load_modbus("modbus/orno_we516").find("active_power")
    assert decode_point(watts, (1234).to_bytes(2, "big")) == Decimal("1.234")
    assert (watts.unit, kilowatts.unit, kilowatts.scale) == (Unit.KW, Unit.KW, Decimal(1))


def test_what_is_not_measured_is_never_a_number() -> None:
    abb, gavazzi = load_modbus("modbus/abb_b23"), load_modbus("modbus/carlo_gavazzi_em24")
    schneider = load_modbus("modbus/schneider_iem3000")
    for point, content in (
        (abb.find("export_active_energy"), "FF FF FF FF FF FF FF FF"),
        (abb.find("voltage_l2"), "FF FF FF FF"),
        (abb.find("active_power"), "7F FF FF FF"),
        (abb.find("power_factor"), "7F FF"),
        (gavazzi.find("active_power"), "FF FF 7F FF"),  # low word first
        (schneider.find("voltage_l1"), "7F C0 00 00"),
        (schneider.find("voltage_l1"), "FF C0 00 00"),
    ):
        assert decode_point(point, bytes.fromhex(content)) is None, point.source


def test_secondary_values_say_with_what_they_are_multiplied() -> None:
    dtsu = load_modbus("modbus/chint_dtsu666")
    assert [dtsu.find(name).ratio for name in ("voltage_l1", "current_l1", "active_power", "frequency")] == [
        "pt",
        "ct",
        "ct*pt",
        "",
    ]
    assert (dtsu.ratios["ct"].address, dtsu.ratios["pt"].scale) == (6, Decimal("0.1"))
    assert not any(point.ratio for point in load_modbus("modbus/acrel_adl400_primary").points)


def test_a_version_with_energies_elsewhere_shares_everything_else() -> None:
    usual, other = load_modbus("modbus/chint_dtsu666"), load_modbus("modbus/chint_dtsu666_401e")
    assert (usual.find("import_active_energy").address, other.find("import_active_energy").address) == (0x101E, 0x401E)
    assert other.find("voltage_l1").address == usual.find("voltage_l1").address
    assert set(other.ratios) == {"ct", "pt"}


def test_a_name_or_code_that_is_not_there_gets_the_nearest() -> None:
    sdm = load_modbus("modbus/eastron_sdm630")
    with pytest.raises(UnknownItem, match="voltage_l1"):
        sdm.find("voltage_l4")
    with pytest.raises(UnknownItem, match=r"1-0:1\.8\.0"):
        sdm.find_obis(Obis("1-0:1.8.3"))


def test_a_register_of_the_contract_has_its_scale_and_unit() -> None:
    sdm = load_modbus("modbus/eastron_sdm630")
    assert sdm.find_register("reg:4:0x0034:float32") is sdm.find("active_power")
    assert sdm.find_register("reg:4:52:float32") is sdm.find("active_power")


def test_a_register_without_a_row_is_a_bare_number() -> None:
    point = load_modbus("modbus/eastron_sdm630").find_register("reg:3:0x0100:uint16")
    assert (point.unit, point.scale, point.obis, point.width) == (Unit.NONE, Decimal(1), None, 1)
    assert point.source == "modbus/eastron_sdm630:reg:3:0x0100:uint16"


def test_a_register_of_a_meter_with_the_low_word_first_must_say_so() -> None:
    em24 = load_modbus("modbus/carlo_gavazzi_em24")
    assert em24.find_register("reg:4:0x0028:int32:little") is em24.find("active_power")
    assert em24.find_register("reg:4:0x0037:int16") is em24.find("frequency")
    assert em24.find_register("reg:4:0x0100:int32:little").word_order is WordOrder.LITTLE
    for text in ("reg:4:0x0028:int32", "reg:4:0x0100:int32", "reg:4:0x0100:int32:big"):
        with pytest.raises(BadRegister, match=":int32:little"):
            em24.find_register(text)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("reg:4:0x48:float32", "reg:4:0x0048:float32"),
        ("reg:3:72:uint64:big", "reg:3:0x0048:uint64"),
        ("reg:3:0XfF:int32:little", "reg:3:0x00FF:int32:little"),
        ("reg:3:1:int16:little", "reg:3:0x0001:int16"),
    ],
)
def test_a_register_has_one_spelling(text: str, spelled: str) -> None:
    assert register_point(text).name == spelled
    assert register_point(spelled).name == spelled


@pytest.mark.parametrize(
    "text",
    ["reg:", "reg:4", "reg:4:0:float32:", "reg:6:0:float32", "reg:4:70000:int16", "reg:4:0xFFFF:int32", "reg:4:0:int7",
     "reg:4:0x10000:int16", "reg:4:0:float32:middle", "reg:-4:0:int16", "1-0:1.8.0", "reg:4:٠:int16"],
)  # fmt: skip
def test_text_that_names_no_register_is_refused(text: str) -> None:
    with pytest.raises(BadRegister, match="expected reg:FUNCTION:ADDRESS:TYPE"):
        register_point(text)


def test_the_relay_is_ordered_by_coil_and_read_back_from_its_contact() -> None:
    relay = load_modbus("modbus/generic_relay_meter").relay
    assert relay is not None
    assert relay.command(closed=True) == WriteCoil(0, True)
    assert relay.command(closed=False) == WriteCoil(0, False)
    assert relay.status.request() == ReadBits(2, 0, 1)
    assert relay.status.is_closed(Bits(2, (True,)))
    assert not relay.status.is_closed(Bits(2, (False,)))


def test_a_relay_in_registers_has_words_and_a_mask(tmp_path: Path) -> None:
    relay = load_modbus(
        written(
            tmp_path,
            sections='[relay]\nkind = "holding"\naddress = 0x100\non = 0x55\noff = 0xAA\nsource = "x"\n'
            '[relay.status]\nkind = "input"\naddress = 0x50\nmask = 0x3\non = 0x1',
        )
    ).relay
    assert relay is not None
    assert relay.command(closed=False) == WriteRegister(0x100, 0xAA)
    assert relay.status.request() == ReadRegisters(4, 0x50, 1)
    assert relay.status.is_closed(Registers(4, b"\xff\x02")) is False
    assert relay.status.is_closed(Registers(4, b"\xf0\x01")) is True


def test_a_coil_that_holds_the_contact_open_is_written_the_other_way_round(tmp_path: Path) -> None:
    relay = load_modbus(
        written(
            tmp_path,
            sections='[relay]\nkind = "coil"\naddress = 7\non = 0\noff = 0xFF00\nfunction = 15\nsource = "x"\n'
            '[relay.status]\nkind = "coil"\naddress = 7\non = 0',
        )
    ).relay
    assert relay is not None
    assert relay.command(closed=True) == WriteCoils(7, (False,))
    assert relay.status.is_closed(Bits(1, (False,)))


def test_any_contract_is_loaded_by_its_protocol(tmp_path: Path) -> None:
    assert isinstance(load_any("dlt645/base_2007"), Contract)
    assert isinstance(load_any("modbus/abb_b23"), ModbusContract)
    assert load_any("modbus/abb_b23") is load_any("modbus/abb_b23")
    assert isinstance(load_any(written(tmp_path)), ModbusContract)
    assert set(modbus_names()) < set(contract_names())
    other = tmp_path / "other.toml"
    other.write_text('[contract]\nprotocol = "telepathy"\n')
    with pytest.raises(BadContract, match="expected one of dlt645-2007"):
        load_any(str(other))
    with pytest.raises(UnknownContract):
        load_any("nowhere/nothing")


def test_every_type_of_the_contracts_is_used_as_it_is_declared() -> None:
    used = {point.type for name in modbus_names() for point in load_modbus(name).points}
    assert {PointType.FLOAT32, PointType.UINT64, PointType.INT64, PointType.INT16} <= used


def test_the_example_in_the_documentation_is_a_contract_without_findings(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    (example,) = (part.partition("```")[0] for part in text.split("```toml\n")[1:] if 'protocol = "modbus"' in part)
    path = tmp_path / "example.toml"
    path.write_text(example, encoding="utf-8")
    assert lint(str(path)) == []
    contract = load_modbus(str(path))
    assert (contract.find("active_power").scale, contract.find("active_power").unit) == (Decimal("0.0001"), Unit.KW)
    assert contract.relay is not None

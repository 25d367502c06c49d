"""To whom an order may go, who may answer to it, in which lane it waits, and who alone may send one."""

import ast
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

import headend
from headend.commands.model import Kind
from headend.drivers.errors import MeterSwapped
from headend.drivers.line import Priority
from headend.drivers.relay import (
    BadSwitchAddress,
    Expected,
    SwitchAddress,
    Told,
    Witness,
    check_identity,
    lane_of,
)
from headend.model import MeterRecord
from simulators.virtual_time import START
from tests.headend.drivers.relay_support import ADDRESS, a_record

ROOT = Path(headend.__file__).parent


@given(st.text(max_size=14) | st.from_regex(r"[0-9aA]{12}", fullmatch=True))
def test_only_one_meter_can_be_written_as_an_address(text: str) -> None:
    is_one = len(text) == 12 and text.isascii() and text.isdigit() and text != "9" * 12
    if is_one:
        assert SwitchAddress(text).text == text
    else:
        with pytest.raises(BadSwitchAddress):
            SwitchAddress(text)


@given(st.integers(-10, 300) | st.text(max_size=4))
def test_only_one_unit_can_be_written_as_an_address(given_: int | str) -> None:
    text = str(given_)
    if text.isascii() and text.isdigit() and text == str(int(text)) and 1 <= int(text) <= 247:
        assert SwitchAddress(text, is_unit=True).text == text
    else:
        with pytest.raises(BadSwitchAddress):
            SwitchAddress(text, is_unit=True)


def test_bringing_a_supply_back_goes_before_everything_and_an_open_before_reads() -> None:
    assert [lane_of(kind) for kind in (Kind.CLOSE, Kind.PERMIT_CLOSE, Kind.PROTECT, Kind.UNPROTECT)] == [
        Priority.RECONNECT
    ] * 4
    assert lane_of(Kind.CLOSE) < lane_of(Kind.OPEN) < lane_of(Kind.STATUS) < Priority.LIVE


METER = a_record()
FITS = [
    (Told(number=ADDRESS), Expected(), True),
    (Told(number="M000017"), Expected(), True),
    (Told(asset="M000017"), Expected(), True),
    (Told(asset=f"4130000{ADDRESS}3"), Expected(), True),  # a grid company's bar code has the address in it
    (Told(address=ADDRESS), Expected(), False),
    (Told(), Expected(), False),
    (Told(number="0" * 12, asset="  "), Expected(), False),
    (Told(number="123", asset="X"), Expected(number="123", asset="X"), True),
    (Told(number="123"), Expected(number="123", asset="X"), True),  # the contract has no asset code: missing says so
]
ANOTHER = [
    (Told(address="000000000018"), Expected()),
    (Told(number="000000000018"), Expected()),
    (Told(number=ADDRESS, asset="SIM-000000000018"), Expected()),
    (Told(number=ADDRESS), Expected(number="123")),
    (Told(asset=f"SIM-{ADDRESS}"), Expected(asset="X")),
    (Told(number="0" * 12), Expected(number="123")),
    (Told(asset="M0000171"), Expected()),
]


@pytest.mark.parametrize(("told", "expected", "proven"), FITS)
def test_who_answers_as_the_record_says_is_who_is_meant(told: Told, expected: Expected, proven: bool) -> None:
    missing = {name: "not offered" for name in ("number", "asset") if not getattr(told, name)}
    assert check_identity(METER, told, expected, missing).is_proven is proven


@pytest.mark.parametrize(("told", "expected"), ANOTHER)
def test_who_answers_otherwise_is_another_meter(told: Told, expected: Expected) -> None:
    with pytest.raises(MeterSwapped, match="nothing was sent") as swapped:
        check_identity(METER, told, expected, {})
    assert swapped.value.kind == "contradicted"
    assert not swapped.value.retryable


def test_a_units_number_is_not_its_proof() -> None:
    """A serial number of 5 behind unit 5 is chance; only the asset number or the records prove."""
    meter = MeterRecord(id="M5", line="l", address="5", contract="", plan="", protocol="modbus-rtu")
    with pytest.raises(MeterSwapped):
        check_identity(meter, Told(number="5"), Expected(), {})
    with pytest.raises(MeterSwapped):
        check_identity(meter, Told(asset="A-5-B"), Expected(), {})


def test_events_are_counted_as_far_as_they_are_told() -> None:
    assert Witness(contact="open", at=START, trips=3, closes=2).events == 5
    assert Witness(contact="open", at=START, trips=3).events == 3
    assert Witness(contact="open", at=START).events is None


# ------------------------------------------------------------------------------------------------ who alone may send


class Words(Struct, frozen=True):
    """names: used or imported. calls: of methods. ops: members of Op."""

    names: set[str]
    calls: set[str]
    ops: set[str]


@cache
def modules() -> dict[str, Words]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        words = Words(set(), set(), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name):
                words.names.add(node.id)
            elif isinstance(node, ast.ImportFrom):
                words.names.update(one.name for one in node.names)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words.calls.add(node.func.attr)
            elif isinstance(node, ast.Attribute):
                words.names.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id == "Op":
                    words.ops.add(node.attr)
        found[str(path.relative_to(ROOT))] = words
    return found


EXPLAINS = {"explain/items.py", "explain/modbus.py"}  # render frames that others have sent
SENDERS = {
    "drivers/dlt645_relay.py": "1CH",
    "drivers/modbus_relay.py": "a relay's coil or register",
    "concentrators/relay.py": "a concentrator's open, permit-close, close",
}


def test_one_module_for_each_protocol_can_say_a_switching_order() -> None:
    """By the words without which none can be made: 1CH's message, a Modbus relay's command, a concentrator's operations."""
    for name, words in modules().items():
        if name in EXPLAINS:
            continue
        if name != "drivers/dlt645_relay.py":
            assert not {"RelayRequest", "RelayOrder", "Private"} & words.names, name
        if name != "drivers/modbus_relay.py":
            assert not {"WriteCoil", "WriteCoils"} & words.names, name
            assert not ("ModbusRelay" in words.names and "command" in words.calls), name
        if name != "concentrators/relay.py":
            assert not {"OPEN", "PERMIT_CLOSE", "CLOSE"} & words.ops, name
    said = modules()
    assert "RelayRequest" in said["drivers/dlt645_relay.py"].names
    assert "command" in said["drivers/modbus_relay.py"].calls
    assert said["concentrators/relay.py"].ops >= {"OPEN", "PERMIT_CLOSE", "CLOSE"}


def test_only_the_command_room_orders_and_only_the_application_makes_switches() -> None:
    for name, words in modules().items():
        if {"Dlt645Switch", "ModbusSwitch", "ConcentratorSwitch"} & words.names:
            is_maker = name in SENDERS or name.startswith(("app", "commands/", "assembly/switching.py"))
            assert is_maker, f"{name} makes or uses a supply switch"
        if "order" in words.calls:
            assert name.startswith("commands/") or name in SENDERS, f"{name} orders"


def test_where_two_meters_have_one_address_a_number_that_is_the_address_proves_nothing() -> None:
    """Lines get mixed up, and then the other one answers under the same address with the same digits."""
    meter = MeterRecord(id="M1", line="l", address="000000000001", contract="", plan="", protocol="dlt645")
    shared = Expected(is_address_shared=True)
    found = check_identity(meter, Told(number="000000000001", asset="CN-000000000001-7"), shared, {})
    assert not found.is_proven
    assert all("another meter here has" in found.missing[name] for name in ("number", "asset"))
    assert check_identity(meter, Told(number="000000000001", asset="M1"), shared, {}).is_proven
    assert check_identity(meter, Told(number="000000000001"), Expected(), {}).is_proven
    given = Expected(number="000000000001", is_address_shared=True)
    assert check_identity(meter, Told(number="000000000001"), given, {}).is_proven, "the records say so themselves"
    with pytest.raises(MeterSwapped):
        check_identity(meter, Told(number="000000000002"), shared, {})

"""A Modbus meter asked by messages: registers of every contract, refusals, settings, ratios, the relay."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_contracts.modbus_contract import ModbusRelay, ModbusRelayStatus, load_modbus, modbus_names
from protocols.modbus import pdu as p
from protocols.modbus.adu import RtuFrame, TcpFrame
from protocols.modbus.points import decode_point
from protocols.values import Obis
from simulators.load_curve import Kind
from simulators.modbus_image import Exc
from simulators.modbus_meter import ModbusMeter
from tests.simulators.modbus_bench import (
    ALL_CONTRACTS,
    NOW,
    RELAY,
    assert_shows,
    modbus_meter,
    model,
    registers,
    rows_of,
    width,
)

SECOND = timedelta(seconds=1)
SDM630 = "modbus/eastron_sdm630"
ABB = "modbus/abb_b23"


def code(meter: ModbusMeter, request: p.Request) -> int:
    reply = meter.answer(request, NOW)
    assert isinstance(reply, p.ModbusException), reply
    return reply.code


def amount(meter: ModbusMeter, obis: str) -> Decimal | None:
    point = meter.contract.find_obis(Obis(obis))
    words = registers(meter, point.function, point.address, point.width)
    return decode_point(point, b"".join(word.to_bytes(2, "big") for word in words))


@pytest.mark.parametrize("contract", ALL_CONTRACTS)
def test_every_row_of_the_table_shows_what_the_model_has(contract: str) -> None:
    meter = modbus_meter(contract)
    for row in rows_of(contract):
        assert_shows(meter.model, row, registers(meter, int(row["fc"]), int(row["address"], 16), width(row)))


@pytest.mark.parametrize("contract", sorted(modbus_names()))
def test_every_block_that_the_planner_makes_is_answered(contract: str) -> None:
    meter = modbus_meter(contract)
    assert meter.image.unmodelled == ()
    for block in meter.contract.plan(meter.contract.points):
        reply = meter.answer(p.ReadRegisters(block.function, block.start, block.count), NOW)
        assert isinstance(reply, p.Registers)
        assert len(reply.content) == 2 * block.count
        for point in block.points:
            assert decode_point(point, block.content_of(point, reply.content)) is not None, point.name


def test_phases_add_up_and_export_is_counted_apart() -> None:
    meter = modbus_meter(SDM630)
    parts = [amount(meter, f"1-0:{group}.8.0") or Decimal(0) for group in (21, 41, 61)]
    whole = amount(meter, "1-0:1.8.0")
    assert whole is not None
    assert abs(sum(parts) - whole) < Decimal("0.1")  # what a float32 of 300000 kWh can tell
    noon = NOW.replace(hour=5)
    sunny = ModbusMeter(model(solar=True, seed=8), load_modbus("modbus/eastron_sdm120"), 1)
    assert sunny.model.power(noon).watts[0] < 0
    point = sunny.contract.find_obis(Obis("1-0:16.7.0"))
    words = registers(sunny, 4, point.address, 2, noon)
    assert (decode_point(point, b"".join(word.to_bytes(2, "big") for word in words)) or 0) < 0
    assert (amount(sunny, "1-0:2.8.0") or 0) > 0
    assert (amount(sunny, "1-0:11.7.0") or 0) > 0  # a current has no direction


def test_phases_that_a_meter_has_not_are_marked_or_nothing() -> None:
    single = model(Kind.HOUSEHOLD)
    abb = ModbusMeter(single, load_modbus(ABB), 1)
    assert registers(abb, 3, 0x5B00, 6)[2:] == [0xFFFF] * 4  # voltages of L2 and L3, unsigned
    assert registers(abb, 3, 0x5B18, 2) == [0x7FFF, 0xFFFF]  # power of L2, signed
    schneider = ModbusMeter(single, load_modbus("modbus/schneider_iem3000"), 1)
    l2 = schneider.contract.find_obis(Obis("1-0:52.7.0"))
    assert registers(schneider, 3, l2.address, 2) == [0x7FC0, 0x0000]
    acrel = ModbusMeter(single, load_modbus("modbus/acrel_adl400"), 1)
    assert registers(acrel, 3, 0x0061, 3)[1:] == [0, 0]  # no mark: such meters show 0


def test_a_block_must_be_within_the_limits_of_its_maker() -> None:
    sdm630 = modbus_meter(SDM630)
    assert len(registers(sdm630, 4, 0, 80)) == 80
    assert code(sdm630, p.ReadRegisters(4, 0, 82)) == Exc.VALUE
    assert code(sdm630, p.ReadRegisters(4, 0, 3)) == Exc.VALUE  # even ones only
    em24 = modbus_meter("modbus/carlo_gavazzi_em24")
    assert code(em24, p.ReadRegisters(4, 0, 12)) == Exc.VALUE
    assert code(modbus_meter(ABB), p.ReadRegisters(3, 0x0FFE, 4)) == Exc.ADDRESS  # outside its window


def test_holes_are_refused_or_filled_as_the_contract_or_the_caller_says() -> None:
    ddsu = modbus_meter("modbus/chint_ddsu666")
    assert code(ddsu, p.ReadRegisters(3, 0x2000, 12)) == Exc.ADDRESS  # 2008H is none of its registers
    assert code(ddsu, p.ReadRegisters(3, 0xFFFF, 1)) == Exc.ADDRESS
    assert registers(modbus_meter("modbus/chint_ddsu666", holes="allowed"), 3, 0x2000, 12)[8:10] == [0, 0]
    assert registers(modbus_meter(ABB), 3, 0x5008, 2) == [0xFFFF] * 2
    assert code(modbus_meter(ABB, holes="rejected"), p.ReadRegisters(3, 0x5008, 2)) == Exc.ADDRESS


def test_half_a_number_is_answered_as_it_stands() -> None:
    em340 = modbus_meter("modbus/carlo_gavazzi_em340")
    assert registers(em340, 4, 1, 2) == registers(em340, 4, 0, 4)[1:3]


def test_functions_are_those_of_the_contract() -> None:
    sdm630 = modbus_meter(SDM630)
    assert code(sdm630, p.ReadBits(1, 0, 1)) == Exc.FUNCTION
    assert code(sdm630, p.WriteRegister(0, 1)) == Exc.FUNCTION  # no FC06, its maker says
    hiking = modbus_meter("modbus/hiking_dds238_2")
    assert code(hiking, p.WriteRegister(0x15, 0x0101)) == Exc.FUNCTION
    assert code(hiking, p.WriteRegisters(0x15, (0x0101,))) == Exc.ADDRESS  # no row says what it does
    both = modbus_meter("modbus/chint_ddsu666")
    assert registers(both, 3, 0x2000, 2) == registers(both, 4, 0x2000, 2)


def test_secondary_registers_stay_and_primary_ones_grow_with_the_ratios() -> None:
    ratios: dict[str, Any] = {"ct": Decimal(40), "pt": Decimal(100)}
    secondary, plain = modbus_meter("modbus/chint_dtsu666", **ratios), modbus_meter("modbus/chint_dtsu666")
    assert registers(secondary, 3, 0x2006, 8) == registers(plain, 3, 0x2006, 8)
    assert registers(secondary, 3, 0x0006, 2) == [40, 1000]  # the PT ratio in tenths
    assert registers(plain, 3, 0x0006, 2) == [1, 10]
    primary, plain = modbus_meter("modbus/acrel_adl400_primary", **ratios), modbus_meter("modbus/acrel_adl400_primary")
    for obis, factor in (("1-0:32.7.0", 100), ("1-0:31.7.0", 40), ("1-0:36.7.0", 4000), ("1-0:14.7.0", 1)):
        one, other = amount(plain, obis), amount(primary, obis)
        assert one is not None
        assert other == pytest.approx(one * factor, rel=Decimal("1e-6")), obis
    acrel = modbus_meter("modbus/acrel_adl3000_e", ct=Decimal(80), pt=Decimal(1))
    assert registers(acrel, 3, 331, 2) == [0, 80]


def test_what_does_not_fit_a_register_is_not_shown_and_energies_start_again() -> None:
    large = modbus_meter("modbus/carlo_gavazzi_em340", ct=Decimal(10_000), pt=Decimal(10_000))
    assert registers(large, 4, 0x0028, 2) == [0xFFFF, 0x7FFF]  # its mark for overflow, low word first
    kwh = amount(large, "1-0:1.8.0")
    counted = large.model.energies(NOW)[:4]
    assert kwh is not None
    exact = Decimal(sum(counted) // 3600).scaleb(-3) * 100_000_000
    assert kwh == exact % (Decimal(2**31) / 10)


# ------------------------------------------------------------------------------------------ relay


def contact(meter: ModbusMeter, after_s: float = 0.0) -> tuple[bool, bool]:
    """The coil and the discrete input."""
    now = NOW + after_s * SECOND
    coil, state = meter.answer(p.ReadBits(1, 0, 1), now), meter.answer(p.ReadBits(2, 0, 1), now)
    assert isinstance(coil, p.Bits)
    assert isinstance(state, p.Bits)
    return coil.bits[0], state.bits[0]


def test_a_coil_switches_the_supply_and_the_input_tells_where_the_contact_is() -> None:
    meter = modbus_meter(RELAY)
    assert contact(meter) == (True, True)
    assert meter.answer(p.WriteCoil(0, False), NOW) == p.Written(5, 0, 0x0000)
    assert contact(meter) == (False, False)
    assert meter.model.relay_open(NOW)
    assert meter.model.power(NOW).watts == (0,)
    assert meter.answer(p.WriteCoil(0, True), NOW + SECOND) == p.Written(5, 0, 0xFF00)
    assert contact(meter, 1) == (True, True)


def test_a_slow_contact_follows_its_order_later() -> None:
    meter = modbus_meter(RELAY, relay_delay_s=2.0)
    meter.answer(p.WriteCoil(0, False), NOW)
    assert contact(meter, 1.9) == (False, True)
    assert meter.next_change == NOW + 2 * SECOND
    assert contact(meter, 2.0) == (False, False)
    assert meter.model.trips[0].at == meter.model.clock(NOW + 2 * SECOND)


def test_a_stuck_contact_is_seen_at_the_input_only() -> None:
    meter = modbus_meter(RELAY)
    meter.model.relay.stuck = True
    assert isinstance(meter.answer(p.WriteCoil(0, False), NOW), p.Written)
    assert contact(meter) == (False, True)


def test_an_order_may_be_acknowledged_and_not_done() -> None:
    meter = modbus_meter(RELAY)
    meter.pretends = True
    assert meter.answer(p.WriteCoil(0, False), NOW) == p.Written(5, 0, 0x0000)
    assert contact(meter) == (True, True)


def test_other_coils_words_and_orders_against_protection_are_refused() -> None:
    meter = modbus_meter(RELAY)
    assert code(meter, p.WriteCoil(1, False)) == Exc.ADDRESS
    assert code(meter, p.ReadBits(1, 0, 2)) == Exc.ADDRESS
    assert code(meter, p.WriteCoils(0, (False,))) == Exc.FUNCTION  # the contract has not got it
    frame = meter.receive(RtuFrame(1, bytes.fromhex("05 0000 1234")), NOW)
    assert frame == RtuFrame(1, bytes((0x85, Exc.VALUE)))
    meter.model.protect(NOW)
    assert code(meter, p.WriteCoil(0, False)) == Exc.FAILURE
    assert contact(meter) == (True, True)


class _Promise:
    """A contract whose relay is a holding register, which no built-in one has; the rest is the relay meter's."""

    def __init__(self, relay: ModbusRelay) -> None:
        own = load_modbus(RELAY)
        self.name, self.points, self.ratios, self.relay = own.name, own.points, own.ratios, relay
        self.limits = type(own.limits)(registers_max=10, holes="rejected", phases=1)


def test_a_holding_register_takes_its_magic_words_only_and_is_read_back() -> None:
    status = ModbusRelayStatus(kind="holding", address=0x0301, mask=0x0030, on=0x0010)
    relay = ModbusRelay(kind="holding", address=0x0300, on=0xAA55, off=0x55AA, status=status, source="constructed")
    meter = ModbusMeter(model(), _Promise(relay), 1, relay_delay_s=1.0)  # type: ignore[arg-type]
    assert registers(meter, 3, 0x0300, 2) == [0xAA55, 0x0010]
    assert code(meter, p.WriteRegister(0x0300, 1)) == Exc.VALUE
    assert code(meter, p.WriteRegisters(0x0300, (0x55AA, 0x55AA))) == Exc.VALUE
    assert meter.answer(p.WriteRegister(0x0300, 0x55AA), NOW) == p.Written(6, 0x0300, 0x55AA)
    assert registers(meter, 3, 0x0300, 2) == [0x55AA, 0x0010]
    assert registers(meter, 3, 0x0300, 2, NOW + SECOND) == [0x55AA, 0x0020]
    assert meter.answer(p.WriteRegisters(0x0300, (0xAA55,)), NOW + SECOND) == p.Written(16, 0x0300, 1)
    assert registers(meter, 3, 0x0301, 1, NOW + 2 * SECOND) == [0x0010]
    assert code(meter, p.WriteRegister(0x0302, 1)) == Exc.ADDRESS


# ------------------------------------------------------------------------------------------ frames


def test_the_published_frames_are_answered_as_published() -> None:
    relay = modbus_meter(RELAY)
    for wire in ("01 05 00 00 FF 00 8C 3A", "01 05 00 00 00 00 CD CA"):
        frame = RtuFrame.from_bytes(bytes.fromhex(wire))
        reply = relay.receive(frame, NOW)
        assert reply is not None
        assert relay.to_wire(reply) == bytes.fromhex(wire)
    strict = modbus_meter("modbus/finder_7m24")
    nowhere = strict.receive(RtuFrame.from_bytes(bytes.fromhex("01 04 00 00 00 02 71 CB")), NOW)
    assert nowhere is not None
    assert strict.to_wire(nowhere) == bytes.fromhex("01 84 02 C2 C1")


def test_a_reply_is_framed_as_its_request() -> None:
    meter = modbus_meter(SDM630)
    pdu = p.encode_request(p.ReadRegisters(4, 0, 2))
    reply = meter.receive(TcpFrame(0x1234, 1, pdu), NOW)
    assert isinstance(reply, TcpFrame)
    assert reply.transaction == 0x1234
    assert meter.receive(RtuFrame(1, pdu), NOW) == RtuFrame(1, reply.pdu)


def test_unknown_functions_are_refused_as_such() -> None:
    meter = modbus_meter(SDM630)
    for function in (7, 8, 17, 22, 23, 43):
        assert meter.receive(RtuFrame(1, bytes((function, 0, 0))), NOW) == RtuFrame(1, bytes((0x80 | function, 1)))


@given(st.binary(min_size=1, max_size=253))
def test_no_pdu_whatever_stops_a_meter(pdu: bytes) -> None:
    for contract in (RELAY, SDM630):
        reply = modbus_meter(contract).receive(RtuFrame(1, pdu), NOW)
        assert reply is None or len(reply.to_bytes()) <= 256

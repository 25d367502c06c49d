"""The constructed frames of every function without a public capture, byte for byte, in both directions.

Meter 123456789012, passwords 000000, operator 01020304, made from the standard's text and the addenda. The simulated
meter gives the very reply, and our reader of messages reads and writes the same bytes.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from firmware_contracts.contract import load
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.load_record import decode_blocks, encode_blocks
from protocols.values import MeterAddress
from simulators.dlt645_meter import Dlt645Meter
from simulators.measurement import Instant
from simulators.meter import MeterModel
from tests.simulators.bench import ADDRESS, NOW, ask, meter, relay

PAIRS = {
    "instant freeze, broadcast": ("68 99 99 99 99 99 99 68 16 04 CC CC CC CC B0 16", ""),
    "daily freeze at 00:30": ("68 12 90 78 56 34 12 68 16 04 63 33 CC CC CE 16", "68 12 90 78 56 34 12 68 96 00 1C 16"),
    "change level-4 password": (
        "68 12 90 78 56 34 12 68 18 0C 38 3F 33 37 37 33 33 33 37 44 44 44 5E 16",
        "68 12 90 78 56 34 12 68 98 04 37 44 44 44 25 16",
    ),
    "clear meter": (
        "68 12 90 78 56 34 12 68 1A 08 35 33 33 33 34 35 36 37 4C 16",
        "68 12 90 78 56 34 12 68 9A 00 20 16",
    ),
    "clear all events": (
        "68 12 90 78 56 34 12 68 1B 0C 35 33 33 33 34 35 36 37 32 32 32 32 19 16",
        "68 12 90 78 56 34 12 68 9B 00 21 16",
    ),
    "clear cover events": (
        "68 12 90 78 56 34 12 68 1B 0C 35 33 33 33 34 35 36 37 32 40 63 36 5C 16",
        "68 12 90 78 56 34 12 68 9B 00 21 16",
    ),
    "second pulse output": ("68 12 90 78 56 34 12 68 1D 01 33 D7 16", "68 12 90 78 56 34 12 68 9D 01 33 57 16"),
    "set address": ("68 AA AA AA AA AA AA 68 15 06 45 C3 AB 89 67 45 CF 16", "68 12 90 78 56 34 12 68 95 00 1B 16"),
    "rate 2400": ("68 12 90 78 56 34 12 68 17 01 3B D9 16", "68 12 90 78 56 34 12 68 97 01 3B 59 16"),
    "rate refused": ("68 12 90 78 56 34 12 68 17 01 3C DA 16", "68 12 90 78 56 34 12 68 D7 01 3B 99 16"),
    "no load record": (
        "68 12 90 78 56 34 12 68 11 0A 34 33 34 39 35 33 46 58 3B 55 0B 16",
        "68 12 90 78 56 34 12 68 91 04 34 33 34 39 EF 16",
    ),
}
TRIP = "68 12 90 78 56 34 12 68 1C 10 35 33 33 33 33 33 33 33 50 39 8C 8C 56 64 45 CC B8 16"
REFUSED = "68 12 90 78 56 34 12 68 DC 01 37 9A 16"
LOAD_RECORD = (
    "68 12 90 78 56 34 12 68 11 0A 34 33 34 39 35 33 46 58 3B 55 0B 16",
    "68 12 90 78 56 34 12 68 91 25 34 33 34 39 D3 D3 4F 33 46 58 3B 55 63 55 CB 55 33 33 34 53 33 33 33 33 33 33 33 33 83"
    " DD DD DD DD DD DD 6A 18 F6 16",
)
EVERY = [text for pair in (*PAIRS.values(), (TRIP, REFUSED), LOAD_RECORD) for text in pair if text]


@pytest.mark.parametrize("name", PAIRS)
def test_the_simulated_meter_gives_the_very_reply(name: str) -> None:
    request, reply = (bytes.fromhex(text) for text in PAIRS[name])
    device = meter(address="000000000007" if name == "set address" else ADDRESS)
    answer = device.receive(Frame.from_bytes(request), NOW)
    assert (b"" if answer is None else answer.to_bytes()) == reply


def test_a_protected_meter_refuses_with_the_very_frame() -> None:
    device = meter()
    ask(device, relay(0x3A))
    answer = device.receive(Frame.from_bytes(bytes.fromhex(TRIP)), NOW)
    assert answer is not None
    assert answer.to_bytes() == bytes.fromhex(REFUSED)


class MeterOfThatDay(MeterModel):
    """Measures what the published record holds: two phases with voltage, one with current."""

    def instant(self, now: datetime) -> Instant:
        nothing: Any = (Decimal(0), Decimal(0), Decimal(0))
        return Instant(
            voltage_v=(Decimal("223.0"), Decimal("229.8"), Decimal("0.0")),
            current_a=(Decimal("2.001"), Decimal(0), Decimal(0)),
            active_kw=(Decimal(0), *nothing),
            reactive_kvar=(Decimal(0), *nothing),
            apparent_kva=(Decimal(0), *nothing),
            power_factor=(Decimal(0), *nothing),
            angle_deg=nothing,
            frequency_hz=Decimal("50.00"),
            neutral_a=Decimal(0),
            temperature_c=Decimal(25),
        )


def test_a_load_record_block_goes_out_as_published() -> None:
    now = datetime(2022, 8, 25, 5, 10, tzinfo=UTC)  # 13:10 there: of two blocks asked for, one is recorded
    model = MeterOfThatDay(MeterAddress(ADDRESS), seed=1, clock_set_at=now, drift_ppm=0, clock_offset_s=0)
    device = Dlt645Meter(model, load("dlt645/base_2007"))
    request, reply = (bytes.fromhex(text) for text in LOAD_RECORD)
    answer = device.receive(Frame.from_bytes(request), now)
    assert answer is not None
    expected = m.decode(Frame.from_bytes(reply))
    assert isinstance(expected, m.ReadReply)
    assert decode_blocks(m.decode(answer).data) == decode_blocks(expected.data)  # type: ignore[union-attr]
    assert answer.to_bytes() == reply
    assert encode_blocks(decode_blocks(expected.data)) == expected.data


@pytest.mark.parametrize("text", EVERY)
def test_every_frame_is_read_and_written_the_same(text: str) -> None:
    wire = bytes.fromhex(text)
    frame = Frame.from_bytes(wire)
    message = m.decode(frame)
    assert m.encode(message, frame.address).to_bytes() == wire


def test_the_voltage_curve_request_is_the_published_one() -> None:
    wire = bytes.fromhex("68 12 90 78 56 34 12 68 11 0A 34 34 43 39 37 33 46 58 3B 55 1D 16")
    request = m.ReadRequest(di=Di("06100101"), count=4, start="2208251300")
    assert m.encode(request, ADDRESS).to_bytes() == wire
    assert m.decode(Frame.from_bytes(wire)) == request

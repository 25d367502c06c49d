"""Quirks: what one meter does its own way, from the contract or set for one meter."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from firmware_contracts.contract import load
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import WILDCARD, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.load_record import decode_curve
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.faults import Fault, FaultKind, FaultPlan
from simulators.load_curve import Kind
from simulators.quirks import BadQuirk, parse_quirks, quirks_of
from tests.simulators.bench import ADDRESS, HOUR, NOW, ask, contents, meter, refusal, relay

BASE = load("dlt645/base_2007")


def quirky(kind: Kind = Kind.HOUSEHOLD, *, edition: str = "2007", **changes: Any) -> Dlt645Meter:
    return meter(kind, edition=edition, quirks=quirks_of(load(f"dlt645/base_{edition}"), **changes))


def reply_data(device: Dlt645Meter, di: str, **form: Any) -> bytes:
    reply = ask(device, m.ReadRequest(di=Di(di), **form))
    assert isinstance(reply, m.ReadReply), reply
    return reply.data


def test_quirks_come_from_rows_of_the_contract(tmp_path: Path) -> None:
    contract = tmp_path / "quirky.toml"
    rows = {"separators": '"each"', "preamble": "1", "relay_level": "2", "absent_phase": '"zero"'}
    text = "".join(f'[[quirks]]\nname = "{name}"\nvalue = {value}\nsource = "x"\n' for name, value in rows.items())
    contract.write_text('[contract]\nextends = "dlt645/base_2007"\n' + text, encoding="utf-8")
    device = meter(contract=str(contract))
    assert (device.preamble, device.relay_level) == (1, 2)
    data = reply_data(device, "0001FF00")
    assert len(data) == 5 * 5
    assert data[4::5] == b"\xaa" * 5
    assert contents(device, "0001FF00") == contents(meter(), "0001FF00")


def test_quirks_are_parsed_from_texts_and_wrong_ones_are_named() -> None:
    parsed = parse_quirks(BASE, ["preamble=0", "reply_delay_s=1.5", "offset=false", "separators = each", "parity=N"])
    assert (parsed.contract.preamble, parsed.reply_delay_s, parsed.offset, parsed.parity) == (0, 1.5, False, "N")
    for text, problem in (("preamble", "NAME=VALUE"), ("speed=9", "no quirk speed"), ("preamble=9", "preamble")):
        with pytest.raises(BadQuirk, match=problem):
            parse_quirks(BASE, [text])


@pytest.mark.parametrize("preamble", [0, 1, 4])
def test_replies_carry_as_many_wake_up_bytes(preamble: int) -> None:
    device = quirky(preamble=preamble)
    reply = device.receive(m.encode(m.ReadAddressRequest(), WILDCARD), NOW)
    assert reply is not None
    assert device.to_wire(reply) == b"\xfe" * preamble + reply.to_bytes()


def test_texts_are_sent_last_character_first_or_plain() -> None:
    assert reply_data(quirky(), "04000404") == b"\0\0V022"
    assert reply_data(quirky(ascii_order="plain"), "04000404") == b"220V\0\0"


@pytest.mark.parametrize(("how", "size"), [("none", 20), ("each", 25), ("end", 21)])
@pytest.mark.parametrize(("edition", "di"), [("2007", "0001FF00"), ("1997", "901F")])
def test_separators_stand_nowhere_behind_each_item_or_at_the_end(how: str, size: int, edition: str, di: str) -> None:
    device = quirky(edition=edition, separators=how)
    assert len(reply_data(device, di)) == size
    assert contents(device, di) == contents(meter(edition=edition), di)


def test_absent_phases_are_ff_zero_or_left_out() -> None:
    assert reply_data(quirky(), "0201FF00")[2:] == b"\xff" * 4
    assert reply_data(quirky(absent_phase="ff"), "0202FF00")[3:] == b"\xff" * 6
    assert reply_data(quirky(absent_phase="zero"), "0202FF00")[3:] == bytes(6)
    omitted = quirky(absent_phase="omitted")
    assert len(reply_data(omitted, "0201FF00")) == 2
    assert refusal(ask(omitted, m.ReadRequest(di=Di("02010200")))) == 0x02


@pytest.mark.parametrize(("how", "expected"), [("ff", None), ("repeat", "before")])
def test_missing_points_of_a_curve_are_ff_or_the_energy_before(how: str, expected: str | None) -> None:
    device = quirky(missing_point=how)
    device.model.cut_power(NOW - HOUR)
    device.model.restore_power(NOW - HOUR / 2)
    for di, repeats in (("06100601", True), ("06100101", False)):
        data = reply_data(device, di, count=6, start="2506171015")
        values = [value.content for value in decode_curve(data, BASE.find(Di(di)))]
        lost = values[0] if expected and repeats else None
        assert values[1:3] == [lost, lost]
        assert None not in (values[0], *values[3:])


def test_a_slow_meter_takes_its_time() -> None:
    assert quirky(reply_delay_s=2.5).reply_delay_s == 2.5


def test_a_byte_is_missing_from_every_reply() -> None:
    whole, lacking = quirky(), quirky(dropped_byte=12)
    reply = whole.receive(m.encode(m.ReadRequest(di=Di("04000402")), ADDRESS), NOW)
    assert reply is not None
    wire = whole.to_wire(reply)
    assert lacking.to_wire(reply) == wire[: 4 + 12] + wire[4 + 13 :]
    assert len(quirky(dropped_byte=10_000).to_wire(reply)) == len(wire) - 1


def test_data_may_go_out_without_the_offset() -> None:
    device = quirky(offset=False)
    reply = device.receive(m.encode(m.ReadRequest(di=Di("04000402")), ADDRESS), NOW)
    assert reply is not None
    wire = device.to_wire(reply)
    assert wire[4 + 10 : -2] == reply.payload
    assert Frame.from_bytes(wire).address == ADDRESS  # the checksum is that of what is sent


@pytest.mark.parametrize(("port", "heard"), [(None, True), ("E", False), ("N", True)])
def test_a_meter_at_8n1_does_not_hear_a_line_of_8e1(port: str | None, heard: bool) -> None:
    bus = Dlt645Bus([quirky(parity="N")], parity=port)
    bus.receive(m.encode(m.ReadAddressRequest(), WILDCARD).to_bytes(4), 0.0, NOW)
    bus.tick(9.0, NOW)
    assert bool(bus.take_output()) is heard


@pytest.mark.parametrize("how", ["refused", "same", "empty"])
def test_a_follow_up_asked_for_again_is_refused_the_same_or_empty(how: str) -> None:
    device = quirky(Kind.FACTORY, repeated_follow_up=how)
    di = Di("0506FF01")
    ask(device, m.ReadRequest(di=di))
    first = ask(device, m.FollowUpRequest(di=di, sequence=1))
    again = ask(device, m.FollowUpRequest(di=di, sequence=1))
    assert isinstance(first, m.FollowUpReply)
    if how == "refused":
        assert refusal(again) == 0x02
    elif how == "same":
        assert again == first
    else:
        assert again == m.FollowUpReply(di=di, data=b"", sequence=1)


def test_unicast_time_sync_is_done_in_silence() -> None:
    device = quirky(unicast_time_sync="silent")
    assert ask(device, m.TimeSync(at="250617113100")) is None
    assert contents(device, "04000102") == ["113100"]


def test_the_number_of_blocks_is_bcd_or_binary() -> None:
    assert len(reply_data(quirky(), "06100101", count=0x10, start="2506170800")) == 5 + 2 * 10
    binary = quirky(block_count="binary")
    assert len(reply_data(binary, "06100101", count=0x0A, start="2506170800")) == 5 + 2 * 10
    assert len(reply_data(binary, "06100101", count=0x0F, start="2506170730")) == 5 + 2 * 15


def test_the_cover_has_bit_nine_or_ten() -> None:
    device = quirky(cover_bit=10)
    device.model.cover_open = True
    assert contents(device, "04000507") == ["0400"]


@pytest.mark.parametrize(("how", "word"), [("closes", "0000"), ("permits", "0010")])
def test_a_timed_trip_closes_or_permits(how: str, word: str) -> None:
    device = quirky(timed_trip=how)
    ask(device, relay(0x1D, delay=1))
    assert contents(device, "04000503", NOW + timedelta(minutes=6)) == [word]


def test_the_relay_takes_the_level_it_was_told() -> None:
    assert refusal(ask(quirky(relay_level=1), relay(0x1A))) == 0x04
    assert ask(quirky(relay_level=3), relay(0x1A, password=m.Password(3, bytes(3)))) == m.RelayReply()


def test_a_meter_without_follow_up_sends_what_fits_and_its_reply_is_final(tmp_path: Path) -> None:
    contract = tmp_path / "plain.toml"
    contract.write_text('[contract]\nextends = "dlt645/base_2007"\n[limits]\nfollow_up = false\n', encoding="utf-8")
    reply = ask(meter(Kind.FACTORY, contract=str(contract)), m.ReadRequest(di=Di("0506FF01")))
    assert isinstance(reply, m.ReadReply)
    assert not reply.follow
    assert 0 < len(reply.data) <= 196


def test_1997_repeats_what_was_damaged_on_the_way_and_says_no_when_there_is_nothing() -> None:
    device = meter(edition="1997", reply_delay_s=0.02)
    assert refusal(ask(device, m.RepeatRequest())) == 0x02
    assert refusal(ask(device, m.ReadRequest(di=Di("9F0F")))) == 0x02
    bus = Dlt645Bus([device], faults=FaultPlan(faults=(Fault(kind=FaultKind.BAD_CHECKSUM),)))
    bus.receive(m.encode(m.ReadRequest(di=Di("9010")), ADDRESS).to_bytes(), 0.0, NOW)
    bus.faults = FaultPlan()
    repeated = ask(device, m.RepeatRequest())
    assert isinstance(repeated, m.ReadReply)
    assert repeated.repeated
    assert repeated.di == Di("9010")

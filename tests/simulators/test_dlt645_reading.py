"""What the simulated DL/T 645 meter answers when it is read: the model's values, in both editions."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from protocols.dlt645 import messages as m
from protocols.dlt645.control import Dialect, Function1997
from protocols.dlt645.frame import BROADCAST, Frame
from protocols.dlt645.items import Di, encode
from protocols.dlt645.load_record import decode_curve
from simulators.load_curve import Kind, Quantity
from tests.simulators.bench import ADDRESS, HOUR, NOW, WRITER, ask, contents, meter, read, refusal

# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("edition", ["2007", "1997"])
def test_every_fixed_parameter_fits_its_row_in_the_contract(kind: Kind, edition: str) -> None:
    device = meter(kind, edition=edition)
    for di in device.items.parameters.fixed:
        assert read(device, di), di


def test_energies_are_those_of_the_model_with_their_tariffs_and_settlements() -> None:
    device = meter()
    model = device.model
    assert contents(device, "00010000") == [model.energy(Quantity.FORWARD, 0, NOW)]
    assert contents(device, "0001FF00") == [model.energy(Quantity.FORWARD, tariff, NOW) for tariff in range(5)]
    history = contents(device, "000100FF")
    assert len(history) == 13
    settled = model.settlement_at(3, NOW)
    assert settled is not None
    assert history[3] == model.energy(Quantity.FORWARD, 0, settled) == contents(device, "00010003")[0]
    assert contents(device, "00000000") == contents(device, "00010000")


def test_maximum_demand_carries_its_time() -> None:
    device = meter()
    demand = device.model.max_demand(Quantity.FORWARD, 0, 0, NOW)
    assert demand is not None
    (value,) = read(device, "01010000")
    assert (value.content, value.at) == (demand.kilo, demand.at)
    assert len(read(device, "0101FF00")) == 5
    assert len(read(device, "010100FF")) == 13


def test_a_single_phase_meter_fills_absent_phases_with_ff() -> None:
    single, three = meter(), meter(Kind.FACTORY)
    reply = ask(single, m.ReadRequest(di=Di("0201FF00")))
    assert isinstance(reply, m.ReadReply)
    assert reply.data[2:] == b"\xff" * 4
    assert contents(single, "0201FF00")[1:] == [None, None]
    assert contents(single, "02010200") == [None]
    assert None not in contents(three, "0202FF00")
    total, *phases = contents(three, "0203FF00")
    assert total == sum(phase for phase in phases if isinstance(phase, Decimal))


def test_clock_address_and_plates_are_readable() -> None:
    device = meter()
    assert contents(device, "0400010C") == ["25061702113000"]
    assert contents(device, "04000101") == ["25061702"]
    assert contents(device, "04000102") == ["113000"]
    assert contents(device, "04000401") == contents(device, "04000402") == [ADDRESS]
    assert contents(device, "04000404") == ["220V"]
    assert contents(device, "04000204") == [4]
    assert len(contents(device, "040005FF")) == 7


def test_a_daily_freeze_is_the_registers_at_midnight() -> None:
    device = meter()
    (time,) = read(device, "05060001")
    assert time.content == "2506170000"
    midnight = device.model.daily_freeze(1, NOW)
    assert midnight is not None
    assert contents(device, "05060101")[0] == device.model.energy(Quantity.FORWARD, 0, midnight)
    assert contents(device, "05060101")[0] != contents(device, "0506013E")[0]
    assert refusal(ask(device, m.ReadRequest(di=Di("0506013F")))) == 0x02


def test_an_instant_freeze_by_broadcast_keeps_the_registers() -> None:
    device = meter()
    assert refusal(ask(device, m.ReadRequest(di=Di("05010101")))) == 0x02
    assert ask(device, m.FreezeRequest("99999999"), address=BROADCAST) is None
    frozen = contents(device, "05010101", NOW + 24 * HOUR)
    assert frozen[0] == device.model.energy(Quantity.FORWARD, 0, NOW)
    assert frozen[0] != contents(device, "00010000", NOW + 24 * HOUR)[0]


def test_a_long_reply_is_split_at_item_borders_and_followed_up() -> None:
    device = meter(Kind.FACTORY)
    first = ask(device, m.ReadRequest(di=Di("0506FF01")))
    assert isinstance(first, m.ReadReply)
    assert first.follow
    assert len(first.data) + 4 <= 200
    second = ask(device, m.FollowUpRequest(di=Di("0506FF01"), sequence=1))
    assert isinstance(second, m.FollowUpReply)
    assert (second.sequence, second.follow) == (1, False)
    assert len(read(device, "0506FF01")) == 1 + 8 * 5 + 2 * 5 + 8


def test_a_follow_up_out_of_turn_is_refused_and_a_new_read_starts_over() -> None:
    device = meter(Kind.FACTORY)
    assert refusal(ask(device, m.FollowUpRequest(di=Di("0506FF01"), sequence=1))) == 0x02
    ask(device, m.ReadRequest(di=Di("0506FF01")))
    assert refusal(ask(device, m.FollowUpRequest(di=Di("0506FF01"), sequence=2))) == 0x02
    assert refusal(ask(device, m.FollowUpRequest(di=Di("00010000"), sequence=1))) == 0x02
    ask(device, m.ReadRequest(di=Di("0506FF01")))
    assert isinstance(ask(device, m.FollowUpRequest(di=Di("0506FF01"), sequence=1)), m.FollowUpReply)


def test_a_load_curve_starts_on_the_grid_and_ends_with_now() -> None:
    device = meter(Kind.FACTORY)
    request = m.ReadRequest(di=Di("06100601"), count=0x10, start="2506170946")
    reply = ask(device, request)
    assert isinstance(reply, m.ReadReply)
    values = decode_curve(reply.data, device.contract.find(Di("06100601")), period_s=900)
    times = [datetime(2025, 6, 17, 2, tzinfo=UTC) + index * timedelta(minutes=15) for index in range(7)]
    assert [value.at for value in values] == [device.model.clock(at) for at in times]
    assert [value.content for value in values] == [device.model.energy(Quantity.FORWARD, 0, at) for at in times]


def test_a_published_curve_request_gets_its_points() -> None:
    # Voltage curve of phase A, 4 points from 2022-08-25 13:00.
    frame = Frame.from_bytes(bytes.fromhex("68 12 90 78 56 34 12 68 11 0A 34 34 43 39 37 33 46 58 3B 55 1D 16"))
    device = meter()
    later = datetime(2022, 8, 26, tzinfo=UTC)
    reply = device.receive(frame, later)
    assert reply is not None
    message = m.decode(reply)
    assert isinstance(message, m.ReadReply)
    values = decode_curve(message.data, device.contract.find(message.di), period_s=900)
    assert values[0].at == datetime(2022, 8, 25, 13, 0)
    first = device.model.instant(datetime(2022, 8, 25, 5, tzinfo=UTC)).voltage_v[0]
    assert values[0].content == first
    assert len(values) == 4


def test_a_curve_nobody_recorded_is_the_identifier_alone() -> None:
    for start in ("2506171145", "2503010000"):  # still to come; longer ago than is kept
        reply = ask(meter(), m.ReadRequest(di=Di("06100601"), count=1, start=start))
        assert isinstance(reply, m.ReadReply)
        assert reply.data == b""
    assert refusal(ask(meter(), m.ReadRequest(di=Di("06100601"), count=1, start="2513010000"))) == 0x02


def test_a_long_curve_is_followed_up_without_repeating_the_time() -> None:
    device = meter(Kind.FACTORY)
    di = Di("061001FF")
    reply = ask(device, m.ReadRequest(di=di, count=0x96, start="2506160000"))
    assert isinstance(reply, m.ReadReply)
    data, follow, sequence = reply.data, reply.follow, 0
    while follow:
        sequence += 1
        more = ask(device, m.FollowUpRequest(di=di, sequence=sequence))
        assert isinstance(more, m.FollowUpReply)
        data, follow = data + more.data, more.follow
    assert sequence >= 2
    assert len(decode_curve(data, device.contract.find(di))) == 96 * 3


def test_every_curve_of_the_contract_is_answered() -> None:
    device = meter(Kind.FACTORY)
    items = ["01FF", "02FF", "03FF", "04FF", "05FF", "06FF", "07FF", "08FF", "0102", "0300", "0704", "0801"]
    for item in items:
        reply = ask(device, m.ReadRequest(di=Di(f"0610{item}"), count=2, start="2506170800"))
        assert isinstance(reply, m.ReadReply), item
        assert decode_curve(reply.data, device.contract.find(reply.di)), item


def test_what_was_measured_while_the_relay_was_open_stays_zero_in_the_curve() -> None:
    device = meter(Kind.SHOP)
    device.model.open_relay(NOW - 2 * HOUR)
    device.model.close_relay(NOW - HOUR)
    reply = ask(device, m.ReadRequest(di=Di("06100301"), count=0x12, start="2506170900"))
    assert isinstance(reply, m.ReadReply)
    powers = [value.content for value in decode_curve(reply.data, device.contract.find(reply.di))]
    assert [bool(power) for power in powers] == [True] * 2 + [False] * 4 + [True] * 5


@pytest.mark.parametrize("di", ["99999999", "00010500", "0001000D", "0001FFFF", "1D00000B", "05020001", "02010400"])
def test_unknown_data_are_refused_with_error_two(di: str) -> None:
    assert refusal(ask(meter(), m.ReadRequest(di=Di(di)))) == 0x02


def test_passwords_cannot_be_read() -> None:
    assert refusal(ask(meter(), m.ReadRequest(di=Di("04000C05")))) == 0x04


# ------------------------------------------------------------------------------------------------ 1997


def test_the_only_1997_meter_on_a_line_answers_a_broadcast_read() -> None:
    device = meter(edition="1997")
    reply = ask(device, m.ReadRequest(di=Di("9010")), address=BROADCAST)
    assert isinstance(reply, m.ReadReply)
    assert contents(device, "9010") == [device.model.energy(Quantity.FORWARD, 0, NOW)]


def test_1997_blocks_and_data_sets_are_put_together() -> None:
    device = meter(Kind.FACTORY, edition="1997")
    assert contents(device, "901F") == [device.model.energy(Quantity.FORWARD, tariff, NOW) for tariff in range(5)]
    assert contents(device, "90FF")[:5] == contents(device, "901F")
    assert contents(device, "9410")[0] == contents(meter(Kind.FACTORY), "00010001")[0]
    demand, at = contents(device, "A010")[0], contents(device, "B010")[0]
    assert demand == contents(meter(Kind.FACTORY), "01010000")[0]
    assert isinstance(at, str)
    assert at.startswith("06")
    assert isinstance(contents(device, "B611")[0], Decimal)


def test_a_1997_meter_repeats_writes_and_changes_address() -> None:
    device = meter(edition="1997")
    first = ask(device, m.ReadRequest(di=Di("9010")))
    repeated = ask(device, m.RepeatRequest())
    assert isinstance(first, m.ReadReply)
    assert isinstance(repeated, m.ReadReply)
    assert (repeated.repeated, repeated.data) == (True, first.data)
    data = encode("120000", device.contract.find(Di("C011")))
    assert ask(device, m.WriteRequest(di=Di("C011"), data=data, password=WRITER)) == m.Accepted(Function1997.WRITE)
    assert contents(device, "C011") == ["120000"]
    assert refusal(ask(device, m.WriteRequest(di=Di("C011"), data=data, password=m.Password(4, b"\1\1\1")))) == 0x04
    change = m.WriteAddressRequest(address="000000000042", dialect=Dialect.V1997)
    assert ask(device, change, address=BROADCAST) == m.Accepted(Function1997.WRITE_ADDRESS)
    assert device.address == "000000000042"


def test_1997_rate_password_and_demand() -> None:
    device = meter(edition="1997")
    assert ask(device, m.RateRequest(word=0x20, dialect=Dialect.V1997)) == m.RateReply(word=0x20, dialect=Dialect.V1997)
    assert ask(device, m.RateRequest(word=0x08, dialect=Dialect.V1997)) == m.RateReply(word=0xFF, dialect=Dialect.V1997)
    new = m.Password(4, b"\1\1\1")
    assert ask(device, m.PasswordRequest(old=m.Password(4, b"\2\2\2"), new=new)) is None
    assert ask(device, m.PasswordRequest(old=WRITER, new=new)) == m.PasswordReply(new=new, dialect=Dialect.V1997)
    assert ask(device, m.ClearRequest(function=Function1997.CLEAR_DEMAND)) == m.Accepted(Function1997.CLEAR_DEMAND)
    assert contents(device, "B213") == [1]
    assert ask(device, m.TimeSync(at="250617113000"), address=BROADCAST) is None


def test_a_meter_of_one_edition_is_silent_to_the_other() -> None:
    assert ask(meter(edition="1997"), m.ReadRequest(di=Di("00010000"))) is None
    assert ask(meter(), m.ReadRequest(di=Di("9010"))) is None

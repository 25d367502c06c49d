"""The simulated DL/T 645 meter: published frames in, the published or a structurally right reply out."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dlt645 import messages as m
from protocols.dlt645.control import Function2007
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame
from protocols.dlt645.items import Di, decode, encode
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Kind, Quantity
from tests.simulators.bench import ADDRESS, HOUR, NOW, OPERATOR, PASSWORD, WRITER, ask, contents, meter, refusal, relay

VECTORS = Path(__file__).parents[1] / "vectors" / "dlt645_vectors.jsonl"


# ------------------------------------------------------------------------------------------------ published frames


def test_rate_change_is_confirmed_with_the_same_word_or_refused() -> None:
    device = meter(baud=9600)
    confirmed = device.receive(m.encode(m.RateRequest(word=0x08), ADDRESS), NOW)
    refused = device.receive(m.encode(m.RateRequest(word=0x09), ADDRESS), NOW)
    assert confirmed is not None
    assert confirmed.to_bytes() == bytes.fromhex("68 12 90 78 56 34 12 68 97 01 3B 59 16")
    assert refused is not None
    assert refused.to_bytes() == bytes.fromhex("68 12 90 78 56 34 12 68 D7 01 3B 99 16")
    assert device.baud == 2400
    assert contents(device, "04000703") == ["08"]


def test_trip_with_automatic_close_opens_for_thirty_minutes() -> None:
    frame = Frame.from_bytes(
        bytes.fromhex("68 12 90 78 56 34 12 68 1C 10 35 33 33 33 33 33 33 33 50 39 8C 8C 56 64 45 CC B8 16")
    )
    device = meter()
    reply = device.receive(frame, NOW)
    assert reply is not None
    assert m.decode(reply) == m.RelayReply()
    assert contents(device, "04000503", NOW + timedelta(minutes=29)) == ["0050"]
    assert contents(device, "04000503", NOW + timedelta(minutes=30)) == ["0000"]


def test_a_protected_meter_refuses_to_trip_with_error_four() -> None:
    device = meter()
    assert ask(device, relay(0x3A)) == m.RelayReply()
    reply = device.receive(m.encode(relay(0x1A), ADDRESS), NOW)
    assert reply is not None
    assert reply.to_bytes() == bytes.fromhex("68 12 90 78 56 34 12 68 DC 01 37 9A 16")
    assert contents(device, "04000503") == ["1000"]


def published_reads() -> list[dict[str, str]]:
    vectors = [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]
    return [
        vector
        for vector in vectors
        if vector["ver"] == "2007" and vector["dir"] == "m2s" and vector["valid"] and vector["fn"] == "read data"
    ]


@pytest.mark.parametrize("kind", [Kind.HOUSEHOLD, Kind.FACTORY])
def test_every_published_read_request_gets_a_right_reply_or_no_such_data(kind: Kind) -> None:
    device = meter(kind)
    answered = 0
    assert len(published_reads()) >= 40
    for vector in published_reads():
        request = Frame.from_bytes(bytes.fromhex(vector["hex"]))
        reply = device.receive(Frame(ADDRESS, request.control, request.payload), NOW)
        assert reply is not None, vector["id"]
        message = m.decode(reply)
        if isinstance(message, m.Refused):
            assert message.word == 0x02, vector["id"]
            continue
        assert isinstance(message, m.ReadReply)
        assert message.di.text == vector["di"].upper()
        assert decode(message.data, device.contract.find(message.di)), vector["id"]
        answered += 1
    assert answered >= 25


# ------------------------------------------------------------------------------------------------ addressing


@pytest.mark.parametrize("pattern", [ADDRESS, "AAAAAAAA9012", WILDCARD])
def test_exact_addresses_and_wildcards_are_answered_from_the_real_address(pattern: str) -> None:
    assert isinstance(ask(meter(), m.ReadRequest(di=Di("00010000")), address=pattern), m.ReadReply)


@pytest.mark.parametrize("pattern", ["123456789013", "AAAAAAAA9013", BROADCAST, "12AAAAAAAAAA"])
def test_other_addresses_and_a_broadcast_read_are_met_with_silence(pattern: str) -> None:
    assert ask(meter(), m.ReadRequest(di=Di("00010000")), address=pattern) is None


def test_replies_of_other_meters_and_wrong_lengths_are_met_with_silence() -> None:
    device = meter()
    assert device.receive(Frame(ADDRESS, 0x91, bytes(8)), NOW) is None
    assert device.receive(Frame(ADDRESS, 0x11, b"\0\0"), NOW) is None
    assert device.receive(Frame(ADDRESS, 0x0B, b""), NOW) is None


def test_the_address_is_told_and_changed_only_through_all_aa() -> None:
    device = meter()
    assert ask(device, m.ReadAddressRequest(), address=WILDCARD) == m.AddressReply(ADDRESS)
    assert ask(device, m.ReadAddressRequest()) is None
    assert ask(device, m.WriteAddressRequest(address="000000000042")) is None
    accepted = ask(device, m.WriteAddressRequest(address="000000000042"), address=WILDCARD)
    assert accepted == m.Accepted(Function2007.WRITE_ADDRESS)
    assert device.address == "000000000042"
    assert ask(meter(programming=False), m.WriteAddressRequest(address="000000000042"), address=WILDCARD) is None


@pytest.mark.parametrize(
    ("request_", "pattern", "word"),
    [
        (m.RateRequest(word=0x08), "AAAAAAAA9012", 0x04),
        (m.ClearRequest(function=Function2007.CLEAR_METER, password=PASSWORD, operator=OPERATOR), "AAAAAAAA9012", 0x04),
        (m.ClearRequest(function=Function2007.CLEAR_METER, password=PASSWORD, operator=OPERATOR), WILDCARD, None),
        (m.FreezeRequest("99999999"), WILDCARD, None),
    ],
)
def test_wildcards_cannot_change_meters(request_: m.Message, pattern: str, word: int | None) -> None:
    reply = ask(meter(), request_, address=pattern)
    assert reply is None if word is None else refusal(reply) == word


# ------------------------------------------------------------------------------------------------ writing


def write(di: str, data: bytes, password: m.Password = WRITER) -> m.WriteRequest:
    return m.WriteRequest(di=Di(di), data=data, password=password, operator=OPERATOR)


def test_the_clock_can_be_written() -> None:
    device = meter()
    data = encode("25061702120000", device.contract.find(Di("0400010C")))
    assert ask(device, write("0400010C", data)) == m.Accepted(Function2007.WRITE)
    assert contents(device, "04000102", NOW + HOUR) == ["130000"]
    assert contents(device, "03300400") == [1]
    assert contents(device, "03300000") == [1]


def test_a_written_parameter_reads_back() -> None:
    device = meter()
    data = encode(["01010001"], device.contract.find(Di("04000A01")))
    assert ask(device, write("04000A01", data)) == m.Accepted(Function2007.WRITE)
    assert contents(device, "04000A01") == ["01010001"]


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (write("99999999", b"\0"), 0x02),
        (write("04000401", bytes(6), m.Password(4, b"\1\2\3")), 0x04),
        (write("04000401", bytes(6), m.Password(5, bytes(3))), 0x04),
        (write("00010000", bytes(4)), 0x04),
        (write("04000102", bytes(2)), 0x01),
        (write("04000102", b"\x99\x99\x99"), 0x01),
        (write("04000102", b"\xfa\x00\x00"), 0x01),
        (write("04000401", b"\x99" * 6), 0x01),
    ],
)
def test_bad_writes_are_refused_with_the_reason(request_: m.WriteRequest, word: int) -> None:
    assert refusal(ask(meter(), request_)) == word


def test_nothing_can_be_written_without_the_programming_key() -> None:
    device = meter(programming=False)
    assert refusal(ask(device, write("04000102", bytes(3)))) == 0x04


def test_a_changed_password_replaces_the_old_one() -> None:
    device = meter()
    new = m.Password(4, b"\x11\x11\x11")
    reply = ask(device, m.PasswordRequest(di=Di("04000C05"), old=WRITER, new=new))
    assert reply == m.PasswordReply(new=new)
    assert refusal(ask(device, write("04000102", bytes(3)))) == 0x04
    assert isinstance(ask(device, write("04000102", bytes(3), new)), m.Accepted)
    other_slot = m.PasswordRequest(di=Di("04000C03"), old=WRITER, new=m.Password(2, bytes(3)))
    assert refusal(ask(device, other_slot)) == 0x04


def test_time_sync_keeps_its_window_and_happens_once_a_day() -> None:
    device = meter()
    assert refusal(ask(device, m.TimeSync(at="250617113501"))) == 0x01
    assert ask(device, m.TimeSync(at="250617113459")) == m.Accepted(Function2007.TIME_SYNC)
    assert contents(device, "04000102") == ["113459"]
    assert refusal(ask(device, m.TimeSync(at="250617113500"))) == 0x01
    assert ask(device, m.TimeSync(at="250618113000"), NOW + 24 * HOUR, BROADCAST) is None
    assert contents(device, "04000102", NOW + 24 * HOUR) == ["113000"]
    assert contents(device, "03300400") == [0]  # counted apart from programmed clock changes


def test_time_sync_is_refused_near_midnight_and_for_dates_that_are_none() -> None:
    midnight = datetime(2025, 6, 17, 15, 57, tzinfo=UTC)
    assert refusal(ask(meter(), m.TimeSync(at="250617235800"), midnight)) == 0x01
    assert refusal(ask(meter(), m.TimeSync(at="250631113000"))) == 0x01


@pytest.mark.parametrize("moment", ["99990030", "99280030", "99999915", "12280030"])
def test_freeze_patterns_fill_from_the_month_side(moment: str) -> None:
    assert ask(meter(), m.FreezeRequest(moment)) == m.Accepted(Function2007.FREEZE)


@pytest.mark.parametrize("moment", ["12990030", "99290030", "99992430", "99990060", "13010000"])
def test_other_freeze_patterns_are_refused(moment: str) -> None:
    assert refusal(ask(meter(), m.FreezeRequest(moment))) == 0x01


def test_clearing_needs_its_level_and_counts() -> None:
    device = meter()
    weak = m.ClearRequest(function=Function2007.CLEAR_METER, password=WRITER, operator=OPERATOR)
    assert refusal(ask(device, weak)) == 0x04
    demand = m.ClearRequest(function=Function2007.CLEAR_DEMAND, password=WRITER, operator=OPERATOR)
    assert ask(device, demand) == m.Accepted(Function2007.CLEAR_DEMAND)
    assert contents(device, "03300200") == [1]
    assert contents(device, "01010000") == [Decimal("0.0000")]
    strong = m.ClearRequest(function=Function2007.CLEAR_METER, password=PASSWORD, operator=OPERATOR)
    assert ask(device, strong) == m.Accepted(Function2007.CLEAR_METER)
    assert contents(device, "00010000") == [Decimal("0.00")]
    assert contents(device, "03300100") == [1]


def test_security_without_a_chip_is_refused_in_two_bytes() -> None:
    reply = ask(meter(), m.SecurityRequest(di=Di("070000FF"), operator=OPERATOR, data=bytes(24)))
    assert isinstance(reply, m.Refused)
    assert (reply.size, reply.word) == (2, 0x0008)


# ------------------------------------------------------------------------------------------------ relay


def test_trip_permit_and_close_show_in_status_and_records() -> None:
    device = meter(Kind.SHOP)
    assert ask(device, relay(0x1A)) == m.RelayReply()
    assert contents(device, "04000503") == ["0050"]
    assert contents(device, "0202FF00")[0] == 0
    assert ask(device, relay(0x1B)) == m.RelayReply()
    assert contents(device, "04000503") == ["0010"]
    assert ask(device, relay(0x1C)) == m.RelayReply()
    assert contents(device, "04000503") == ["0000"]
    assert contents(device, "1D000001") == contents(device, "1E000001") == [1]
    assert contents(device, "1D000201") == ["01020304"]
    record = contents(device, "1D00FF01")
    assert record[:2] == ["250617113000", "01020304"]
    assert record[2] == device.model.energy(Quantity.FORWARD, 0, NOW)


@pytest.mark.parametrize(
    "request_",
    [
        relay(0x1A, expires="250617112959"),
        relay(0x1A, expires="000000000000"),
        relay(0x1A, password=m.Password(2, b"\x12\x34\x56")),
        relay(0x1A, password=m.Password(5, bytes(3))),
        relay(0x1A, password=m.Password(0x98, bytes(3))),
    ],
)
def test_expired_and_unauthorised_orders_are_refused_with_error_four(request_: m.RelayRequest) -> None:
    device = meter()
    assert refusal(ask(device, request_)) == 0x04
    assert contents(device, "04000503") == ["0000"]


@pytest.mark.parametrize("request_", [relay(0x77), relay(0x1D), relay(0x1E, delay=0)])
def test_orders_that_make_no_sense_are_refused(request_: m.RelayRequest) -> None:
    assert refusal(ask(meter(), request_)) == 0x01


def test_all_nines_never_expire_and_alarm_and_protection_show() -> None:
    device = meter()
    assert ask(device, relay(0x2A, expires="999999999999")) == m.RelayReply()
    assert contents(device, "04000503") == ["0080"]
    ask(device, relay(0x2B))
    ask(device, relay(0x3A))
    assert contents(device, "04000503") == ["1000"]
    ask(device, relay(0x3B))
    assert contents(device, "04000503") == ["0000"]


# ------------------------------------------------------------------------------------------------ settings


def test_reply_delays_are_seeded_and_within_the_standard() -> None:
    delays = [meter(seed=seed).reply_delay_s for seed in range(100)]
    assert delays == [meter(seed=seed).reply_delay_s for seed in range(100)]
    assert min(delays) >= 0.02
    assert 0.3 < max(delays) <= 0.5


# ------------------------------------------------------------------------------------------------ anything else

DEVICES = [meter(Kind.FACTORY), meter(edition="1997")]
identifiers = st.sampled_from(
    [
        bytes.fromhex(text)[::-1]
        for text in (
            "04000101",
            "0400010C",
            "04000401",
            "04000C05",
            "04010001",
            "0001FFFF",
            "FFFFFFFF",
            "06100101",
            "0506FF01",
            "02FFFF00",
            "C010",
            "C011",
            "C212",
            "90FF",
            "B6FF",
            "FFFF",
        )
    ]
)
nothing = st.just(b"")
credentials = nothing | st.sampled_from([b"\2\0\0\0", b"\4\0\0\0", b"\2\0\0\0\1\2\3\4", b"\4\0\0\0\1\2\3\4"])
payloads = st.builds(lambda *parts: b"".join(parts), identifiers | nothing, credentials, st.binary(max_size=16))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(DEVICES), st.sampled_from(["own", WILDCARD, BROADCAST]), st.integers(0, 0x1F), payloads)
def test_no_frame_whatever_makes_a_meter_fail(device: Dlt645Meter, to: str, control: int, payload: bytes) -> None:
    reply = device.receive(Frame(device.address if to == "own" else to, control, payload), NOW)
    assert reply is None or m.decode(reply)

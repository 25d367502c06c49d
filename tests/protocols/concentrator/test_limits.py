"""What is refused, and that it costs little: sizes, depth, digits, times, names, units."""

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from protocols.concentrator.messages import MeterData, PushedValue
from protocols.errors import EncodeError
from protocols.values import Obis, Unit
from tests.protocols.concentrator.support import MS, NOW, contract, refusal, value

HES = contract("hes_v1")
TOPIC = "hes/v1/C1/meter/M1/data"


def refused(payload: bytes, topic: str = TOPIC) -> str:
    error = refusal(HES, topic, payload)
    assert len(str(error)) < 500
    assert str(error).isprintable()
    assert len(error.wire) <= 512
    return error.fault


def with_value(text: str) -> bytes:
    return f'{{"ts":{MS},"values":{{"1-0:1.8.0":{text}}}}}'.encode()


def amount_of(text: str) -> Decimal | None:
    (data,) = HES.decode(TOPIC, with_value(text), now=NOW)
    assert isinstance(data, MeterData)
    return data.values[0].amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("123.40", "123.40"),
        ('"123.40"', "123.40"),
        ("0", "0"),
        ("-0.5", "-0.5"),
        ("1e3", "1E+3"),
        ('" 7 "', "7"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.123456789012345678901234567890", "0.123456789012345678901234567890"),
        ("1e30", "1E+30"),
    ],
)
def test_numbers_keep_their_digits(text: str, amount: str) -> None:
    assert str(amount_of(text)) == amount


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e31",
        "1e400",
        "1e-31",
        "1e999999999999999999999",
        "1" * 31,
        "1" * 5000,
        "0." + "1" * 31,
        "1." + "1" * 100_000,
        '"' + "1" * 31 + '"',
        '"1e31"',
        "01",
        "1_000",
    ],
)
def test_numbers_beyond_reason_are_refused(text: str) -> None:
    assert refused(with_value(text)) in ("number", "json")


@pytest.mark.parametrize("text", ['"NaN"', '"Infinity"', '"12,5"', '"\u0661"', '"1_0"', '"0x10"', '""', "null"])
def test_text_that_is_no_number_costs_that_value_only(text: str) -> None:
    payload = f'{{"ts":{MS},"values":{{"1-0:1.8.0":{text},"1-0:32.7.0":230.1}}}}'.encode()
    (data,) = HES.decode(TOPIC, payload, now=NOW)
    assert isinstance(data, MeterData)
    first, second = data.values
    assert (first.amount, bool(first.problem)) == (None, True)
    assert second == value("1-0:32.7.0", "1-0:32.7.0", "230.1", Unit.V)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"\xef\xbb\xbf{}", "json"),
        (b'{"ts":1,"values":{"\xff":1}}', "json"),
        (b'"\\ud800"', "json"),
        (b"[]", "shape"),
        (b"{}", "shape"),
        (b"[" * 200_000, "size"),
        (b"[" * 17 + b"]" * 17, "size"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "size"),
        (b'{"ts":1767578400000,"values":' + b" " * 300_000 + b"{}}", "size"),
        (b"[" + b"1," * 30_000 + b"1]", "size"),
        (json.dumps({"ts": MS, "values": {f"1-0:1.8.{i % 256}*{i // 256}": 1 for i in range(2001)}}).encode(), "size"),
        (json.dumps({"ts": MS, "values": {"x" * 129: 1}}).encode(), "identity"),
        (json.dumps({"ts": MS, "values": {"": 1}}).encode(), "identity"),
        (json.dumps({"ts": MS, "values": {"a\x00b": 1}}).encode(), "identity"),
        (json.dumps({"ts": MS, "values": {"1-0:1.8.0": {"value": 1, "unit": "furlong"}}}).encode(), "unit"),
        (json.dumps({"ts": MS, "values": {"1-0:1.8.0": {"value": 1, "unit": "V"}}}).encode(), "unit"),
        (json.dumps({"ts": MS, "values": {"1-0:1.8.0": [1]}}).encode(), "shape"),
        (json.dumps({"ts": MS, "values": {"1-0:1.8.0": {"unit": "kWh"}}}).encode(), "shape"),
        (json.dumps({"ts": MS, "values": {}, "quality": {"1-0:1.8.0": "late"}}).encode(), "shape"),
        (json.dumps({"ts": MS, "seq": "7", "values": {}}).encode(), "shape"),
        (json.dumps({"ts": MS, "seq": 2**63, "values": {}}).encode(), "shape"),
        *(
            (json.dumps({"ts": ts, "values": {}}).encode(), "time")
            for ts in list[Any]([0, -1, 946_684_799_999, 4_102_444_800_000, 10**29, str(MS), None, True, 1.5, []])
        ),
    ],
)
def test_what_is_no_message_is_refused_with_its_fault(payload: bytes, fault: str) -> None:
    assert refused(payload) == fault


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "hes/v1/C1/meter/M1",
        "hes/v1/C1/meter//data",
        "hes/v1/+/meter/M1/data",
        "hes/v1/C1/meter/M1/#",
        "hes/v1/C1/meter/M\x001/data",
        "hes/v1/C1/meter/M1/data/",
        "/hes/v1/C1/meter/M1/data",
        "hes/v1/C1/meter/" + "x" * 600 + "/data",
        "a/" * 16 + "a",
        "hes/v1/C1/meter/\ud800/data",
        "nonsense",
    ],
)
def test_topics_that_are_none_of_ours_are_refused(topic: str) -> None:
    assert refused(b"{}", topic) == "topic"


def test_a_name_of_a_meter_that_is_too_long_is_refused() -> None:
    assert refused(with_value("1"), "hes/v1/C1/meter/" + "x" * 200 + "/data") == "identity"


@pytest.mark.parametrize("word", ["true", "false"])
def test_true_is_a_closed_contact_and_never_one_kilowatt_hour(word: str) -> None:
    (data,) = HES.decode(TOPIC, with_value(word), now=NOW)
    assert isinstance(data, MeterData)
    assert (data.values[0].amount, data.values[0].problem) == (None, f"not a number: {word}")
    contact = f'{{"ts":{MS},"values":{{"0-0:96.3.10":{word}}}}}'.encode()
    (data,) = HES.decode(TOPIC, contact, now=NOW)
    assert isinstance(data, MeterData)
    assert (data.values[0].amount, data.values[0].problem) == (Decimal(word == "true"), "")


def test_a_time_of_zero_is_told_as_zero() -> None:
    assert "got '0'" in str(refusal(HES, TOPIC, b'{"ts":0,"values":{"1-0:1.8.0":1}}'))


def test_the_reason_says_where_and_what_was_expected_and_what_came() -> None:
    error = refusal(HES, TOPIC, with_value("[1,2]"))
    assert error.reason == "at 'values.1-0:1.8.0': expected a number or decimal text, got a list of 2"
    error = refusal(HES, TOPIC, json.dumps({"ts": MS, "values": {"\u202e" * 5000: 1}}).encode())
    assert str(error).isprintable()


def test_two_numbers_for_one_name_are_refused_and_the_same_twice_is_one() -> None:
    codec = contract("neuron")
    tag = '{"name":"1-0:1.8.0","value":%s}'
    payload = '{"timestamp":1767578400000,"node":"M1","tags":[%s,%s]}'
    (data,) = codec.decode("/neuron/C1", (payload % (tag % "1.0", tag % "1.00")).encode(), now=NOW)
    assert isinstance(data, MeterData)
    assert len(data.values) == 1
    assert refusal(codec, "/neuron/C1", (payload % (tag % 1, tag % 2)).encode()).fault == "shape"


def test_one_message_is_read_in_bounded_time() -> None:
    """Of the worst payloads known, each far below the time in which a broker would lose patience."""
    worst = [
        json.dumps({"ts": MS, "values": {f"1-0:1.8.{i % 256}*{i // 256}": 1 for i in range(2000)}}).encode(),
        json.dumps({"ts": MS, "values": {f"{i:0125}": "9" * 30 for i in range(1900)}}).encode(),
        b"[" + b"[]," * 80_000 + b"[]]",
        b"[" * 260_000,
        b'{"ts":' + b"1" * 260_000 + b"}",
        b'{"ts":1.' + b"1" * 260_000 + b"}",
        b'"' + b"\\u0041" * 43_000 + b'"',
        b'{"values":{' + b'"a":1,' * 43_000 + b'"a":1}}',
    ]
    for payload in worst:
        began = time.perf_counter()
        for _ in range(3):
            try:
                HES.decode(TOPIC, payload, now=NOW)
            except Exception as error:
                assert type(error).__name__ == "BadEnvelope"
        assert (time.perf_counter() - began) / 3 < 0.5


# ---------------------------------------------------------------------------------------------------- times with zones


def tasmota_time(text: str, zone: str, now: datetime = NOW) -> datetime | None:
    codec = contract("tasmota_sml", timezone=zone)
    (data,) = codec.decode("tele/C1/SENSOR", json.dumps({"Time": text, "MT1": {"Power": 1}}).encode(), now=now)
    assert isinstance(data, MeterData)
    return data.at


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2026-01-05T10:00:00", "Asia/Shanghai", datetime(2026, 1, 5, 2, tzinfo=UTC)),
        ("2026-01-05 10:00:00", "Asia/Shanghai", datetime(2026, 1, 5, 2, tzinfo=UTC)),
        ("2026-01-05T10:00:00", "UTC", datetime(2026, 1, 5, 10, tzinfo=UTC)),
        ("2026-07-05T10:00:00", "Europe/Berlin", datetime(2026, 7, 5, 8, tzinfo=UTC)),
        ("2026-07-05T10:00:00.250+08:00", "Europe/Berlin", datetime(2026, 7, 5, 2, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-07-05T10:00:00Z", "Europe/Berlin", datetime(2026, 7, 5, 10, tzinfo=UTC)),
    ],
)
def test_local_times_are_those_of_the_contracts_zone(text: str, zone: str, utc: datetime) -> None:
    assert tasmota_time(text, zone) == utc


def test_the_hour_that_autumn_repeats_is_the_one_nearer_to_now() -> None:
    first, second = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    for now in (first, second):
        assert tasmota_time("2026-10-25T02:30:00", "Europe/Berlin", now) == now


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-29T02:30:00",  # skipped in spring
        "2026-02-30T00:00:00",
        "2026-01-05T24:00:00",
        "1999-12-31T23:59:59",
        "0001-01-01T00:00:00+2359",
        "2026-01-05T10:00:00+9999",
        "2026-01-05",
        "10:00:00",
        "20260105T100000",
        "",
    ],
)
def test_times_that_never_were_are_refused(text: str) -> None:
    codec = contract("tasmota_sml", timezone="Europe/Berlin")
    payload = json.dumps({"Time": text, "MT1": {"Power": 1}}).encode()
    assert refusal(codec, "tele/C1/SENSOR", payload).fault == "time"


def test_a_time_without_zone_is_refused_while_the_zone_is_not_configured() -> None:
    codec = contract("tasmota_sml", timezone="")
    payload = b'{"Time":"2026-01-05T10:00:00","MT1":{"Power":1}}'
    assert "timezone is not set" in refusal(codec, "tele/C1/SENSOR", payload).reason
    data = MeterData(concentrator="C1", meter="MT1", at=NOW, values=())
    with pytest.raises(EncodeError, match="timezone"):
        codec.encode_uplink(data)


# ---------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("name", "given", "amount", "unit"),
    [
        ("1-0:1.8.0", {"value": 1500, "unit": "Wh"}, "1.500", Unit.KWH),
        ("1-0:1.8.0", {"value": 1.5, "unit": "MWh"}, "1500", Unit.KWH),
        ("1-0:3.8.0", {"value": 7, "unit": "kvarh"}, "7", Unit.KVARH),
        ("1-0:16.7.0", {"value": "321", "unit": "W"}, "0.321", Unit.KW),
        ("1-0:9.7.0", {"value": 250, "unit": "VA"}, "0.250", Unit.KVA),
        ("1-0:31.7.0", {"value": 1500, "unit": "mA"}, "1.500", Unit.A),
        ("1-0:13.7.0", 0.98, "0.98", Unit.NONE),
        ("1-0:14.7.0", 50.01, "50.01", Unit.HZ),
        ("1-0:81.7.4", 12.5, "12.5", Unit.DEG),
        ("0-0:96.3.10", True, "1", Unit.NONE),
    ],
)
def test_values_come_in_our_units(name: str, given: Any, amount: str, unit: Unit) -> None:
    (data,) = HES.decode(TOPIC, json.dumps({"ts": MS, "values": {name: given}}).encode(), now=NOW)
    assert isinstance(data, MeterData)
    assert data.values[0].problem == ""
    assert (data.values[0].amount, data.values[0].unit) == (Decimal(amount), unit)


def test_a_value_whose_unit_nobody_knows_is_marked() -> None:
    payload = json.dumps({"ts": MS, "values": {"7-0:3.0.0": 12, "temperature": 20.5}}).encode()
    (data,) = HES.decode(TOPIC, payload, now=NOW)
    assert isinstance(data, MeterData)
    assert data.values == (
        value("7-0:3.0.0", "7-0:3.0.0", "12", Unit.NONE, "unit unknown"),
        value("temperature", None, "20.5", Unit.NONE, "unit unknown"),
    )


def test_an_amount_in_watts_is_written_in_the_familys_unit_and_never_as_if_it_were_kilowatts() -> None:
    pushed = PushedValue(name="1-0:16.7.0", obis=Obis("1-0:16.7.0"), amount=Decimal(321), unit=Unit.W)
    data = MeterData(concentrator="C1", meter="MT1", at=NOW, values=(pushed,))
    for family in ("hes_v1", "neuron", "tasmota_sml", "aliyun"):
        codec = contract(family)
        (told,) = codec.encode_uplink(data)
        (back,) = codec.decode(told.topic, told.payload, now=NOW)
        assert isinstance(back, MeterData)
        assert (back.values[0].amount, back.values[0].unit) == (Decimal("0.321"), Unit.KW), family
    with pytest.raises(EncodeError, match="not in A"):
        HES.encode_uplink(
            MeterData(
                concentrator="C1",
                meter="MT1",
                at=NOW,
                values=(PushedValue(name="x", obis=Obis("1-0:16.7.0"), amount=Decimal(1), unit=Unit.A),),
            )
        )

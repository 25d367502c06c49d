"""Literal bytes for reads and events."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from headend.feed.envelope import encode_event, encode_read, iso_utc, plain, read_id
from headend.model import Event, Quality, Read
from protocols.values import Unit

READ = Read(
    meter="M000001",
    obis="1-0:1.8.0",
    amount=Decimal("123456.78"),
    unit=Unit.KWH,
    interval_end=datetime(2026, 1, 31, 16, tzinfo=UTC),
    read_at=datetime(2026, 1, 31, 16, 0, 1, tzinfo=UTC),
    received_at=datetime(2026, 1, 31, 16, 0, 2, 250_999, tzinfo=UTC),
    quality=(Quality.MEASURED,),
    source="dlt645/base_2007:00010000",
)


def test_a_read_is_these_bytes() -> None:
    assert encode_read(READ, source="/headend/luoyang-west", sequence=1042) == (
        b'{"specversion":"1.0","id":"read:M000001:1-0:1.8.0:2026-01-31T16:00:00Z:0",'
        b'"source":"/headend/luoyang-west",'
        b'"type":"headend.read.v1","subject":"M000001","time":"2026-01-31T16:00:02.250Z","sequence":"1042",'
        b'"data":{"meter":"M000001","obis":"1-0:1.8.0","value":"123456.78","unit":"kWh",'
        b'"interval_end":"2026-01-31T16:00:00Z","read_at":"2026-01-31T16:00:01Z",'
        b'"received_at":"2026-01-31T16:00:02.250Z","quality":["measured"],"source":"dlt645/base_2007:00010000",'
        b'"revision":0}}'
    )


def test_a_missing_read_has_no_value_and_a_reason() -> None:
    missing = Read(
        meter="M000001",
        obis="1-0:1.8.0",
        amount=None,
        unit=Unit.KWH,
        interval_end=READ.interval_end,
        read_at=None,
        received_at=READ.interval_end,
        quality=(Quality.LATE, Quality.MISSING),
        source="s",
        revision=2,
        reason="line-down",
    )
    assert encode_read(missing, source="/headend/x", sequence=1).endswith(
        b'"data":{"meter":"M000001","obis":"1-0:1.8.0","value":null,"unit":"kWh",'
        b'"interval_end":"2026-01-31T16:00:00Z","read_at":null,"received_at":"2026-01-31T16:00:00Z",'
        b'"quality":["missing","late"],"source":"s","revision":2,"reason":"line-down"}}',
    )


def test_a_maximum_demand_carries_its_time() -> None:
    demand = Read(**{name: getattr(READ, name) for name in READ.__struct_fields__} | {"occurred_at": READ.read_at})
    assert encode_read(demand, source="/x", sequence=1).endswith(b'"revision":0,"occurred_at":"2026-01-31T16:00:01Z"}}')


def test_an_event_is_these_bytes() -> None:
    event = Event(
        type="headend.meter-status.v1",
        subject="M1",
        data={"state": "silent"},
        time=READ.interval_end,
        id="own",
    )
    assert encode_event(event, source="/headend/x", sequence=3) == (
        b'{"specversion":"1.0","id":"own","source":"/headend/x","type":"headend.meter-status.v1","subject":"M1",'
        b'"time":"2026-01-31T16:00:00Z","sequence":"3","data":{"state":"silent"}}'
    )


def test_a_repeat_has_the_same_id_and_a_correction_another() -> None:
    fields = {name: getattr(READ, name) for name in READ.__struct_fields__}
    assert read_id(READ) == read_id(Read(**fields | {"received_at": READ.received_at + timedelta(hours=1)}))
    assert read_id(READ) != read_id(Read(**fields | {"revision": 1}))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("1.50", "1.50"),
        ("0", "0"),
        ("-0.00", "-0.00"),
        ("1E+3", "1000"),
        ("1E-10", "0.0000000001"),
        ("0E-8", "0.00000000"),
    ],
)
def test_amounts_are_plain_decimals(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text


def test_times_have_one_spelling() -> None:
    beijing = timezone(timedelta(hours=8))
    assert iso_utc(datetime(2026, 2, 1, 0, 0, tzinfo=beijing)) == "2026-01-31T16:00:00Z"
    assert iso_utc(datetime(2026, 1, 31, 16, 0, 0, 999, tzinfo=UTC)) == "2026-01-31T16:00:00Z"
    assert iso_utc(datetime(2026, 1, 31, 16, 0, 0, 1000, tzinfo=UTC)) == "2026-01-31T16:00:00.001Z"


@pytest.mark.parametrize(
    "change",
    [
        {"amount": None},
        {"amount": Decimal("NaN")},
        {"amount": Decimal("Infinity")},
        {"quality": ()},
        {"quality": (Quality.MISSING,)},
        {"reason": "silent"},
        {"interval_end": datetime(2026, 1, 31, 16)},
        {"interval_end": datetime(2026, 1, 31, 16, 0, 0, 1, tzinfo=UTC)},
        {"received_at": datetime(2026, 1, 31, 16)},
    ],
)
def test_a_read_that_contradicts_itself_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="read of M000001"):
        Read(**{name: getattr(READ, name) for name in READ.__struct_fields__} | change)


def test_an_event_that_is_no_json_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        Event(type="t", subject="s", data={"x": object()}, time=READ.interval_end)

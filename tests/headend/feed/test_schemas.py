"""The schemas hold for what is really sent: a foreign validator (jsonschema) against events as the head-end makes them."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from jsonschema import Draft202012Validator

from headend.concentrators.presence import Change
from headend.concentrators.reads import event_of
from headend.feed import envelope
from headend.feed.envelope import encode_event, encode_read
from headend.feed.interval_event import interval_event
from headend.feed.payloads import READ_REASONS, UNITS, ReadData
from headend.feed.schema_docs import PAGE, rewritten
from headend.feed.schemas import EVENT_TYPES, check, schema_file, schema_of, write
from headend.intervals.model import Interval, Mark, Part, Span
from headend.model import Event, MeterRecord, Quality, Read
from protocols.concentrator.messages import MeterEvent
from protocols.values import Unit
from simulators.virtual_time import VirtualClock, run
from tests.headend.support import START, a_read
from tests.scenarios.street import Street, run_street

SCHEMAS = {event_type.name: schema_of(event_type) for event_type in EVENT_TYPES}
KEPT = Path(__file__).parents[3] / "schemas"
HEADEND = Path(envelope.__file__).parents[1]
MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai


def problems(event: dict[str, Any]) -> list[str]:
    validator = Draft202012Validator(SCHEMAS[event["type"]])
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(event)]


def sent(item: Read | Event) -> dict[str, Any]:
    if isinstance(item, Read):
        written = encode_read(item, source="/headend/x", sequence=1)
    else:
        written = encode_event(item, source="/headend/x", sequence=1)
    event: dict[str, Any] = json.loads(written)
    return event


def changed(read: Read, **fields: Any) -> Read:
    return msgspec.structs.replace(read, **fields)


READS = {
    "measured": a_read(),
    "missing": a_read(amount=None),
    "late and suspect": changed(a_read(), quality=(Quality.MEASURED, Quality.LATE, Quality.SUSPECT), revision=2),
    "of a maximum demand": changed(a_read(obis="1-0:1.6.0", unit=Unit.KW), occurred_at=START, read_at=START),
    "behind transformers": changed(a_read(), ratio=Decimal("800"), is_primary=False),
    "of the primary side": changed(a_read(amount="-1E+3"), ratio=Decimal("7.5"), is_primary=True),
    "without unit": changed(a_read(obis="1-0:13.7.0", amount="0.998"), unit=Unit.NONE),
}
INTERVAL = Interval(
    meter="M1",
    obis="1-0:1.8.0",
    start=START,
    end=START + timedelta(minutes=15),
    period_s=900,
    amount=Decimal("0.25"),
    unit=Unit.KWH,
    quality=(Quality.MEASURED,),
    source="dlt645/base_2007:00010000",
)
INTERVALS = {
    "plain": INTERVAL,
    "of unknown amount": msgspec.structs.replace(
        INTERVAL, amount=None, quality=(Quality.MISSING,), reason="missing-boundary", evidence={"end": "missing"}
    ),
    "with everything": msgspec.structs.replace(
        INTERVAL,
        marks=(Mark.ROLLED_OVER, Mark.RATIO_CHANGED),
        covered=(START, START + timedelta(minutes=14)),
        span=Span(start=START - timedelta(hours=1), end=START, amount=Decimal("1.00"), marks=(Mark.METER_EXCHANGED,)),
        primary=Decimal("200.00"),
        parts=(Part(start=START, end=START + timedelta(minutes=5), amount=Decimal("0.1"), ratio=Decimal(800)),),
        revision=1,
    ),
}


def test_the_kept_files_are_those_of_the_types() -> None:
    files = {path.stem: path.read_bytes() for path in KEPT.glob("headend.*.json")}
    assert [problem.text for problem in check(files)] == []


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda event_type: event_type.name)
def test_every_schema_is_json_schema_2020_12_and_stands_for_itself(event_type: Any) -> None:
    schema = schema_of(event_type)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert b'"$ref"' not in schema_file(event_type)
    assert event_type.name.endswith(f".v{event_type.version.partition('.')[0]}")


def test_the_type_of_a_read_has_the_fields_that_are_written() -> None:
    """The same names in the same order, optional where the writer leaves defaults out."""
    written = envelope._ReadData
    assert ReadData.__struct_fields__ == written.__struct_fields__
    described = {field.name: field.required for field in msgspec.structs.fields(ReadData)}
    assert described == {field.name: field.required for field in msgspec.structs.fields(written)}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_as_they_are_sent_are_valid(read: Read) -> None:
    event = sent(read)
    assert problems(event) == []
    msgspec.convert(event["data"], ReadData)
    assert event["data"]["unit"] in UNITS


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
def test_intervals_as_they_are_sent_are_valid(interval: Interval) -> None:
    event = sent(interval_event(interval, START))
    assert problems(event) == []
    assert event["data"]["end"] == "2026-01-31T16:15:00Z"
    assert event["id"] == f"interval:M1:1-0:1.8.0:900:2026-01-31T16:15:00Z:{interval.revision}"


def test_an_unknown_amount_is_null_with_its_reason() -> None:
    data = sent(interval_event(INTERVALS["of unknown amount"], START))["data"]
    assert (data["amount"], data["reason"], data["quality"]) == (None, "missing-boundary", ["missing"])
    assert "marks" not in data


def test_what_concentrators_tell_is_valid() -> None:
    record = MeterRecord(id="M1", line="", address="1", contract="c", plan="", protocol="")
    told = MeterEvent(
        concentrator="C1", meter="1", at=None, name="cover-open", detail={"count": 1, "u": Decimal("1.5")}
    )
    for item in (event_of(told, record, START), *(presence(reason) for reason in ("said", "last-will", "silence"))):
        assert problems(sent(item)) == []


@pytest.mark.parametrize(("kind", "destination"), [("capacity", ""), ("protection", "billing")])
def test_alarms_of_the_service_are_valid(kind: str, destination: str) -> None:
    data: dict[str, object] = {"kind": kind, "state": "24h", "hours_left": 20.5, "destination": destination}
    alarm = Event(type="headend.service-status.v1", subject="luoyang-west", data=data, time=START)
    assert problems(sent(alarm)) == []


# What signatures and files are marked with, so that none is taken for another.
NO_EVENTS = {"headend.audit-log.v1", "headend.audit-evidence.v1", "headend.policy.v1"}


def test_no_event_type_is_sent_without_a_schema() -> None:
    named = {
        name for path in HEADEND.rglob("*.py") for name in re.findall(r"\bheadend\.[a-z-]+\.v\d+", path.read_text())
    }
    assert named - NO_EVENTS == set(SCHEMAS)


def presence(reason: str) -> Event:
    return Change(online=reason == "said", reason=reason, at=START).event("C1", START)


def test_everything_a_street_sends_is_valid(tmp_path: Path) -> None:
    """Three hours, clocks that are off: reads and clock states as they lie in the store."""

    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        street.meters["M000002"].model.step_clock(timedelta(seconds=95), clock.world())
        await asyncio.sleep(0)

    def edit(text: str) -> str:
        return f'{text}\n[clock]\ncorrect = "broadcast"\n'

    options: dict[str, Any] = {"meters_per_line": 3, "quantities": ["1-0:1.8.0", "1-0:32.7.0"], "seed": 11}
    street = run(
        lambda clock, _: run_street(tmp_path, clock, hours=3, edit=edit, meanwhile=meanwhile, **options), start=MIDNIGHT
    )
    events = list(street.events())
    assert {event["type"] for event in events} == {
        "headend.read.v1",
        "headend.meter-status.v1",
        "headend.interval.v1",
    }
    assert len(events) > 70
    assert [problem for event in events for problem in problems(event)] == []


def test_what_a_later_version_adds_is_valid_for_this_one() -> None:
    """A further word, a further field, a further kind of status: a consumer skips what it does not know."""
    event = sent(a_read())
    event["data"] |= {"quality": ["measured", "blessed"], "unit": "GJ", "more": {"x": 1}}
    event["traceparent"] = "00-1-1-00"
    assert problems(event) == []
    status = sent(presence("said"))
    status["data"] = {"meter": "M1", "kind": "temper", "state": "hot", "degrees": 60}
    assert problems(status) == []


def bad_events() -> Iterator[tuple[str, dict[str, Any]]]:
    good = sent(a_read())
    for name in good["data"]:
        if name not in ("reason", "occurred_at"):
            data = {field: value for field, value in good["data"].items() if field != name}
            yield f"without {name}", good | {"data": data}
    wrong: dict[str, Any] = {
        "value": 1.5,
        "interval_end": "2026-01-31 16:00:00",
        "received_at": "2026-01-31T16:00:00+08:00",
        "quality": [],
        "revision": -1,
        "side": "left",
    }
    for name, value in wrong.items():
        yield f"{name} {value!r}", good | {"data": good["data"] | {name: value}}
    yield "value with exponent", good | {"data": good["data"] | {"value": "1E+3"}}
    yield "sequence as a number", good | {"sequence": 1}
    yield "another type's data", sent(presence("said")) | {"data": good["data"] | {"kind": "clock"}}


@pytest.mark.parametrize(("case", "event"), list(bad_events()), ids=[case for case, _ in bad_events()])
def test_what_is_never_sent_is_invalid(case: str, event: dict[str, Any]) -> None:
    assert problems(event)


def test_every_reason_and_field_of_a_read_is_documented() -> None:
    page = PAGE.read_text("utf-8")
    for word in READ_REASONS:
        assert f"`{word}`" in page
    for field in ReadData.__struct_fields__:
        assert f"`{field}`" in page, field


def test_the_made_tables_of_the_documentation_are_those_of_the_types() -> None:
    page = PAGE.read_text("utf-8")
    assert rewritten(page) == page, "python -m headend.feed.schema_docs makes them anew"
    assert page.count("<!-- made: ") == 4
    for event_type in EVENT_TYPES:
        assert f"`{event_type.name}`" in page


def test_written_files_pass_the_check(tmp_path: Path) -> None:
    assert write(tmp_path) == []
    assert check({path.stem: path.read_bytes() for path in tmp_path.iterdir()}) == []


def test_periods_of_local_days_need_no_other_schema() -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 10, 25, tzinfo=zone)
    day = msgspec.structs.replace(INTERVAL, start=start, end=datetime(2026, 10, 26, tzinfo=zone), period_s=86400)
    event = sent(interval_event(day, START))
    assert problems(event) == []
    assert (event["data"]["start"], event["data"]["end"]) == ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")

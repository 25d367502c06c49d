"""What concentrators push, as reads and events of the feed. Pure."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from headend.feed.envelope import iso_utc
from headend.model import Event, MeterRecord, PushedRead, Quality, Read
from protocols.concentrator.messages import MeterData, MeterEvent, PushedValue

__all__ = ["event_of", "reads_of"]

EVENT_TYPE = "headend.meter-event.v1"
AHEAD_S_MAX = 300  # a clock may be a little fast; DL/T 645 meters are set by broadcast within five minutes
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)  # a clock that was never set says 1970 or 2000-01-01
_AHEAD = timedelta(seconds=AHEAD_S_MAX)
_BEHIND = timedelta(
    days=730
)  # no concentrator keeps reads for years; a clock that lost its battery begins where its maker set it

_encode = msgspec.json.Encoder(decimal_format="string", order="sorted").encode


def reads_of(
    data: MeterData, meter: MeterRecord, contract: str, received_at: datetime, *, has_waited: bool = False
) -> Iterator[tuple[PushedValue, PushedRead | None]]:
    """Each value with its read; None for a value whose quantity nobody knows: a number without a meaning is no read.

    A payload without a time is taken at `received_at`, and its `read_at` stays None. has_waited: it was said at some time before.
    """
    moment = received_at if data.at is None else data.at
    taken_at = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    if data.at is None:
        is_odd = has_waited
    else:
        is_odd = data.at > received_at + _AHEAD or data.at < max(_FIRST, received_at - _BEHIND)
    for value in data.values:
        if value.obis is None:
            yield value, None
            continue
        missing = value.amount is None
        doubtful = not missing and (is_odd or bool(value.problem))
        yield (
            value,
            PushedRead(
                Read(
                    meter=meter.id,
                    obis=str(value.obis),
                    amount=value.amount,
                    unit=value.unit,
                    interval_end=taken_at,
                    read_at=None if data.at is None else taken_at,
                    received_at=received_at,
                    quality=_MISSING if missing else _SUSPECT if doubtful else _MEASURED,
                    source=f"{contract}:{value.obis}",
                    reason=("concentrator-error" if value.problem else "not-measured") if missing else "",
                )
            ),
        )


def event_of(event: MeterEvent, meter: MeterRecord, received_at: datetime) -> Event:
    """The same event of the same moment has the same id, however often it comes."""
    written = _encode(event.detail)
    identity = ""
    if event.at is not None:
        digest = hashlib.sha256(written).hexdigest()[:16]
        identity = f"meter-event:{meter.id}:{event.name}:{iso_utc(event.at)}:{digest}"
    return Event(
        type=EVENT_TYPE,
        subject=meter.id,
        data={
            "meter": meter.id,
            "concentrator": event.concentrator,
            "name": event.name,
            "at": None if event.at is None else iso_utc(event.at),
            "detail": msgspec.json.decode(written),  # numbers as decimal strings, as everywhere in the feed
        },
        time=received_at,
        id=identity,
    )


_MEASURED = (Quality.MEASURED,)
_MISSING = (Quality.MISSING,)
_SUSPECT = (Quality.MEASURED, Quality.SUSPECT)

"""Events of the feed as a MeterReadings document of IEC 61968-9, namespace http://iec.ch/TC57/2011/MeterReadings#. Pure.

The structure is the public one: the class descriptions that XML binders have published of MeterReadings.xsd (edition 2), and
documents of running systems. A read becomes `Readings`, an interval `IntervalBlocks`, one per quantity. What goes where:

    timeStamp          the moment the value is for: a read's interval_end, of a maximum demand when it happened; an interval's end
    timePeriod         of an interval its start and end, so that nobody has to know by which of the two it is named
    reportedDateTime   when we received it
    value              absent when it is missing; the quality says so, its comment why
    ReadingQualities   see `quality_codes`; the comment is our own words, which say more

CIM knows no revisions: of those given, the highest of each value is written. What has no ReadingType cannot be written, and is
counted and named, never dropped in silence.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from headend.feed.envelope import READ_TYPE
from headend.feed.interval_event import INTERVAL_TYPE
from headend.feed.quality_codes import codes_of
from headend.feed.reading_type import reading_type, register_type
from protocols.errors import UnknownUnit
from protocols.values import Unit

__all__ = ["NAMESPACE", "CimDocument", "meter_readings"]

NAMESPACE = "http://iec.ch/TC57/2011/MeterReadings#"
NAME_TYPE = "AssetNumber"

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_Event = Mapping[str, Any]
_Key = tuple[str, ...]
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


class CimDocument(Struct, frozen=True):
    """written: values in `xml`. left_out: ids of the reads and intervals that have no ReadingType. Other events are not counted."""

    xml: bytes
    written: int
    left_out: tuple[str, ...]


def meter_readings(events: Iterable[_Event]) -> CimDocument:
    """Decoded events of the feed, in any order, meters and quantities in the order of their first event."""
    latest: dict[_Key, _Event] = {}
    for event in events:
        key = _key(event)
        if key is not None:
            before = latest.get(key)
            if before is None or before["data"]["revision"] <= event["data"]["revision"]:
                latest[key] = event
    left_out: list[str] = []
    meters: dict[str, tuple[str, dict[str, list[_Event]], list[tuple[str, _Event]]]] = {}
    for event in latest.values():
        code = _type_of(event)
        if code is None:
            left_out.append(event["id"])
            continue
        _, blocks, reads = meters.setdefault(event["data"]["meter"], (event["source"], {}, []))
        if event["type"] == INTERVAL_TYPE:
            blocks.setdefault(code, []).append(event)
        else:
            reads.append((code, event))
    root = ET.Element("MeterReadings", {"xmlns": NAMESPACE})
    written = 0
    for meter, (source, blocks, reads) in meters.items():
        _meter_reading(root, meter, source, blocks, reads)
        written += len(reads) + sum(map(len, blocks.values()))
    return CimDocument(_DECLARATION + ET.tostring(root, encoding="utf-8"), written, tuple(left_out))


def _key(event: _Event) -> _Key | None:
    """Same for all revisions of a value; None for events that are no value."""
    data = event["data"]
    if event["type"] == READ_TYPE:
        return READ_TYPE, data["meter"], data["obis"], data["interval_end"]
    if event["type"] == INTERVAL_TYPE:
        return INTERVAL_TYPE, data["meter"], data["obis"], str(data["period_s"]), data["end"]
    return None


def _type_of(event: _Event) -> str | None:
    data = event["data"]
    try:
        unit = Unit.from_text(data["unit"])
    except UnknownUnit:
        return None
    is_primary = data.get("side") == "primary"
    if event["type"] == INTERVAL_TYPE:
        return reading_type(data["obis"], unit, data["period_s"], "interval", primary=is_primary)
    return register_type(data["obis"], unit, primary=is_primary)


def _meter_reading(
    root: ET.Element, meter: str, source: str, blocks: Mapping[str, list[_Event]], reads: list[tuple[str, _Event]]
) -> None:
    """Children in the order of the schema's sequence: IntervalBlocks, Meter, Readings."""
    reading = ET.SubElement(root, "MeterReading")
    for code, intervals in blocks.items():
        block = ET.SubElement(reading, "IntervalBlocks")
        for event in intervals:
            _interval(block, event)
        ET.SubElement(block, "ReadingType", {"ref": code})
    names = ET.SubElement(ET.SubElement(reading, "Meter"), "Names")
    _text(names, "name", meter)
    name_type = ET.SubElement(names, "NameType")
    _text(name_type, "name", NAME_TYPE)
    _text(ET.SubElement(name_type, "NameTypeAuthority"), "name", source)
    for code, event in reads:
        _read(reading, code, event)


def _read(reading: ET.Element, code: str, event: _Event) -> None:
    data = event["data"]
    read = ET.SubElement(reading, "Readings")
    moment = data.get("occurred_at") or data["interval_end"]
    _value(read, data["received_at"], data["source"], moment, data["value"])
    _qualities(read, data, moment, event["source"])
    ET.SubElement(read, "ReadingType", {"ref": code})


def _interval(block: ET.Element, event: _Event) -> None:
    data = event["data"]
    interval = ET.SubElement(block, "IntervalReadings")
    _value(interval, event["time"], data["source"], data["end"], data["amount"])
    _qualities(interval, data, data["end"], event["source"])
    period = ET.SubElement(interval, "timePeriod")
    _text(period, "end", data["end"])
    _text(period, "start", data["start"])


def _value(parent: ET.Element, reported: str, source: str, moment: str, value: str | None) -> None:
    _text(parent, "reportedDateTime", reported)
    _text(parent, "source", source)
    _text(parent, "timeStamp", moment)
    if value is not None:
        _text(parent, "value", value)


def _qualities(parent: ET.Element, data: Mapping[str, Any], moment: str, source: str) -> None:
    marks = data.get("marks", [])
    words = [*data["quality"], *marks, *([data["reason"]] if data.get("reason") else [])]
    for code in codes_of(data["quality"], marks):
        quality = ET.SubElement(parent, "ReadingQualities")
        _text(quality, "comment", ", ".join(words))
        _text(quality, "source", source)
        _text(quality, "timeStamp", moment)
        ET.SubElement(quality, "ReadingQualityType", {"ref": code})


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = _printable(text)


def _printable(text: str) -> str:
    """XML 1.0 cannot say most control characters and some others (clause 2.2); U+FFFD stands in their place."""
    return _NO_XML.sub("\ufffd", text)

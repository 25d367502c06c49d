"""CIM: the MeterReadings document against the public structure, and quality codes there and back."""

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xmlschema

from headend.feed.cim import NAMESPACE, CimDocument, meter_readings
from headend.feed.envelope import encode_event, encode_read
from headend.feed.interval_event import interval_event
from headend.feed.quality_codes import MARK_CODES, QUALITY_CODES, RULE_CODES, codes_of, quality_of
from headend.intervals.findings import RULES
from headend.intervals.model import Interval, Mark
from headend.model import Event, Quality, Read
from protocols.values import Unit
from tests.headend.support import PERIOD, START, VOLTAGE, a_read

XSD = Path(__file__).with_name("meter_readings.xsd")
M = f"{{{NAMESPACE}}}"
IMPORT_TYPE = "0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.3.72.0"


def sent(*items: Read | Event) -> list[dict[str, Any]]:
    written = [
        encode_read(item, source="/headend/x", sequence=number)
        if isinstance(item, Read)
        else encode_event(item, source="/headend/x", sequence=number)
        for number, item in enumerate(items, 1)
    ]
    return [json.loads(one) for one in written]


def an_interval(slot: int = 0, amount: str | None = "0.25", **more: Any) -> Event:
    quality = (Quality.MISSING,) if amount is None else (Quality.MEASURED,)
    interval = Interval(
        meter="M000001",
        obis="1-0:1.8.0",
        start=START + slot * PERIOD,
        end=START + (slot + 1) * PERIOD,
        period_s=900,
        amount=None if amount is None else Decimal(amount),
        unit=Unit.KWH,
        **({"quality": quality, "source": "dlt645/base_2007:00010000"} | more),
    )
    return interval_event(interval, interval.end + timedelta(minutes=1))


def everything() -> list[dict[str, Any]]:
    demand = a_read(obis="1-0:1.6.0", amount="3.5", unit=Unit.KW)
    return sent(
        a_read(),
        a_read(slot=1, amount=None),
        a_read(meter="M000002 <&>", obis=VOLTAGE, amount="231.4", unit=Unit.V),
        msgspec.structs.replace(demand, occurred_at=START - timedelta(hours=3)),
        msgspec.structs.replace(a_read(slot=2), quality=(Quality.MEASURED, Quality.SUSPECT, Quality.LATE)),
        a_read(obis="di:0280000A", amount="7", unit=Unit.MINUTE),
        Event(type="headend.meter-status.v1", subject="M000001", data={"kind": "x"}, time=START),
        an_interval(),
        an_interval(1, None, reason="missing-boundary"),
        an_interval(2, marks=(Mark.ROLLED_OVER, Mark.CLOCK_CORRECTED)),
    )


def tree(document: CimDocument) -> ET.Element:
    return ET.fromstring(document.xml)


def texts(root: ET.Element, path: str) -> list[str | None]:
    """Of the elements at the end of a path such as Readings/value, wherever it begins."""
    return [found.text for found in root.iterfind(".//" + "/".join(f"{M}{tag}" for tag in path.split("/")))]


def test_the_document_has_the_public_structure() -> None:
    document = meter_readings(everything())
    xmlschema.XMLSchema(XSD).validate(document.xml.decode())
    assert (document.written, document.left_out) == (8, ("read:M000001:di:0280000A:2026-01-31T16:00:00Z:0",))


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="xmllint is not installed (Debian: libxml2-utils)")
def test_xmllint_agrees(tmp_path: Path) -> None:
    path = tmp_path / "readings.xml"
    path.write_bytes(meter_readings(everything()).xml)
    done = subprocess.run(
        ["xmllint", "--noout", "--nonet", "--schema", XSD, path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_structure_would_notice_a_wrong_order_or_a_missing_type() -> None:
    schema = xmlschema.XMLSchema(XSD)
    good = meter_readings(everything()).xml.decode()
    moved = good.replace("<value>123456.78</value>", "").replace(
        "<reportedDateTime>", "<value>1</value><reportedDateTime>", 1
    )
    assert not schema.is_valid(moved)
    assert not schema.is_valid(good.replace(f'<ReadingType ref="{IMPORT_TYPE}" />', ""))
    assert not schema.is_valid(good.replace("<timeStamp>2026-01-31T16", "<timeStamp>31.1.2026 16", 1))


def test_a_read_is_these_elements() -> None:
    document = meter_readings(sent(a_read()))
    assert document.xml.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<MeterReadings xmlns="{NAMESPACE}"><MeterReading>'
        "<Meter><Names><name>M000001</name><NameType><name>AssetNumber</name>"
        "<NameTypeAuthority><name>/headend/x</name></NameTypeAuthority></NameType></Names></Meter>"
        "<Readings><reportedDateTime>2026-01-31T16:00:02.250Z</reportedDateTime>"
        "<source>dlt645/base_2007:00010000</source><timeStamp>2026-01-31T16:00:00Z</timeStamp><value>123456.78</value>"
        "<ReadingQualities><comment>measured</comment><source>/headend/x</source>"
        '<timeStamp>2026-01-31T16:00:00Z</timeStamp><ReadingQualityType ref="2.0.0" /></ReadingQualities>'
        f'<ReadingType ref="{IMPORT_TYPE}" /></Readings></MeterReading></MeterReadings>'
    )


def test_values_keep_their_digits_and_missing_ones_have_none() -> None:
    root = tree(meter_readings(sent(a_read(amount="0.00"), a_read(slot=1, amount=None))))
    assert texts(root, "Readings/value") == ["0.00"]
    assert texts(root, "ReadingQualities/comment") == ["measured", "missing, silent"]


def test_a_maximum_demand_is_stamped_with_its_own_time_and_primary_amounts_are_primary() -> None:
    demand = msgspec.structs.replace(a_read(obis="1-0:1.6.0", unit=Unit.KW), occurred_at=START - timedelta(hours=3))
    behind = msgspec.structs.replace(a_read(), ratio=Decimal(800), is_primary=True)
    root = tree(meter_readings(sent(demand, behind)))
    assert texts(root, "Readings/timeStamp") == ["2026-01-31T13:00:00Z", "2026-01-31T16:00:00Z"]
    commodities = [one.attrib["ref"].split(".")[5] for one in root.iterfind(f".//{M}Readings/{M}ReadingType")]
    assert commodities == ["1", "2"]


def test_intervals_of_one_quantity_share_a_block_and_say_where_they_begin_and_end() -> None:
    root = tree(meter_readings(sent(an_interval(), an_interval(1), a_read())))
    (block,) = root.iterfind(f".//{M}IntervalBlocks")
    assert texts(block, "timePeriod/start") == ["2026-01-31T16:00:00Z", "2026-01-31T16:15:00Z"]
    assert texts(block, "timePeriod/end") == texts(block, "IntervalReadings/timeStamp")
    reference = block.find(f"{M}ReadingType")
    assert reference is not None
    assert reference.attrib == {"ref": "0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"}


def test_an_interval_of_the_primary_side_is_primary_metered_even_when_it_is_zero() -> None:
    interval = Interval(
        meter="M000001",
        obis="1-0:1.8.0",
        start=START,
        end=START + PERIOD,
        period_s=900,
        amount=Decimal("0.00"),
        unit=Unit.KWH,
        quality=(Quality.MEASURED,),
        source="c",
        ratio=Decimal(800),
        primary=Decimal("0.00"),
    )
    for is_primary, commodity in ((False, "1"), (True, "2")):
        root = tree(meter_readings(sent(interval_event(interval, START, is_primary=is_primary))))
        (reference,) = root.iterfind(f".//{M}IntervalBlocks/{M}ReadingType")
        assert reference.attrib["ref"].split(".")[5] == commodity


def test_of_several_revisions_the_highest_is_written_whatever_the_order() -> None:
    first, second = a_read(), msgspec.structs.replace(a_read(amount="2.00"), revision=1)
    for order in (sent(first, second), sent(second, first)):
        assert texts(tree(meter_readings(order)), "Readings/value") == ["2.00"]


def test_a_hostile_asset_number_stays_text() -> None:
    document = meter_readings(sent(a_read(meter="</name>\x01]]>&")))
    xmlschema.XMLSchema(XSD).validate(document.xml.decode())
    assert texts(tree(document), "Meter/Names/name") == ["</name>\ufffd]]>&"]


def test_nothing_gives_an_empty_document() -> None:
    document = meter_readings([])
    assert (document.written, document.left_out, list(tree(document))) == (0, (), [])


def test_every_word_of_ours_has_a_code_and_the_way_back_is_the_same_where_it_is_clear() -> None:
    assert set(QUALITY_CODES) == set(Quality)
    clear = {quality for quality, code in QUALITY_CODES.items() if list(QUALITY_CODES.values()).count(code) == 1}
    assert clear == {Quality.MISSING, Quality.SUSPECT, Quality.ESTIMATED_BY_UPSTREAM}
    assert all(quality_of(QUALITY_CODES[quality]) is quality for quality in clear)
    assert quality_of("2.0.0") is Quality.MEASURED
    assert set(MARK_CODES) == {mark.value for mark in Mark}
    assert set(RULE_CODES) <= set(RULES)


@pytest.mark.parametrize(
    ("code", "quality"),
    [
        ("1.0.0", Quality.MEASURED),  # "Status OK", published by a meter data hub
        ("2.5.259", Quality.MISSING),  # "Not Acquired", the same
        ("2.8.0", Quality.ESTIMATED_BY_UPSTREAM),  # "Estimated Value", the same
        ("3.5.258", Quality.SUSPECT),
        ("1.4.9", None),
        ("9.9.9", None),
        ("", None),
        ("2.0", None),
        ("2.0.0.0", None),
        ("a.b.c", None),
        ("2.0.9999999999", None),
        ("2.-0.0", None),
    ],
)
def test_foreign_codes_have_our_word_or_none(code: str, quality: Quality | None) -> None:
    assert quality_of(code) is quality


def test_what_is_doubted_is_not_called_valid_as_well() -> None:
    assert codes_of(["measured", "late"]) == ("2.0.0",)
    assert codes_of(["measured", "suspect"], rules=["spike-history", "no-such-rule"]) == ("2.5.258", "2.5.256")
    assert codes_of(["measured"], marks=["rolled-over"]) == ("2.0.0", "2.4.1")
    assert codes_of(["of-a-later-version"]) == ()

"""What the store writes is what the envelope defines, byte for byte, and what it reads back."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headend.feed.envelope import encode_read
from headend.model import Finding, Quality, Read
from headend.store.packing import ReadPacker, channel_of
from headend.store.rows import epoch_ms, quality_bits
from protocols.values import Unit
from tests.headend.support import day_of_reads, new_store

zones = st.sampled_from([UTC, timezone(timedelta(hours=8)), timezone(-timedelta(hours=3, minutes=30))])
moments = st.datetimes(datetime(1965, 1, 1), datetime(2200, 1, 1), timezones=zones)
names = st.sampled_from(["M000001", "1-0:1.8.0", "di:00010000", "kWh"]) | st.text(max_size=12)
qualities = st.lists(st.sampled_from([one for one in Quality if one is not Quality.MISSING]), min_size=1, max_size=7)

findings = st.builds(Finding, names, st.dictionaries(names, st.text(max_size=8), max_size=3), st.booleans())


def _to_the_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@st.composite
def any_read(draw: st.DrawFn) -> Read:
    amount = draw(st.none() | st.decimals(allow_nan=False, allow_infinity=False))
    has_ratio = amount is not None and amount.adjusted() < 30 and draw(st.booleans())
    quality = tuple(draw(qualities))
    return Read(
        meter=draw(names),
        obis=draw(names),
        amount=amount,
        unit=draw(st.sampled_from(Unit)),
        interval_end=_to_the_ms(draw(moments)),
        read_at=draw(st.none() | moments),
        received_at=draw(moments),
        quality=quality if amount is not None else (*quality, Quality.MISSING),
        source=draw(names),
        revision=draw(st.integers(0, 2**31)),
        reason="" if amount is not None else draw(st.text(min_size=1, max_size=12)),
        occurred_at=draw(st.none() | moments),
        ratio=draw(st.sampled_from([Decimal(80), Decimal("1.25"), Decimal(3), Decimal("8000")])) if has_ratio else None,
        is_primary=has_ratio and draw(st.booleans()),
        findings=tuple(draw(st.just([]) | st.lists(findings, max_size=3))),
    )


def packed(packer: ReadPacker, read: Read, unit: str, sequence: int) -> tuple[tuple[object, ...], str]:
    channel = channel_of(7, read.meter, read.obis, unit)
    return packer.pack(read, channel, epoch_ms(read.interval_end), 3, sequence)


@given(reads=st.lists(any_read(), min_size=1, max_size=4), name=names, sequence=st.integers(1, 2**62))
def test_the_event_is_the_envelope_s_own_bytes_and_the_row_has_every_field(
    reads: list[Read], name: str, sequence: int
) -> None:
    packer = ReadPacker(f"/headend/{name}")
    for read in reads:
        row, event = packed(packer, read, "kWh", sequence)
        assert event.encode() == encode_read(read, source=f"/headend/{name}", sequence=sequence)
        assert row == (
            7,
            epoch_ms(read.interval_end),
            read.revision,
            None if read.amount is None else str(read.amount),
            None if read.unit is Unit.KWH else read.unit.value,
            None if read.read_at is None else epoch_ms(read.read_at),
            epoch_ms(read.received_at),
            quality_bits(read.quality),
            read.reason or None,
            3,
            sequence,
            None if read.occurred_at is None else epoch_ms(read.occurred_at),
            None if read.ratio is None else f"{'/' if read.is_primary else ''}{read.ratio}",
            msgspec.json.encode(read.findings).decode() if read.findings else None,
        )


def test_an_unknown_unit_of_a_channel_is_no_read_s_unit() -> None:
    """Left by a newer program that has more units."""
    [read, *_] = day_of_reads(1, 1, seed=1)
    row, event = packed(ReadPacker("/x"), read, "therm", 1)
    assert row[4] == "kWh"
    assert event.encode() == encode_read(read, source="/x", sequence=1)


def test_texts_remembered_beyond_their_limit_are_made_anew() -> None:
    packer = ReadPacker("/x")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    [read, *_] = day_of_reads(1, 1, seed=1)
    fields = {name: getattr(read, name) for name in read.__struct_fields__}
    for second in range(10_000):
        moved = Read(**fields | {"received_at": start + timedelta(seconds=second), "source": f"s:{second % 5000}"})
        assert packed(packer, moved, "kWh", 1)[1].encode() == encode_read(moved, source="/x", sequence=1)
    assert len(packer._seconds) < 5000
    assert len(packer._texts) < 5000


@given(reads=st.lists(any_read(), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_any_group_is_in_the_feed_as_defined_and_comes_back(tmp_path_factory: object, reads: list[Read]) -> None:
    folder: Path = tmp_path_factory.mktemp("store")  # type: ignore[attr-defined]
    store = new_store(folder)
    try:
        numbers = store.commit(reads)
        expected = [
            encode_read(read, source="/headend/luoyang-west", sequence=number)
            for read, number in zip(reads, numbers, strict=True)
            if number is not None
        ]
        assert store.events_after(0, 100) == expected
        for read, number in zip(reads, numbers, strict=True):
            if number is None:
                continue
            [found] = [
                one
                for one in store.reads(read.meter, read.obis, since=read.interval_end)
                if (one.interval_end, one.revision) == (read.interval_end, read.revision)
            ]
            assert encode_read(found, source="", sequence=1) == encode_read(read, source="", sequence=1)
            assert found.amount is None or found.amount.as_tuple() == Decimal(str(read.amount)).as_tuple()
    finally:
        store.close()

"""The store keeps every read once and numbers the feed without gaps, whatever fails."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from headend.database.engine import writing
from headend.errors import ConfigError, ItemRefused, SchemaMismatch, StoreUnavailable
from headend.model import MeterClock, Quality, Read
from headend.store import Store, migrate
from headend.store.tables import feed_batches, metadata
from protocols.values import Unit
from tests.headend.support import (
    IMPORT,
    PERIOD,
    START,
    VOLTAGE,
    a_read,
    an_event,
    day_of_reads,
    new_store,
    store_url,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def sequences(events: list[bytes]) -> list[int]:
    return [int(json.loads(event)["sequence"]) for event in events]


def dangling(store: Store) -> list[object]:
    """Rows that name a channel or a source which is not there: SQLite checks that only here, see engine.py; a server always."""
    if store.engine.dialect.name != "sqlite":
        return []
    with store.engine.connect() as connection:
        return list(connection.exec_driver_sql("PRAGMA foreign_key_check"))


@pytest.mark.both_databases
def test_migrated_tables_are_the_tables_of_the_code(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.both_databases
def test_migrating_twice_and_at_once_is_harmless(tmp_path: Path) -> None:
    threads = [threading.Thread(target=migrate, args=(store_url(tmp_path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    migrate(store_url(tmp_path))
    assert Store(store_url(tmp_path), "x").last_sequence() == 0


def test_store_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    migrate(store_url(tmp_path))
    with sqlite3.connect(tmp_path / "headend.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="newest version"):
        migrate(store_url(tmp_path))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysterydb://x", "no url"])
def test_unusable_urls_are_refused_with_the_expected_form(url: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Store(url, "x")


def test_a_file_that_is_no_database_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "headend.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        migrate(store_url(tmp_path))


def test_commits_are_synchronous_and_written_ahead(store: Store) -> None:
    with store.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.both_databases
def test_items_are_numbered_in_order_and_come_back_in_order(store: Store) -> None:
    assert store.commit([a_read(slot=0), an_event(), a_read(slot=1)]) == [1, 2, 3]
    assert store.commit([a_read(slot=2)]) == [4]
    events = [json.loads(event) for event in store.events_after(0, 100)]
    assert [event["sequence"] for event in events] == ["1", "2", "3", "4"]
    assert [event["type"] for event in events] == [
        "headend.read.v1",
        "headend.meter-status.v1",
        "headend.read.v1",
        "headend.read.v1",
    ]
    assert events[1]["id"] == "headend.meter-status.v1:M000001:2"
    assert store.last_sequence() == 4


@pytest.mark.both_databases
def test_duplicate_read_gives_no_second_event(store: Store) -> None:
    assert store.commit([a_read(slot=5), a_read(slot=5)]) == [1, None]
    other = a_read(slot=5, amount="9.99")
    assert store.commit([other, a_read(slot=4), a_read(slot=5, revision=1, amount="9.99")]) == [None, 2, 3]
    assert store.commit([a_read(slot=4), a_read(slot=5)]) == [None, None]
    assert store.last_sequence() == 3
    assert [(read.revision, read.amount) for read in store.reads("M000001", since=START + 5 * PERIOD)] == [
        (0, Decimal("123456.78")),
        (1, Decimal("9.99")),
    ]


@pytest.mark.both_databases
def test_duplicates_are_found_after_reopening(store: Store, tmp_path: Path) -> None:
    group = list(day_of_reads(meters=200, slots=3, seed=1))
    store.commit(group)
    assert dangling(store) == []
    store.close()
    again = Store(store_url(tmp_path), "luoyang-west")
    assert again.commit(group) == [None] * len(group)
    assert again.commit([a_read("M999999")]) == [len(group) + 1]


@pytest.mark.both_databases
def test_events_after_slices_inside_batches_and_across_them(store: Store) -> None:
    count = 0
    for size in (1, 7, 2500, 1, 40, 3):
        count += size
        store.commit([a_read(f"M{number:06d}") for number in range(count - size, count)])
    for after in (0, 1, 5, 8, 999, 1008, 1009, 2507, 2508, 2551, 2552):
        for limit in (1, 2, 10, 1000, 5000):
            expected = list(range(after + 1, min(after + limit, count) + 1))
            assert sequences(store.events_after(after, limit)) == expected, (after, limit)


def test_many_single_commits_are_pulled_whole(store: Store) -> None:
    """More batches than one question fetches."""
    for slot in range(100):
        store.commit([a_read(slot=slot)])
    assert sequences(store.events_after(10, 1000)) == list(range(11, 101))


def test_sequence_continues_after_a_failed_transaction(store: Store, tmp_path: Path) -> None:
    store.commit([a_read(slot=0)])
    with sqlite3.connect(tmp_path / "headend.db") as other:
        other.execute("CREATE TRIGGER no_batch BEFORE INSERT ON feed_batches BEGIN SELECT RAISE(ABORT, 'forced'); END")
    with pytest.raises(StoreUnavailable, match="forced"):
        store.commit([a_read("M000002", slot=1), a_read("M000003", slot=1)])
    assert store.reads("M000002") == []
    with sqlite3.connect(tmp_path / "headend.db") as other:
        other.execute("DROP TRIGGER no_batch")
    assert store.commit([a_read("M000003", slot=1), a_read("M000002", slot=1)]) == [2, 3]
    assert sequences(store.events_after(0, 10)) == [1, 2, 3]
    assert [read.meter for read in store.reads("M000002")] == ["M000002"]
    assert dangling(store) == []


def test_locked_file_is_unavailable_and_then_works(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "headend.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.commit([a_read()])
    assert store.last_sequence() == 0  # readers go on meanwhile
    other.execute("ROLLBACK")
    other.close()
    assert store.commit([a_read()]) == [1]


@pytest.mark.both_databases
def test_a_feed_that_ends_before_what_was_given_out_is_not_gone_on_with(store: Store) -> None:
    """Somebody put the database back under the running head-end."""
    assert store.commit([a_read(slot=0), a_read(slot=1)]) == [1, 2]
    assert store.commit([a_read(slot=2)]) == [3]
    with writing(store.engine, "putting back") as connection:
        connection.execute(delete(feed_batches).where(feed_batches.c.first == 3))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="ends at 2, and 3 was given out: the database was put back"):
            store.commit([a_read(slot=3)])
    assert store.last_sequence() == 2


@pytest.mark.both_databases
def test_another_process_may_write_between_our_commits(store: Store, tmp_path: Path) -> None:
    other = Store(store_url(tmp_path), "luoyang-west")
    assert store.commit([a_read(slot=0)]) == [1]
    assert other.commit([a_read(slot=0), a_read(slot=1), a_read("M000002", slot=1)]) == [None, 2, 3]
    assert store.commit([a_read("M000002", slot=1), a_read(slot=2)]) == [None, 4]
    assert sequences(store.events_after(0, 10)) == [1, 2, 3, 4]


@pytest.mark.both_databases
def test_an_item_the_store_cannot_hold_is_refused_and_changes_nothing(store: Store) -> None:
    with pytest.raises(ItemRefused):
        store.commit([a_read(slot=0), a_read(slot=1, revision=2**70)])
    assert store.last_sequence() == 0
    assert store.commit([a_read(slot=0)]) == [1]


@pytest.mark.both_databases
def test_reads_come_back_as_they_went_in(store: Store) -> None:
    moment = datetime(2026, 2, 1, 0, 0, 3, 250_000, tzinfo=UTC)
    given_ = [
        Read(
            meter="M000001",
            obis="1-0:1.6.0",
            amount=Decimal("-0.00"),
            unit=Unit.KW,
            interval_end=START,
            read_at=moment,
            received_at=moment,
            quality=(Quality.MEASURED, Quality.LATE, Quality.SUSPECT),
            source="a:b",
            occurred_at=moment - timedelta(days=3),
        ),
        a_read(amount=None, obis=IMPORT),
    ]
    store.commit(given_)
    assert store.reads("M000001") == given_
    assert store.reads("M000001", IMPORT) == given_[1:]
    assert store.reads("M000001", since=START + PERIOD) == []
    assert store.reads("M000001", until=START) == []
    assert store.reads("M000001", limit=1) == given_[:1]
    assert store.reads("M000002") == []


def test_a_changed_unit_is_kept_with_the_read(store: Store) -> None:
    store.commit([a_read(slot=0), a_read(slot=1, amount="123457", unit=Unit.KVARH), a_read(slot=2)])
    assert [read.unit for read in store.reads("M000001")] == [Unit.KWH, Unit.KVARH, Unit.KWH]


@pytest.mark.both_databases
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amount=st.decimals(allow_nan=False, allow_infinity=False), revision=st.integers(0, 2**31 - 1))
def test_any_finite_amount_survives_to_the_last_digit(store: Store, amount: Decimal, revision: int) -> None:
    slot = store.last_sequence()
    read = a_read(slot=slot, revision=revision)
    stored = Read(**{name: getattr(read, name) for name in read.__struct_fields__} | {"amount": amount})
    store.commit([stored])
    [found] = store.reads("M000001", since=stored.interval_end)
    assert found.amount is not None
    assert found.amount.as_tuple() == amount.as_tuple()
    [event] = store.events_after(slot, 10)
    value = json.loads(event)["data"]["value"]
    assert "E" not in value
    assert Decimal(value) == amount


@pytest.mark.both_databases
def test_latest_slots_and_latest_read(store: Store) -> None:
    store.commit(
        [
            a_read(slot=0),
            a_read(slot=3),
            a_read(slot=1),
            a_read(slot=4, amount=None),
            a_read(slot=2, obis=VOLTAGE, amount="230.1", unit=Unit.V),
        ]
    )
    epoch = int(START.timestamp())
    assert store.latest_slots() == {("M000001", IMPORT): epoch + 4 * 900, ("M000001", VOLTAGE): epoch + 2 * 900}
    newest = store.latest_read("M000001")
    assert newest == a_read(slot=3)
    assert store.latest_read("M000009") is None


def test_what_is_stored_of_a_slot_is_told_exactly_whatever_came_after_it(store: Store) -> None:
    """A wall clock that was wrong once leaves a row in the future; it must not stand for the rows before it."""
    store.commit([a_read(slot=0), a_read(slot=400), a_read("M000002", slot=1, amount=None), a_read("M000003", slot=1)])
    assert store.stored_at(START) == {("M000001", IMPORT)}
    assert store.stored_at(START + PERIOD) == {("M000002", IMPORT), ("M000003", IMPORT)}
    assert store.stored_at(START + PERIOD, ["M000001", "M000003", "M999999"]) == {("M000003", IMPORT)}
    assert store.stored_at(START + 2 * PERIOD) == store.stored_at(START, []) == set()
    many = [f"M{number:06d}" for number in range(1200)]
    store.commit([a_read(meter, slot=7) for meter in many])
    assert store.stored_at(START + 7 * PERIOD, many) == {(meter, IMPORT) for meter in many}


def test_a_new_unit_stands_beside_the_channel_s_own(store: Store) -> None:
    given_ = [a_read(slot=0), a_read(slot=1, unit=Unit.KVARH), a_read(slot=2)]
    store.commit(given_)
    assert store.reads("M000001") == given_
    assert [json.loads(event)["data"]["unit"] for event in store.events_after(0, 9)] == ["kWh", "kvarh", "kWh"]


def test_cursors_are_kept_per_destination(store: Store, tmp_path: Path) -> None:
    store.set_cursor("billing", 7)
    store.set_cursor("billing", 9)
    store.set_cursor("archive", 3)
    again = Store(store_url(tmp_path), "x")
    assert [again.cursor(name) for name in ("billing", "archive", "new")] == [9, 3, 0]


@pytest.mark.both_databases
def test_a_reader_never_sees_a_gap_while_another_thread_writes(store: Store) -> None:
    done = threading.Event()

    def write() -> None:
        for slot in range(150):
            store.commit([a_read(f"M{number:06d}", slot=slot) for number in range(1 + slot % 7)])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    while True:
        last_round = done.is_set()
        after = seen[-1] if seen else 0
        announced = store.last_sequence()
        seen += sequences(store.events_after(after, 50))
        assert len(seen) >= min(announced, after + 50)
        if last_round and len(seen) == store.last_sequence():
            break
    writer.join()
    assert seen == list(range(1, store.last_sequence() + 1))


@pytest.mark.parametrize("group", [100, 1000])
def test_a_day_of_reads_takes_at_most_150_bytes_each(store: Store, tmp_path: Path, group: int) -> None:
    items = list(day_of_reads(meters=200, slots=96, seed=7))
    for start in range(0, len(items), group):
        store.commit(items[start : start + group])
    with store.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    size = os.path.getsize(tmp_path / "headend.db") / len(items)
    print(f"\n{len(items)} reads in groups of {group}: {size:.1f} bytes each")
    assert size <= 150
    assert store.last_sequence() == len(items)


@pytest.mark.both_databases
def test_the_states_of_slots_are_told_per_channel_with_its_oldest_slot(store: Store) -> None:
    store.commit([a_read(slot=number, amount=None if number == 2 else "1.00") for number in range(4)])
    store.commit([a_read(slot=2, amount="2.00", revision=1), a_read(slot=1, obis=VOLTAGE, unit=Unit.V)])
    found = store.slots_of("M000001", since=START + PERIOD, until=START + 3 * PERIOD)
    first, states = found[IMPORT]
    assert first == START
    assert sorted((state.slot, state.revision, state.reason) for state in states) == [
        (START + PERIOD, 0, ""),
        (START + 2 * PERIOD, 0, "silent"),
        (START + 2 * PERIOD, 1, ""),
    ]
    assert found[VOLTAGE][0] == START + PERIOD
    assert store.slots_of("M000002", since=START, until=START + PERIOD) == {}


@pytest.mark.both_databases
def test_clocks_and_broadcasts_are_kept(store: Store) -> None:
    clock = MeterClock(measured_at=START, offset_s=-75.25, uncertainty_s=0.7, drift_ppm=12.5)
    store.set_clocks({"M000001": clock, "M000002": MeterClock(measured_at=START, offset_s=0.0, uncertainty_s=1.0)})
    corrected = MeterClock(
        measured_at=START, offset_s=0.0, uncertainty_s=1.0, corrected_at=START + PERIOD, offset_before_s=-75.25,
        written_at=START + PERIOD,
    )  # fmt: skip
    store.set_clocks({"M000002": corrected})
    assert store.clocks() == {"M000001": clock, "M000002": corrected}
    assert store.broadcasts() == {}
    store.set_broadcast("line-1", START)
    store.set_broadcast("line-1", START + PERIOD)
    assert store.broadcasts() == {"line-1": START + PERIOD}

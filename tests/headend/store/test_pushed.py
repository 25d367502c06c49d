"""Reads that somebody else sends, and may send again: told apart by content, in any order, at any time."""

import itertools
import json
import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import headend.store
from headend.database.engine import connect, writing
from headend.model import PushedRead, Quality, Read
from headend.store import Store, migrate
from headend.store.commits import rows_at_statement
from tests.headend.support import IMPORT, START, VOLTAGE, a_read, new_store, store_url

MS = timedelta(milliseconds=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def pushed(ms: int, amount: str | None = "1.50", *, meter: str = "M000001", obis: str = IMPORT) -> PushedRead:
    return PushedRead(replace(a_read(meter, amount=amount, obis=obis), interval_end=START + ms * MS))


def events(store: Store) -> list[dict[str, Any]]:
    return [json.loads(event) for event in store.events_after(0, 10_000)]


@pytest.mark.both_databases
def test_a_repeat_is_dropped_and_another_amount_is_a_suspect_revision(store: Store) -> None:
    assert store.commit([pushed(250), pushed(250), pushed(251)]) == [1, None, 2]
    assert store.commit([pushed(250, "1.5"), pushed(250, "9"), pushed(250, "9.0"), pushed(250)]) == [
        None,
        3,
        None,
        None,
    ]
    assert store.commit([pushed(250, "7"), pushed(250, "9")]) == [4, None]
    found = store.reads("M000001", until=START + 251 * MS)
    assert [(read.revision, read.amount, Quality.SUSPECT in read.quality) for read in found] == [
        (0, Decimal("1.50"), False),
        (1, Decimal(9), True),
        (2, Decimal(7), True),
    ]
    assert [event["id"] for event in events(store)] == [
        "read:M000001:1-0:1.8.0:2026-01-31T16:00:00.250Z:0",
        "read:M000001:1-0:1.8.0:2026-01-31T16:00:00.251Z:0",
        "read:M000001:1-0:1.8.0:2026-01-31T16:00:00.250Z:1",
        "read:M000001:1-0:1.8.0:2026-01-31T16:00:00.250Z:2",
    ]


def test_a_missing_read_hides_no_amount_and_an_amount_after_it_is_not_suspect(store: Store) -> None:
    assert store.commit([pushed(0), pushed(0, None)]) == [1, None]
    assert store.commit([pushed(1, None), pushed(1, None), pushed(1, "2"), pushed(1, None)]) == [2, None, 3, None]
    *_, missing, late = store.reads("M000001")
    assert (missing.amount, missing.revision, missing.reason) == (None, 0, "silent")
    assert (late.amount, late.revision, late.quality) == (Decimal(2), 1, (Quality.MEASURED,))


@pytest.mark.both_databases
def test_polled_and_pushed_reads_of_one_moment_know_of_each_other(store: Store) -> None:
    polled = a_read(slot=0, amount="1.50")
    assert store.commit([polled, pushed(0, "1.5"), pushed(0, "1.6")]) == [1, None, 2]
    assert store.commit([pushed(900_000, "3"), a_read(slot=1, amount="3"), a_read(slot=1, amount="4")]) == [
        3,
        None,
        None,
    ]
    assert store.commit([a_read(slot=0), a_read(slot=2), pushed(1_800_000, "123456.78")]) == [None, 4, None]


def test_what_was_stored_before_a_restart_is_known_after_it(store: Store, tmp_path: Path) -> None:
    group = [pushed(ms, str(ms)) for ms in range(500)]
    store.commit(group)
    store.close()
    again = Store(store_url(tmp_path), "luoyang-west")
    assert again.commit(group) == [None] * 500
    assert again.commit([pushed(499, "499"), pushed(500, "500")]) == [None, 501]
    again.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_any_order_with_any_repeats_gives_the_same_reads_and_the_same_ids(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int]
) -> None:
    random_ = random.Random(seed)
    told = [
        pushed(ms, f"{ms}.5", meter=meter, obis=obis)
        for ms in range(0, 250, 5)
        for meter, obis in (("M1", IMPORT), ("M1", VOLTAGE), ("M2", IMPORT))
    ]
    final = []
    for order in (told, random_.sample(told + random_.choices(told, k=150), k=300)):
        store = new_store(tmp_path_factory.mktemp("store"))
        bounds = sorted({0, len(order), *(cut for cut in cuts if cut < len(order))})
        for low, high in itertools.pairwise(bounds):
            store.commit(order[low:high])
        final.append((sorted(event["id"] for event in events(store)), store.reads("M1"), store.reads("M2")))
        store.close()
    assert final[0] == final[1]
    assert len(final[0][0]) == len(told)


@pytest.mark.both_databases
def test_milliseconds_come_back_and_bound_queries(store: Store) -> None:
    store.commit([pushed(1), pushed(1500, "2"), a_read(slot=1)])
    assert [read.interval_end for read in store.reads("M000001")] == [
        START + MS,
        START + 1500 * MS,
        a_read(slot=1).interval_end,
    ]
    assert len(store.reads("M000001", since=START + 2 * MS, until=START + 1501 * MS)) == 1
    assert store.stored_at(START + MS) == {("M000001", IMPORT)}
    assert store.stored_at(START) == set()
    assert store.latest_slots() == {("M000001", IMPORT): int(START.timestamp()) + 900}


def test_a_moment_finer_than_a_millisecond_is_no_interval_end() -> None:
    with pytest.raises(ValueError, match="whole milliseconds"):
        replace(a_read(), interval_end=datetime(2026, 1, 1, microsecond=1, tzinfo=UTC))


def test_a_store_of_seconds_is_brought_to_milliseconds_with_every_read_as_it_was(tmp_path: Path) -> None:
    url = store_url(tmp_path)
    _migrate_to(url, "0002")
    with sqlite3.connect(tmp_path / "headend.db") as old:
        old.execute("INSERT INTO channels VALUES (1, 'M000001', '1-0:1.8.0', 'kWh')")
        old.execute("INSERT INTO sources VALUES (1, 'dlt645/base_2007:00010000')")
        epoch = int(START.timestamp())
        rows = [(1, epoch + 900 * n, r, f"{n}.{r}", None, None, (epoch + n) * 1000, 1, None, 1, n + 1, None)
                for n in range(5) for r in range(2)]  # fmt: skip
        old.executemany(f"INSERT INTO reads VALUES ({','.join('?' * 12)})", rows)
    migrate(url)
    store = Store(url, "luoyang-west")
    found = [(read.interval_end, read.revision, str(read.amount)) for read in store.reads("M000001")]
    assert found == [
        (START + timedelta(seconds=900 * n), revision, f"{n}.{revision}") for n in range(5) for revision in range(2)
    ]
    with store.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        assert "reads_before" not in tables
        assert list(connection.exec_driver_sql("PRAGMA foreign_key_check")) == []
    assert store.commit([a_read(slot=2), a_read(slot=9)])[0] is None
    store.close()


def test_looking_up_what_may_be_a_repeat_walks_no_table(store: Store) -> None:
    """Millions of rows lie in it, and it is asked at every commit while messages come out of order."""
    text = str(rows_at_statement([(1, 2), (3, 4)]).compile(store.engine, compile_kwargs={"literal_binds": True}))
    with store.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert "SEARCH reads USING PRIMARY KEY (channel=? AND slot=?)" in plan
    assert not any(step.startswith("SCAN reads") for step in plan)


def _migrate_to(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(headend.store.__file__).parent / "migrations"))
    engine = connect(url)
    with writing(engine, "migrating") as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_an_unused_revision_of_a_pushed_read_means_nothing(store: Store) -> None:
    read: Read = replace(a_read(), revision=7)
    assert store.commit([PushedRead(read)]) == [1]
    assert [found.revision for found in store.reads("M000001")] == [0]

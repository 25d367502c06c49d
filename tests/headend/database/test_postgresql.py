"""What a SQLite file promises, kept by a PostgreSQL server."""

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, select, text

from headend.database.engine import connect, insert_rows, reading, writing
from headend.database.hot import HotStatement
from headend.errors import ConfigError, ItemRefused, StoreFull, StoreUnavailable
from headend.prepayment.storage.database import open_database
from headend.store.migrate import migrate
from headend.store.store import open_store
from tests.headend.support import a_read
from tests.postgres import Postgres, postgresql

notes = Table("notes", MetaData(), Column("id", Integer, primary_key=True, autoincrement=False), Column("text", Text))
COUNT = text("SELECT count(*) FROM notes")


@pytest.fixture
def url(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """Of a database with an empty table."""
    found = postgres.url(f"engine_{abs(hash(request.node.nodeid)):x}")
    engine = connect(found)
    notes.metadata.create_all(engine)
    engine.dispose()
    return found


def test_one_transaction_writes_at_a_time_and_sees_what_the_one_before_wrote(url: str) -> None:
    """Each writes the next number: without the lock, two would take the same one."""
    engine = connect(url)

    def write() -> None:
        for _ in range(25):
            with writing(engine, "counting") as connection:
                highest = connection.execute(text("SELECT coalesce(max(id), 0) FROM notes")).scalar_one()
                time.sleep(0.001)
                connection.execute(insert(notes), {"id": highest + 1, "text": "x"})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine, "looking") as connection:
        assert connection.execute(COUNT).scalar() == 100
    engine.dispose()


def test_who_waits_for_the_writer_waits_for_a_bounded_time_and_who_reads_does_not(url: str) -> None:
    first, second = connect(url), connect(url, busy_timeout_s=0.2)
    with writing(first, "being slow"):
        with (
            pytest.raises(StoreUnavailable, match=r"storing a note: .*lock timeout"),
            writing(second, "storing a note"),
        ):
            pytest.fail("two wrote at once")
        with reading(second, "looking") as other:
            assert other.execute(COUNT).scalar() == 0
    with writing(second, "storing a note") as connection:
        connection.execute(insert(notes), {"id": 1, "text": "x"})
    for engine in (first, second):
        engine.dispose()


def test_a_reading_sees_one_moment(url: str) -> None:
    engine = connect(url)
    with reading(engine, "looking") as before:
        assert before.execute(COUNT).scalar() == 0
        with writing(engine, "storing") as connection:
            connection.execute(insert(notes), {"id": 1, "text": "x"})
        assert before.execute(COUNT).scalar() == 0
    with reading(engine, "looking") as after:
        assert after.execute(COUNT).scalar() == 1
    engine.dispose()


def test_a_commit_is_on_the_disk_whatever_the_role_is_used_to(postgres: Postgres, url: str) -> None:
    name = url.rpartition("/")[2]
    for usual, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        with postgres.session() as session:
            session.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {usual}'.encode())
        engine = connect(url)
        with reading(engine, "looking") as connection:
            assert connection.execute(text("SHOW synchronous_commit")).scalar() == expected
        engine.dispose()


def test_errors_are_the_stores_and_name_no_values(url: str) -> None:
    engine = connect(url)
    with pytest.raises(ItemRefused, match="storing a note: the database cannot hold a value"):  # noqa: SIM117
        with writing(engine, "storing a note") as connection:
            connection.execute(insert(notes), {"id": 1 << 40, "text": "x"})
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"storing a note: .*unique constraint") as twice:  # noqa: SIM117
            with writing(engine, "storing a note") as connection:
                insert_rows(connection, notes, [4711, "M000001", 4711, "M000002"])
        assert "4711" not in str(twice.value)
    with reading(engine, "looking") as connection:
        assert connection.execute(COUNT).scalar() == 0
    engine.dispose()


def test_a_full_disk_is_told_as_one(url: str) -> None:
    engine = connect(url)
    with pytest.raises(StoreFull, match="storing: the disk is full"), writing(engine, "storing") as connection:
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"))
    engine.dispose()


def test_nothing_to_do_is_done(url: str) -> None:
    engine = connect(url)
    add = HotStatement(insert(notes), "id", "text")
    with writing(engine, "storing nothing") as connection:
        insert_rows(connection, notes, [])
        add.change_each(connection, [])
        add.change_each(connection, iter([(1, "one"), (2, "two")]))
        assert HotStatement(select(notes.c.text).order_by(notes.c.id)).all(connection) == [("one",), ("two",)]
    engine.dispose()


def test_a_server_that_was_started_anew_is_used_again_at_once(tmp_path: Path) -> None:
    with postgresql() as server:
        store = open_store(server.url("again"), "west")
        assert store.commit([a_read()]) == [1]
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.commit([a_read(slot=1)])
        server.start()
        assert store.commit([a_read(slot=1), a_read(slot=2)]) == [2, 3]
        assert len(store.events_after(0, 10)) == 3
        store.close()


def test_texts_sort_by_their_bytes_in_a_database_that_sorts_otherwise(postgres: Postgres) -> None:
    compared = "SELECT 'a' < 'B', 'a' < 'B' COLLATE \"C\""
    question = (
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND data_type = 'text' "
        "AND collation_name IS DISTINCT FROM 'C'"
    )
    for name, make in (("sorting_store", migrate), ("sorting_accounts", open_database)):
        url = postgres.url(name)
        for _ in range(2):  # made, and found up to date
            if (made := make(url)) is not None:
                made.dispose()
        with postgres.session(name) as session:
            assert session.execute(compared.encode()).fetchone() == (True, False)  # what would come in another order
            assert session.execute(question.encode()).fetchall() == []


def test_a_database_of_another_encoding_is_refused_with_what_to_do(postgres: Postgres) -> None:
    postgres.url("latin")
    with postgres.session() as session:
        session.execute('DROP DATABASE "latin"')
        session.execute("CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
    with pytest.raises(ConfigError, match="as SQL_ASCII: expected UTF8; make it anew"):
        open_store(postgres.url("latin"), "west")

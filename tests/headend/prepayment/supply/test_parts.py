"""The parts around the desk: receipts that come later, the feed of supply switches, our own events, the round of duties, the tables."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection, inspect

from headend.errors import HeadendError
from headend.prepayment.accounts.accounts import exchange_meter
from headend.prepayment.accounts.events import hand_over, tell
from headend.prepayment.errors import FeedBroken, OutboxUnavailable
from headend.prepayment.notices.notices import letters_of
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.service import Duty, PrepaymentService
from headend.prepayment.ports import Delivery, Message
from headend.prepayment.storage.database import Database, open_database
from headend.prepayment.storage.supply_tables import HEARD, cursor_of, episodes, messages, supply_cursors
from headend.prepayment.supply.relay_events import PAGE, RelayFollower
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.databases import database_url
from tests.headend.prepayment.supply_world import PLAN, Program, Town, account_name, meter_of
from tests.headend.support import with_account_tables

A = account_name(0)
NOW = datetime(2026, 3, 2, 1, tzinfo=UTC)


class TakenOnly:
    """A provider that takes everything, and tells of the delivery later."""

    def send(self, message: Message) -> Delivery:
        return Delivery(reference=f"p-{message.key}", delivered=False)


def test_what_was_only_taken_proves_nothing_until_its_receipt_comes(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(5), 1)
    program.mail.send = TakenOnly().send  # type: ignore[method-assign]
    program.pass_time(timedelta(hours=2))
    with Database(program.engine).reading("looking") as connection:
        letter = letters_of(connection, A)[0]
    assert (letter.state.value, letter.delivered_at) == ("sent", None)
    assert program.mailroom.receipt("unheard-of", program.town.now, delivered=True) is False
    assert program.mailroom.receipt(letter.reference, program.town.now, delivered=True) is True
    with Database(program.engine).reading("looking") as connection:
        letter = letters_of(connection, A)[0]
    assert (letter.state.value, letter.delivered_at) == ("delivered", program.town.now)
    program.aclose()


def test_what_never_gets_a_receipt_counts_as_undeliverable(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(5), 1)
    program.mail.send = TakenOnly().send  # type: ignore[method-assign]
    program.pass_time(timedelta(days=3), step=timedelta(hours=1))
    assert not program.is_reachable(A)
    assert program.mailroom.receipt(f"p-{A}/1/low/1", program.town.now, delivered=True)
    assert program.is_reachable(A)
    program.aclose()


class ListFeed:
    def __init__(self, events: list[dict[str, object]]) -> None:
        self.events = [json.dumps(event | {"sequence": str(at)}).encode() for at, event in enumerate(events, 1)]
        self.asked: list[int] = []

    def events_after(self, sequence: int, limit: int) -> list[bytes]:
        self.asked.append(sequence)
        return self.events[sequence : sequence + limit]


def test_a_customer_who_has_to_press_the_button_is_told_once(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(5), 1)
    data = {
        "about": "command",
        "meter": meter_of(A),
        "command": "c1",
        "kind": "permit-close",
        "state": "verified",
        "waiting_for_customer": True,
    }
    other: dict[str, object] = {"type": "headend.read.v1", "data": {"meter": meter_of(A)}}
    event: dict[str, object] = {"type": "headend.relay.v1", "data": data}
    unknown: dict[str, object] = {"type": "headend.relay.v1", "data": data | {"meter": "M-other"}}
    feed = ListFeed([other, event, event, unknown])
    follower = RelayFollower(program.database, feed, plan=PLAN, texts=load_texts(PLAN.zone))
    assert follower.tick(NOW) == 4
    assert follower.tick(NOW) == 0
    assert feed.asked == [0, 4, 4]
    with Database(program.engine).reading("looking") as connection:
        assert [one.kind for one in letters_of(connection, A)] == ["permitted"]
    program.aclose()


def test_a_button_of_a_meter_that_will_be_exchanged_is_told_while_it_measures(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(5), 1)
    with program.database.writing("exchanging") as connection:
        ahead = NOW.date() + timedelta(days=30)
        exchange_meter(connection, A, meter_of(A), "M-new", ahead, our_meters={"M-new"})
    data = {"about": "command", "meter": meter_of(A), "command": "c1", "kind": "permit-close", "state": "verified"}
    event: dict[str, object] = {"type": "headend.relay.v1", "data": data | {"waiting_for_customer": True}}
    follower = RelayFollower(program.database, ListFeed([event]), plan=PLAN, texts=load_texts(PLAN.zone))
    assert follower.tick(NOW) == 1
    with Database(program.engine).reading("looking") as connection:
        assert [one.kind for one in letters_of(connection, A)] == ["permitted"]
    program.aclose()


def test_a_stretch_of_the_feed_without_a_supply_switch_is_written_down_once(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(5), 1)
    program.desk.tick(NOW)
    read: dict[str, object] = {"type": "headend.read.v1", "data": {"meter": meter_of(A)}}
    switched: dict[str, object] = {"type": "headend.relay.v1", "data": {"about": "command", "meter": meter_of(A)}}
    written: list[int | None] = []
    real = program.database.writing

    @contextmanager
    def writing(doing: str) -> Iterator[Connection]:
        with real(doing) as connection:
            yield connection
            written.append(cursor_of(connection, HEARD))

    program.database.writing = writing  # type: ignore[method-assign]
    texts = load_texts(PLAN.zone)
    quiet = RelayFollower(program.database, ListFeed([read] * (3 * PAGE + 7)), plan=PLAN, texts=texts)
    assert quiet.tick(NOW, pages_max=2) == 2 * PAGE
    assert written == [2 * PAGE]
    assert quiet.tick(NOW) == PAGE + 7
    assert quiet.tick(NOW) == 0
    assert written == [2 * PAGE, 3 * PAGE + 7]
    broken = json.dumps({"type": "headend.read.v1"}).encode()  # without a sequence
    feed = ListFeed([read] * (4 * PAGE) + [switched] + [read] * PAGE)
    feed.events[4 * PAGE + PAGE] = broken
    with pytest.raises(FeedBroken):
        RelayFollower(program.database, feed, plan=PLAN, texts=texts).tick(NOW)
    assert written[2:] == [4 * PAGE + 7], "what was told before is not lost"
    program.aclose()


class Book:
    def __init__(self) -> None:
        self.taken: list[int] = []
        self.is_away = False

    def offer(self, number: int, type_: str, subject: str, at: datetime, data: bytes) -> None:
        if self.is_away:
            raise OutboxUnavailable("away")
        self.taken.append(number)


def test_our_events_are_numbered_without_gaps_and_handed_over_again_after_a_failure(tmp_path: Path) -> None:
    database, book = open_database(with_account_tables(database_url(tmp_path, "p"))), Book()

    def tell_some(count: int) -> None:
        with database.writing("telling") as connection:
            for _ in range(count):
                tell(connection, "supply-episode", "A1", NOW, {"state": "low"})

    tell_some(3)
    assert hand_over(database, book) == 3
    assert hand_over(database, book) == 0
    tell_some(2)
    book.is_away = True
    with pytest.raises(OutboxUnavailable):
        hand_over(database, book)
    book.is_away = False
    assert hand_over(database, book) == 2
    assert book.taken == [1, 2, 3, 4, 5]
    database.engine.dispose()


def test_a_duty_that_fails_is_tried_again_and_holds_up_no_other() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        done: list[str] = []

        def failing(now: datetime) -> int:
            done.append("failing")
            if len(done) < 5:
                raise HeadendError("not yet")
            return 0

        def rare(now: datetime) -> int:
            done.append("rare")
            return 0

        def last(now: datetime) -> int:
            done.append("last")
            if len(done) > 9:
                service.stop()
            return 1

        duties = [
            Duty(name="failing", tick=failing),
            Duty(name="rare", tick=rare, every_s=60.0),
            Duty(name="last", tick=last),
        ]
        service = PrepaymentService(duties, clock=clock, execute=inline)
        await service.run()
        assert done[:5] == ["failing", "rare", "last", "failing", "last"]
        assert done.count("rare") == 1
        assert service.states["failing"].problem == "not yet"
        assert service.states["failing"].failures == 2

    run(main)


def test_a_duty_that_fails_as_nobody_expected_costs_only_itself() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        done: list[str] = []

        def broken(now: datetime) -> int:
            raise KeyError("A0001")

        def nameless(now: datetime) -> int:
            raise ZeroDivisionError

        def last(now: datetime) -> int:
            done.append("last")
            return 1

        duties = [
            Duty(name="broken", tick=broken),
            Duty(name="nameless", tick=nameless),
            Duty(name="last", tick=last),
        ]
        service = PrepaymentService(duties, clock=clock, execute=inline)
        with structlog.testing.capture_logs() as logged:
            assert [await service.round() for _ in range(2)] == [1, 1]
        assert done == ["last", "last"]
        assert {name: (one.problem, one.failures) for name, one in service.states.items()} == {
            "broken": ("'A0001'", 2),
            "nameless": ("ZeroDivisionError", 2),
            "last": ("", 0),
        }
        assert [(one["log_level"], type(one["exc_info"])) for one in logged[:2]] == [
            ("error", KeyError),
            ("error", ZeroDivisionError),
        ]

    run(main)


def test_the_tables_are_made_by_the_migration_as_they_are_declared(tmp_path: Path) -> None:
    database = open_database(database_url(tmp_path, "p"))
    found = inspect(database.engine)
    for table in (episodes, messages, supply_cursors):
        made = {one["name"]: one["nullable"] for one in found.get_columns(table.name)}
        assert made == {column.name: bool(column.nullable) for column in table.columns}
        indexes = {one["name"] for one in found.get_indexes(table.name)}
        assert indexes == {index.name for index in table.indexes}
    database.engine.dispose()

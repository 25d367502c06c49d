"""One account, one message that is broken: nobody else waits behind it, and somebody hears of it."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection, delete, update

from headend.clock import Clock
from headend.errors import StoreUnavailable
from headend.prepayment.database import Database
from headend.prepayment.errors import UnknownAccount
from headend.prepayment.mailroom import Mailroom
from headend.prepayment.notices import Channel, Letter, Still, letters_of
from headend.prepayment.service import TOLD_S, Duty, PrepaymentService
from headend.prepayment.supply_desk import AWAY
from headend.prepayment.supply_store import load
from headend.prepayment.supply_tables import episodes
from headend.prepayment.tables import contacts
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.prepayment.supply_world import PLAN, Program, Town, TownClock, account_name

A, B, C = (account_name(number) for number in range(3))
MINUTE = timedelta(minutes=1)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    found = Program(tmp_path, Town(1), 3)
    found.town.now += timedelta(hours=2)
    yield found
    found.aclose()


def change(program: Program, statement: object) -> None:
    with Database(program.engine).writing("changing") as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def look_at(program: Program, account: str) -> datetime | None:
    with Database(program.engine).reading("looking") as connection:
        row = connection.execute(episodes.select().where(episodes.c.account == account)).first()
    return None if row is None else datetime.fromtimestamp(row.look_at / 1000, tz=program.town.now.tzinfo)


def test_an_account_that_cannot_be_read_holds_up_nobody_and_is_told(program: Program) -> None:
    program.desk.tick(program.town.now)
    assert {program.state(one) for one in (A, B, C)} == {"low"}
    change(program, update(episodes).values(look_at=0))
    change(program, update(episodes).where(episodes.c.account == A).values(state="upside-down"))
    for one in (B, C):
        program.pay(one, 50_000)  # its episode ends with the next look
    with structlog.testing.capture_logs() as logged, pytest.raises(ValueError, match="upside-down"):
        program.desk.tick(program.town.now)
    assert [program.state(one) for one in (B, C)] == ["well", "well"]
    assert [one["account"] for one in logged if one["log_level"] == "error"] == [A]
    assert look_at(program, A) == program.town.now + AWAY
    assert program.desk.tick(program.town.now + AWAY / 2) >= 0  # it has been put off
    with pytest.raises(ValueError, match="upside-down"):
        program.desk.tick(program.town.now + AWAY)
    change(program, update(episodes).where(episodes.c.account == A).values(state="low"))
    program.pay(A, 50_000)
    program.desk.tick(program.town.now + AWAY)
    assert program.state(A) == "well"


def test_an_account_without_an_episode_is_put_off_too(program: Program) -> None:
    change(program, delete(contacts).where(contacts.c.account == A))
    with pytest.raises(UnknownAccount):
        program.desk.tick(program.town.now)
    assert [program.state(one) for one in (B, C)] == ["low", "low"]
    assert look_at(program, A) == program.town.now + AWAY
    program.desk.tick(program.town.now)
    with Database(program.engine).reading("looking") as connection:
        assert load(connection, A, program.town.now).episode.number == 1


def test_a_store_that_fails_is_not_taken_for_a_broken_account(program: Program) -> None:
    real, begun = program.database.writing, []

    def failing(doing: str) -> object:
        begun.append(doing)
        raise StoreUnavailable("the disk is gone")

    program.database.writing = failing  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailable):
        program.desk.tick(program.town.now)
    program.database.writing = real  # type: ignore[method-assign]
    assert begun == ["deciding about an account's supply"], "nobody else was looked at, and nobody put off"


def test_a_message_that_cannot_be_looked_at_holds_up_no_other(program: Program) -> None:
    def still(connection: Connection, letter: Letter, now: datetime) -> Still:
        if letter.account == A and broken:
            raise KeyError("days")
        return Still.SEND

    broken, now = True, program.town.now
    clock: Clock = TownClock(program.town)
    mailroom = Mailroom(
        program.database,
        [Channel("sms", program.mail)],
        plan=PLAN,
        still=still,
        settled=lambda connection, account, now: None,
        clock=clock,
    )
    program.desk.tick(now)
    with pytest.raises(KeyError, match="days"):
        mailroom.tick(now)
    assert [program.mail.kinds(one) for one in (A, B, C)] == [[], ["low"], ["low"]]
    assert mailroom.tick(now) == 0
    with pytest.raises(KeyError, match="days"):
        mailroom.tick(now + PLAN.pause_first)
    broken = False
    mailroom.tick(now + 2 * PLAN.pause_first)
    assert program.mail.kinds(A) == ["low"]
    with Database(program.engine).reading("looking") as connection:
        assert [one.tries for one in letters_of(connection, A)] == [1]


def test_what_failed_and_was_put_off_is_told_on_for_a_while() -> None:
    """Whoever looks every minute would find all well in between."""

    async def main(clock: VirtualClock, _: object) -> None:
        broken = [True]

        def tick(now: datetime) -> int:
            if broken.pop() if broken else False:
                raise KeyError("A0001")
            return 0

        loop_time = clock.monotonic
        service = PrepaymentService([Duty(name="desk", tick=tick)], clock=clock, execute=inline)
        await service.round()
        began, state = loop_time(), service.states["desk"]
        while loop_time() < began + TOLD_S:
            await service.round()
            assert state.problem == "'A0001'"
            await asyncio.sleep(10)
        await service.round()
        assert (state.problem, state.failures) == ("", 1)

    run(main)

"""One account, one message that is broken: nobody else waits behind it, and somebody hears of it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import structlog
from msgspec.structs import replace
from sqlalchemy import Connection, delete, select, text, update

from headend.clock import Clock
from headend.errors import ItemRefused, StoreUnavailable
from headend.prepayment.days import day_number
from headend.prepayment.errors import UnknownAccount
from headend.prepayment.model import Account
from headend.prepayment.notices.mailroom import Mailroom
from headend.prepayment.notices.notices import Channel, Letter, Still, letters_of
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.service import TOLD_S, Duty, PrepaymentService
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.supply_tables import HEARD, cursor_of, episodes
from headend.prepayment.storage.tables import accounts, contacts, meter_days, positions
from headend.prepayment.supply.desk import AWAY, SupplyDesk
from headend.prepayment.supply.facts import Standing
from headend.prepayment.supply.relay_events import RelayFollower
from headend.prepayment.supply.store import load
from headend.prepayment.views.statement_data import _before
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.prepayment.fleet import ListFeed, at, interval
from tests.headend.prepayment.office_world import PLAN as SHORT
from tests.headend.prepayment.office_world import OfficeWorld
from tests.headend.prepayment.settlement.test_settlement import DAY, FIRST, Site
from tests.headend.prepayment.supply_world import PLAN, Program, Town, TownClock, account_name, meter_of
from tests.headend.prepayment.trouble import test_put_off as put_off

pytestmark = pytest.mark.both_databases

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


# ------------------------------------------------------------------------------------------------ the round of the desk


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OfficeWorld]:
    """Counts what was heard of today, so a look reads positions and days."""
    world = OfficeWorld(tmp_path, plan=replace(SHORT, count_today=True))
    yield world
    world.aclose()


@pytest.mark.parametrize("what", ["position", "days"])
def test_what_of_one_account_cannot_be_read_holds_up_no_other_look(world: OfficeWorld, what: str) -> None:
    names = put_off.town(world, 4)
    faulty, now = names[1], world.town.now
    if what == "position":
        put_off.spoil(world, positions, "position", positions.c.account == put_off.number_of(world, faulty))
    else:
        last = day_number(world.today)
        world.tell_minutes("0.1", meter="M0002")
        put_off.tick(world, "intake")
        put_off.spoil(world, meter_days, "body", meter_days.c.meter == "M0002", meter_days.c.day == last)
    with structlog.testing.capture_logs() as logged, pytest.raises(msgspec.MsgspecError):
        put_off.tick(world, "desk")
    assert [world.state(one) for one in names] == ["low", "well", "low", "low"]
    assert {one["account"] for one in logged if one["log_level"] == "error"} == {faulty}
    with world.database.reading("looking") as connection:
        assert load(connection, faulty, now).look_at == now + AWAY
    world.pay(100_000, names[2])
    put_off.tick(world, "desk")  # it waits, and nothing is raised
    assert world.state(names[2]) == "well"


def test_an_account_whose_row_cannot_be_read_holds_up_nobody_behind_it(program: Program) -> None:
    change(program, update(accounts).where(accounts.c.id == A).values(state="upside-down"))
    with pytest.raises(ValueError, match="upside-down"):
        program.desk.tick(program.town.now)
    assert [program.state(one) for one in (B, C)] == ["low", "low"]
    program.desk.tick(program.town.now + AWAY / 2)  # it has been put off


class Outlook:
    """Nothing is known of anybody, and of A it cannot be told."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def __call__(
        self, connection: Connection, accounts: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> dict[str, Standing]:
        if A in (one.id for one in accounts):
            raise self.problem
        return {}


def desk_with(program: Program, problem: Exception) -> SupplyDesk:
    texts = load_texts(PLAN.zone)
    return SupplyDesk(program.database, program.switch, plan=PLAN, texts=texts, outlook=Outlook(problem))


def test_a_value_that_cannot_be_stored_is_one_accounts_fault(program: Program) -> None:
    """In its turn, and in the round."""
    for due in (None, 0):
        if due is not None:
            change(program, update(episodes).values(look_at=due))
        with pytest.raises(ItemRefused):
            desk_with(program, ItemRefused("a NUL")).tick(program.town.now)
        assert [program.state(one) for one in (A, B, C)] == ["well", "low", "low"]
        assert look_at(program, A) == program.town.now + AWAY


def test_those_who_are_due_are_looked_at_before_the_round_finds_the_database_away(program: Program) -> None:
    program.desk.tick(program.town.now)
    change(program, delete(episodes).where(episodes.c.account == A))
    program.pay(B, 50_000)
    with pytest.raises(StoreUnavailable):
        desk_with(program, StoreUnavailable("away")).tick(program.town.now)
    assert (program.state(A), program.state(B)) == ("well", "well")


# ------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize("problem", [KeyError("days"), ItemRefused("days")])
def test_a_message_that_cannot_be_looked_at_holds_up_no_other(program: Program, problem: Exception) -> None:
    def still(connection: Connection, letter: Letter, now: datetime) -> Still:
        if letter.account == A and broken:
            raise problem
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
    with pytest.raises(type(problem), match="days"):
        mailroom.tick(now)
    assert [program.mail.kinds(one) for one in (A, B, C)] == [[], ["low"], ["low"]]
    assert mailroom.tick(now) == 0
    with pytest.raises(type(problem), match="days"):
        mailroom.tick(now + PLAN.pause_first)
    broken = False
    mailroom.tick(now + 2 * PLAN.pause_first)
    assert program.mail.kinds(A) == ["low"]
    with Database(program.engine).reading("looking") as connection:
        assert [one.tries for one in letters_of(connection, A)] == [1]


# ------------------------------------------------------------------------------------------------ the feed


def permitted(program: Program, *some: str) -> tuple[ListFeed, RelayFollower]:
    feed = ListFeed()
    for account in some:
        data = {"about": "command", "meter": meter_of(account), "command": f"c-{account}", "kind": "permit-close"}
        feed.tell(data | {"state": "verified", "waiting_for_customer": True}, "headend.relay.v1")
    return feed, RelayFollower(program.database, feed, plan=PLAN, texts=load_texts(PLAN.zone))


def kinds(program: Program, account: str) -> list[str]:
    with Database(program.engine).reading("looking") as connection:
        return [one.kind for one in letters_of(connection, account)]


def heard(program: Program) -> int | None:
    with Database(program.engine).reading("looking") as connection:
        return cursor_of(connection, HEARD)


def test_who_cannot_be_told_to_press_the_button_holds_up_nobody_who_can(program: Program) -> None:
    program.desk.tick(program.town.now)
    change(program, delete(contacts).where(contacts.c.account == A))
    change(program, update(episodes).values(look_at=None))
    _, follower = permitted(program, B, A, C)
    with structlog.testing.capture_logs() as logged, pytest.raises(UnknownAccount):
        follower.tick(program.town.now)
    assert [one["meter"] for one in logged] == [meter_of(A)]
    assert [kinds(program, one) for one in (B, C)] == [["permitted", "low"], ["permitted", "low"]]
    assert look_at(program, A) == program.town.now  # all the same
    assert (heard(program), follower.tick(program.town.now)) == (3, 0)


def test_an_event_that_the_database_did_not_take_is_heard_again(program: Program) -> None:
    _, follower = permitted(program, A)
    change(program, text("ALTER TABLE messages RENAME TO away"))
    with pytest.raises(StoreUnavailable):
        follower.tick(program.town.now)
    assert heard(program) is None
    change(program, text("ALTER TABLE away RENAME TO messages"))
    assert follower.tick(program.town.now) == 1
    assert kinds(program, A) == ["permitted"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    for number in (1, 2):
        site.enrol(f"A{number}", f"M{number}")
    yield site
    site.database.dispose()


def refused(logged: Sequence[Mapping[str, object]]) -> list[object]:
    return [one["sequence"] for one in logged if one["event"] == "interval_refused"]


def test_a_day_that_cannot_be_read_stays_as_it_is_and_the_others_are_taken_in(site: Site) -> None:
    site.settle(FIRST + DAY, *(interval(meter, FIRST, "10.00") for meter in ("M1", "M2")))
    here = (meter_days.c.meter == "M1", meter_days.c.day == day_number(FIRST))
    put_off.spoil(site, meter_days, "body", *here)
    for meter in ("M1", "M2"):
        site.feed.tell(interval(meter, FIRST, "11.00", revision=1))
    site.feed.tell(interval("M1", FIRST + DAY, "1.00"))
    with structlog.testing.capture_logs() as logged:
        taken = site.intake.catch_up()
    assert (taken.events, taken.meter_days, refused(logged)) == (3, 2, [3])
    with site.looking() as connection:
        assert connection.execute(select(meter_days.c.body).where(*here)).scalar() == put_off.GARBAGE
    site.settlement.run(at(FIRST + 2 * DAY, 1))
    assert [minor for *_, minor in site.booked("A2")] == [528, 53]


def test_an_old_day_that_cannot_be_read_does_not_stop_a_span(site: Site) -> None:
    """It is asked of the days before whether the meter stands behind transformers; of M2 none can say."""
    for day in (FIRST, FIRST + DAY):
        site.settle(day + DAY, interval("M1", day, "10.00"))
    site.settle(FIRST + 2 * DAY, interval("M2", FIRST, "10.00"))
    for meter in ("M1", "M2"):
        here = (meter_days.c.meter == meter, meter_days.c.day == day_number(FIRST))
        put_off.spoil(site, meter_days, "body", *here)
    behind = FIRST + 2 * DAY
    for meter in ("M1", "M2"):
        site.feed.tell(interval(meter, behind + DAY, None, span=(behind, Decimal(5))))
    with structlog.testing.capture_logs() as logged:
        assert site.intake.catch_up().meter_days == 1
    assert refused(logged) == [5]


@pytest.mark.parametrize("wrong", [{"amount": "NaN"}, {"amount": "Infinity"}, {"end": "9999-12-31T23:59:59Z"}])
def test_an_interval_that_nobody_can_reckon_with_is_refused_alone(site: Site, wrong: dict[str, object]) -> None:
    site.feed.tell(interval("M1", FIRST, "10.00") | wrong)
    site.feed.tell(interval("M2", FIRST, "10.00"))
    with structlog.testing.capture_logs() as logged:
        assert site.intake.catch_up().meter_days == 1
    assert refused(logged) == [1]


# ------------------------------------------------------------------------------------------------ what is told


def test_an_account_that_is_gone_is_not_taken_for_a_database_that_is_away(site: Site) -> None:
    with pytest.raises(UnknownAccount), site.looking() as connection:
        _before(connection, "A9", date(2026, 3, 1))


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

"""A fault in one account costs that account: everybody else's days, statements and looks go on, and the problem is told."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Table, select, update

from headend.errors import ItemRefused, StoreUnavailable
from headend.prepayment.days import day_number
from headend.prepayment.errors import PrepaymentError
from headend.prepayment.storage.tables import (
    accounts,
    charges,
    meter_days,
    news,
    off_meters,
    positions,
    statements,
    touched,
)
from headend.prepayment.trouble.put_off import PutOff
from tests.headend.prepayment.fleet import at, interval
from tests.headend.prepayment.office_world import DAY, HOUR, OfficeWorld
from tests.headend.prepayment.settlement.test_settlement import Site

FIRST = date(2026, 3, 2)
MINUTE = timedelta(minutes=1)
NOW = at(FIRST)
GARBAGE = b"\xc1"  # no MessagePack


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.database.dispose()


def spoil(place: Site | OfficeWorld, table: Table, column: str, *where: object) -> bytes:
    """Garbage in place of what one row has there; gives what it was."""
    with place.database.writing("spoiling") as connection:
        before: bytes = connection.execute(select(table.c[column]).where(*where)).scalar_one()  # type: ignore[arg-type]
        connection.execute(update(table).where(*where).values({column: GARBAGE}))  # type: ignore[arg-type]
    return before


# ------------------------------------------------------------------------------------------------ the list itself


def test_the_fault_is_found_by_halves_and_told_for_as_long_as_it_stands() -> None:
    off: PutOff[int] = PutOff("counting", name=lambda number: f"number {number}")
    tried: list[list[int]] = []

    def work(some: Sequence[int]) -> int:
        tried.append(list(some))
        if 5 in some:
            raise KeyError("five")
        return len(some)

    assert off.do(range(8), work, NOW) == 7
    assert [len(some) for some in tried] == [8, 4, 4, 2, 1, 1, 2]
    assert [off.waits(number, NOW) for number in (4, 5)] == [False, True]
    assert not off.waits(5, NOW + HOUR)
    with pytest.raises(PrepaymentError, match="counting: 1 put off; the first: number 5: KeyError: 'five'"):
        off.tell(NOW)
    off.tell(NOW + MINUTE / 2)  # told once a minute
    with pytest.raises(PrepaymentError):
        off.tell(NOW + MINUTE)
    assert off.do([5], lambda some: len(some), NOW + HOUR) == 1
    off.check(NOW + HOUR)


def test_who_is_not_tried_any_more_is_forgotten_and_the_database_is_nobodys_fault() -> None:
    off: PutOff[str] = PutOff("counting")

    def fails(_: Sequence[str]) -> int:
        raise ValueError

    def away(_: Sequence[str]) -> int:
        raise StoreUnavailable("locked")

    off.do(["A1"], fails, NOW)
    with pytest.raises(PrepaymentError):
        off.check(NOW + HOUR)
    off.check(NOW + 2 * HOUR)
    with pytest.raises(StoreUnavailable):
        off.do(["A1", "A2"], away, NOW)
    assert not off.waits("A1", NOW)


def test_a_value_that_cannot_be_stored_is_one_accounts_fault() -> None:
    off: PutOff[int] = PutOff("counting")

    def refuses(some: Sequence[int]) -> int:
        if 3 in some:
            raise ItemRefused("out of range")
        return len(some)

    assert off.do(range(5), refuses, NOW) == 4
    assert off.waiting(NOW) == [3]


def test_what_fails_for_everybody_is_nobodys_fault() -> None:
    off: PutOff[int] = PutOff("counting")
    tried: list[int] = []

    def fails(some: Sequence[int]) -> int:
        tried.append(len(some))
        raise KeyError("a tariff")

    with pytest.raises(KeyError):
        off.do(range(500), fails, NOW)
    assert len(tried) < 60
    assert off.waiting(NOW) == []


def test_a_clock_that_is_set_back_ends_the_waiting() -> None:
    off: PutOff[int] = PutOff("counting")

    def fails(_: Sequence[int]) -> int:
        raise ValueError

    off.do([1], fails, NOW + 365 * DAY)
    assert not off.waits(1, NOW)
    off.check(NOW)


def test_pages_of_those_who_wait_are_passed_over() -> None:
    off: PutOff[int] = PutOff("counting")

    def fails(_: Sequence[int]) -> int:
        raise ValueError

    def page_after(number: int | None) -> list[int]:
        start = 0 if number is None else number + 1
        return list(range(start, min(start + 3, 8)))

    assert off.pick(page_after, NOW) == [0, 1, 2]
    off.do(range(5), fails, NOW)
    assert off.pick(page_after, NOW) == [5]
    off.do(range(5, 8), fails, NOW)
    assert off.pick(page_after, NOW) == []
    assert off.pick(page_after, NOW + HOUR) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------ settlement


def test_an_account_that_cannot_be_settled_holds_up_no_other_neither_in_its_batch_nor_behind_it(site: Site) -> None:
    site.settlement._batch = 4
    for number in range(10):
        site.enrol(f"A{number}", f"M{number}")
    site.settle(FIRST + DAY, *(interval(f"M{number}", FIRST, "10.00") for number in range(10)))
    was = spoil(site, positions, "position", positions.c.account == 2)
    with pytest.raises(PrepaymentError, match="settling: 1 put off; the first: A2: "):
        site.settle(FIRST + 2 * DAY, *(interval(f"M{number}", FIRST + DAY, "10.00") for number in range(10)))
    assert [len(site.booked(f"A{number}")) for number in range(10)] == [2, 2, 1, *[2] * 7]
    now = at(FIRST + 2 * DAY, 1)
    assert site.settlement.step(now) == 0  # it waits
    with site.looking() as connection:
        assert connection.execute(select(touched.c.account)).scalars().all() == [2]
    with site.database.writing("mending") as connection:
        connection.execute(update(positions).where(positions.c.account == 2).values(position=was))
    assert site.settlement.run(now + HOUR).days == 1
    assert len(site.booked("A2")) == 2


def test_a_round_of_settlement_without_news_of_a_day_that_is_over_does_not_ask_for_the_writers_lock(site: Site) -> None:
    site.enrol("A1", "M1")
    site.settle(FIRST + DAY, interval("M1", FIRST, "10.00"))
    site.feed.tell(interval("M1", FIRST + DAY, "1.00", start=at(FIRST + DAY, 0), length=HOUR))
    site.intake.catch_up()

    def refuse(doing: str):  # type: ignore[no-untyped-def]
        raise AssertionError(doing)

    site.database.writing = refuse  # type: ignore[method-assign]
    assert site.settlement.step(at(FIRST + DAY, 2), before=FIRST + DAY) == 0


# ------------------------------------------------------------------------------------------------ the other duties


def town(world: OfficeWorld, size: int) -> list[str]:
    """Accounts with a month that is charged; nothing but intake and settlement has run."""
    names = [f"A{number:04}" for number in range(1, size + 1)]
    world.meters |= {f"M{name[1:]}" for name in names}
    for name in names:
        world.open(name, f"M{name[1:]}")
    first = world.today
    while world.today < date(2026, 4, 1):
        world.tell_day(world.today)
        world.town.now += DAY
    assert first == FIRST
    tick(world, "intake")
    while tick(world, "settlement"):
        pass
    return names


def tick(world: OfficeWorld, name: str) -> int:
    return next(duty for duty in world.duties if duty.name == name).tick(world.town.now)


def told(world: OfficeWorld, name: str, what: str) -> None:
    """Its next turns do what can be done and end with that problem."""
    with pytest.raises(PrepaymentError, match=what):
        tick(world, name)


def number_of(world: OfficeWorld, account: str) -> int:
    with world.database.reading("looking") as connection:
        number: int = connection.execute(select(accounts.c.number).where(accounts.c.id == account)).scalar_one()
    return number


def test_a_charge_that_cannot_be_read_holds_up_nobody_elses_findings(world: OfficeWorld) -> None:
    town(world, 24)  # more than one turn looks at
    faulty = number_of(world, "A0003")
    spoil(world, charges, "body", charges.c.account == faulty, charges.c.day == day_number(FIRST))
    told(world, "findings", "looking at use: 1 put off; the first: A0003: ")
    while tick(world, "findings"):
        pass
    with world.database.reading("looking") as connection:
        assert connection.execute(select(news.c.account)).scalars().all() == [faulty]


def test_a_charge_that_cannot_be_read_holds_up_nobody_elses_statement(world: OfficeWorld) -> None:
    town(world, 12)  # two turns
    faulty = number_of(world, "A0003")
    spoil(world, charges, "body", charges.c.account == faulty, charges.c.day == day_number(FIRST))
    told(world, "statements", "statements: 1 put off; the first: A0003: ")
    tick(world, "statements")
    with world.database.reading("looking") as connection:
        made = set(connection.execute(select(statements.c.account)).scalars())
    assert made == {number_of(world, f"A{number:04}") for number in range(1, 13)} - {faulty}


def test_an_account_that_cannot_be_settled_holds_up_nobody_elses_final_settlement(world: OfficeWorld) -> None:
    names = town(world, 3)
    for name in names:
        world.office.move_out(name, world.today - DAY, by="clerk")
    spoil(world, positions, "position", positions.c.account == number_of(world, "A0001"))
    told(world, "move-outs", "final settlements: 1 put off; the first: A0001: ")
    assert [world.office.account(name).state.value for name in names] == ["active", "closed", "closed"]


def test_a_meter_whose_days_cannot_be_read_holds_up_no_other_look_at_supplies_that_are_off(world: OfficeWorld) -> None:
    town(world, 2)
    long_ago = round((world.town.now - 20 * DAY).timestamp() * 1000)
    with world.database.writing("seeing them off") as connection:
        for meter in ("M0001", "M0002"):
            connection.execute(off_meters.insert(), [{"meter": meter, "since": long_ago}])
            world.switch.contact[meter] = "off"
    spoil(world, meter_days, "body", meter_days.c.meter == "M0001", meter_days.c.day == day_number(date(2026, 3, 30)))
    told(world, "supplies", "looking at supplies that are off: 1 put off; the first: A0001: ")
    flags = [set(world.office.card(name).flags) for name in ("A0001", "A0002")]
    assert flags == [set(), {"use-while-disconnected"}]


def test_statements_are_made_for_the_month_they_were_asked_for_also_when_it_turns_meanwhile(world: OfficeWorld) -> None:
    """April's are not due on the first of May: its last days are not charged yet."""
    names = town(world, 12)
    world.town.now = at(date(2026, 4, 30), 23) + 59 * MINUTE
    assert tick(world, "statements") == 10
    world.town.now += 2 * MINUTE
    assert tick(world, "statements") == 2
    assert [world.office.statements(name) for name in names] == [["2026-03"]] * 12

"""Random lives of accounts: missing, suspect, late, revised and withdrawn reads, lost days, several meters, changed tariffs, crashes.

A small head-end tells intervals as the real one does; whatever happens, every account's charges are what an independent oracle makes of
the registers as they are known, to the last digit, and the books balance. Crashes come at any statement.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import event, select

from headend.prepayment.accounts import accounts
from headend.prepayment.books.books import check_books
from headend.prepayment.days import LocalDays, day_of
from headend.prepayment.settlement.settlement import Settled, Settlement
from headend.prepayment.storage.database import Database, open_database
from headend.prepayment.storage.tables import account_tariffs, charges, entries
from headend.prepayment.storage.tables import accounts as account_rows
from headend.prepayment.tariffs.tariff import Band, Tariff
from headend.prepayment.usage.intake import Intake
from headend.prepayment.usage.telling import tell_use
from tests.databases import database_url
from tests.headend.prepayment.example_tariffs import FLAT, KINDS, STEPPED_MONTH, STEPPED_TOU, STEPPED_YEAR, TOU
from tests.headend.prepayment.fleet import SHANGHAI, ListFeed, at, booked, enrol, interval, oracle
from tests.headend.support import with_account_tables

DAY = timedelta(days=1)
OPENED = date(2025, 12, 8)
HISTORY = 3  # days of registers before the account begins
DAYS = 40  # over the end of a year and a change of prices
DEARER = Decimal("1.07")
VERSIONS = {
    tariff.name: (
        tariff,
        replace(
            tariff,
            version="2",
            applies_from=date(2026, 1, 12),
            prices={band: price * DEARER for band, price in tariff.prices.items()},
        ),
    )
    for tariff in KINDS
}
BY_REGISTERS = (TOU.name, STEPPED_TOU.name)
SAME_REGISTERS = {
    FLAT.name: STEPPED_MONTH.name, STEPPED_MONTH.name: STEPPED_YEAR.name, STEPPED_YEAR.name: FLAT.name,
    TOU.name: STEPPED_TOU.name, STEPPED_TOU.name: TOU.name,
}  # fmt: skip


class Crash(Exception):
    """The process died."""


class MeterModel:
    """A meter as a head-end knows it: where its registers stood at each midnight, and which of these reads are good."""

    def __init__(self, name: str, first: date, chance: random.Random) -> None:
        self.name = name
        self.first = first - HISTORY * DAY
        self.chance = chance
        self.used: list[list[Decimal]] = []  # by day, by register
        self.good: list[list[bool]] = [[True] * 5]  # of the midnight that begins day n
        self.lost: set[int] = set()  # exchanged that day, and nobody wrote the readings down
        self.told: dict[tuple[int, int], dict[str, object]] = {}

    def live(self) -> None:
        bands = [Decimal(self.chance.randrange(0, 900)) / 100 for _ in range(4)]
        if self.chance.random() < 0.1:
            bands = [Decimal(0)] * 4
        self.used.append([sum(bands, Decimal(0)), *bands])
        together = self.chance.random() > 0.12
        self.good.append([together or self.chance.random() < 0.3 for _ in range(5)])
        if self.chance.random() < 0.02:
            self.lose(len(self.used) - 1)

    def lose(self, day: int) -> None:
        self.lost.add(day)
        for register in range(5):
            self.good[day][register] = self.good[day + 1][register] = True

    def change(self) -> None:
        """A read comes late, turns out to be wrong, or says something else."""
        day = self.chance.randrange(max(1, len(self.used) - 25), len(self.used) + 1)
        registers = range(5) if self.chance.random() < 0.7 else [self.chance.randrange(5)]
        if {day - 1, day} & self.lost:
            return
        kind = self.chance.random()
        for register in registers:
            if kind < 0.6:
                self.good[day][register] = True
            elif kind < 0.8:
                self.good[day][register] = False
        if kind >= 0.9:
            # A ratio was wrong: that day counted more.
            for band in range(1, 5):
                more = Decimal(self.chance.randrange(200)) / 100
                self.used[day - 1][0] += more
                self.used[day - 1][band] += more
        elif kind >= 0.8 and day < len(self.used):
            # The read between two days moves: what the one has less the other has more.
            for band in range(1, 5):
                moved = min(self.used[day - 1][band], Decimal(self.chance.randrange(200)) / 100)
                for register in (0, band):
                    self.used[day - 1][register] -= moved
                    self.used[day][register] += moved

    def tell(self, feed: ListFeed) -> None:
        """Every interval that says something else than before."""
        for day in range(len(self.used)):
            for register in range(5):
                data = self._interval(day, register)
                before = self.told.get((day, register))
                if before is None or {**before, "revision": 0} != data:
                    revision = 0 if before is None else int(str(before["revision"])) + 1
                    self.told[day, register] = {**data, "revision": revision}
                    feed.tell(self.told[day, register])

    def _interval(self, day: int, register: int) -> dict[str, object]:
        on = self.first + day * DAY
        begin, end = self.good[day][register], self.good[day + 1][register]
        if day in self.lost:
            return interval(self.name, on, None, register=register, reason="exchange-without-readings")
        if begin and end:
            return interval(self.name, on, self.used[day][register], register=register)
        reason = "suspect-boundary" if (day + register) % 3 == 0 else "missing-boundary"
        if not end:
            return interval(self.name, on, None, register=register, reason=reason)
        last = max((place for place in range(day + 1) if self.good[place][register]), default=None)
        if last is None:
            return interval(self.name, on, None, register=register, reason=reason)
        amount = sum((self.used[place][register] for place in range(last, day + 1)), Decimal(0))
        return interval(self.name, on, None, register=register, reason=reason, span=(self.first + last * DAY, amount))

    def reading(self, register: int, on: date) -> bool:
        """Whether the read of the midnight that begins the day is good."""
        return self.good[(on - self.first).days][register]


class Life:
    """One account and what the oracle must know of it."""

    def __init__(self, name: str, tariff: str, meters: list[MeterModel]) -> None:
        self.name = name
        self.meters = meters
        self.tariffs = [(date.min, tariff)]
        self.told: dict[date, dict[int, Decimal]] = {}

    def tariff_of(self, day: date) -> Tariff:
        name = [name for since, name in self.tariffs if since <= day][-1]
        return [one for one in VERSIONS[name] if one.applies_from <= day][-1]

    def used(self, last: date) -> dict[date, dict[Band, Decimal]]:
        """By the day on which it is charged: from one midnight at which all registers are known to the next."""
        is_banded = self.tariffs[0][1] in BY_REGISTERS
        registers = range(1, 5) if is_banded else range(1)
        found: dict[date, dict[Band, Decimal]] = {}
        begin = None
        day = OPENED
        while day <= last + DAY:
            if all(meter.reading(register, day) for meter in self.meters for register in registers):
                if begin is not None:
                    amounts = self._between(begin, day - DAY, registers)
                    if amounts is not None:
                        found[day - DAY] = amounts
                begin = day
            day += DAY
        return found

    def _between(self, first: date, last: date, registers: range) -> dict[Band, Decimal] | None:
        amounts = {Band(register): Decimal(0) for register in registers}
        for meter in self.meters:
            places = range((first - meter.first).days, (last - meter.first).days + 1)
            if meter.lost & set(places):
                told = self.told.get(first)
                if told is None:
                    return None
                for register in registers:
                    amounts[Band(register)] += told[register]
                continue
            for register in registers:
                amounts[Band(register)] += sum((meter.used[place][register] for place in places), Decimal(0))
        return amounts


@contextmanager
def crashing(database: Database, after: int) -> Iterator[None]:
    """Dies at the so-manyth statement."""
    left = [after]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


def exact_total(database: Database, account: str) -> Fraction:
    with database.reading("looking") as connection:
        rows = connection.execute(
            select(charges.c.exact)
            .join(account_rows, account_rows.c.number == charges.c.account)
            .where(account_rows.c.id == account)
        )
        return sum((Fraction(Decimal(exact)) for (exact,) in rows), Fraction(0))


def all_entries(database: Database) -> list[tuple[object, ...]]:
    with database.reading("looking") as connection:
        return [tuple(row) for row in connection.execute(select(entries).order_by(entries.c.number))]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_every_charge_is_the_oracles_and_the_books_balance(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    database = open_database(with_account_tables(database_url(tmp_path, "prepayment")))
    days, feed = LocalDays(SHANGHAI), ListFeed()
    lives = []
    for place, tariff in enumerate(KINDS):
        meters = [MeterModel(f"M{place}{one}", OPENED, chance) for one in range(1 + (place + seed) % 2)]
        lives.append(Life(f"A{place}", tariff.name, meters))
    for _ in range(HISTORY):
        for life in lives:
            for meter in life.meters:
                meter.live()
    with database.writing("enrolling") as connection:
        for life in lives:
            enrol(connection, life.name, [meter.name for meter in life.meters], life.tariffs[0][1], OPENED)
    intake = Intake(database, feed, days)
    settlement = Settlement(database, VERSIONS, days, batch=3)
    kept: list[tuple[object, ...]] = []
    crashes = 0
    for place in range(DAYS):
        today = OPENED + place * DAY + DAY
        for life in lives:
            for meter in life.meters:
                meter.live()
                if chance.random() < 0.5:
                    meter.change()
        told = [meter for life in lives for meter in life.meters]
        chance.shuffle(told)
        for meter in told:
            meter.tell(feed)
        if chance.random() < 0.3:
            continue
        for _ in range(4):
            try:
                with crashing(database, chance.randrange(1, 60)):
                    intake.catch_up(pages_max=chance.choice((1, None)))
                    settlement.run(at(today, 1))
            except Crash:
                crashes += 1
        intake.catch_up()
        settlement.run(at(today, 1))
        assert settlement.run(at(today, 2)) == Settled()
        if chance.random() < 0.3 or place > DAYS - 3:
            _check(database, lives, today - DAY)
        now = all_entries(database)
        assert now[: len(kept)] == kept  # what was booked stays
        kept = now
        _people(database, lives, chance, today, days)
    assert crashes > (20 if database.engine.dialect.name == "sqlite" else 15)  # a server is asked in fewer statements
    assert sum(str(row[4]) == "correction" for row in kept) >= 5
    database.dispose()


def _check(database: Database, lives: list[Life], last: date) -> None:
    with database.reading("checking") as connection:
        assert check_books(connection) == []
    for life in lives:
        expected = oracle(life.tariff_of, life.used(last), OPENED)
        assert exact_total(database, life.name) == expected, (life.name, last)
        assert abs(booked(database, life.name) - expected) <= Fraction(1, 2)


def _people(database: Database, lives: list[Life], chance: random.Random, today: date, days: LocalDays) -> None:
    """Somebody changes a tariff; somebody tells what a meter had counted on the day that was lost."""
    life = chance.choice(lives)
    if chance.random() < 0.1:
        name = SAME_REGISTERS[life.tariffs[-1][1]]
        with database.writing("changing a tariff") as connection:
            accounts.change_tariff(connection, life.name, name, tariffs=VERSIONS)
            number = select(account_rows.c.number).where(account_rows.c.id == life.name).scalar_subquery()
            since = connection.execute(
                select(account_tariffs.c.since)
                .where(account_tariffs.c.account == number)
                .order_by(account_tariffs.c.since.desc())
            ).scalar()
        life.tariffs = [(date.min, name)] if since is None else [
            *(one for one in life.tariffs if one[0] < day_of(since)), (day_of(since), name)
        ]  # fmt: skip
    for meter in life.meters:
        for place in sorted(meter.lost):
            day = meter.first + place * DAY
            if len(life.meters) == 1 and OPENED <= day < today and day not in life.told and chance.random() < 0.5:
                amounts = [Decimal(chance.randrange(500)) / 100 for _ in range(4)]
                told = {0: sum(amounts, Decimal(0))} | dict(enumerate(amounts, 1))
                used = {f"1-0:1.8.{register}": kwh for register, kwh in told.items()}
                with database.writing("telling") as connection:
                    tell_use(connection, meter.name, day, used, at(today, 3), days, by="fitter 12")
                life.told[day] = told

"""Settlement, case by case: what is booked, under which key, and why a day waits."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from headend.errors import SchemaMismatch
from headend.prepayment.accounts import accounts
from headend.prepayment.accounts.agenda import touch_account
from headend.prepayment.books.books import balance_of, check_books, entries_of
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import AccountClosed, FeedBroken, NotSettled
from headend.prepayment.model import Cause
from headend.prepayment.settlement import move_out
from headend.prepayment.settlement.daily import daily_use
from headend.prepayment.settlement.settlement import Settled, Settlement, unsettled_days
from headend.prepayment.storage.database import Database, open_database
from headend.prepayment.storage.tables import metadata, meter_days
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariff
from headend.prepayment.trouble.flags import flags_of
from headend.prepayment.usage.intake import Intake
from headend.prepayment.usage.telling import tell_use
from tests.databases import database_url
from tests.headend.prepayment.example_tariffs import FLAT, STEPPED_TOU, STEPPED_YEAR, TOU
from tests.headend.prepayment.fleet import SHANGHAI, ListFeed, at, enrol, interval
from tests.headend.support import with_account_tables

pytestmark = pytest.mark.both_databases

FIRST = date(2026, 3, 2)
DAY = timedelta(days=1)
COMMERCIAL = load_tariff(TARIFFS / "commercial-tou.toml")
VERSIONS = {one.name: (one,) for one in (FLAT, STEPPED_YEAR, STEPPED_TOU, TOU, COMMERCIAL)}


class Site:
    """A database, a feed into it, and its settlement."""

    def __init__(self, folder: Path) -> None:
        self.database: Database = open_database(with_account_tables(database_url(folder, "prepayment")))
        self.feed, self.days = ListFeed(), LocalDays(SHANGHAI)
        self.intake = Intake(self.database, self.feed, self.days)
        self.settlement = Settlement(self.database, VERSIONS, self.days)

    def enrol(self, account: str, *meters: str, tariff: str = "flat", opened: date = FIRST, **more: object) -> None:
        with self.database.writing("enrolling") as connection:
            enrol(connection, account, meters, tariff, opened, **more)  # type: ignore[arg-type]

    def settle(self, on: date, *told: dict[str, object]) -> Settled:
        for data in told:
            self.feed.tell(data)
        self.intake.catch_up()
        return self.settlement.run(at(on, 1))

    def booked(self, account: str = "A1") -> list[tuple[str, str, int]]:
        with self.looking() as connection:
            assert check_books(connection) == []
            return [(entry.cause.value, entry.key, -moved) for _, entry, moved in entries_of(connection, account)]

    def looking(self) -> AbstractContextManager[Connection]:
        return self.database.reading("looking")

    def waits(self, until: date, account: str = "A1") -> dict[date, str]:
        with self.looking() as connection:
            return {one.day: one.reason for one in unsettled_days(connection, until, account=account)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.database.dispose()


def test_a_day_is_charged_once_under_its_key(site: Site) -> None:
    site.enrol("A1", "M1")
    assert site.settle(FIRST + DAY, interval("M1", FIRST, "10.00")) == Settled(accounts=1, days=1)
    assert site.settle(FIRST + DAY, interval("M1", FIRST, "10.00")) == Settled()  # told again: nothing new
    assert site.booked() == [("daily-charge", "charge:A1:2026-03-02:0", 528)]
    assert site.waits(FIRST + DAY) == {}


def test_meters_of_an_account_add_up_and_wait_for_each_other(site: Site) -> None:
    site.enrol("A1", "M1", "M2")
    site.settle(FIRST + DAY, interval("M1", FIRST, "10.00"))
    assert site.booked() == []
    assert "M2" in site.waits(FIRST + DAY)[FIRST]
    site.settle(FIRST + DAY, interval("M2", FIRST, "5.00"))
    assert [minor for *_, minor in site.booked()] == [792]


def test_a_missing_read_waits_with_its_reason_and_its_days_are_charged_as_one(site: Site) -> None:
    site.enrol("A1", "M1")
    site.settle(FIRST + DAY, interval("M1", FIRST, None, reason="suspect-boundary"))
    assert "M1, 1-0:1.8.0: a suspect read (suspect-boundary" in site.waits(FIRST + DAY)[FIRST]
    site.settle(FIRST + 2 * DAY, interval("M1", FIRST + DAY, None, span=(FIRST, Decimal("21.00"))))
    assert site.booked() == [("daily-charge", "charge:A1:2026-03-03:0", 1109)]
    with site.looking() as connection:
        (entry,) = [entry for _, entry, _ in entries_of(connection, "A1")]
        assert entry.note == "one charge for 2026-03-02 to 2026-03-03"
        (use,) = daily_use(connection, "A1", FIRST, FIRST + 9 * DAY)
        assert (use.since, use.day) == (FIRST, FIRST + DAY)
    assert site.waits(FIRST + 2 * DAY) == {}


def test_a_revision_is_booked_as_a_correction_today_and_later_days_are_reckoned_again(site: Site) -> None:
    """2160 kWh are the first step: taking 100 kWh from the first day takes them from the second step of the second."""
    site.enrol("A1", "M1", tariff="year", opened=date(2026, 1, 1))
    january = [date(2026, 1, 1), date(2026, 1, 2)]
    site.settle(date(2026, 1, 3), interval("M1", january[0], "2150"), interval("M1", january[1], "200"))
    before = site.booked()
    assert [minor for *_, minor in before] == [2150 * 56, 200 * 56 + 190 * 5]
    result = site.settle(date(2026, 1, 9), interval("M1", january[0], "2050", revision=1))
    assert (result.corrections, result.days) == (1, 0)
    assert site.booked() == [*before, ("correction", "correct:A1:1", -(100 * 56 + 100 * 5))]
    with site.looking() as connection:
        entry = entries_of(connection, "A1")[-1][1]
        assert (entry.day, entry.note) == (date(2026, 1, 9), "of 2026-01-01, 2026-01-02")
    site.settle(date(2026, 1, 9), interval("M1", january[0], "2150", revision=0))  # an old revision that comes late
    assert len(site.booked()) == 3


def test_a_charged_day_whose_read_turns_out_suspect_is_given_back_until_it_is_known(site: Site) -> None:
    site.enrol("A1", "M1")
    site.settle(FIRST + DAY, interval("M1", FIRST, "900"))
    site.settle(FIRST + 2 * DAY, interval("M1", FIRST, None, reason="suspect-boundary", revision=1))
    assert sum(minor for *_, minor in site.booked()) == 0
    assert "suspect" in site.waits(FIRST + DAY)[FIRST]
    site.settle(FIRST + 3 * DAY, interval("M1", FIRST, "9.00", revision=2))
    assert [(cause, minor) for cause, _, minor in site.booked()] == [
        ("daily-charge", 47547), ("correction", -47547), ("correction", 475),
    ]  # fmt: skip


def test_what_flowed_in_the_customers_line_is_charged_behind_transformers(site: Site) -> None:
    site.enrol("A1", "M1")
    site.settle(FIRST + DAY, interval("M1", FIRST, "1.00", side="secondary", ratio="40", primary="40.00"))
    assert [minor for *_, minor in site.booked()] == [2113]
    # A span that tells only what the register counted would be a fortieth of what is due.
    site.settle(
        FIRST + 3 * DAY,
        interval("M1", FIRST + DAY, None),
        interval("M1", FIRST + 2 * DAY, None, span=(FIRST + DAY, Decimal("2.00"))),
    )
    assert len(site.booked()) == 1
    assert "primary side" in site.waits(FIRST + 3 * DAY)[FIRST + 2 * DAY]


def test_the_minimum_of_a_month_is_an_entry_of_its_own_on_its_last_day(site: Site) -> None:
    site.enrol("A1", "M1", tariff="tou", opened=date(2026, 3, 31))
    bands = [interval("M1", date(2026, 3, 31), "1.00", register=register) for register in range(5)]
    site.settle(date(2026, 4, 1), *bands)
    day, minimum = site.booked()
    assert day[:2] == ("daily-charge", "charge:A1:2026-03-31:0")
    assert minimum[:2] == ("minimum-charge", "minimum:A1:2026-03-31:0")
    assert day[2] + minimum[2] == 2000


def test_quarter_hours_are_put_into_the_bands_of_the_timetable(site: Site) -> None:
    site.enrol("A1", "M1", tariff=COMMERCIAL.name)
    quarter = timedelta(minutes=15)
    parts = [interval("M1", FIRST, "0.25", start=at(FIRST, 0) + place * quarter, length=quarter) for place in range(96)]
    site.settle(FIRST + DAY, *parts[:40])
    assert "from 10:00: no interval was told" in site.waits(FIRST + DAY)[FIRST]
    site.settle(FIRST + DAY, *reversed(parts[40:]))
    with site.looking() as connection:
        (use,) = daily_use(connection, "A1", FIRST, FIRST + DAY)
    assert use.kwh == 24
    assert len(use.used) == 4
    site.enrol("A2", "M2", tariff=COMMERCIAL.name)
    site.settle(FIRST + DAY, interval("M2", FIRST, "24"))
    assert "only values of whole days" in site.waits(FIRST + DAY, "A2")[FIRST]


def test_a_meter_that_is_exchanged_under_another_number_counts_from_its_first_read(site: Site) -> None:
    """The old one's last hours are what the fitter wrote down; they come later, as a correction."""
    site.enrol("A1", "M1")
    noon = at(FIRST + DAY, 12)
    told = interval("M9", FIRST + DAY, None, reason="partial")
    told["span"] = {"start": f"{noon:%Y-%m-%dT%H:%M:%SZ}", "end": told["end"], "amount": "3.00"}
    site.settle(FIRST + 2 * DAY, interval("M1", FIRST, "10.00"), told)
    assert len(site.booked()) == 1
    with site.database.writing("exchanging") as connection:
        accounts.exchange_meter(connection, "A1", "M1", "M9", FIRST + DAY, our_meters={"M9"})
    site.settle(FIRST + 2 * DAY)
    assert [minor for *_, minor in site.booked()] == [528, 159]  # 5.283 and 1.5849, the rest of the first carried on
    with site.database.writing("telling") as connection:
        tell_use(
            connection,
            "M1",
            FIRST + DAY,
            {"1-0:1.8.0": Decimal("4.00")},
            at(FIRST + 3 * DAY),
            site.days,
            by="fitter 12",
        )
    site.settle(FIRST + 3 * DAY)
    assert site.booked()[-1] == ("correction", "correct:A1:1", 211)


def test_a_changed_tariff_applies_from_the_first_day_that_is_not_charged(site: Site) -> None:
    site.enrol("A1", "M1")
    site.settle(FIRST + DAY, interval("M1", FIRST, "10"))
    with site.database.writing("changing") as connection:
        accounts.change_tariff(connection, "A1", "year", tariffs=VERSIONS)
    site.settle(FIRST + 2 * DAY, interval("M1", FIRST + DAY, "10"))
    assert [minor for *_, minor in site.booked()] == [528, 560]
    site.settle(FIRST + 3 * DAY, interval("M1", FIRST, "20", revision=1))  # the old day keeps the old price
    assert [minor for *_, minor in site.booked()] == [528, 560, 529]


def test_moving_out_settles_to_the_last_day_and_gives_back_what_remains(site: Site) -> None:
    site.enrol("A1", "M1")
    last = FIRST + DAY
    site.settle(FIRST + DAY, interval("M1", FIRST, "10"))
    with site.database.writing("moving out") as connection:
        move_out.ask(connection, "A1", last, at(last), by="clerk")
    with pytest.raises(NotSettled, match="2026-03-03: nothing was told"):
        finish(site, FIRST + 3 * DAY)
    site.settle(FIRST + 3 * DAY, interval("M1", last, "10"), interval("M1", last + DAY, "50"))
    with site.looking() as connection:
        assert [one.account for one in move_out.waiting(connection, FIRST + 3 * DAY)] == ["A1"]
    assert finish(site, FIRST + 3 * DAY) == -1057
    with site.looking() as connection:
        assert balance_of(connection, "A1", "CNY") == 0
        assert accounts.account_of(connection, "A1").closed_on == last
        assert entries_of(connection, "A1")[-1][1].cause is Cause.SETTLEMENT
        assert check_books(connection) == []
    with pytest.raises(AccountClosed):
        finish(site, FIRST + 3 * DAY)
    # A revision after that is a person's affair.
    site.settle(FIRST + 4 * DAY, interval("M1", FIRST, "1", revision=1))
    with site.looking() as connection:
        assert "revised" in flags_of(connection, "A1")["revised-after-closing"]
        assert balance_of(connection, "A1", "CNY") == 0


def test_who_moved_out_earlier_than_was_known_is_given_back_the_days_behind_it(site: Site) -> None:
    site.enrol("A1", "M1")
    days = [interval("M1", FIRST + place * DAY, "10") for place in range(4)]
    site.settle(FIRST + 4 * DAY, *days)
    with site.database.writing("moving out") as connection:
        move_out.ask(connection, "A1", FIRST, at(FIRST + 4 * DAY), by="clerk")
    assert finish(site, FIRST + 4 * DAY) == -528
    assert site.booked()[-2][::2] == ("correction", -1585)


def finish(site: Site, on: date) -> int | None:
    """What was left over; less than nothing is owed."""
    with site.database.writing("finishing") as connection:
        move_out.finish(connection, "A1", site.settlement, at(on, 2))
        done = move_out.asked(connection, "A1")
    return None if done is None else done.remainder_minor


def test_an_event_that_is_no_interval_is_skipped_and_a_gap_is_refused(site: Site) -> None:
    site.enrol("A1", "M1")
    site.feed.tell({"meter": "M1"}, "headend.read.v9")
    site.feed.tell({"meter": "M1", "obis": "1-0:1.8.0"})  # not of its form: logged, and those behind it are good
    assert site.settle(FIRST + DAY, interval("M1", FIRST, "10")).days == 1
    assert site.intake.cursor == 3
    page = list(site.feed.events)
    with pytest.raises(FeedBroken, match="event 3 follows event 1; expected 2"):
        site.intake.take([page[0], page[2]], 0)
    with pytest.raises(FeedBroken, match="the cursor is at 3"):
        site.intake.take(page[:1], 0)


def test_days_of_unknown_meters_are_kept_for_a_while(site: Site) -> None:
    site.settle(FIRST + DAY, interval("M7", FIRST, "10"))
    assert site.intake.forget_unknown(at(FIRST + 5 * DAY)) == 0
    site.enrol("A1", "M7")
    with site.database.writing("touching") as connection:
        touch_account(connection, "A1", FIRST)
    assert site.settle(FIRST + 5 * DAY).days == 1
    site.settle(FIRST + 5 * DAY, interval("M8", FIRST, "10"))
    assert site.intake.forget_unknown(at(FIRST + 30 * DAY)) == 1
    with site.looking() as connection:
        assert list(connection.execute(select(meter_days.c.meter)).scalars()) == ["M7"]


def test_an_empty_house_is_charged_nothing_and_nothing_comes_and_goes(site: Site) -> None:
    """Half a fen that rounding left over stays where it is."""
    site.enrol("A1", "M1", tariff="year")
    site.settle(FIRST + DAY, interval("M1", FIRST, "0.03125"))  # 1.75 fen
    for place in range(1, 6):
        site.settle(FIRST + (place + 1) * DAY, interval("M1", FIRST + place * DAY, "0.00"))
    assert [minor for *_, minor in site.booked()] == [2]


def test_the_tables_are_those_of_the_migrations_and_a_newer_database_is_refused(site: Site, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with site.database.writing("comparing") as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "prepayment_version"})
        assert compare_metadata(context, metadata) == []
        connection.exec_driver_sql("UPDATE prepayment_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="another version"):
        open_database(database_url(tmp_path, "prepayment"))

"""The parts behind the office: what is not settled yet, pieces of work, patience with a switch that does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from headend.prepayment.accounts.accounts import account_of
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.outside.patience import PatientSwitchboard
from headend.prepayment.settlement.so_far import SoFar, so_far_of
from headend.prepayment.storage.tables import news, touched
from headend.prepayment.views.standing import standing
from tests.headend.prepayment.books.test_autopay import FenceKeeper, SetClock
from tests.headend.prepayment.fleet import at, interval
from tests.headend.prepayment.office_world import DAY, HOUR, A, M, OfficeWorld
from tests.headend.prepayment.settlement.test_settlement import VERSIONS, Site

FIRST = date(2026, 3, 2)
QUARTER = timedelta(minutes=15)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.database.dispose()


def so_far(site: Site, hour: int, day: date = FIRST, account: str = "A1") -> SoFar:
    with site.looking() as connection:
        some = [account_of(connection, account)]
        return so_far_of(connection, some, at(day, hour), site.days, VERSIONS)[account]


def tell(site: Site, *told: dict[str, object]) -> None:
    for data in told:
        site.feed.tell(data)
    site.intake.catch_up()


def test_today_so_far_is_what_was_heard_and_costs_what_the_tariff_asks_for_it(site: Site) -> None:
    site.enrol("A1", "M1")
    assert so_far(site, 8) == SoFar()
    midnight = at(FIRST, 0)
    tell(site, *(interval("M1", FIRST, "0.50", start=midnight + n * QUARTER, length=QUARTER) for n in range(8)))
    # The same two hours once more, as intervals of an hour, of which one came already for the third.
    tell(site, *(interval("M1", FIRST, "2.00", start=midnight + n * HOUR, length=HOUR) for n in range(3)))
    found = so_far(site, 4)
    assert (found.today_kwh, found.today_until, found.today_minor) == (Decimal("6.00"), midnight + 3 * HOUR, 317)
    assert (found.minor, found.known_through) == (317, FIRST)


def test_today_so_far_of_several_meters_is_as_new_as_the_one_heard_of_least(site: Site) -> None:
    site.enrol("A1", "M1", "M2")
    midnight = at(FIRST, 0)
    tell(site, *(interval("M1", FIRST, "1.00", start=midnight + n * HOUR, length=HOUR) for n in range(3)))
    assert so_far(site, 4).today_kwh is None
    tell(site, interval("M2", FIRST, "4.00", start=midnight, length=HOUR))
    found = so_far(site, 4)
    assert (found.today_kwh, found.today_until, found.today_minor) == (Decimal("7.00"), midnight + HOUR, 370)


def test_a_tariff_by_the_time_of_day_asks_for_its_bands_and_says_nothing_without_them(site: Site) -> None:
    site.enrol("A1", "M1", tariff="tou")
    site.enrol("A2", "M2", tariff="commercial-tou")
    midnight = at(FIRST, 0)
    tell(site, interval("M1", FIRST, "2.00", start=midnight, length=HOUR))
    assert (so_far(site, 4).today_kwh, so_far(site, 4).today_minor) == (Decimal("2.00"), None)
    for band, kwh in ((1, "0"), (2, "0"), (3, "0"), (4, "2.00")):
        tell(site, interval("M1", FIRST, kwh, register=band, start=midnight, length=HOUR))
    assert so_far(site, 4).today_minor == 63  # 2 kWh of 0.298 + 0.019, before the monthly minimum
    tell(site, interval("M2", FIRST, "10.00", start=midnight, length=HOUR))
    timed = so_far(site, 4, account="A2")
    assert timed.today_kwh == Decimal("10.00")
    assert timed.today_minor is not None
    tell(site, interval("M2", FIRST, "1.00", start=midnight + HOUR, length=10 * HOUR))  # over a change of band
    assert so_far(site, 12, account="A2").today_minor is None


def test_days_that_wait_for_settlement_count_until_a_gap_and_the_steps_go_on(site: Site) -> None:
    site.enrol("A1", "M1", tariff="year", opened=date(2026, 1, 1))
    first, second, third = (date(2026, 1, 1) + n * DAY for n in range(3))
    site.settle(second, interval("M1", first, "2150"))
    tell(site, interval("M1", second, "20"))
    tell(site, interval("M1", third, "10", start=at(third, 0), length=HOUR))
    found = so_far(site, 4, third)
    assert found.minor == 30 * 56 + 20 * 5  # beyond 2160 kWh it is 0.05 more
    assert (found.today_minor, found.known_through) == (10 * 61, third)
    with site.looking() as connection:
        shown = standing(connection, "A1", at(third, 4), site.days, tariffs=VERSIONS)
        counted = standing(connection, "A1", at(third, 4), site.days, tariffs=VERSIONS, counts_today=True)
    assert (shown.today_minor, shown.counted_minor) == (610, 0)
    assert counted.available_minor == shown.available_minor - found.minor
    assert counted.month_opening_minor == shown.month_opening_minor
    fifth = third + 2 * DAY
    tell(site, interval("M1", fifth, "1", start=at(fifth, 0), length=HOUR))
    late = so_far(site, 4, fifth)
    assert (late.known_through, late.today_kwh) == (second, Decimal(1))


def test_a_settlement_in_pieces_settles_each_account_once_and_leaves_today_alone(site: Site) -> None:
    for number in range(5):
        site.enrol(f"A{number}", f"M{number}")
        tell(site, interval(f"M{number}", FIRST, "10.00"))
    tell(site, interval("M0", FIRST + DAY, "1.00", start=at(FIRST + DAY, 0), length=HOUR))
    site.settlement._batch = 2
    now = at(FIRST + DAY, 1)
    assert site.settlement.step(now, before=FIRST) == 0
    assert [site.settlement.step(now, before=FIRST + DAY) for _ in range(4)] == [2, 2, 1, 0]
    assert [len(site.booked(f"A{number}")) for number in range(5)] == [1] * 5
    tell(site, interval("M0", FIRST + DAY, "2.00", start=at(FIRST + DAY, 1), length=HOUR))
    assert site.settlement.step(now, before=FIRST + DAY) == 0
    with site.looking() as connection:
        assert len(connection.execute(select(touched)).all()) == 1
        assert len(connection.execute(select(news)).all()) == 5


def test_one_tick_of_settlement_ends_after_its_piece_of_time(tmp_path: Path) -> None:
    world = OfficeWorld(tmp_path)
    for number in (1, 2, 3):
        world.open(f"A000{number}", f"M000{number}")
    world.town.now += DAY
    world.tell_day(FIRST)
    by_name = {duty.name: duty for duty in world.duties}
    assert by_name["intake"].tick(world.town.now) == 3
    world.database.writing = slow(world)  # type: ignore[method-assign]
    world.office._parts.desks.settlement._batch = 1
    assert [by_name["settlement"].tick(world.town.now) for _ in range(4)] == [1, 1, 1, 0]
    assert list(by_name)[:2] == ["intake", "settlement"]
    assert list(by_name).index("desk") < list(by_name).index("mailroom") < list(by_name).index("hand-over")
    world.aclose()


def slow(world: OfficeWorld):  # type: ignore[no-untyped-def]
    """A database whose transactions take a second each."""
    real = world.database.writing

    @contextmanager
    def writing(doing: str):  # type: ignore[no-untyped-def]
        with real(doing) as connection:
            yield connection
        world.town.now += timedelta(seconds=1)

    return writing


def test_a_switch_that_keeps_us_waiting_is_not_waited_for_again_in_the_same_round() -> None:
    clock, asked = SetClock(at(FIRST)), []

    class Hanging(FenceKeeper):
        wait = timedelta(seconds=30)

        def state(self, command: str):  # type: ignore[no-untyped-def]
            asked.append(command)
            clock.at += self.wait
            raise SwitchboardUnavailable("no answer")

    switch = Hanging()
    patient = PatientSwitchboard(switch, clock)
    for command in ("c1", "c2"):
        with pytest.raises(SwitchboardUnavailable):
            patient.state(command)
    assert asked == ["c1"]
    patient.begin()
    switch.wait = timedelta(0)  # refused at once: the others are asked
    for command in ("c3", "c4"):
        with pytest.raises(SwitchboardUnavailable):
            patient.state(command)
    assert asked == ["c1", "c3", "c4"]
    assert patient.supply("M1") == "on"


def test_an_account_that_is_not_open_has_nothing_so_far(tmp_path: Path) -> None:
    world = OfficeWorld(tmp_path)
    world.office.enrol(world.enrolment(), by="clerk")
    world.tell_minutes("1", minutes=60, meter=M)
    world.pass_time(HOUR)
    assert world.office.standing(A).today_kwh is None
    world.office.confirm(A, by="clerk", opens_on=world.today + DAY)
    assert world.office.standing(A).today_kwh is None
    assert [one.kind for one in world.office.letters(A)] == ["agreement"] * 2  # it begins on another day than was told
    world.aclose()

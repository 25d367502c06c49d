"""A year of prepaid supply in virtual time: every account's money to the last digit, and nobody cut who should not be.

The normal run is a town of few households for some weeks around a leap day; `--prepaid-accounts 1000` is the year. What is checked, and
where, stands in prepaid_year/checker.py.
"""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from headend.prepayment.storage.database import Database
from headend.prepayment.trouble.flags import flags_of
from tests.scenarios.prepaid_year.checker import table_of
from tests.scenarios.prepaid_year.meters import DAY, midnight
from tests.scenarios.prepaid_year.world import FIRST, Year

FULL = 200  # households from which on it is the whole year
DAYS, DAYS_FULL = 40, 366
NEAR_THE_LEAP_DAY = date(2028, 2, 14)
HAPPENS = (
    "paid by app", "paid by bank", "paid by counter", "paid by collection-point", "paid by agent", "paid by bank-debit",
    "meter exchanged, same number", "meter exchanged, other number", "use told by a person", "read back-filled", "read found suspect",
    "day revised", "moved out", "final settlement", "contact changed", "phone unreachable", "tariff changed", "payment reversed",
    "payment unmatched", "payment assigned", "payment told twice", "payment told again", "switch away for hours", "held", "adjusted",
)  # fmt: skip


def test_a_year_of_many_households(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts: int = request.config.getoption("--prepaid-accounts")
    is_full = accounts >= FULL
    first = FIRST if is_full else NEAR_THE_LEAP_DAY
    year = Year(tmp_path, accounts, seed=28, crashes=0.0004 if is_full else 0.003, first=first)
    try:
        year.live(DAYS_FULL if is_full else DAYS)
        year.checker.check_end()
    finally:
        year.aclose()
    assert year.town.deaths > 10
    assert year.phones.counts["low"] >= 5
    assert year.events.count > 10
    if not is_full:
        return
    assert not [what for what in HAPPENS if what not in year.counts]
    assert year.switch.opened > 200
    assert len(year.checker.back) > 150
    with capsys.disabled():
        print(f"\n{len(year.households)} accounts in {DAYS_FULL} days, {year.town.deaths} deaths of the program")
        print(f"  opened {year.switch.opened}, closed {year.switch.closed}, refused {year.switch.refused}")
        print(f"  messages {year.phones.counts}")
        print("\n".join(f"  {what}: {count}" for what, count in sorted(year.counts.items())))
        print("from the payment to the light:")
        print(table_of(year.checker.back))


def test_a_read_found_wrong_after_a_final_settlement_changes_nothing_of_it(tmp_path: Path) -> None:
    year = Year(tmp_path, 1, seed=3, crashes=0.0, first=NEAR_THE_LEAP_DAY)
    [household] = year.households.values()
    meter = household.meter.meter
    leaves = NEAR_THE_LEAP_DAY + 5 * DAY

    def leave() -> None:
        """Told in the morning, when the last day's read is known."""
        household.leaves = household.reckoning.closes = leaves
        year.office.move_out(household.account, leaves, by="clerk")
        household.touch(leaves)

    def find_out() -> None:
        place = meter.place_of(leaves - DAY)
        assert all(meter.good[place - 1 : place + 2])
        meter.good[place] = False
        meter.used[place][0] += 3
        year.reads.note_change(meter, place - 1)

    year.at(midnight(leaves + DAY) + timedelta(hours=7), leave)
    year.at(midnight(leaves + 2 * DAY) + timedelta(minutes=20), find_out)
    try:
        year.live(9)
        year.checker.check_end()
        with Database(year.engine).reading("looking for flags") as connection:
            flags = flags_of(connection, household.account)
    finally:
        year.aclose()
    assert household.is_closed
    assert household.reckoning.last == leaves
    assert "revised-after-closing" in flags


def test_what_a_person_tells_at_noon_counts_against_the_balance_in_the_evening(tmp_path: Path) -> None:
    year = Year(tmp_path, 1, seed=3, crashes=0.0, first=NEAR_THE_LEAP_DAY)
    [household] = year.households.values()
    meter, day = household.meter.meter, NEAR_THE_LEAP_DAY + 3 * DAY
    evening: list[tuple[Fraction, int]] = []

    def tell() -> None:
        year.office.tell_use(meter.name, day, {"1-0:1.8.0": Decimal(40)}, by="fitter", note="read on the old meter")
        household.told = {(meter.name, day): {0: Decimal(40)}}
        household.touch(day)

    def look() -> None:
        evening.append((household.truth(), year.office.standing(household.account).available_minor))

    year.at(midnight(day) + timedelta(hours=12), lambda: meter.lost.add(meter.place_of(day)))
    year.at(midnight(day + 2 * DAY) + timedelta(hours=12), tell)
    year.at(midnight(day + 2 * DAY) + timedelta(hours=20), look)
    try:
        year.live(8)
        year.checker.check_end()
    finally:
        year.aclose()
    [(truth, balance)] = evening
    assert abs(truth - balance) <= 1

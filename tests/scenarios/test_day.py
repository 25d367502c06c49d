"""A day of 200 meters on four lines at 2400 baud, in virtual time: every interval once, true, and repeatable from the seed."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from simulators.load_curve import Quantity
from simulators.virtual_time import run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
ENERGY, VOLTAGE = "1-0:1.8.0", "1-0:32.7.0"
SLOTS = [(MIDNIGHT + timedelta(minutes=15 * number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(96)]


def a_day(folder: Path, *, seed: int, meters_per_line: int = 50, hours: float = 24) -> Street:
    folder.mkdir()
    return run(
        lambda clock, _: run_street(
            folder,
            clock,
            hours=hours - 1 / 3600,
            seed=seed,
            lines=4,
            meters_per_line=meters_per_line,
            quantities=[ENERGY],
            edit=with_voltages,
        ),
        start=MIDNIGHT,
        seed=seed,
    )


def with_voltages(text: str) -> str:
    """One meter in ten, the one whose number ends with 1, is asked for a second quantity."""
    both = f'[[plans]]\nname = "both"\nperiod = "15m"\nquantities = ["{ENERGY}", "{VOLTAGE}"]\n'
    return re.sub(r'(id = "M\d+1"\n(?:.*\n)*?plan = )"plan"', r'\1"both"', text) + both


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return a_day(tmp_path_factory.mktemp("day") / "first", seed=7)


def test_every_meter_and_quantity_has_96_intervals_none_missing_none_twice(day: Street) -> None:
    slots: dict[tuple[str, str], list[str]] = defaultdict(list)
    for data in day.reads():
        assert data["quality"] == ["measured"]
        slots[data["meter"], data["obis"]].append(data["interval_end"])
    assert len(day.meters) == 200
    expected = {(meter, ENERGY) for meter in day.meters} | {(f"M{number:06}", VOLTAGE) for number in range(1, 200, 10)}
    assert set(slots) == expected
    assert all(sorted(found) == SLOTS for found in slots.values())


def test_the_feed_is_numbered_without_gaps_and_ids_are_unique(day: Street) -> None:
    events = day.events()
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)


def test_energies_are_those_of_the_simulated_meters(day: Street) -> None:
    """Each read lies between what the register showed when the exchange began and when it ended."""
    checked = 0
    for data in day.reads():
        if data["obis"] != ENERGY or not data["meter"].endswith("5"):
            continue
        model = day.meters[data["meter"]].model
        received_at = datetime.fromisoformat(data["received_at"])
        earliest, latest = (
            model.energy(Quantity.FORWARD, 0, at) for at in (received_at - timedelta(seconds=2), received_at)
        )
        assert earliest <= Decimal(data["value"]) <= latest
        assert data["unit"] == "kWh"
        checked += 1
    assert checked == 20 * 96


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    first, again = (feed_of(tmp_path / name, seed=7, hours=6) for name in ("first", "again"))
    other = feed_of(tmp_path / "other", seed=8, hours=1)
    assert first == again
    assert len(other) > 80  # reads of twenty meters, each quarter of an hour
    assert first[: len(other)] != other


def feed_of(folder: Path, *, seed: int, hours: float) -> list[bytes]:
    street = a_day(folder, seed=seed, meters_per_line=5, hours=hours)
    events = street.store.events_after(0, 1_000_000)
    street.store.close()
    return events

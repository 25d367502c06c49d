"""A day of 200 meters on four lines at 2400 baud, in virtual time: every interval once, true, and repeatable from the seed."""

import hashlib
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from simulators.load_curve import Quantity
from simulators.virtual_time import run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
QUANTITIES = ["1-0:1.8.0", "1-0:32.7.0"]
SLOTS = [(MIDNIGHT + timedelta(minutes=15 * number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(96)]


def a_day(folder: Path, *, seed: int, meters_per_line: int = 50) -> Street:
    folder.mkdir()
    return run(
        lambda clock, _: run_street(
            folder,
            clock,
            hours=24 - 1 / 3600,
            seed=seed,
            lines=4,
            meters_per_line=meters_per_line,
            quantities=QUANTITIES,
        ),
        start=MIDNIGHT,
        seed=seed,
    )


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return a_day(tmp_path_factory.mktemp("day") / "first", seed=7)


def test_every_meter_and_quantity_has_96_intervals_none_missing_none_twice(day: Street) -> None:
    slots: dict[tuple[str, str], list[str]] = defaultdict(list)
    for data in day.reads():
        assert data["quality"] == ["measured"]
        slots[data["meter"], data["obis"]].append(data["interval_end"])
    assert set(slots) == {(meter, obis) for meter in day.meters for obis in QUANTITIES}
    assert all(sorted(found) == SLOTS for found in slots.values())


def test_the_feed_is_numbered_without_gaps_and_ids_are_unique(day: Street) -> None:
    events = day.events()
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)


def test_energies_are_those_of_the_simulated_meters(day: Street) -> None:
    """Each read lies between what the register showed when the exchange began and when it ended."""
    checked = 0
    for data in day.reads():
        if data["obis"] != "1-0:1.8.0" or not data["meter"].endswith("5"):
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
    streets = [a_day(tmp_path / str(place), seed=seed, meters_per_line=5) for place, seed in enumerate((7, 7, 8))]
    digests = [hashlib.sha256(b"\n".join(one.store.events_after(0, 1_000_000))).hexdigest() for one in streets]
    assert digests[0] == digests[1] != digests[2]

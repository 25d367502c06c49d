"""Dead meters, dead lines and late hours: every expected interval still ends in one named state."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headend.drivers.reading import Question, Reading
from headend.model import Read
from headend.scheduling import polled_reads, poller
from headend.store.store import Store
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)
TOTAL = "1-0:1.8.0"


def a_street(
    folder: Path,
    *,
    hours: float,
    meters: int = 6,
    lines: int = 1,
    quantities: tuple[str, ...] = (TOTAL,),
    period: str = "15m",
    meanwhile: Callable[[Street, VirtualClock], Awaitable[None]],
    edit: Callable[[str], str] = str,
) -> Street:
    return run(
        lambda clock, _: run_street(
            folder, clock, hours=hours, seed=3, lines=lines, meters_per_line=meters, quantities=list(quantities), period=period,
            meanwhile=meanwhile, edit=edit,
        ),
        start=MIDNIGHT,
    )  # fmt: skip


def outcomes(street: Street) -> dict[str, Counter[str]]:
    """Per meter: how often each outcome, "measured" or the reason why not."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for data in street.reads(revision=0):
        found[data["meter"]][data.get("reason") or data["quality"][0]] += 1
    return found


def assert_each_interval_once(street: Street, *, expected: int) -> None:
    keys = [(data["meter"], data["obis"], data["interval_end"]) for data in street.reads(revision=0)]
    assert len(keys) == len(set(keys)) == expected


def test_an_error_of_ours_costs_one_meter_its_read_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = polled_reads.reads_of

    def reads_of(meter: str, question: Question, reading: Reading, **rest: Any) -> list[Read]:
        if meter == "M000003":
            raise RuntimeError("a fault put in by the test")
        return real(meter, question, reading, **rest)

    async def nothing(_: Street, __: VirtualClock) -> None:
        monkeypatch.setattr(poller, "reads_of", reads_of)

    street = a_street(tmp_path, hours=2 - 1 / 3600, meanwhile=nothing)
    found = outcomes(street)
    assert found.pop("M000003") == Counter(corrupt=8)
    assert len(found) == 5
    assert all(counts == Counter(measured=8) for counts in found.values())
    assert_each_interval_once(street, expected=6 * 8)


def test_dead_meters_are_named_missing_and_the_others_are_read(tmp_path: Path) -> None:
    async def kill_two(street: Street, _: VirtualClock) -> None:
        bus = street.lines["line-0"].bus
        bus.meters = [meter for meter in bus.meters if meter.address[-1] not in "25"]  # type: ignore[attr-defined]

    street = a_street(tmp_path, hours=2 - 1 / 3600, meanwhile=kill_two)
    found = outcomes(street)
    assert found["M000002"] == found["M000005"] == Counter(silent=7)  # the last round was still open
    assert all(found[f"M00000{number}"] == Counter(measured=8) for number in (1, 3, 4, 6))
    assert_each_interval_once(street, expected=4 * 8 + 2 * 7)


def test_a_line_that_is_away_for_half_an_hour_says_so_and_comes_back_by_itself(tmp_path: Path) -> None:
    async def cut(street: Street, clock: VirtualClock) -> None:
        line = street.lines["line-0"]
        await asyncio.sleep(40 * 60)  # between two interval ends
        line.reachable = False
        line.drop()
        await asyncio.sleep(30 * 60)
        line.reachable = True

    street = a_street(tmp_path, hours=2 - 1 / 3600, meanwhile=cut)
    assert_each_interval_once(street, expected=6 * 8)
    found = outcomes(street)
    # 00:45 was lost whole; 01:00 is read when the line returns at 01:10, and marked late.
    assert all(found[meter] == Counter({"measured": 7, "line-down": 1}) for meter in street.meters)
    late = {data["interval_end"] for data in street.reads(revision=0) if "late" in data["quality"]}
    assert late == {"2026-03-01T17:00:00Z"}


def test_a_plan_that_does_not_fit_its_period_names_what_was_left(tmp_path: Path) -> None:
    """Sixty meters at 2400 baud need more than ten seconds for one quantity; one minute does not hold six of them."""

    async def nothing(_: Street, __: VirtualClock) -> None: ...

    quantities = (TOTAL, "1-0:2.8.0", "1-0:32.7.0", "1-0:31.7.0", "1-0:16.7.0", "1-0:14.7.0")
    street = a_street(tmp_path, hours=5 / 60, meters=60, quantities=quantities, period="1m", meanwhile=nothing)
    found = Counter(data.get("reason", "measured") for data in street.reads())
    assert found["overrun"] > 0
    assert found["measured"] > found["overrun"] / 2
    assert set(found) == {"measured", "overrun"}
    keys = [(data["meter"], data["obis"], data["interval_end"], data["revision"]) for data in street.reads()]
    assert len(keys) == len(set(keys))


def test_a_wall_clock_set_back_reads_no_interval_twice(tmp_path: Path) -> None:
    async def step(_: Street, clock: VirtualClock) -> None:
        await asyncio.sleep(50 * 60)
        clock.step(-3600)

    street = a_street(tmp_path, hours=3, meanwhile=step)
    keys = [(data["meter"], data["obis"], data["interval_end"], data["revision"]) for data in street.reads()]
    assert len(keys) == len(set(keys))
    slots = sorted({data["interval_end"] for data in street.reads()})
    # Set back at 16:50 to 15:50, the plan goes on at once: with 15:45, then with what the store does not have yet.
    assert slots[0] == "2026-03-01T15:45:00Z"
    assert slots[-1] == "2026-03-01T17:45:00Z"
    assert len(slots) == 9


def test_several_plans_share_a_line_and_the_short_one_is_kept(tmp_path: Path) -> None:
    """A daily plan of many quantities starts at midnight with the quarter-hour one and must not delay it."""

    async def nothing(_: Street, __: VirtualClock) -> None: ...

    def with_daily(text: str) -> str:
        daily = ", ".join(f'"di:0001{tariff:02}00"' for tariff in range(5))
        before, meter, after = text.partition('address = "000000000004"')
        plan = f'\n[[plans]]\nname = "daily"\nperiod = "1d"\nquantities = [{daily}]\n'
        return before + meter + after.replace('plan = "plan"', 'plan = "daily"', 1) + plan

    street = a_street(tmp_path, hours=1 - 1 / 3600, meanwhile=nothing, edit=with_daily)
    found = outcomes(street)
    assert found["M000004"] == Counter(measured=5)
    assert all(found[f"M00000{number}"] == Counter(measured=4) for number in (1, 2, 3, 5, 6))
    first = [data for data in street.reads() if data["interval_end"] == "2026-03-01T16:00:00Z"]
    short = [data["received_at"] for data in first if data["meter"] != "M000004"]
    long = [data["received_at"] for data in first if data["meter"] == "M000004"]
    assert max(short) < min(long)


def test_what_is_in_flight_at_a_stop_is_stored_and_nothing_is_asked_any_more(tmp_path: Path) -> None:
    async def nothing(_: Street, __: VirtualClock) -> None: ...

    street = a_street(tmp_path, hours=0.5 / 3600, meters=30, meanwhile=nothing)  # half a second
    events = street.events()
    assert 1 <= len(events) < 30
    bus = street.lines["line-0"].bus
    assert bus.replies == len(events)  # type: ignore[attr-defined]
    last = datetime.fromisoformat(events[-1]["data"]["received_at"])
    assert last - MIDNIGHT < timedelta(seconds=3)
    assert isinstance(street.store, Store)

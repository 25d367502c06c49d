"""How long the disk lasts, what is kept, and what is said about it."""

import asyncio
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.feed.pusher_capacity import LEVELS_H, Growth, hours_left, level_of
from headend.feed.pusher_progress import Progress
from headend.feed.pusher_retention import RetentionKeeper, RetentionPolicy, keep_from
from headend.model import Event
from headend.store import Store
from headend.store.cursors import Cursors, Saved
from headend.store.cursors_retention import Retention, Usage
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.feed.delivery_support import Site
from tests.headend.support import new_store

DAY_S = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def test_hours_left_is_what_is_free_over_what_a_day_has_brought() -> None:
    growth = Growth(bytes_per_event=125.0, events=2_400_000, window_h=24.0)
    assert hours_left(12_500_000 * 10, growth) == 10.0
    assert hours_left(None, growth) is None
    assert hours_left(1000, Growth(bytes_per_event=125.0, events=0, window_h=24.0)) is None
    assert hours_left(1000, Growth(bytes_per_event=125.0, events=500, window_h=0.1)) is None  # a burst is no rate


def test_alarms_come_at_their_hours_and_do_not_flutter() -> None:
    level, told = "ok", []
    for hours in (100, 72.5, 71.9, 72.1, 71.8, 78, 80, 60, 25, 24, 23, 25, 27, 4, 3.9, 4.2, 5, 50, 100):
        level = level_of(hours, level)
        told.append(level)
    assert told == [
        *(
            "ok",
            "ok",
            "72h",
            "72h",
            "72h",
            "72h",
            "ok",
            "72h",
            "72h",
            "24h",
            "24h",
            "24h",
            "72h",
            "4h",
            "4h",
            "4h",
            "24h",
        ),
        *("72h", "ok"),
    ]
    assert level_of(None, "4h") == "ok"


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 100), st.none() | st.integers(1, 100)), max_size=4))
def test_nothing_that_is_protected_goes(cutoff: int, destinations: list[tuple[int, int | None]]) -> None:
    progress = {str(number): Progress(low) for number, (low, _) in enumerate(destinations)}
    limits = {str(number): limit for number, (_, limit) in enumerate(destinations) if limit is not None}
    first = keep_from(cutoff, progress, limits)
    assert first <= cutoff
    for name, one in progress.items():
        assert first <= max(one.low + 1, limits.get(name, 0))
    tight = [cutoff, *(max(one.low + 1, limits.get(name, 0)) for name, one in progress.items())]
    assert first in tight


def keeper(
    site: Site,
    told: list[Event],
    *,
    keep_s: float | None = 10 * DAY_S,
    retention: Retention | None = None,
    **protect_s: float,
) -> RetentionKeeper:
    return RetentionKeeper(
        RetentionPolicy(keep_s=keep_s, protect_s=protect_s),
        name="west",
        cursors=site.cursors,
        retention=retention or Retention(site.store.engine),
        clock=site.clock,
        execute=inline,
        write=inline,
        tell=told.append,
    )


def low(site: Site, **marks: int) -> None:
    site.cursors.save({name: Saved(progress=Progress(mark)) for name, mark in marks.items()})


async def twenty_days(site: Site) -> None:
    """Ten reads a day: 1 to 10 on the first, 191 to 200 on the last."""
    for _ in range(20):
        site.store_reads(10)
        await asyncio.sleep(DAY_S)


def test_what_is_old_and_delivered_goes_and_nothing_else(store: Store) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        await twenty_days(site)
        told: list[Event] = []
        low(site, billing=55, archive=200)
        assert await keeper(site, told, keep_s=None).prune() == 0
        assert await keeper(site, told).prune() == 56  # all of the first ten days, but for what billing has not got
        assert site.cursors.first_sequence() == 51  # whole batches only
        low(site, billing=200)
        await keeper(site, told).prune()
        assert site.cursors.first_sequence() == 101
        assert store.events_after(100, 1000)[0] == site.cursors.events_from(101, 1, 1).events[0]
        kept = [read for meter in range(10) for read in store.reads(f"M{meter:06d}")]
        assert len(kept) == 100
        assert store.last_sequence() == 200
        site.store_reads(1)
        assert store.last_sequence() == 201

    run(main)


def test_a_destination_nobody_configures_any_more_is_protected_until_it_is_forgotten(store: Store) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        await twenty_days(site)
        low(site, billing=200, gone=20)
        await keeper(site, []).prune()
        assert site.cursors.first_sequence() == 21
        assert site.cursors.forget("gone")
        await keeper(site, []).prune()
        assert site.cursors.first_sequence() == 101

    run(main)


def test_the_newest_batch_stays_whatever_its_age(store: Store) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        await twenty_days(site)
        low(site, billing=200)
        await asyncio.sleep(1000 * DAY_S)
        await keeper(site, []).prune()
        assert site.cursors.first_sequence() == 191
        site.store_reads(1)
        assert store.last_sequence() == 201

    run(main)


def test_protection_that_ends_is_said_three_days_before(store: Store) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        told: list[Event] = []
        low(site, billing=0)
        looks = keeper(site, told, billing=14 * DAY_S)
        site.store_reads(10)

        async def passing(hours: int) -> None:
            for _hour in range(hours):
                await looks.look()
                await looks.prune()
                await asyncio.sleep(3600)

        await passing(261)
        assert told == []
        await passing(5)
        assert [(event.data["kind"], event.data["state"], event.data["destination"]) for event in told] == [
            ("protection", "72h", "billing")
        ]
        assert "bring it back" in looks.problems()[0]
        site.store_reads(10)
        await passing(73)
        assert [event.data["state"] for event in told] == ["72h", "24h", "4h", "ok"]  # ok: it went
        assert site.cursors.first_sequence() == 11

    run(main)


def test_a_disk_that_fills_is_said_in_time(store: Store) -> None:
    class SmallDisk(Retention):
        free_bytes = 0

        def usage(self) -> Usage:
            found = super().usage()
            return Usage(
                used_bytes=100 * found.events, free_bytes=self.free_bytes, events=found.events, last=found.last
            )

    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        told: list[Event] = []
        disk = SmallDisk(store.engine)
        looks = keeper(site, told, retention=disk)
        await looks.look()
        assert looks.capacity is not None
        assert looks.capacity.hours_left is None
        for _quarter in range(96):
            site.store_reads(100)
            await asyncio.sleep(900)
        for free_h in (80, 70, 20, 3, 100):
            disk.free_bytes = free_h * 400 * 100
            await looks.look()
            assert looks.capacity.hours_left is not None
            assert abs(looks.capacity.hours_left - free_h) < 0.02 * free_h
        assert [event.data["state"] for event in told] == ["72h", "24h", "4h", "ok"]
        assert told[0].type == "headend.service-status.v1"
        assert LEVELS_H == (72, 24, 4)
        store.commit(told)

    run(main)


def test_a_time_in_the_feed_is_found(store: Store) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        site = Site(store, clock)
        cursors = Cursors(store.engine)
        assert cursors.first_since(clock.now()) == 1
        begins: list[tuple[datetime, int]] = []
        for size in (3, 1, 7, 2, 1100, 5):
            begins.append((clock.now(), store.last_sequence() + 1))
            site.store_reads(size)
            await asyncio.sleep(60)
        for moment, first in begins:
            assert cursors.first_since(moment) == first
            assert cursors.time_of(first) == moment
            assert cursors.first_since(moment - timedelta(seconds=1)) == first
        assert cursors.first_since(clock.now()) == store.last_sequence() + 1
        assert cursors.time_of(store.last_sequence() + 1) is None

    run(main)

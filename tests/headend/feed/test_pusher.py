"""One destination in virtual time: order, lanes, cursors, parked events, patience. The store is a real one."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from headend.errors import StoreUnavailable
from headend.feed.pusher import REFUSED_IN_A_ROW_MAX, Pusher
from headend.feed.pusher_progress import Progress
from headend.store import Store
from headend.store.cursors import Saved
from headend.store.cursors_retention import Retention
from simulators.virtual_time import VirtualClock, run
from tests.headend.feed.delivery_support import FarEnd, Site, until
from tests.headend.support import new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def on_site(store: Store, main: Callable[[Site, FarEnd], Awaitable[None]]) -> None:
    async def begin(clock: VirtualClock, _: random.Random) -> None:
        await main(Site(store, clock), FarEnd(clock))

    run(begin)


async def stopped(pusher: Pusher, task: "asyncio.Task[None]") -> None:
    pusher.stop()
    async with asyncio.timeout(60):
        await task


def test_everything_arrives_in_order_and_once(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        site.store_reads(1200)
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: len(sink.received) == 1200)
        site.store_reads(3)
        await until(lambda: len(sink.received) == 1203, within_s=1)
        assert sink.received == list(range(1, 1204))
        assert [len(batch) for batch in sink.batches] == [500, 500, 200, 3]
        assert list(sink.bodies.values()) == store.events_after(0, 2000)
        assert site.cursors.progress("billing") == Progress(1203)
        status = pusher.status()
        assert (status.state, status.lag_events, status.lag_s, status.parked) == ("up", 0, 0.0, 0)
        await stopped(pusher, task)

    on_site(store, main)


def test_a_new_destination_may_begin_with_what_comes_next(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        site.store_reads(10)
        pusher = site.pusher(sink, from_beginning=False)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().state == "up")
        site.store_reads(2)
        await until(lambda: sink.received == [11, 12])
        await stopped(pusher, task)

    on_site(store, main)


def test_after_a_long_absence_the_newest_goes_first_and_the_backlog_drains_beside_it_oldest_first(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        pusher = site.pusher(sink, live_within=100, back_fill_per_s=100, batch_max=50)
        task = asyncio.ensure_future(pusher.run())
        site.store_reads(10)
        await until(lambda: len(sink.received) == 10)
        sink.is_away = True
        for _ in range(20):
            site.store_reads(50)
            await asyncio.sleep(60)
        assert pusher.status().state == "waiting"
        assert pusher.status().lag_events == 1000
        assert pusher.status().lag_s >= 1100
        sink.is_away = False
        await until(lambda: len(sink.received) > 10)
        began = site.clock.monotonic()
        boundary = sink.received[10] - 1  # where the live lane began
        assert boundary >= 850
        site.store_reads(1)  # 1011
        await until(lambda: 1011 in sink.received, within_s=1)
        assert pusher.status().backlog_events > 700
        await asyncio.sleep(3)
        site.store_reads(5)
        await until(lambda: 1016 in sink.received, within_s=1)
        await until(lambda: len(set(sink.received)) == 1016)
        assert 7 <= site.clock.monotonic() - began <= 10  # some 900 at 100 a second, less what was sent at once
        assert len(sink.received) == 1016
        live = [number for number in sink.received if number > boundary]
        drained = [number for number in sink.received if number <= boundary]
        assert live == sorted(live)
        assert drained == sorted(drained)
        assert site.cursors.progress("billing") == Progress(1016)
        await stopped(pusher, task)

    on_site(store, main)


def test_old_news_counts_as_a_long_absence_even_if_it_is_little(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        pusher = site.pusher(sink, live_within=100, live_age_s=600, batch_max=3)
        sink.is_away = True
        task = asyncio.ensure_future(pusher.run())
        site.store_reads(4)
        await asyncio.sleep(700)
        sink.is_away = False
        await until(lambda: bool(sink.received))
        assert pusher.status().live_after == 4
        await until(lambda: sink.received == [1, 2, 3, 4])
        await stopped(pusher, task)

    on_site(store, main)


def test_after_a_short_absence_everything_goes_on_in_order(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        pusher = site.pusher(sink, live_within=100)
        task = asyncio.ensure_future(pusher.run())
        sink.is_away = True
        for _ in range(5):
            site.store_reads(10)
            await asyncio.sleep(10)
        sink.is_away = False
        await until(lambda: len(sink.received) == 50)
        assert sink.received == list(range(1, 51))
        assert pusher.status().delivered_ahead == []
        await stopped(pusher, task)

    on_site(store, main)


def test_a_busy_live_lane_does_not_stop_the_backlog(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        site.store_reads(500)
        sink.answer_s = 0.1
        pusher = site.pusher(sink, live_within=100, batch_max=10, back_fill_per_s=0)
        task = asyncio.ensure_future(pusher.run())
        for _ in range(300):  # one more for every push: the live lane always has something
            site.store_reads(1)
            await asyncio.sleep(0.1)
        assert pusher.status().counters["back_filled"] >= 250
        await until(lambda: len(sink.received) == 800)
        await stopped(pusher, task)

    on_site(store, main)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments_it_skips_nothing_and_repeats_one_batch_at_most(store: Store, seed: int) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        dice = random.Random(seed)
        sink.answer_s = 0.05
        site.store_reads(700)
        kills = 40
        for _ in range(kills):
            pusher = site.pusher(sink, live_within=dice.choice((5, 5000)), batch_max=7, back_fill_per_s=200)
            task = asyncio.ensure_future(pusher.run())
            for _ in range(dice.randrange(8)):
                site.store_reads(dice.randrange(5))
                sink.is_away = dice.random() < 0.2
                sink.poison = {dice.randrange(1, 700)}
                await asyncio.sleep(dice.uniform(0, 0.4))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        sink.is_away, sink.poison = False, set()
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await pusher.release()
        await until(lambda: pusher.status().lag_events == 0 and pusher.status().parked == 0)
        assert set(sink.received) == set(range(1, store.last_sequence() + 1))
        assert len(sink.received) - len(set(sink.received)) <= kills * 7
        await stopped(pusher, task)

    on_site(store, main)


def test_a_stop_waits_for_the_batch_under_way(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.answer_s = 5
        site.store_reads(4)
        pusher = site.pusher(sink, batch_max=2)
        task = asyncio.ensure_future(pusher.run())
        await asyncio.sleep(1)
        await stopped(pusher, task)
        assert sink.received == [1, 2]
        assert site.cursors.progress("billing") == Progress(2)

    on_site(store, main)


@pytest.mark.parametrize("names_the_bad", [False, True])
def test_bad_events_are_parked_and_the_others_arrive_once(store: Store, names_the_bad: bool) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.names_the_bad = names_the_bad
        sink.poison = {1, 250, 251, 600}
        site.store_reads(600)
        pusher = site.pusher(sink, live_within=10_000)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().lag_events == 0)
        assert sink.received == [number for number in range(1, 601) if number not in sink.poison]
        parked = site.cursors.parked("billing")
        assert [one.sequence for one in parked] == [1, 250, 251, 600]
        assert parked[0].tries == 1
        assert "does not like" in parked[0].reason
        assert [one.body for one in parked[:1]] == store.events_after(0, 1)
        assert site.cursors.progress("billing") == Progress(600)

        sink.poison = {250}
        await pusher.release()
        await until(lambda: pusher.status().parked == 1)
        await asyncio.sleep(10)
        assert sorted(sink.received) == [number for number in range(1, 601) if number != 250]
        (left,) = site.cursors.parked("billing")
        assert (left.sequence, left.tries, left.released) == (250, 2, False)
        assert await pusher.drop(250) == 1
        assert await pusher.drop(250) == 0
        assert pusher.status().parked == 0
        await stopped(pusher, task)

    on_site(store, main)


def test_a_destination_that_refuses_everything_waits_instead_of_parking_everything(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.poison = set(range(1, 10_000))
        site.store_reads(600)
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().state == "waiting")
        assert "in a row" in pusher.status().problem
        assert pusher.status().parked == REFUSED_IN_A_ROW_MAX
        await asyncio.sleep(3600)
        assert pusher.status().parked == REFUSED_IN_A_ROW_MAX
        sink.poison = set()
        await pusher.release()
        await until(lambda: pusher.status().lag_events == 0 and pusher.status().parked == 0)
        assert sorted(sink.received) == list(range(1, 601))
        await stopped(pusher, task)

    on_site(store, main)


def test_with_as_many_parked_as_may_be_it_waits_until_somebody_looks(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.poison = {10, 20, 30, 40}
        site.store_reads(100)
        pusher = site.pusher(sink, park_max=2)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().state == "waiting")
        assert "headend sink parked billing" in pusher.status().problem
        assert sink.received == [number for number in range(1, 30) if number not in sink.poison]
        await pusher.drop()
        await until(lambda: pusher.status().lag_events == 0)
        assert len(sink.received) == 96
        await stopped(pusher, task)

    on_site(store, main)


def test_what_is_too_much_at_once_is_sent_in_parts(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.events_max = 70
        site.store_reads(500)
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().lag_events == 0)
        assert sink.received == list(range(1, 501))
        assert pusher.status().parked == 0
        await stopped(pusher, task)

    on_site(store, main)


def test_what_was_acknowledged_before_a_connection_broke_is_not_sent_again(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.breaks_after, sink.poison = 30, {45}
        site.store_reads(200)
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().lag_events == 0)
        assert sink.received == [number for number in range(1, 201) if number != 45]
        assert [one.sequence for one in site.cursors.parked("billing")] == [45]
        await stopped(pusher, task)

    on_site(store, main)


def test_pauses_double_up_to_a_minute_and_a_wish_to_be_left_alone_is_honoured(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        sink.is_away = True
        site.store_reads(1)
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await asyncio.sleep(600)
        pauses = [b - a for a, b in zip(sink.offered_at, sink.offered_at[1:], strict=False)]
        assert 0.25 <= pauses[0] <= 0.5
        assert all(pause <= 60 for pause in pauses)
        assert pauses[-1] >= 30
        sink.retry_after_s = 300
        sink.offered_at.clear()
        await asyncio.sleep(1200)
        pauses = [b - a for a, b in zip(sink.offered_at, sink.offered_at[1:], strict=False)]
        assert pauses == [300] * len(pauses)
        sink.retry_after_s = 1e9
        await asyncio.sleep(8000)
        assert site.clock.monotonic() - sink.offered_at[-1] <= 3600
        await stopped(pusher, task)  # at once, not after the pause

    on_site(store, main)


def test_a_cursor_that_cannot_be_kept_stops_the_lane_and_not_the_service(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        site.store_reads(30)
        pusher = site.pusher(sink, batch_max=10)
        save, is_full = site.cursors.save, True

        def failing(changes: dict[str, Saved]) -> None:
            if is_full and any(change.progress.low >= 10 for change in changes.values()):
                raise StoreUnavailable("moving cursors: database or disk is full")
            save(changes)

        site.cursors.save = failing  # type: ignore[method-assign,assignment]  # a disk that fills up at this very moment
        task = asyncio.ensure_future(pusher.run())
        await asyncio.sleep(300)
        assert sink.received == list(range(1, 11))  # nothing more before what is acknowledged is written down
        assert "disk is full" in pusher.status().problem
        is_full = False
        await until(lambda: sink.received == list(range(1, 31)))
        await stopped(pusher, task)

    on_site(store, main)


def test_what_was_pruned_before_delivery_is_counted_and_said(store: Store) -> None:
    async def main(site: Site, sink: FarEnd) -> None:
        for _ in range(10):
            site.store_reads(10)
        assert Retention(store.engine).prune_feed(31) == 3
        site.cursors.save({"billing": Saved(progress=Progress(5))})
        pusher = site.pusher(sink)
        task = asyncio.ensure_future(pusher.run())
        await until(lambda: pusher.status().lag_events == 0)
        assert sink.received == list(range(31, 101))
        assert pusher.status().counters["lost"] == 25
        await stopped(pusher, task)

    on_site(store, main)

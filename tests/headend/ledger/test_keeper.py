"""Days are closed once, signed, and closed again when something of them has changed; over restarts, crashes and damage."""

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from headend.errors import StoreUnavailable
from headend.ledger.digest import digest_of
from headend.ledger.keeper import DAYS_MISSED_MAX, LedgerKeeper
from headend.ledger.manifest import signed_bytes
from headend.ledger.signing import SigningKey
from headend.model import Quality
from headend.store import Store, Writer
from headend.store.backup import back_up, restore
from headend.store.ledger import LedgerBook
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, SOURCE, ZONE, Site, duty, read, slots, status
from tests.headend.support import new_store, store_url

FIRST, SECOND, THIRD = "2026-02-01", "2026-02-02", "2026-02-03"
METERS = ("M1", "M2", "M3")
DUTIES = [duty(meter) for meter in METERS]


async def put_day(site: Site, day: int = 0, meters: tuple[str, ...] = METERS) -> None:
    await site.put(read(meter, end, f"{place}.{day % 10}") for place, end in enumerate(slots(day)) for meter in meters)


async def test_a_day_is_closed_some_hours_after_its_midnight_and_only_once(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site)
        await site.put([status("M1", MIDNIGHT)])
        assert await site.close_at(MIDNIGHT + DAY + CLOSING - timedelta(seconds=1)) == 0
        assert await site.close_at(MIDNIGHT + DAY + CLOSING) == 1
        assert await site.close_at(MIDNIGHT + DAY + CLOSING + timedelta(hours=3)) == 0
        *_, part, whole = site.events()
        assert (whole["type"], whole["id"]) == ("headend.manifest.v1", f"manifest:{FIRST}:0")
        assert part["type"] == "headend.manifest-part.v1"
        said = whole["data"]
        assert (said["start"], said["end"]) == ("2026-01-31T16:00:00Z", "2026-02-01T16:00:00Z")
        assert (said["count"], said["first"], said["last"], said["through"]) == (36, 1, 36, 37)
        assert said["states"] == {"measured": 36}
        assert said["is_final"] is True
        assert said["feed"]["after"] == 0
        assert said["parts"][0]["sha256"] == digest_of(part["data"])
        assert site.entries(FIRST)["M2"]["states"] == {"measured": 12}
        await site.restart(DUTIES)
        assert await site.keeper.close_due() == 0


async def test_manifests_are_signed_or_say_that_they_are_not(tmp_path: Path) -> None:
    key = SigningKey.new()
    async with Site(tmp_path, DUTIES, key=key).running() as site:
        await put_day(site)
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        site.key = None
        await site.restart(DUTIES)
        await site.close_at(MIDNIGHT + 2 * DAY + CLOSING)
        signed, unsigned = site.manifests()
        assert signed["signed_by"] == key.public.id
        assert key.public.is_right(signed["signature"], signed_bytes(signed))
        assert not key.public.is_right(signed["signature"], signed_bytes({**signed, "count": 1}))
        assert (unsigned["signed_by"], unsigned["signature"]) == (None, None)
        assert unsigned["previous"] == {"day": FIRST, "revision": 0, "sha256": digest_of(signed)}


async def test_a_read_that_comes_later_makes_a_new_revision_of_its_day(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site, meters=("M1", "M2"))
        await site.put(read("M3", end, None, reason="silent") for end in slots())
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        assert site.entries(FIRST)["M3"]["states"] == {"open": 12}
        await put_day(site, 1)
        filled = (Quality.MEASURED, Quality.BACK_FILLED)
        await site.put(read("M3", end, "5.00", revision=1, quality=filled) for end in slots()[:9])
        assert await site.close_at(MIDNIGHT + 2 * DAY + CLOSING) == 2
        first, second, again = site.manifests()
        assert [(one["day"], one["revision"]) for one in (first, second, again)] == [
            (FIRST, 0),
            (SECOND, 0),
            (FIRST, 1),
        ]
        assert again["states"] == {"measured": 24, "back-filled": 9, "open": 3}
        assert (first["count"], again["count"]) == (36, 45)
        # The stretch of the feed is vouched for once.
        assert (second["feed"]["after"], second["feed"]["through"]) == (first["through"], second["through"])
        assert (again["feed"]["after"], again["feed"]["through"]) == (second["through"], again["through"])
        assert site.entries(FIRST, 0)["M3"]["count"] == 12
        assert site.entries(FIRST)["M3"]["count"] == 21


async def test_an_open_interval_becomes_final_when_nobody_looks_for_it_any_more(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES[:1]).running() as site:
        await put_day(site, meters=("M1",))
        await site.put([read("M1", MIDNIGHT + DAY + timedelta(hours=2), None, reason="line-down")])
        for day in range(1, 7):
            await site.close_at(MIDNIGHT + day * DAY + CLOSING)
        told = [(one["day"], one["revision"], one["states"]) for one in site.manifests() if one["day"] == SECOND]
        # Two days of looking back and one period: at the first closing after it only the first interval's time is over.
        assert told == [
            (SECOND, 0, {"open": 12}),
            (SECOND, 1, {"line-down": 1, "open": 11}),
            (SECOND, 2, {"line-down": 1, "irrecoverable": 11}),
        ]
        assert site.book.latest()[FIRST].revision == 0
        assert site.book.latest()[SECOND].is_final


async def test_after_a_restore_days_that_changed_are_closed_anew_as_before(tmp_path: Path) -> None:
    """The first manifests of days after a restore have no revision 0."""
    async with Site(tmp_path, DUTIES[:1]).running() as site:
        await put_day(site, meters=("M1",))
        await site.close_at(MIDNIGHT + DAY + CLOSING)
    now, backup = MIDNIGHT + DAY + timedelta(hours=6), tmp_path / "headend.backup"
    back_up(store_url(tmp_path), backup, now)
    restore(store_url(tmp_path), backup, "luoyang-west", now)
    store = Store(store_url(tmp_path), "luoyang-west")
    async with Site(tmp_path, DUTIES[:1], now=now, store=store).running() as site:
        await site.put([read("M1", slots(1)[0], None, reason="silent")])
        assert await site.close_at(MIDNIGHT + 2 * DAY + CLOSING) == 1
        filled = (Quality.MEASURED, Quality.BACK_FILLED)
        await site.put(read("M1", end, "5.00", revision=1, quality=filled) for end in slots(1))
        assert await site.close_at(MIDNIGHT + 3 * DAY + CLOSING) == 2
        second, _, again = site.book.issued()[-3:]
        assert (second.day, again.day, again.revision) == (SECOND, SECOND, second.revision + 1)
        assert second.revision > 0
        assert (second.is_final, again.is_final) == (False, True)
        assert site.entries(SECOND)["M1"]["states"] == {"back-filled": 12}


async def test_days_that_were_missed_are_closed_in_order_and_not_without_end(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site)
        assert await site.close_at(MIDNIGHT + 4 * DAY + CLOSING) == 4
        assert [one["day"] for one in site.manifests()] == [FIRST, SECOND, THIRD, "2026-02-04"]
        assert site.manifests()[1]["states"] == {"irrecoverable": 3 * 12}  # back-filling looks back two days
        # A clock that jumps by ten years fills nothing, and what it closed wrongly is closed anew when the day comes.
        assert await site.close_at(MIDNIGHT + 3650 * DAY) == DAYS_MISSED_MAX + 2
        issued = len(site.manifests())
        site.clock.set(MIDNIGHT + 5 * DAY + CLOSING)
        await site.restart(DUTIES)
        assert await site.keeper.close_due() == 1
        assert site.manifests()[issued]["day"] == "2026-02-05"


async def test_a_day_that_changed_is_closed_anew_though_we_died_before_it_was_its_turn(tmp_path: Path) -> None:
    async with Site(tmp_path, [duty("M1", back_fill_s=0)]).running() as site:
        await put_day(site, meters=("M1",))
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        assert site.book.latest()[FIRST].is_final
        await put_day(site, 1, meters=("M1",))
        suspect = (Quality.MEASURED, Quality.SUSPECT)
        await site.put([read("M1", slots()[2], "7.00", revision=1, quality=suspect)])
        close = site.keeper._close

        async def dying(day: date, before: Any) -> set[date]:
            if before is not None:
                raise StoreUnavailable("killed before the first day had its turn")
            return await close(day, before)

        site.keeper._close = dying  # type: ignore[method-assign]
        site.clock.set(MIDNIGHT + 2 * DAY + CLOSING)
        with pytest.raises(StoreUnavailable):
            await site.keeper.close_due()
        await site.restart([duty("M1", back_fill_s=0)])
        assert await site.keeper.close_due() == 1
        assert site.manifests()[-1]["states"] == {"measured": 11, "suspect": 1}
        await site.restart([duty("M1", back_fill_s=0)])
        assert await site.keeper.close_due() == 0


class DyingBook(LedgerBook):
    """Dies between the event and its row."""

    dies = True

    def record(self, *args: Any) -> None:
        if self.dies:
            raise StoreUnavailable("the process was killed here")
        super().record(*args)


async def test_a_crash_between_event_and_index_issues_nothing_twice(tmp_path: Path) -> None:
    site = Site(tmp_path, DUTIES)
    site.book = DyingBook(site.store.engine)
    site.keeper = site.new_keeper(DUTIES)
    async with site.running():
        await put_day(site)
        site.clock.set(MIDNIGHT + DAY + CLOSING)
        with pytest.raises(StoreUnavailable):
            await site.keeper.close_due()
        assert len(site.manifests()) == 1
        assert site.book.latest() == {}
        site.book.dies = False
        await site.restart(DUTIES)
        assert await site.keeper.close_due() == 0
        assert len(site.manifests()) == 1
        assert site.entries(FIRST)["M1"]["count"] == 12
        await site.restart(DUTIES)
        assert len(site.book.issued()) == 1


async def test_parts_without_their_whole_are_left_behind_and_the_day_is_closed_anew(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site)
        put_all = site.writer.submit_all

        async def dying(items: Any, **options: Any) -> Any:
            await put_all(items[:-1])
            raise StoreUnavailable("killed before the whole")

        site.writer.submit_all = dying  # type: ignore[method-assign]
        site.clock.set(MIDNIGHT + DAY + CLOSING)
        with pytest.raises(StoreUnavailable):
            await site.keeper.close_due()
        site.writer.submit_all = put_all  # type: ignore[method-assign]
        await site.put([status("M1", MIDNIGHT)])
        await site.restart(DUTIES)
        assert await site.keeper.close_due() == 1
        ids = [event["id"] for event in site.events()]
        assert len(set(ids)) == len(ids)
        assert site.entries(FIRST)["M1"]["count"] == 12


async def test_a_feed_from_before_the_ledger_is_not_vouched_for(tmp_path: Path) -> None:
    site = Site(tmp_path, DUTIES)
    async with site.writer:
        await put_day(site, -1)
        await site.keeper.begin()
        await put_day(site)
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        [manifest] = site.manifests()
        assert (manifest["day"], manifest["feed"]["after"]) == (FIRST, 36)


async def test_reads_and_events_that_disagree_are_told_and_never_signed(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site)
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM reads WHERE channel = 2 AND slot = (SELECT max(slot) FROM reads)")
        assert await site.close_at(MIDNIGHT + DAY + CLOSING) == 0
        [problem] = site.keeper.problems
        assert "the store has 11 reads of meter M2" in problem
        # Other days do not suffer, and this one is tried again.
        await put_day(site, 1)
        assert await site.close_at(MIDNIGHT + 2 * DAY + CLOSING) == 1
        assert [one["day"] for one in site.manifests()] == [SECOND]
        assert site.manifests()[0]["feed"]["after"] == 0


async def test_a_closed_day_whose_reads_were_pruned_keeps_its_manifest(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES[:1]).running() as site:
        await site.put([read("M1", slots()[0], None, reason="silent")])
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        await put_day(site, 1, meters=("M1",))
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM reads WHERE slot < (SELECT max(slot) FROM reads)")
            connection.exec_driver_sql("DELETE FROM feed_batches WHERE first = 1")
        await site.close_at(MIDNIGHT + 7 * DAY + CLOSING)
        assert site.book.latest()[FIRST].revision == 0
        assert site.entries(FIRST)["M1"]["states"] == {"open": 12}  # kept, though the feed has forgotten it


async def test_a_change_of_the_plan_changes_no_day_that_was_before(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES).running() as site:
        await put_day(site)
        site.clock.set(MIDNIGHT + DAY + timedelta(hours=1))
        await site.restart([duty("M1", period_s=900), duty("M2", line="line-2")])  # M3 is gone
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        assert site.manifests()[0]["states"] == {"measured": 36}
        await site.close_at(MIDNIGHT + 2 * DAY + CLOSING)
        expected = {meter: sum(entry["states"].values()) for meter, entry in site.entries(SECOND).items()}
        assert expected == {"M1": 4 * 23, "M2": 12}  # M1 from 01:00 on; of M3, no interval had ended before
        assert site.keeper.collection is not None
        assert [line.name for line in site.keeper.collection.lines] == ["line-1", "line-2"]


async def test_a_large_fleet_comes_in_parts_of_250_meters(tmp_path: Path) -> None:
    many = [duty(f"M{number:04}") for number in range(600)]
    async with Site(tmp_path, many).running() as site:
        await site.put(read(one.meter, slots()[0]) for one in many)
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        [manifest] = site.manifests()
        assert [part["meters"] for part in manifest["parts"]] == [250, 250, 100]
        assert manifest["parts"][1]["first_meter"] == "M0250"
        assert len(manifest["feed"]["records"]) == 3  # blocks of 256
        assert max(map(len, site.lines())) < 150_000


def test_a_week_in_virtual_time_with_restarts_closes_every_day_once(tmp_path: Path) -> None:
    async def week(clock: VirtualClock, dice: random.Random) -> list[tuple[str, int]]:
        import asyncio

        store = new_store(tmp_path)
        book = LedgerBook(store.engine)
        async with Writer(store, inline, clock=clock) as writer:
            ends = [end for day in range(7) for end in slots(day)]
            while clock.now() < MIDNIGHT + 7 * DAY + CLOSING + timedelta(hours=1):
                keeper = LedgerKeeper(book, writer, DUTIES, zone=ZONE, source=SOURCE, clock=clock, execute=inline)
                task = asyncio.create_task(keeper.run())
                stop_at = clock.now() + timedelta(hours=dice.uniform(1, 40))
                while clock.now() < stop_at:
                    while ends and ends[0] <= clock.now():
                        end = ends.pop(0)
                        for one in DUTIES:
                            writer.put(read(one.meter, end))
                    await asyncio.sleep(600)
                keeper.stop()
                await task
                await asyncio.sleep(dice.uniform(0, 20) * 3600)  # down
        found = [(one.day, one.revision) for one in book.issued()]
        store.close()
        return found

    found = run(week, start=MIDNIGHT, seed=3)
    days = [day for day, revision in found if revision == 0]
    assert days[:7] == [f"2026-02-{day:02}" for day in range(1, 8)]
    assert len(set(found)) == len(found)

"""Intervals of stored reads: told once, corrected when reads come later, whatever the order and wherever the process ends."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import pytest

from headend.errors import StoreUnavailable
from headend.feed.envelope import iso_utc
from headend.feed.live import FeedSignal
from headend.intervals.days import day_starts, local_day
from headend.intervals.keeper import IntervalKeeper
from headend.intervals.model import Exchange, Facts, RatioChange
from headend.intervals.standing import slot_after
from headend.intervals.view import IntervalView
from headend.model import MeterClock, PushedRead, Quality, Read
from headend.ratios import RatioFact
from headend.store import Store, Writer
from headend.store.backup import back_up, restore
from headend.store.cursors_retention import Retention
from headend.store.writer import inline
from tests.headend.intervals.test_days import change_days, zones
from tests.headend.intervals.told_support import (
    Killed,
    Site,
    exchange,
    read,
    register_of,
    scratch,
    without_revision,
)
from tests.headend.support import IMPORT, PERIOD, START, VOLTAGE, a_read, an_event, store_url

T = TypeVar("T")
CENT = Decimal("0.01")
SUSPECT = (Quality.MEASURED, Quality.SUSPECT)
BACK_FILLED = (Quality.MEASURED, Quality.BACK_FILLED)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def together(data: list[dict[str, Any]]) -> Decimal:
    return sum(
        (Decimal(one["amount"] or 0) + Decimal(one["span"]["amount"] if "span" in one else 0) for one in data),
        Decimal(0),
    )


def amounts(data: list[dict[str, Any]]) -> list[str | None]:
    return [one["amount"] for one in data]


async def test_reads_that_come_in_order_make_one_event_each(site: Site) -> None:
    for slot in range(5):
        site.put(a_read("M1", slot, f"{100 + slot}.25"), a_read("M1", slot, "230.1", obis=VOLTAGE))
        await site.tell()
    found = site.newest()
    assert amounts(found) == [None, "1.00", "1.00", "1.00", "1.00"]
    assert found[0]["reason"] == "before-first-read"
    assert site.newest(obis=VOLTAGE) == []
    assert [event["data"]["revision"] for event in site.events()] == [0] * 5
    assert {one["end"]: without_revision(one) for one in found} == {
        end: without_revision(one) for end, one in scratch(site).items()
    }


async def test_a_gap_that_is_filled_later_is_told_again_with_the_next_revision(site: Site) -> None:
    amounts_ = ["10.00", None, None, "16.00", "17.00"]
    site.put(*(a_read("M1", slot, amount) for slot, amount in enumerate(amounts_)))
    await site.tell()
    assert amounts(site.newest()) == [None, None, None, None, "1.00"]
    assert site.newest()[3]["span"]["amount"] == "6.00"
    site.put(
        read(START + PERIOD, "12.00", meter="M1", revision=1, quality=BACK_FILLED, labelled=True, after_s=9000),
        read(START + 2 * PERIOD, "13.50", meter="M1", revision=1, quality=BACK_FILLED, labelled=True, after_s=9001),
    )
    await site.tell()
    assert amounts(site.newest()) == [None, "2.00", "1.50", "2.50", "1.00"]
    assert [one["revision"] for one in site.newest()] == [0, 1, 1, 1, 0]
    assert site.newest()[1]["quality"] == ["measured", "back-filled"]
    await site.new_keeper().catch_up()
    assert [one["revision"] for one in site.newest()] == [0, 1, 1, 1, 0]


async def test_a_correction_touches_its_two_intervals_and_no_other(site: Site) -> None:
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(6)))
    site.put(a_read("M1", 2, "9999.00", revision=1))
    await site.tell()  # both in one portion: told as it is now
    assert [one["revision"] for one in site.newest()] == [0] * 6
    site.put(a_read("M1", 2, "2.50", revision=2))
    await site.tell()
    assert amounts(site.newest()) == [None, "1.00", "1.50", "0.50", "1.00", "1.00"]
    assert [one["revision"] for one in site.newest()] == [0, 0, 1, 1, 0, 0]


async def test_a_suspect_read_gives_no_amount_until_it_is_cleared(site: Site) -> None:
    site.put(a_read("M1", 0, "5.00"), read(START + PERIOD, "4294967.29", quality=SUSPECT), a_read("M1", 2, "7.00"))
    await site.tell()
    assert [one.get("reason") for one in site.newest()] == ["before-first-read", "suspect-boundary", "suspect-boundary"]
    assert site.newest()[2]["span"]["amount"] == "2.00"
    site.put(read(START + PERIOD, "6.00", revision=1))
    await site.tell()
    assert amounts(site.newest()) == [None, "1.00", "1.00"]


async def test_slots_without_any_read_are_told_when_their_read_comes(site: Site) -> None:
    site.put(a_read("M1", 0, "5.00"))
    site.put(a_read("M1", 300, "305.00"))  # days later
    await site.tell()
    assert [one["end"] for one in site.newest()] == ["2026-01-31T16:00:00Z", "2026-02-03T19:00:00Z"]
    assert site.newest()[1]["span"] == {
        "start": "2026-01-31T16:00:00Z",
        "end": "2026-02-03T19:00:00Z",
        "amount": "300.00",
    }
    site.put(*(a_read("M1", slot, None) for slot in range(1, 300)))
    await site.tell()
    assert len(site.newest()) == 301
    assert [one["revision"] for one in site.newest()][:300] == [0] * 300


async def test_pushed_reads_near_a_boundary_stand_for_it_and_others_make_no_interval(site: Site) -> None:
    moments = [0, 903, 1795, 2400, 2708, 3900]
    for moment, amount in zip(moments, range(6), strict=True):
        end = START + timedelta(seconds=moment)
        site.put(PushedRead(read(end, f"{amount}.00", labelled=True)))
        await site.tell()
    assert amounts(site.newest()) == [None, "1.00", "1.00", "2.00"]
    assert {one["end"]: without_revision(one) for one in site.newest()} == {
        end: without_revision(one) for end, one in scratch(site).items()
    }


async def test_the_first_read_between_two_boundaries_begins_the_chain(site: Site) -> None:
    site.put(PushedRead(read(START + timedelta(minutes=5), "5.00")), PushedRead(read(START + PERIOD, "5.40")))
    await site.tell()
    (one,) = site.newest()
    assert (one["reason"], one["span"]["amount"]) == ("partial", "0.40")


async def test_a_changed_period_begins_where_the_other_ended(site: Site) -> None:
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(5)))
    await site.tell()
    site.period_s = 3600
    site.new_keeper()
    site.put(a_read("M1", 8, "8.00"), a_read("M1", 12, "12.00"))
    await site.tell()
    assert [(one["period_s"], one["amount"]) for one in site.newest()] == [
        (900, None), (900, "1.00"), (900, "1.00"), (900, "1.00"), (900, "1.00"), (3600, "4.00"), (3600, "4.00"),
    ]  # fmt: skip
    site.put(a_read("M1", 3, "3.50", revision=1), a_read("M1", 4, "4.10", revision=1))
    await site.tell()
    found = {(one["period_s"], one["end"]): (one["amount"], one["revision"]) for one in site.newest()}
    assert found[900, "2026-01-31T17:00:00Z"] == ("0.60", 1)
    assert found[3600, "2026-01-31T18:00:00Z"] == ("3.90", 1)
    site.period_s = 900
    site.new_keeper()
    site.put(a_read("M1", 13, "13.00"))
    await site.tell()
    assert [(one["period_s"], one["amount"]) for one in site.newest()][-1] == (900, "1.00")


async def test_a_period_that_changes_within_an_interval_tells_no_quarter_hour_twice(site: Site) -> None:
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(6)))
    await site.tell()
    site.period_s = 3600
    site.new_keeper()
    site.put(a_read("M1", 8, "8.00"), a_read("M1", 12, "12.00"))
    await site.tell()
    first, second = site.newest()[-2:]
    assert (first["amount"], first["reason"]) == (None, "partial")
    assert first["span"]["start"] == "2026-01-31T17:15:00Z"
    assert (first["span"]["amount"], second["amount"]) == ("3.00", "4.00")
    assert together(site.newest()) == Decimal("12.00")


@pytest.mark.parametrize("seed", range(6))
async def test_whenever_the_period_changes_all_intervals_together_are_what_the_register_counted(
    tmp_path: Path, seed: int
) -> None:
    """Goal: sums across periods, with reads that are missing, doubted, corrected and filled later, and keepers that start anew."""
    chance = random.Random(seed)
    site = Site(tmp_path)
    moment, amount = START, Decimal(100)
    open_: list[tuple[datetime, Decimal]] = []
    for _ in range(5):
        site.period_s = chance.choice((900, 1800, 2700, 3600))
        site.new_keeper()
        for _ in range(chance.randint(0, 7)):
            moment = slot_after(moment, site.period_s, site.zone)
            amount += chance.randint(1, 9)
            fate = chance.random()
            if fate < 0.2:
                site.put(read(moment, None))
            elif fate < 0.3:
                site.put(read(moment, amount + 1000, quality=SUSPECT))
            elif fate > 0.35:
                site.put(read(moment, amount))
            if fate < 0.3:
                open_.append((moment, amount))
            if chance.random() < 0.5:
                await site.tell()
            if open_ and chance.random() < 0.3:
                site.put(read(*open_.pop(chance.randrange(len(open_))), revision=1))
    for place in chance.sample(open_, len(open_) * 2 // 3):
        site.put(read(*place, revision=1))
        if chance.random() < 0.5:
            await site.tell()
    await site.tell()
    newest = {one.interval_end: one for one in sorted(site.store.reads("M1", IMPORT), key=lambda one: one.revision)}
    good = [one.amount for _, one in sorted(newest.items()) if one.amount and Quality.SUSPECT not in one.quality]
    assert together(site.newest()) == good[-1] - good[0]
    view = IntervalView(site.book, zone=site.zone, register_of=register_of)
    page, _ = view.page("M1", obis=None, since=None, until=None, after=None, limit=5000)
    shown = [json.loads(msgspec.json.encode(one)) for one in page]
    assert sorted(shown, key=_place) == sorted(site.newest(), key=_place)
    site.close()


def _place(data: dict[str, Any]) -> tuple[str, int]:
    return data["end"], data["period_s"]


async def test_an_exchange_that_is_recorded_late_revises_the_interval_it_lies_in(site: Site) -> None:
    site.put(*(a_read("M1", slot, f"{50000 + slot}.00") for slot in range(3)))
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(3, 6)))
    await site.tell()
    assert site.newest()[3]["reason"] == "backward-step"
    at = START + 2 * PERIOD + timedelta(minutes=5)
    site.note(exchange("M1", at, {IMPORT: {"final": "50002.40", "first": "2.50"}}))
    await site.tell()
    found = site.newest()
    assert (found[3]["amount"], found[3]["marks"], found[3]["revision"]) == ("0.90", ["meter-exchanged"], 1)
    assert [one["revision"] for one in found] == [0, 0, 0, 1, 0, 0]
    await site.new_keeper().catch_up()
    assert site.newest() == found


async def test_ratios_of_the_configuration_are_facts_with_a_history(site: Site) -> None:
    site.ratios = [RatioFact(meter="M1", start=START - PERIOD, ct=Decimal(80), pt=Decimal(1))]
    site.new_keeper()
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(700)))
    await site.tell()
    assert {(one["ratio"], one["primary"]) for one in site.newest()[1:]} == {("80", "80.00")}
    site.ratios = [*site.ratios, RatioFact(meter="M1", start=START + 2 * PERIOD, ct=Decimal(100), pt=Decimal(1))]
    await site.new_keeper().catch_up()
    found = site.newest()
    assert [one["primary"] for one in found[1:5]] == ["80.00", "80.00", "100.00", "100.00"]
    assert [one["revision"] for one in found[:5]] == [0, 0, 0, 1, 1]
    site.ratios = site.ratios[:1]
    await site.new_keeper().catch_up()
    assert {(one["ratio"], one["primary"]) for one in site.newest()[1:]} == {("80", "80.00")}
    assert site.newest()[4]["revision"] == 2


async def test_live_intervals_do_not_wait_for_a_fact_that_revises_a_long_past(site: Site) -> None:
    """Facts and reads take turns; a late read of the same meter waits, and all ends as if the fact had always been known."""
    site.new_keeper()
    count = 1300
    site.put(*(a_read(meter, slot, f"{slot}.00") for slot in range(count) if slot != 700 for meter in ("M1", "M2")))
    await site.tell()
    told = len(site.events())
    site.ratios = [RatioFact(meter="M1", start=START - PERIOD, ct=Decimal(80), pt=Decimal(1))]
    keeper = site.new_keeper()
    await keeper.begin()
    for slot in range(count, count + 3):
        site.put(*(a_read(meter, slot, f"{slot}.00") for meter in ("M1", "M2")))
    assert await keeper.step()
    assert await keeper.step()
    live = {site_id(event) for event in site.events()[told:] if event["data"]["revision"] == 0}
    assert live == {
        (meter, iso_utc(START + slot * PERIOD)) for meter in ("M1", "M2") for slot in range(count, count + 3)
    }
    assert any("primary" not in one for one in site.newest()[1:]), "the fact is through already: nothing was shown"
    site.put(a_read("M1", 700, "700.00"))
    await keeper.catch_up()
    found = [one for one in site.newest() if one["amount"] is not None]
    assert len(found) == count + 2
    assert {(one["ratio"], one["primary"]) for one in found} == {("80", "80.00")}
    assert together(site.newest()) == count + 2


def site_id(event: dict[str, Any]) -> tuple[str, str]:
    return event["data"]["meter"], event["data"]["end"]


async def test_a_clock_that_is_set_marks_the_interval_of_its_labels(site: Site) -> None:
    for slot in range(4):
        site.put(read(START + slot * PERIOD, f"{slot}.00", labelled=True))
    await site.tell()
    site.clocks["M1"] = MeterClock(
        measured_at=START, offset_s=0.1, uncertainty_s=0.5, corrected_at=START + 1.5 * PERIOD, offset_before_s=130.0
    )
    await site.new_keeper().catch_up()
    found = site.newest()
    assert found[2]["marks"] == ["clock-corrected"]
    assert found[2]["covered"] == ["2026-01-31T16:12:50Z", "2026-01-31T16:30:00Z"]
    assert "covered" in found[1]
    assert [one["revision"] for one in found] == [0, 1, 1, 0]


async def test_a_clock_that_is_set_while_the_store_fails_is_noted_when_it_works_again(site: Site) -> None:
    for slot in range(4):
        site.put(read(START + slot * PERIOD, f"{slot}.00", labelled=True))
    await site.tell()
    site.clocks["M1"] = MeterClock(
        measured_at=START, offset_s=0.1, uncertainty_s=0.5, corrected_at=START + 1.5 * PERIOD, offset_before_s=130.0
    )
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON interval_facts BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(StoreUnavailable):
        await site.tell()
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    await site.tell()
    assert site.newest()[2]["marks"] == ["clock-corrected"]


async def test_clocks_of_a_fleet_are_not_looked_through_at_every_commit(tmp_path: Path) -> None:
    site = Site(tmp_path)
    looks: list[int] = []
    signal = FeedSignal()

    def clocks() -> dict[str, MeterClock]:
        looks.append(1)
        return {}

    async with Writer(site.store, inline, clock=site.clock, on_commit=signal.advance) as writer:
        keeper = IntervalKeeper(
            site.book,
            writer,
            zone=site.zone,
            register_of=register_of,
            period_of=lambda meter: 900,
            ratios=(),
            clocks=clocks,
            clock=site.clock,
            execute=inline,
            signal=signal,
            gather_s=0.0,
        )
        running = asyncio.create_task(keeper.run())
        with signal.subscribe() as place:
            for slot in range(5):
                await writer.submit(a_read("M1", slot, f"{slot}.00"))
                await place.wait(after=2 * slot + 1, timeout_s=20)
            keeper.stop()
            await running
    assert len(looks) == 1
    assert amounts(site.newest()) == [None, "1.00", "1.00", "1.00", "1.00"]
    site.close()


async def test_two_facts_that_are_taken_in_at_once_make_two_revisions_and_a_third_has_its_own(site: Site) -> None:
    site.put(*(read(START + slot * PERIOD, f"{10 + slot}.00") for slot in range(5)))
    await site.tell()
    for place, final in enumerate(("12.50", "12.60")):
        at = START + 2 * PERIOD + timedelta(minutes=5 * (place + 1))
        site.note(exchange("M1", at, {IMPORT: {"final": final, "first": "12.00"}}))
    await site.tell()
    assert site.newest()[3]["revision"] == 2
    site.put(read(START + 3 * PERIOD, "13.10", revision=1))
    await site.tell()
    assert site.newest()[3]["revision"] == 3


async def test_corrections_after_a_restore_have_revisions_of_their_own(tmp_path: Path) -> None:
    """Also those of an interval that was told for the first time after it; a consumer drops what has an id that it knows."""
    site = Site(tmp_path)
    site.put(*(read(START + slot * PERIOD, f"{slot}.00") for slot in range(4)))
    await site.tell()
    site.close()
    backup, now = tmp_path / "headend.backup", START + 4 * PERIOD
    back_up(store_url(tmp_path), backup, now)
    restored = restore(store_url(tmp_path), backup, "luoyang-west", now)
    site = Site(tmp_path, store=Store(store_url(tmp_path), "luoyang-west"))
    for revision, amount in enumerate((None, "4.00", "4.50", "4.20")):
        site.put(read(START + 4 * PERIOD, amount, revision=revision))
        await site.tell()
    lines = site.store.events_after(restored.first_sequence - 1, 100)
    told = [event for event in map(json.loads, lines) if event["type"] == "headend.interval.v1"]
    assert [event["data"]["amount"] for event in told] == [None, "1.00", "1.50", "1.20"]
    revisions = [event["data"]["revision"] for event in told]
    assert revisions == list(range(revisions[0], revisions[0] + 4))
    assert len({event["id"] for event in told}) == 4
    view = IntervalView(site.book, zone=site.zone, register_of=register_of)
    page, _ = view.page("M1", obis=None, since=None, until=None, after=None, limit=100)
    assert (page[-1].amount, page[-1].revision) == ("1.20", revisions[-1])
    site.close()


async def test_where_reads_were_pruned_nothing_else_is_said_than_the_feed_said(site: Site) -> None:
    amounts_of = ("0.00", "1.00", "2.00", None, "4.00", "5.00")
    site.put(*(a_read("M1", slot, amount) for slot, amount in enumerate(amounts_of)))
    await site.tell()

    def shown() -> list[dict[str, Any]]:
        view = IntervalView(site.book, zone=site.zone, register_of=register_of)
        page, _ = view.page("M1", obis=None, since=None, until=None, after=None, limit=100)
        return [json.loads(msgspec.json.encode(one)) for one in page]

    assert shown() == site.newest()
    for kept, told in ((2, 3), (3, 1), (5, 0)):
        Retention(site.store.engine).prune_reads(1, 1_000_000, START + kept * PERIOD)
        assert shown() == site.newest()[6 - told :]


async def test_the_last_reads_of_a_meter_that_is_taken_out_of_the_configuration_make_their_intervals(
    site: Site,
) -> None:
    """The service was stopped before it had told them."""
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(3)))
    await site.tell()
    site.put(a_read("M1", 3, "3.50"))
    site.is_configured = False
    site.new_keeper()
    site.put(a_read("M2", 3, "3.50"))  # whom nobody ever knew
    await site.tell()
    assert amounts(site.newest()) == [None, "1.00", "1.00", "1.50"]
    assert site.newest("M2") == []


async def test_another_event_between_reads_moves_no_cursor_by_itself(site: Site) -> None:
    site.put(*(an_event() for _ in range(5)))
    await site.tell()
    assert site.book.cursor() is None
    site.put(a_read("M1", 0, "1.00"), a_read("M1", 1, "2.00"))
    await site.tell()
    assert site.book.cursor() == 7


# ------------------------------------------------------------------------------------------------ anything, in any order


class World:
    """Reads of one channel as luck has them, and a truth that never forgets."""

    def __init__(self, chance: random.Random, slots: list[datetime]) -> None:
        self.chance = chance
        self.exchanges: list[Exchange] = []
        shown, counted = chance.randrange(99_999_000, 100_000_000), 0
        self.shown: dict[datetime, int] = {}
        self.counted: dict[datetime, int] = {}
        at = {chance.randrange(1, len(slots)) for _ in range(chance.randrange(3))}
        for place, slot in enumerate(slots):
            if place in at:
                step = chance.randrange(40)
                final = (shown + step) % 100_000_000
                counted += step
                shown = chance.randrange(10_000)
                self.exchanges.append(
                    Exchange(
                        at=slot - timedelta(seconds=chance.randrange(1, 300)), final=final * CENT, first=shown * CENT
                    )
                )
            step = chance.randrange(40)
            counted, shown = counted + step, (shown + step) % 100_000_000
            self.shown[slot], self.counted[slot] = shown, counted

    def good(self, slot: datetime, revision: int) -> Read:
        return read(slot, self.shown[slot] * CENT, revision=revision, quality=BACK_FILLED if revision else (Quality.MEASURED,),
                    labelled=revision > 0)  # fmt: skip

    def first(self, slot: datetime) -> Read | None:
        fate = self.chance.random()
        if fate < 0.15:
            return read(slot, None)
        if fate < 0.25:
            return read(slot, "4294967.29", quality=SUSPECT)
        if fate < 0.30:
            return None
        return self.good(slot, 0)


def one_life(tmp_path: Path, seed: int, *, kills: bool) -> None:
    chance = random.Random(seed)
    zone = ZoneInfo(chance.choice(("Asia/Shanghai", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana")))
    period_s = chance.choice((900, 1800, 3600))
    site = Site(tmp_path, zone=zone, period_s=period_s)
    slots = [START]
    while len(slots) < 60:
        slots.append(slot_after(slots[-1], period_s, zone))
    world = World(chance, slots)
    live = [(place, one) for place, slot in enumerate(slots) if (one := world.first(slot)) is not None]
    firsts = {one.interval_end: one for _, one in live}
    later = [
        (chance.uniform(place, 70), world.good(slot, 1 if slot in firsts else 0))
        for place, slot in enumerate(slots)
        if (slot not in firsts or firsts[slot].quality != (Quality.MEASURED,)) and chance.random() < 0.6
    ]
    facts = [
        (slots.index(next(slot for slot in slots if slot > one.at)) + chance.uniform(-0.5, 30), one)
        for one in world.exchanges
    ]
    happenings: list[tuple[float, Any]] = sorted([*live, *later, *facts], key=lambda one: one[0])

    async def live_on() -> None:
        keeper = site.keeper
        for _, what in happenings:
            if isinstance(what, Exchange):
                row = exchange("M1", what.at, {IMPORT: {"final": str(what.final), "first": str(what.first)}})
                site.note(row)
            else:
                site.put(what)
            fate = chance.random()
            if fate < 0.1:
                keeper = site.new_keeper()
            if kills and fate < 0.5:
                deadly = Deadly(site, chance.randrange(0, 14))
                keeper = site.new_keeper(deadly.execute, Writer(site.store, deadly.execute, clock=site.clock))
                try:
                    await keeper.catch_up()
                except Killed:
                    keeper = site.new_keeper()
                    continue
                keeper = site.new_keeper()
            if fate > 0.3:
                await keeper.catch_up()
        await site.new_keeper().catch_up()

    asyncio.run(live_on())
    found = site.newest()
    expected = scratch(site, facts=Facts(exchanges=tuple(sorted(world.exchanges, key=lambda one: one.at))))
    assert {one["end"]: without_revision(one) for one in found} == {
        end: without_revision(one) for end, one in expected.items()
    }, f"seed {seed}"
    assert seen(site, chance.choice((1, 7, 500))) == found, f"seed {seed}"
    newest: dict[datetime, Read] = {one.interval_end: one for one in site.store.reads("M1", IMPORT)}
    good = sorted(end for end, one in newest.items() if one.amount is not None and Quality.SUSPECT not in one.quality)
    if good:
        assert together(found) == (world.counted[good[-1]] - world.counted[good[0]]) * CENT, f"seed {seed}"
    site.close()


def seen(site: Site, limit: int) -> list[dict[str, Any]]:
    """The same by asking, page by page."""
    view = IntervalView(site.book, zone=site.zone, register_of=register_of)
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page, after = view.page("M1", obis=None, since=None, until=None, after=after, limit=limit)
        found += [json.loads(msgspec.json.encode(one)) for one in page]
        if after is None:
            return found


class Deadly:
    """Ends the process at its n-th call, before or after the work."""

    def __init__(self, site: Site, calls: int) -> None:
        self.calls = calls

    async def execute(self, work: Callable[[], T], /) -> T:
        self.calls -= 1
        if self.calls == -1:
            if random.getrandbits(1):
                work()
            raise Killed
        return work()


@pytest.mark.parametrize("seed", range(25))
def test_what_is_told_is_what_all_reads_together_say_and_sums_to_the_register(tmp_path: Path, seed: int) -> None:
    one_life(tmp_path, seed, kills=False)


@pytest.mark.parametrize("seed", range(100, 125))
def test_a_keeper_that_is_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    one_life(tmp_path, seed, kills=True)


@pytest.mark.parametrize("seed", range(30))
def test_pushed_reads_of_any_moment_and_in_any_order_end_in_the_same_intervals(tmp_path: Path, seed: int) -> None:
    chance = random.Random(f"pushed {seed}")
    site = Site(tmp_path, period_s=chance.choice((300, 900)))
    step = timedelta(seconds=site.period_s)
    shown, reads = 0, []
    for place in range(50):
        shown += chance.randrange(30)
        fate = chance.random()
        off_s = 0.0 if fate < 0.5 else chance.uniform(-15, 15) if fate < 0.75 else chance.uniform(60, 240)
        end = START + place * step + timedelta(milliseconds=round(off_s * 1000))
        quality = SUSPECT if chance.random() < 0.1 else (Quality.MEASURED,)
        reads.append(read(end, shown * CENT, quality=quality, labelled=chance.random() < 0.7))
        if chance.random() < 0.1:  # another amount for the same moment: one of the two is wrong
            reads.append(read(end, (shown + 1) * CENT))
    order = sorted(range(len(reads)), key=lambda place: place + chance.choice((0, 0, 0, 3, 40)) * chance.random())
    site.put(PushedRead(reads[0]))

    async def live_on() -> None:
        for place in order:
            site.put(PushedRead(reads[place]))
            if chance.random() < 0.5:
                await (site.new_keeper() if chance.random() < 0.3 else site.keeper).catch_up()
        await site.keeper.catch_up()

    asyncio.run(live_on())
    expected = scratch(site)
    assert {one["end"]: without_revision(one) for one in site.newest()} == {
        end: without_revision(one) for end, one in expected.items()
    }, f"seed {seed}"
    assert seen(site, 11) == site.newest()
    site.close()


def test_local_days_have_their_intervals_when_clocks_change(tmp_path: Path) -> None:
    counts: dict[int, int] = {}
    for (_, changes), names in sorted(zones().items(), key=lambda one: one[1])[:: max(1, len(zones()) // 5)]:
        zone = ZoneInfo(names[0])
        for day in list(change_days(changes, zone))[-2:]:
            folder = tmp_path / f"{names[0].replace('/', '-')}-{day}"
            folder.mkdir()
            site = Site(folder, zone=zone)
            end = local_day(day, zone)[1]
            slots = [*day_starts(day, 900, zone), end]
            for place, slot in enumerate(slots):
                site.put(read(slot, place * CENT))
            asyncio.run(site.tell())
            found = site.newest()[1:]
            assert len(found) == len(slots) - 1
            assert together(found) == (len(slots) - 1) * CENT
            assert {one["end"]: one for one in site.newest()} == scratch(site)
            counts[len(found)] = counts.get(len(found), 0) + 1
            site.close()
    assert len(counts) > 1, counts


async def test_a_plain_interval_looks_as_the_builder_has_it(site: Site) -> None:
    """The two ways to an interval and to its event, byte for byte."""
    chance = random.Random(1)
    site.ratios = [RatioFact(meter="M2", start=START + 3 * PERIOD, ct=Decimal(80), pt=Decimal(1))]
    site.new_keeper()
    for slot in range(40):
        for meter in ("M1", "M2"):
            quality = chance.choice(((Quality.MEASURED,), (Quality.MEASURED, Quality.LATE)))
            site.put(
                read(
                    START + slot * PERIOD,
                    f"{slot * 3}.5",
                    meter=meter,
                    quality=quality,
                    after_s=chance.choice((2.0, 200.0)),
                )
            )
        await site.tell()
    facts = Facts(ratio=None, ratio_changes=(RatioChange(at=START + 3 * PERIOD, before=None, after=Decimal(80)),))
    assert {one["end"]: one for one in site.newest()} == scratch(site)
    assert {one["end"]: one for one in site.newest("M2")} == scratch(site, "M2", facts=facts)


async def test_a_store_that_fails_is_tried_again_and_nothing_is_told_twice(site: Site) -> None:
    site.put(*(a_read("M1", slot, f"{slot}.00") for slot in range(4)))
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON feed_batches BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(StoreUnavailable):
        await site.keeper.catch_up()
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    await site.keeper.catch_up()
    assert amounts(site.newest()) == [None, "1.00", "1.00", "1.00"]


async def test_the_keeper_is_woken_by_the_feed_and_stops_when_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    signal = FeedSignal()
    async with Writer(site.store, inline, clock=site.clock, on_commit=signal.advance) as writer:
        keeper = IntervalKeeper(
            site.book,
            writer,
            zone=site.zone,
            register_of=register_of,
            period_of=lambda meter: 900,
            ratios=(),
            clocks=dict,
            clock=site.clock,
            execute=inline,
            signal=signal,
            gather_s=0.0,
        )
        running = asyncio.create_task(keeper.run())
        with signal.subscribe() as place:
            for slot in range(4):
                await writer.submit(a_read("M1", slot, f"{slot}.00"))
                await place.wait(after=2 * slot + 1, timeout_s=20)  # the read, and its interval
            keeper.stop()
            await running
    assert amounts(site.newest()) == [None, "1.00", "1.00", "1.00"]
    assert (keeper.problems, keeper.needed) == ((), site.book.cursor() + 1)  # type: ignore[operator]
    site.close()


async def test_a_clock_that_is_set_while_the_keeper_runs_counts_for_the_next_interval_too(site: Site) -> None:
    """What is kept at hand of the last read is looked up anew when a fact says something else of it."""
    for slot in range(3):
        site.put(read(START + slot * PERIOD, f"{slot}.00", labelled=True))
    await site.tell()
    site.clocks["M1"] = MeterClock(
        measured_at=START, offset_s=0.1, uncertainty_s=0.5, corrected_at=START + 2.5 * PERIOD, offset_before_s=130.0
    )
    await site.tell()
    site.put(read(START + 3 * PERIOD, "3.00", labelled=True))
    await site.tell()
    last = site.newest()[3]
    assert (last["marks"], last["covered"]) == (["clock-corrected"], ["2026-01-31T16:27:50Z", "2026-01-31T16:45:00Z"])
    assert [one["revision"] for one in site.newest()] == [0, 1, 1, 0]

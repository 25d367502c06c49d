"""A store, a writer and a keeper of intervals, what they told, and the same reckoned from scratch."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from headend.feed.interval_event import interval_data
from headend.intervals.build import build_intervals
from headend.intervals.keeper import IntervalKeeper
from headend.intervals.model import Boundary, Channel, Facts, Interval, boundary_of
from headend.intervals.registers import Kind, Register, kind_of
from headend.intervals.standing import boundary_slot, slot_after
from headend.model import Event, Item, MeterClock, Quality, Read
from headend.ratios import RatioFact
from headend.store import Store, Writer
from headend.store.intervals import FactRow, IntervalBook, add_fact
from headend.store.writer import inline
from protocols.values import Unit
from tests.headend.support import IMPORT, START, StillClock, new_store

__all__ = ["EXPORT", "Killed", "Site", "exchange", "read", "scratch", "without_revision"]

EXPORT = "1-0:2.8.0"
MODULUS = Decimal("1000000.00")
ZONE = ZoneInfo("Asia/Shanghai")
T = TypeVar("T")


class Killed(BaseException):
    """The process ended here."""


def register_of(meter: str, obis: str, unit: Unit) -> Register | None:
    kind = kind_of(obis, unit)
    return Register(kind=kind, unit=unit, modulus=MODULUS if kind is Kind.CUMULATIVE else None)


def read(
    end: datetime,
    amount: Decimal | str | None,
    *,
    meter: str = "M1",
    obis: str = IMPORT,
    revision: int = 0,
    quality: Sequence[Quality] = (Quality.MEASURED,),
    reason: str = "silent",
    after_s: float = 2.0,
    labelled: bool = False,
    unit: Unit = Unit.KWH,
) -> Read:
    return Read(
        meter=meter,
        obis=obis,
        amount=None if amount is None else Decimal(amount),
        unit=unit,
        interval_end=end,
        read_at=end if labelled else None,
        received_at=end + timedelta(seconds=after_s),
        quality=(Quality.MISSING,) if amount is None else tuple(quality),
        source="dlt645/base_2007:00010000",
        revision=revision,
        reason=reason if amount is None else "",
    )


def exchange(meter: str, at: datetime, registers: dict[str, dict[str, str]]) -> FactRow:
    return FactRow(
        id=0, key=f"{meter} {at}", kind="exchange", meter=meter, at=at, body={"registers": registers}, recorded_at=at
    )


class Site:
    """Everything inline. period_s, is_configured, ratios, clocks: may be changed between keepers.

    store: one that is there; None makes a new one.
    """

    def __init__(self, folder: Path, *, zone: ZoneInfo = ZONE, period_s: int = 900, store: Store | None = None) -> None:
        self.store: Store = new_store(folder) if store is None else store
        self.clock = StillClock(START)
        self.zone = zone
        self.period_s = period_s
        self.is_configured = True
        self.ratios: list[RatioFact] = []
        self.clocks: dict[str, MeterClock] = {}
        self.writer = Writer(self.store, inline, clock=self.clock)
        self.book = IntervalBook(self.store.engine)
        self.keeper = self.new_keeper()

    def new_keeper(self, execute: Callable[..., Any] = inline, writer: Writer | None = None) -> IntervalKeeper:
        """As after a restart."""
        self.keeper = IntervalKeeper(
            self.book,
            writer or self.writer,
            zone=self.zone,
            register_of=register_of,
            period_of=lambda meter: self.period_s if self.is_configured else None,
            ratios=self.ratios,
            clocks=lambda: self.clocks,
            clock=self.clock,
            execute=execute,
            gather_s=0.0,
        )
        return self.keeper

    def put(self, *items: Item) -> None:
        if items:
            self.store.commit(items)

    def note(self, fact: FactRow) -> None:
        def work(connection: Any) -> tuple[None, list[Event]]:
            add_fact(connection, fact)
            return None, []

        self.store.transact(work, "noting a fact")

    async def tell(self) -> None:
        await self.keeper.catch_up()

    def events(self) -> list[dict[str, Any]]:
        found = [json.loads(event) for event in self.store.events_after(0, 10_000_000)]
        return [event for event in found if event["type"] == "headend.interval.v1"]

    def newest(self, meter: str = "M1", obis: str = IMPORT) -> list[dict[str, Any]]:
        """`data` of the newest revisions by end; every id is there once and revisions count up from 0."""
        events = self.events()
        ids = [event["id"] for event in events]
        assert len(ids) == len(set(ids)), "an interval was told twice"
        newest: dict[tuple[str, int], dict[str, Any]] = {}
        for event in events:
            data = event["data"]
            if (data["meter"], data["obis"]) == (meter, obis):
                place = (data["end"], data["period_s"])
                expected = newest[place]["revision"] + 1 if place in newest else 0
                assert data["revision"] == expected, f"revision {data['revision']} of {place}, expected {expected}"
                newest[place] = data
        return [newest[place] for place in sorted(newest)]

    def close(self) -> None:
        self.store.close()


def scratch(site: Site, meter: str = "M1", obis: str = IMPORT, facts: Facts | None = None) -> dict[str, dict[str, Any]]:
    """All intervals of the channel, by end, reckoned at once from all reads."""
    series = Channel(
        meter=meter, obis=obis, period_s=site.period_s, zone=site.zone, register=_register(meter, obis),
        source="dlt645/base_2007:00010000",
    )  # fmt: skip
    newest: dict[datetime, Read] = {}
    for one in site.store.reads(meter, obis):
        if one.interval_end not in newest or one.revision > newest[one.interval_end].revision:
            newest[one.interval_end] = one
    at_slot: dict[datetime, list[Boundary]] = {}
    good: list[Boundary] = []
    for one in newest.values():
        boundary = boundary_of(one)
        slot = boundary_slot(one.interval_end, site.period_s, site.zone)
        good += [boundary] if boundary.is_good else []
        if slot is not None:
            at_slot.setdefault(slot, []).append(boundary)
    chosen: dict[datetime, Boundary] = {}
    for slot, some in at_slot.items():
        best = min(some, key=lambda one: (not one.is_good, abs(one.instant - slot), one.instant))
        chosen[slot] = Boundary(**{name: getattr(best, name) for name in best.__struct_fields__} | {"instant": slot})
    head = [min(good, key=lambda one: one.instant)] if good else []
    between = [one for one in head if boundary_slot(one.instant, site.period_s, site.zone) is None]
    boundaries = [*chosen.values(), *(one for one in between if _is_first(one, chosen))]
    if not chosen:
        return {}
    since, until = min(chosen) - timedelta(days=1), max(chosen)
    intervals = build_intervals(series, boundaries, since=since, until=until, facts=facts or Facts())
    return {data["end"]: data for data in map(_shown, intervals) if datetime.fromisoformat(data["end"]) in chosen}


def _is_first(head: Boundary, chosen: dict[datetime, Boundary]) -> bool:
    return all(head.instant < one.instant for one in chosen.values() if one.is_good)


def _register(meter: str, obis: str) -> Register:
    found = register_of(meter, obis, Unit.KWH)
    assert found is not None
    return found


def _shown(interval: Interval) -> dict[str, Any]:
    import msgspec

    shown: dict[str, Any] = json.loads(msgspec.json.encode(interval_data(interval)))
    return shown


def without_revision(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "revision"}


def after(slot: datetime, site: Site) -> datetime:
    return slot_after(slot, site.period_s, site.zone)

"""A store with a ledger over it, and a clock that is told what time it is."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from headend.ledger.duty import LINE, Duty
from headend.ledger.keeper import LedgerKeeper
from headend.ledger.signing import SigningKey
from headend.model import Event, Item, Quality, Read
from headend.store import Store, Writer
from headend.store.ledger import LedgerBook
from headend.store.writer import inline
from protocols.values import Unit
from tests.headend.support import IMPORT, StillClock, new_store

ZONE = ZoneInfo("Asia/Shanghai")
SOURCE = "/headend/luoyang-west"
MIDNIGHT = datetime(2026, 2, 1, tzinfo=ZONE).astimezone(UTC)  # the first day begins
DAY = timedelta(days=1)
CLOSING = timedelta(hours=5)


class MovingClock(StillClock):
    def __init__(self, now: datetime = MIDNIGHT) -> None:
        super().__init__(now)

    def set(self, now: datetime) -> None:
        self._now = now


def duty(meter: str = "M1", **changed: Any) -> Duty:
    known: dict[str, Any] = {
        "route": LINE,
        "line": "line-1",
        "period_s": 7200,
        "back_fill_s": 2 * 86400,
        "quantities": (IMPORT,),
    }
    return Duty(meter=meter, **known | changed)


def read(
    meter: str = "M1",
    end: datetime = MIDNIGHT,
    amount: str | None = "1.00",
    *,
    reason: str = "",
    revision: int = 0,
    quality: tuple[Quality, ...] | None = None,
    obis: str = IMPORT,
) -> Read:
    if quality is None:
        quality = (Quality.MISSING,) if amount is None else (Quality.MEASURED,)
    return Read(
        meter=meter,
        obis=obis,
        amount=None if amount is None else Decimal(amount),
        unit=Unit.KWH,
        interval_end=end,
        read_at=None,
        received_at=end + timedelta(seconds=2),
        quality=quality,
        source="dlt645/base_2007:00010000",
        revision=revision,
        reason=reason,
    )


def slots(day: int = 0, period_s: int = 7200, count: int | None = None) -> list[datetime]:
    """Interval ends of the day-th day; the last one is the midnight that ends it."""
    number = 86400 // period_s if count is None else count
    return [MIDNIGHT + day * DAY + timedelta(seconds=period_s * place) for place in range(1, number + 1)]


def status(meter: str, at: datetime, offset_s: float = 12.5) -> Event:
    return Event(
        type="headend.meter-status.v1",
        subject=meter,
        data={"meter": meter, "kind": "clock", "state": "beyond-limit", "offset_s": offset_s, "drift_ppm": None},
        time=at,
    )


class Site:
    """To be used inside `running()`."""

    def __init__(
        self,
        folder: Path,
        duties: Sequence[Duty] = (),
        *,
        key: SigningKey | None = None,
        zone: ZoneInfo = ZONE,
        now: datetime = MIDNIGHT,
        store: Store | None = None,
    ) -> None:
        """store: that of a site before, opened again; None makes a new one."""
        self.store: Store = new_store(folder) if store is None else store
        self.book = LedgerBook(self.store.engine)
        self.clock = MovingClock(now)
        self.key = key
        self.zone = zone
        self.writer = Writer(self.store, inline, clock=self.clock)
        self.keeper = self.new_keeper(duties)

    def new_keeper(self, duties: Sequence[Duty]) -> LedgerKeeper:
        return LedgerKeeper(
            self.book,
            self.writer,
            duties,
            zone=self.zone,
            source=SOURCE,
            clock=self.clock,
            execute=inline,
            key=self.key,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Site"]:
        async with self.writer:
            await self.keeper.begin()
            yield self
        self.store.close()

    async def restart(self, duties: Sequence[Duty]) -> None:
        """The head-end starts anew; what it wrote is there."""
        self.keeper = self.new_keeper(duties)
        await self.keeper.begin()

    async def put(self, items: Iterable[Item]) -> None:
        await self.writer.submit_all(list(items))

    async def close_at(self, now: datetime) -> int:
        self.clock.set(now)
        return await self.keeper.close_due()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.store.events_after(0, 1_000_000)]

    def lines(self) -> list[bytes]:
        return self.store.events_after(0, 1_000_000)

    def manifests(self) -> list[dict[str, Any]]:
        """`data` of the wholes, in the order of the feed."""
        return [event["data"] for event in self.events() if event["type"] == "headend.manifest.v1"]

    def entries(self, day: str, revision: int | None = None) -> dict[str, dict[str, Any]]:
        """By meter, of one manifest's parts."""
        body = self.book.body(day, revision)
        assert body is not None
        return {meter["meter"]: meter for part in body[1:] for meter in json.loads(part)["data"]["meters"]}

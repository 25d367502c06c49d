"""Follows the head-end's own reads, for supplies that are off: what a meter counts, or says of its contact, is seen with its next poll.

Nothing is asked of any line for it. Of the feed only what is about supplies that are off is looked into, and of each of them the newest
of what came; while no supply is off, the feed is not looked at at all.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.commands.journal import Journal
from headend.drivers.relay import CURRENTS, ENERGY
from headend.errors import StoreUnavailable
from headend.feed.envelope import READ_TYPE
from headend.store.store import Store
from headend.store.writer import Execute

__all__ = ["Lookout", "SeenReads", "seen_in"]

LOOK_S = 10.0
# What meters and concentrators push and keep bears their own clocks' times, and a reading of before the cut must not look like one of
# after it. DL/T 645-2007 sets clocks by broadcast that are up to 5 minutes wrong: so far off they may be.
CLOCKS = timedelta(minutes=5)
EVENTS_MAX = 5000  # decoded in one step
# In 62056-6-1 C = 1, 21, 41, 61 are active power imported, of all phases and of each; 16 is the net.
POWERS = frozenset({"1-0:1.7.0", "1-0:16.7.0", "1-0:21.7.0", "1-0:41.7.0", "1-0:61.7.0"})
CONTACT = "0-0:96.3.10"  # disconnect control, output state: 1 is connected
_TO_WATT = {"W": Decimal(1), "kW": Decimal(1000)}
_DOUBTED = frozenset({"missing", "suspect"})

log = structlog.get_logger(__name__)


class SeenReads(Struct, kw_only=True):
    """What was read of one meter since its supply was opened, the newest of each; None: nothing came. contact: open | closed.

    energy: amount and unit. current_a, power_w: the greatest, without sign.
    """

    at: datetime
    energy: tuple[Decimal, str] | None = None
    current_a: Decimal | None = None
    power_w: Decimal | None = None
    contact: str = ""


class Judge(Protocol):
    """Holds what was read against what is known: `Patrol`."""

    async def saw_reads(self, meter: str, seen: SeenReads) -> None: ...


class _Head(Struct):
    type: str
    subject: str
    data: msgspec.Raw


class _Data(Struct):
    obis: str
    value: str | None
    unit: str
    interval_end: datetime
    received_at: datetime
    quality: list[str]


_head = msgspec.json.Decoder(_Head).decode
_data = msgspec.json.Decoder(_Data).decode


def seen_in(events: Iterable[bytes], off_since: Mapping[str, datetime]) -> dict[str, SeenReads]:
    """By meter, of those in `off_since`: what their reads say that were taken after that instant. Pure."""
    found: dict[str, SeenReads] = {}
    for event in events:
        head = _head(event)
        if head.type != READ_TYPE or (since := off_since.get(head.subject)) is None:
            continue
        read = _data(head.data)
        # A back-filled read comes late and tells of before; a poll is taken a little after its interval end.
        taken_at = min(read.interval_end, read.received_at)
        if read.value is None or taken_at <= since + CLOCKS or _DOUBTED & set(read.quality):
            continue
        seen = found.setdefault(head.subject, SeenReads(at=read.received_at))
        _note(seen, read, Decimal(read.value))
    return found


def _note(seen: SeenReads, read: _Data, amount: Decimal) -> None:
    seen.at = max(seen.at, read.received_at)
    if read.obis == ENERGY:
        seen.energy = amount, read.unit
    elif read.obis in CURRENTS and read.unit == "A":
        seen.current_a = max(abs(amount), seen.current_a or Decimal(0))
    elif read.obis in POWERS and read.unit in _TO_WATT:
        seen.power_w = max(abs(amount) * _TO_WATT[read.unit], seen.power_w or Decimal(0))
    elif read.obis == CONTACT and amount in (0, 1):
        seen.contact = "closed" if amount else "open"


class Lookout:
    """execute: where the feed is read and decoded. To be run in a task until cancelled; the journal must have been loaded."""

    def __init__(self, journal: Journal, judge: Judge, store: Store, *, clock: Clock, execute: Execute) -> None:
        self._journal = journal
        self._judge = judge
        self._store = store
        self._clock = clock
        self._execute = execute
        self._cursor: int | None = None  # None: nobody's supply is off, and nothing is followed

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("reads cannot be looked through for supplies that are off", problem=str(error))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> int:
        """At all that has come since the last look. Gives how many meters something was seen of. Raises StoreUnavailable."""
        off = self._off_since()
        if not off:
            self._cursor = None
            return 0
        if self._cursor is None:
            self._cursor = await self._execute(self._store.last_sequence)
            return 0
        count = 0
        while True:
            last, found = await self._execute(partial(self._read, self._cursor, off))
            if not last:
                return count
            self._cursor = last
            for meter, seen in found.items():
                if off[meter] == self._journal.supply(meter).at:  # else it was on meanwhile, and so may these reads be
                    await self._judge.saw_reads(meter, seen)
            off = self._off_since()
            count += len(found)

    def _read(self, after: int, off: Mapping[str, datetime]) -> tuple[int, dict[str, SeenReads]]:
        stretch = self._store.stretch_after(after, EVENTS_MAX)
        events = (event for text in stretch.texts for event in text.split(b"\n"))
        return stretch.last, seen_in(events, off)

    def _off_since(self) -> dict[str, datetime]:
        return {
            meter: supply.at
            for meter, supply in self._journal.supplies.items()
            if supply.contact == "open" and supply.at is not None
        }

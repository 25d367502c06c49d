"""Where people tell what no meter says: that it was exchanged, and that an amount which was doubted is right after all.

A fact is recorded once, together with the event that tells of it and the new baseline of the truth checks. An exchange changes
the intervals it lies in; an accepted amount is published anew as a read that is not suspect, and so changes its intervals, too.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.clock import Clock
from headend.errors import HeadendError
from headend.feed.envelope import iso_utc, plain
from headend.intervals.context import moment_of_read
from headend.intervals.guard import ACCEPTED, Rebase, rebase_rows
from headend.intervals.known_facts import ACCEPTANCE, EXCHANGE
from headend.intervals.teller import PeriodOf, RegisterOf, is_counted
from headend.model import Event, Item, Quality
from headend.store.intervals import FactRow, IntervalBook, add_fact, fact_of_key, newest_read
from headend.store.writer import Execute, Writer
from protocols.values import Unit

__all__ = ["Baselines", "FactConflict", "FactDesk", "FactRefused", "Readings"]

EVENT_TYPE = "headend.meter-event.v1"
AHEAD_MAX = timedelta(minutes=5)


class FactRefused(HeadendError):
    """A fact that cannot be; the message says what was expected."""


class FactConflict(HeadendError):
    """The key, or what the fact is about, is taken by something else."""


class Readings(Struct, frozen=True):
    """What a register showed last in the old meter, and first in the new one. None: nobody wrote it down."""

    final: Decimal | None = None
    first: Decimal | None = None


class Baselines(Protocol):
    """What the truth checks compare with: `headend.intervals.guard.Guard`. Asked on the event loop."""

    def rebasing(self, meter: str, obis: str, amount: Decimal | None, at: datetime, *, by: str) -> Rebase | None: ...

    def apply(self, rebases: Iterable[Rebase]) -> None: ...

    def channels(self, meter: str) -> list[str]: ...


class FactDesk:
    """baselines: None where no truth checks run. register_of, period_of: as of the keeper."""

    def __init__(
        self,
        book: IntervalBook,
        writer: Writer,
        *,
        register_of: RegisterOf,
        period_of: PeriodOf,
        clock: Clock,
        execute: Execute,
        baselines: Baselines | None = None,
    ) -> None:
        self._book = book
        self._writer = writer
        self._register_of = register_of
        self._period_of = period_of
        self._clock = clock
        self._execute = execute
        self._baselines = baselines

    async def facts(self, meter: str, kind: str) -> list[FactRow]:
        """In the order in which they were recorded."""
        return await self._execute(lambda: self._book.facts_of(meter, kind))

    async def exchange(
        self,
        meter: str,
        *,
        at: datetime,
        registers: Mapping[str, Readings],
        key: str,
        told_by: str,
        recorded_by: str,
        new_address: str = "",
        new_serial: str = "",
        note: str = "",
    ) -> tuple[FactRow, bool]:
        """The fact, and whether it is new. recorded_by: the token's name. Raises FactRefused, FactConflict, StoreUnavailable."""
        now = self._clock.now()
        if at > now + AHEAD_MAX:
            raise FactRefused(f"at is {iso_utc(at)} and it is {iso_utc(now)}: expected an exchange that has happened")
        known = await self._execute(lambda: self._counted(meter))
        if unknown := sorted(registers.keys() - set(known)):
            raise FactRefused(
                f"registers names {', '.join(unknown)}, of which {meter} has no reads that are counted; "
                f"expected {', '.join(known) or 'none, for no register of this meter has been read'}"
            )
        body: dict[str, Any] = {
            "registers": {
                obis: {"final": _text(readings.final), "first": _text(readings.first)}
                for obis, readings in sorted(registers.items())
            },
            "told_by": told_by,
            "recorded_by": recorded_by,
            "new_address": new_address,
            "new_serial": new_serial,
            "note": note,
        }
        fact = FactRow(
            id=0, key=f"exchange:{meter}:{key}", kind=EXCHANGE, meter=meter, at=at, body=body, recorded_at=now
        )
        rebases = self._rebases(meter, {obis: one.first for obis, one in registers.items()}, at)

        def items(connection: Connection) -> list[Item]:
            return [_event(fact, "meter-exchanged", now)]

        return await self._record(fact, items, rebases)

    async def accept(
        self, meter: str, *, obis: str, interval_end: datetime, key: str, told_by: str, recorded_by: str, note: str = ""
    ) -> tuple[FactRow, bool]:
        """The same for a suspect read. Raises FactRefused, FactConflict, StoreUnavailable."""
        now = self._clock.now()
        found = await self._execute(lambda: self._book.newest_read(meter, obis, interval_end))
        identity = f"acceptance:{meter}:{key}"
        known = await self._execute(lambda: self._book.fact_of_key(identity))
        where = f"{meter} {obis} at {iso_utc(interval_end)}"
        if found is None:
            raise FactRefused(f"there is no read of {where}; expected the interval_end of a suspect read")
        if known is None and (found.amount is None or Quality.SUSPECT not in found.quality):
            held = ", ".join(one.value for one in found.quality)
            raise FactRefused(f"the newest read of {where} is {held}; expected one that is suspect")
        if found.amount is None:
            raise FactRefused(f"the newest read of {where} is missing; there is no amount to accept")
        body: dict[str, Any] = {
            "obis": obis,
            "value": plain(found.amount) if known is None else known.body.get("value"),
            "told_by": told_by,
            "recorded_by": recorded_by,
            "note": note,
        }
        fact = FactRow(
            id=0,
            key=identity,
            kind=ACCEPTANCE,
            meter=meter,
            at=interval_end,
            body=body,
            recorded_at=now,
            is_applied=True,
        )
        rebases = self._rebases(meter, {obis: found.amount}, moment_of_read(found), by=ACCEPTED)

        def items(connection: Connection) -> list[Item]:
            newest = newest_read(connection, meter, obis, interval_end)
            if newest is None or newest != found:
                raise FactConflict(f"the read of {where} has been corrected just now; look at it again")
            quality = tuple(one for one in newest.quality if one is not Quality.SUSPECT) or (Quality.MEASURED,)
            return [
                _event(fact, "amount-accepted", now),
                replace(newest, revision=newest.revision + 1, quality=quality),
            ]

        return await self._record(fact, items, rebases)

    def _counted(self, meter: str) -> list[str]:
        """Quantities of the meter of which intervals are made."""
        return sorted(
            obis
            for _, obis, unit in self._book.units_of(meter)
            if is_counted(self._register_of(meter, obis, Unit(unit)))
        )

    def _rebases(
        self, meter: str, amounts: Mapping[str, Decimal | None], at: datetime, *, by: str = "meter-exchange"
    ) -> list[Rebase]:
        """Of an exchange for all channels of the meter, those that nobody named as well: the new meter begins anew."""
        if self._baselines is None:
            return []
        concerned = self._baselines.channels(meter) if by == "meter-exchange" else list(amounts)
        found = (self._baselines.rebasing(meter, obis, amounts.get(obis), at, by=by) for obis in concerned)
        return [one for one in found if one is not None]

    async def _record(self, fact: FactRow, items: Any, rebases: list[Rebase]) -> tuple[FactRow, bool]:
        def work(connection: Connection) -> tuple[tuple[FactRow, bool], list[Item]]:
            known = fact_of_key(connection, fact.key)
            if known is not None:
                if (known.at, _said(known)) != (fact.at, _said(fact)):
                    raise FactConflict(
                        f"key {fact.key.split(':', 2)[2]!r} was used for another fact, recorded {iso_utc(known.recorded_at)}"
                    )
                return (known, False), []
            stored = add_fact(connection, fact)
            return (stored, True), [*items(connection), *rebase_rows(connection, rebases)]

        stored, is_new = await self._writer.transact(work, "recording a fact about a meter")
        if is_new and self._baselines is not None:
            self._baselines.apply(rebases)
        return stored, is_new


def _said(fact: FactRow) -> dict[str, Any]:
    """Who recorded it is of no matter to whether it is the same."""
    return {name: value for name, value in fact.body.items() if name != "recorded_by"}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount)


def _event(fact: FactRow, name: str, now: datetime) -> Event:
    return Event(
        type=EVENT_TYPE,
        subject=fact.meter,
        data={
            "meter": fact.meter,
            "concentrator": "",
            "name": name,
            "at": iso_utc(fact.at),
            "detail": dict(fact.body),
        },
        time=now,
        id=fact.key,
    )

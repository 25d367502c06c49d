"""Keeps the governor's clock durable, raises the alarm for what went over a limit, and looks limits and protections up anew."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from headend.commands.events import alarm_event
from headend.commands.governor import Alarm, alarms
from headend.commands.rulebook import Rulebook
from headend.model import Event, Item
from headend.store import governor as ledger
from headend.store.writer import Writer

__all__ = ["GovernorHealth", "GovernorKeeper"]

# An alarm is due within 60 s; the clock loses at most so much by a crash, and may be observed once too late.
PERIOD_S = 20.0
PRUNE_EVERY = 180  # looks: an hour

log = structlog.get_logger(__name__)


class GovernorHealth(Struct, frozen=True, kw_only=True):
    """For metrics and /healthz. alarms_total, over_total: since the start. position_s: of the governor's
    clock, as it was observed last."""

    alarms_total: int
    over_total: int
    position_s: float
    has_limits: bool


class GovernorKeeper:
    """audit: appends a record of an alarm in the same transaction; what it raises ends the transaction."""

    def __init__(
        self,
        rulebook: Rulebook,
        writer: Writer,
        wall: Callable[[], datetime],
        *,
        audit: Callable[[Connection, Alarm, datetime], None] = lambda connection, alarm, now: None,
    ) -> None:
        self._rulebook = rulebook
        self._writer = writer
        self._wall = wall
        self._audit = audit
        self._looks = 0
        self._alarms = 0
        self._over = 0

    def health(self) -> GovernorHealth:
        return GovernorHealth(
            alarms_total=self._alarms,
            over_total=self._over,
            position_s=self._rulebook.clock.position_ms / 1000,  # the store's thread alone moves it
            has_limits=self._rulebook.limits is not None,
        )

    async def run(self) -> None:
        """Until cancelled. Raises what the store raises; its supervisor starts it anew."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> Sequence[Alarm]:
        """One look: what it tells is in the feed at return. Raises StoreUnavailable."""
        raised = await self._writer.transact(self._work, "keeping the governor")
        for alarm in raised:
            self._alarms += 1
            self._over += alarm.count
            log.error("opens over a limit are quarantined", caller=alarm.caller, limit=alarm.limit, count=alarm.count)
        self._looks += 1
        return raised

    def _work(self, connection: Connection) -> tuple[Sequence[Alarm], Sequence[Item]]:
        now = self._wall()
        self._rulebook.refresh(connection)
        position_ms = self._rulebook.position_ms()
        ledger.save_position(connection, position_ms)
        if self._looks % PRUNE_EVERY == 0:
            ledger.prune(connection, position_ms)
        noted = ledger.untold(connection)
        raised = alarms([over for _, over in noted])
        ledger.mark_told(connection, [claim for claim, _ in noted])
        for alarm in raised:
            self._audit(connection, alarm, now)
        return raised, [_event(alarm, now) for alarm in raised]


def _event(alarm: Alarm, now: datetime) -> Event:
    detail = {
        "requester": alarm.caller,
        "limit": alarm.limit,
        "allowed": str(alarm.allowed),
        "count": str(alarm.count),
        "meters": ", ".join(alarm.meters),
    }
    return alarm_event(alarm.meters[0], "quarantined", is_raised=True, detail=detail, now=now)

"""The keeper of reconnect debts: makes the next try when its time has come, climbs the ladder, never forgets one.

Its list follows the journal's pages; after a restart it comes from the tables. Waiting is counted on the monotonic clock, so that a
wall clock that is set back makes nobody wait longer; the ladder goes by the wall, as the payment's stamp does.
"""

import asyncio
import random
from collections.abc import Callable
from math import inf
from typing import Protocol

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.commands.carry import Lines
from headend.commands.intake import Intake
from headend.commands.journal import Journal, Page
from headend.commands.machine import Event
from headend.commands.model import UNSENT, Kind
from headend.commands.obligations import ESCALATIONS, PAUSE_S_MAX, Obligation, escalated
from headend.errors import StoreUnavailable
from headend.store import commands_debts as rows

__all__ = ["DebtCounters", "DebtKeeper", "EscalationHook"]

TICK_S = 5.0
IDLE_S = 60.0  # the same while nothing is owed
RETURN_SPREAD_S = 20.0  # after a line has come back, its debts are tried within this: all of them within a minute
BEHIND_S = 10.0  # before a debt is tried again that could not be for another command of its meter
DEBTS_PER_PAGE = 50

log = structlog.get_logger(__name__)


class EscalationHook(Protocol):
    """Told of every step of the ladder, once: for notices. obligation.stage: the step."""

    def __call__(self, obligation: Obligation, /) -> None: ...


class DebtCounters(Struct):
    """Since the start, but for `open`. took_s: of the last thousand that ended verified or permitted, from the payment's stamp."""

    open: int = 0
    tries: int = 0
    escalations: int = 0
    ended: dict[str, int] = {}
    took_s: list[float] = []


class _Kept(Struct):
    """due: monotonic, of the next try."""

    debt: Obligation
    due: float
    is_resumed: bool = False


class DebtKeeper:
    """`load` first, then `run` in a task until cancelled."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        lines: Lines,
        *,
        clock: Clock,
        random_: random.Random,
        on_escalation: EscalationHook = lambda obligation: None,
        turn_s: Callable[[str], float] = lambda meter: 0.0,
    ) -> None:
        """turn_s: how long the next close of a meter's feeder waits, where many begin at once."""
        self._journal = journal
        self._intake = intake
        self._lines = lines
        self._clock = clock
        self._random = random_
        self._on_escalation = on_escalation
        self._turn_s = turn_s
        self._kept: dict[str, _Kept] = {}
        self._is_down: set[str] = set()
        self._stirred = asyncio.Event()
        self.counters = DebtCounters()
        journal.listen(self._saw)

    def open_debts(self) -> list[Obligation]:
        return [kept.debt for kept in self._kept.values()]

    async def load(self) -> None:
        for debt in await self._journal.read(rows.open_obligations, "loading obligations"):
            self._keep(debt)

    async def run(self) -> None:
        while True:
            self._look_at_lines()
            try:
                await self._climb()
                await self._lapse()
                await self._try_due()
            except StoreUnavailable as error:
                log.error("obligations cannot be worked on", problem=str(error))
            await self._pause()

    # -------------------------------------------------------------------------------------------- what is due

    async def _try_due(self) -> None:
        """The oldest debt first."""
        now = self._clock.monotonic()
        due = [kept.debt for kept in self._kept.values() if kept.due <= now]
        due.sort(key=lambda debt: debt.since)
        for start in range(0, len(due), DEBTS_PER_PAGE):
            part = due[start : start + DEBTS_PER_PAGE]

            def try_(page: Page, part: list[Obligation] = part) -> set[str]:
                return {one.id for one in part if self._tries_in_vain(page, page.debt(one.id))}

            behind = await self._journal.write(try_, "trying to reconnect")
            for debt in part:
                if (kept := self._kept.get(debt.id)) is not None:
                    # Until its try has ended, which sets the next time; what is in its way ends without a word to it.
                    kept.due = self._clock.monotonic() + (BEHIND_S if debt.id in behind else PAUSE_S_MAX)
                    self.counters.tries += 1

    def _tries_in_vain(self, page: Page, debt: Obligation) -> bool:
        """True: it could not be, for a command that is not its own, such as the close of a debt that was forgiven."""
        if not debt.is_open or self._intake.is_being_paid(page, debt):
            return False
        active = page.active_of(debt.meter)
        # Behind a look that found the supply off comes the first close, and it may be one of many. A turn that is asked for is taken:
        # what only looks yet, or cannot be sent now, must not have those of others.
        has_looked = bool(debt.command) and page.command(debt.command).kind is Kind.STATUS
        wait_s = self._turn_s(debt.meter) if has_looked and not active else 0.0
        return self._intake.try_debt(page, debt, wait_s=wait_s) is None

    async def _climb(self) -> None:
        now = self._clock.now()
        higher = [kept.debt for kept in self._kept.values() if escalated(kept.debt, now) is not None]
        if not higher:
            return

        def climb(page: Page) -> list[Obligation]:
            reached = []
            for one in higher:
                debt = page.debt(one.id)
                if debt.is_open and (on := escalated(debt, page.now)) is not None:
                    page.change_debt(on, "overdue" if on.is_incident else "escalated", tell=True)
                    reached.append(on)
            return reached

        for debt in await self._journal.write(climb, "escalating obligations"):
            self.counters.escalations += 1
            log.warning(
                "a reconnection is owed for long",
                obligation=debt.id,
                meter=debt.meter,
                hours=ESCALATIONS[debt.stage - 1].total_seconds() / 3600,
                problem=debt.problem,
            )
            self._on_escalation(debt)

    async def _lapse(self) -> None:
        """What was only ordered ends with its order, told as an incident; what was paid for never does."""
        now = self._clock.now()
        over = [
            kept.debt.id
            for kept in self._kept.values()
            if kept.debt.expires_at is not None and kept.debt.expires_at <= now
        ]
        if not over:
            return

        def lapse(page: Page) -> None:
            for identity in over:
                debt = page.debt(identity)
                if not debt.is_open or debt.expires_at is None:
                    continue
                active = [command for _, command in page.active_of(debt.meter) if command.obligation == debt.id]
                for command in active:
                    if command.state in UNSENT:
                        page.step(command.id, Event.DEADLINE_PASSED, actor="head-end", note={"problem": "not in time"})
                if all(command.state in UNSENT for command in active):
                    page.end_debt(page.debt(identity), "lapsed")

        await self._journal.write(lapse, "ending obligations of orders that expired")

    def _look_at_lines(self) -> None:
        """A line that comes back is tried at once for everybody on it who waits."""
        by_line: dict[str, list[_Kept]] = {}
        for kept in self._kept.values():
            by_line.setdefault(self._lines.record(kept.debt.meter).line, []).append(kept)
        for line, waiting in by_line.items():
            if not self._lines.is_up(line):
                self._is_down.add(line)
            elif line in self._is_down:
                self._is_down.discard(line)
                now = self._clock.monotonic()
                for kept in waiting:
                    kept.due = min(kept.due, now + RETURN_SPREAD_S * self._random.random())
        self._is_down &= by_line.keys()

    async def _pause(self) -> None:
        due = min((kept.due for kept in self._kept.values()), default=inf)
        wait_s = min(TICK_S if self._kept else IDLE_S, max(0.05, due - self._clock.monotonic()))
        try:
            async with asyncio.timeout(wait_s):
                await self._stirred.wait()
        except TimeoutError:
            return
        self._stirred.clear()

    # -------------------------------------------------------------------------------------------- what the journal tells

    def _saw(self, page: Page) -> None:
        for debt in page.obligations.values():
            if debt.is_open:
                self._keep(debt)
            elif self._kept.pop(debt.id, None) is not None:
                self._count_end(debt)
        self.counters.open = len(self._kept)

    def _keep(self, debt: Obligation) -> None:
        wait_s = min(max(0.0, (debt.due_at - self._clock.now()).total_seconds()), PAUSE_S_MAX)
        kept = self._kept.get(debt.id)
        due = self._clock.monotonic() + wait_s
        if kept is None:
            # A debt that has a try already waits for its end; a new one may not have one, and is asked for soon.
            self._kept[debt.id] = _Kept(debt, due)
        else:
            if debt.due_at != kept.debt.due_at:
                kept.due = due
            kept.debt = debt
        self.counters.open = len(self._kept)
        self._stirred.set()

    def _count_end(self, debt: Obligation) -> None:
        ended = self.counters.ended
        ended[debt.ended] = ended.get(debt.ended, 0) + 1
        if debt.took_s is not None and debt.ended in ("verified", "permitted"):
            self.counters.took_s = [*self.counters.took_s[-999:], debt.took_s]

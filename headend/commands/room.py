"""The command room as the HTTP interface sees it: its parts, whether it is open, and who is calling."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, Engine

from headend.clock import Clock
from headend.commands.approvals import Approvals
from headend.commands.desk import Desk
from headend.commands.forecasts import Forecasts
from headend.commands.governor import Tally
from headend.commands.intake import Answer
from headend.commands.journal import Journal, Page
from headend.commands.model import Kind, Order, Refusal
from headend.commands.roles import NOBODY, Caller
from headend.commands.rulebook import Rulebook
from headend.configuration.control import ControlSettings
from headend.database.engine import reading
from headend.errors import StoreUnavailable
from headend.store import governor as ledger
from headend.store.governor_protections import person_of
from headend.store.tokens import Token

__all__ = ["CommandRoom", "NotOpenYet", "Usage"]


# Recorded by the meter as a person's doing. What brings a supply back goes out under the head-end's own code where the person has none.
_SIGNED = frozenset({Kind.OPEN, Kind.PROTECT, Kind.UNPROTECT})


class NotOpenYet(StoreUnavailable):
    """What was under way when the head-end ended is still being looked up."""


class Usage(Struct, frozen=True, kw_only=True):
    """What counts against the limits. position_s: of the governor's own clock. tally: opens that were sent, and that wait."""

    position_s: float
    tally: Tally


class _DryRun(Exception):
    """Carries the answers out of a transaction that must not be."""

    def __init__(self, answers: list[Answer]) -> None:
        super().__init__()
        self.answers = answers


class CommandRoom:
    """problem_of: why an active command has not left yet. waiting: customers who are to press the button.

    Everything that is asked before `opened` raises NotOpenYet.
    """

    def __init__(
        self,
        settings: ControlSettings,
        *,
        engine: Engine,
        clock: Clock,
        journal: Journal,
        desk: Desk,
        rulebook: Rulebook,
        forecasts: Forecasts,
        problem_of: Callable[[str], str] = lambda identity: "",
        no_operator: Callable[[Order], str] = lambda order: "",
    ) -> None:
        """no_operator: why an order cannot go out for want of its person's operator code; "" where nothing is in the way."""
        self.settings = settings
        self.clock = clock
        self.rulebook = rulebook
        self.forecasts = forecasts
        self.problem_of = problem_of
        self._no_operator = no_operator
        self._engine = engine
        self._journal = journal
        self._desk = desk
        self._approvals = Approvals(journal, rulebook, desk.intake)
        self._is_open = False

    def opened(self) -> None:
        self._is_open = True

    @property
    def desk(self) -> Desk:
        self._check_open()
        return self._desk

    @property
    def journal(self) -> Journal:
        self._check_open()
        return self._journal

    @property
    def approvals(self) -> Approvals:
        self._check_open()
        return self._approvals

    @property
    def is_stopped(self) -> bool:
        return self._journal.is_stopped

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotOpenYet(
                "the head-end has just started and is looking up what was under way; ask again in a moment"
            )

    # -------------------------------------------------------------------------------------------- who, and whether at all

    async def caller_of(self, token: Token) -> Caller:
        """With the person who holds the token, if somebody has said who."""

        def look() -> str:
            with reading(self._engine, "looking up the person of a token") as connection:
                return person_of(connection, token.name)

        return Caller(token=token.name, person=await asyncio.to_thread(look), roles=token.roles)

    def closed_by_configuration(self) -> Refusal | None:
        """Why this head-end switches nothing at all; None: it may."""
        if self.settings.enabled:
            return None
        return Refusal(
            rule="control",
            version=self.rulebook.version,
            text="this head-end switches nothing: it has not been allowed to",
            needed="enabled = true under [control], and a restart",
        )

    def operator_refusal(self, order: Order) -> Refusal | None:
        """An open, a protection and its end go out under the code of whoever asked for it, where the meter records one."""
        if order.kind not in _SIGNED or not (why := self._no_operator(order)):
            return None
        who = f'"{order.requester}"' if not order.requester.startswith(NOBODY) else "a token of a known person"
        needed = f"a code of their own: {who} under [control.operators]"
        if order.kind is Kind.PROTECT:
            needed += "; POST /v1/protections protects the customer here, and needs none"
        return Refusal(rule="operator", version=self.rulebook.version, text=why, needed=needed)

    async def record(self, kind: str, subject: str, actor: str, data: dict[str, object]) -> None:
        """An audit record of something that is no command, such as a request that was not allowed."""

        def write(page: Page) -> None:
            page.record(kind, subject, actor, data, is_needed=False)

        await self.journal.write(write, "recording a request")

    # -------------------------------------------------------------------------------------------- questions

    async def dry_run(self, orders: Sequence[Order]) -> list[Answer]:
        """What would become of these orders now, one after the other: all of it happens, and is taken back."""
        intake = self.desk.intake
        unsigned = {
            place: why for place, order in enumerate(orders) if (why := self.operator_refusal(order)) is not None
        }
        tried = [order for place, order in enumerate(orders) if place not in unsigned]

        def take(page: Page) -> None:
            over = self.rulebook.over_limit(page.connection, tried)
            taken = iter(
                [
                    intake.take(page, order, over=limit, waits_for_approval=True)
                    for order, limit in zip(tried, over, strict=True)
                ]
            )
            raise _DryRun(
                [
                    Answer(command=None, refusals=(unsigned[place],)) if place in unsigned else next(taken)
                    for place in range(len(orders))
                ]
            )

        try:
            await self.journal.write(take, "trying orders")
        except _DryRun as done:
            return done.answers
        raise AssertionError("a dry run ends by what carries its answers")

    async def usage(self) -> Usage:
        def look(connection: Connection) -> Usage:
            position_ms = self.rulebook.position_ms()
            return Usage(position_s=position_ms / 1000, tally=ledger.tally(connection, position_ms, waiting=True))

        return await self.journal.read(look, "looking up what counts against the limits")

    def next_allowed(self, order: Order, now: datetime) -> datetime | None:
        """When the calendar allows it, whatever else stands against it."""
        return self.rulebook.next_allowed(order, now)

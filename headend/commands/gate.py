"""What the command room asks before it lets anything pass: policy, limits, approvals. The service composes it from those rooms."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from headend.commands.model import Command, Kind, Order, Refusal
from headend.commands.obligations import Spread

__all__ = ["Gate"]


class Gate(Protocol):
    """The rules of this installation. Everything but `over_limit` and `admit` is asked in the last look: pure, and without waiting."""

    @property
    def version(self) -> str:
        """Of the policy; stands in every refusal."""
        ...

    def knows(self, meter: str) -> bool:
        """Whether the meter is served here at all."""
        ...

    def feeder(self, meter: str) -> str:
        """Whose re-closings are spread together; "" is one too."""
        ...

    def spread(self) -> Spread:
        """How many closes of a feeder go at once, and over how long the others are spread."""
        ...

    def is_first(self, meter: str) -> bool:
        """Whether its supply goes before those of others: medical, public."""
        ...

    def examine(
        self, order: Order, *, now: datetime, clock_synchronised: bool | None, audit_ok: bool, store_ok: bool
    ) -> tuple[Refusal, ...]:
        """Everything that forbids the order at `now`; empty: it may go."""
        ...

    def next_allowed(self, order: Order, now: datetime) -> datetime | None:
        """The first moment from `now` on when the calendar allows the order; None: none as far as it is known."""
        ...

    def reconnect_kind(self, meter: str) -> Kind:
        """CLOSE or PERMIT_CLOSE: how a supply that is owed is given back."""
        ...

    def over_limit(self, connection: Connection, orders: Sequence[Order]) -> tuple[Refusal | None, ...]:
        """For each order that comes in, the limit that it goes over, counting what waits and what was done; None: within."""
        ...

    def admit(self, connection: Connection, command: Command) -> Refusal | None:
        """Count the command in the durable ledger, in the transaction that makes it `sending`; a refusal counts nothing."""
        ...

    def needs_approval(self, orders: Sequence[Order]) -> bool:
        """Whether a second person must approve this list."""
        ...

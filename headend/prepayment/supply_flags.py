"""What an operator should look at, by account and kind; it stands until it is cleared."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, insert, select

from headend.prepayment.rows import epoch_ms
from headend.prepayment.tables import flags

__all__ = [
    "CLOSED_WHILE_OFF",
    "DISCONNECTION_REFUSED",
    "HOLD",
    "HOLDS",
    "INCREASE",
    "NOT_BACK",
    "NOT_BOOKED",
    "OF_EPISODE",
    "REVERSED_AFTER_CLOSING",
    "REVISED_AFTER_CLOSING",
    "UNREACHABLE",
    "USE_WHILE_DISCONNECTED",
    "WARNED_IN_VAIN",
    "clear_flag",
    "flags_of",
    "raise_flag",
]

HOLD = "hold"  # set by a person: not to be disconnected
DISCONNECTION_REFUSED = "disconnection-refused"  # by the switch, for a reason that no time cures
WARNED_IN_VAIN = "warned-in-vain"  # as often as the plan allows
NOT_BACK = "not-back"  # paid, and in the dark for longer than the plan allows
UNREACHABLE = "unreachable"
NOT_BOOKED = "payment-not-booked"  # told to the switch, and not told again by its channel
CLOSED_WHILE_OFF = "closed-while-off"
REVERSED_AFTER_CLOSING = "reversed-after-closing"
REVISED_AFTER_CLOSING = "revised-after-closing"
INCREASE = "sudden-increase"
USE_WHILE_DISCONNECTED = "use-while-disconnected"

HOLDS = (HOLD, DISCONNECTION_REFUSED, WARNED_IN_VAIN)  # while one of them stands nothing is disconnected
OF_EPISODE = (DISCONNECTION_REFUSED, WARNED_IN_VAIN, NOT_BACK)  # end with it


def raise_flag(
    connection: Connection,
    account: str,
    kind: str,
    now: datetime,
    text: str,
    evidence: Mapping[str, object] | None = None,
) -> bool:
    """False when it stands already; then it keeps its time and its text."""
    known = select(flags.c.kind).where(flags.c.account == account, flags.c.kind == kind)
    if connection.execute(known).first() is not None:
        return False
    row = {
        "account": account,
        "kind": kind,
        "since": epoch_ms(now),
        "text": text,
        "evidence": msgspec.json.encode(dict(evidence or {})).decode(),
    }
    connection.execute(insert(flags), [row])
    return True


def clear_flag(connection: Connection, account: str, *kinds: str) -> None:
    connection.execute(delete(flags).where(flags.c.account == account, flags.c.kind.in_(kinds)))


def flags_of(connection: Connection, account: str) -> dict[str, str]:
    """Text by kind."""
    return {row.kind: row.text for row in connection.execute(select(flags).where(flags.c.account == account))}

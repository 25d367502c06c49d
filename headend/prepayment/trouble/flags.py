"""Flags of accounts: what an operator should look at, by account and kind; it stands until it is cleared."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, insert, select

from headend.prepayment.days import epoch_ms
from headend.prepayment.storage.tables import flags

__all__ = [
    "clear_flag",
    "flags_of",
    "raise_flag",
]


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

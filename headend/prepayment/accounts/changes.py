"""Who changed what of an account, and when: only ever added to. Every function works inside its caller's transaction.

Money is not in it: the books say who moved it. Contacts and holders are, although their own tables name who told them, so that the
whole story of an account stands in one place.
"""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, func, insert, select

from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.storage.tables import account_changes

__all__ = ["Change", "changes_of", "flag_cleared_at", "note_change", "note_cleared"]


class Change(Struct, frozen=True, kw_only=True):
    """what: "enrolled", "confirmed", "contact", "holder", "amounts", "tariff", "meter", "use", "hold", "flag", "move-out", "payment".

    before, after: in words, "" of nothing.
    """

    account: str
    at: datetime
    by: str
    what: str
    before: str
    after: str


def note_change(
    connection: Connection, account: str, what: str, now: datetime, *, by: str, before: str = "", after: str = ""
) -> None:
    number = (connection.execute(select(func.max(account_changes.c.number))).scalar() or 0) + 1
    row = {
        "number": number,
        "account": account,
        "at": epoch_ms(now),
        "by": by,
        "what": what,
        "before": before,
        "after": after,
    }
    connection.execute(insert(account_changes), [row])


def note_cleared(connection: Connection, account: str, kind: str, text: str, now: datetime, *, by: str) -> None:
    """That a person cleared a flag; text: what it said."""
    note_change(connection, account, "flag", now, by=by, before=f"{kind}: {text}")


def flag_cleared_at(connection: Connection, account: str, kind: str) -> datetime | None:
    """When a person cleared that flag last; None: never."""
    own = account_changes.c
    mine = (own.account == account, own.what == "flag", own.before.startswith(f"{kind}:"))
    found = connection.execute(select(func.max(own.at)).where(*mine)).scalar()
    return None if found is None else from_epoch_ms(found)


def changes_of(connection: Connection, account: str, *, limit: int) -> list[Change]:
    """The newest first."""
    own = account_changes.c
    rows = connection.execute(
        select(account_changes).where(own.account == account).order_by(own.number.desc()).limit(limit)
    )
    return [
        Change(
            account=row.account, at=from_epoch_ms(row.at), by=row.by, what=row.what, before=row.before, after=row.after
        )
        for row in rows
    ]

"""What the governor keeps: its clock, what was counted, what went over, the limits; and approvals, protections, people of tokens.

Positions are milliseconds of the governor's clock, see `headend.commands.governor_clock`. Times are epoch milliseconds, UTC.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text

from headend.store.tables import metadata

__all__ = [
    "governor_approvals",
    "governor_clock",
    "governor_entries",
    "governor_limits",
    "governor_over",
    "governor_people",
    "governor_protections",
]

_Big = BigInteger().with_variant(Integer, "sqlite")

governor_clock = Table(
    "governor_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1, the only row
    Column("position_ms", _Big, nullable=False),
)

governor_entries = Table(
    "governor_entries",
    metadata,
    Column("claim", Text, primary_key=True),  # of requester and idempotency key
    Column("state", SmallInteger, nullable=False),  # 0: waits to be sent; 1: sent, or about to be; 2: given back
    Column("position_ms", _Big, nullable=False),  # when it was admitted; of a sent one when it was sent
    Column("requester", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("feeder", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("watts", _Big, nullable=False),
)
Index("governor_entries_by_position", governor_entries.c.state, governor_entries.c.position_ms)

governor_over = Table(
    "governor_over",
    metadata,
    Column("claim", Text, primary_key=True),
    Column("position_ms", _Big, nullable=False),
    Column("requester", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("limit_name", Text, nullable=False),
    Column("used", Text, nullable=False),
    Column("allowed", Text, nullable=False),
    Column("is_told", SmallInteger, nullable=False),  # by an alarm
    Column("is_released", SmallInteger, nullable=False),  # by two people: it counts, and no limit holds it up
)
Index("governor_over_by_told", governor_over.c.is_told, governor_over.c.position_ms)

governor_limits = Table(
    "governor_limits",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("effective_ms", _Big),  # position; NULL: waits for approval
    Column("is_void", SmallInteger, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("approved_by", Text, nullable=False),
    Column("at", _Big, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

governor_approvals = Table(
    "governor_approvals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # in the order of asking
    Column("purpose", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
Index("governor_approvals_by_subject", governor_approvals.c.purpose, governor_approvals.c.subject)

governor_protections = Table(
    "governor_protections",
    metadata,
    Column("id", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", _Big, nullable=False),
    Column("until", _Big),  # NULL: never ends
    Column("added_by", Text, nullable=False),
    Column("removed_at", _Big),
    Column("removed_by", Text, nullable=False),  # both people, joined by a newline; "" while it is there
)
Index("governor_protections_by_target", governor_protections.c.scope, governor_protections.c.target)

governor_people = Table(
    "governor_people",
    metadata,
    Column("token", Text, primary_key=True),
    Column("person", Text, nullable=False),
)

"""What the command room keeps: commands with their journal, the meters' fences, payments, debts, the stop switch.

Times are epoch milliseconds, UTC. A command's and a debt's `body` is the whole of it as JSON; the columns beside it are what is
searched for. Nothing here is ever deleted by the room itself: idempotency keys are honoured as long as the rows are kept.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text, UniqueConstraint

from headend.store.tables import metadata

__all__ = [
    "command_journal",
    "command_meters",
    "command_payments",
    "command_switches",
    "commands",
    "obligations",
]

_Big = BigInteger().with_variant(Integer, "sqlite")

commands = Table(
    "commands",
    metadata,
    Column("id", Text, primary_key=True),
    Column("meter", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    # NULL: no longer active. 0: the meter's one active command; 1: the close that waits behind an open in flight; 2: a look, which
    # is in nobody's way.
    Column("place", SmallInteger),
    Column("requester", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of the order
    Column("batch", Text, nullable=False),
    Column("obligation", Text, nullable=False),
    Column("created_at", _Big, nullable=False),
    Column("due_at", _Big, nullable=False),
    Column("is_waiting", SmallInteger, nullable=False),  # verified, and the customer has not pressed the button
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("requester", "idempotency_key"),
    UniqueConstraint("meter", "place"),
)
Index("commands_by_state", commands.c.state, commands.c.due_at)
Index("commands_by_meter", commands.c.meter, commands.c.created_at)
Index("commands_by_batch", commands.c.batch, commands.c.created_at)

command_journal = Table(
    "command_journal",
    metadata,
    Column("command", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1 is the request
    Column("at", _Big, nullable=False),
    Column("event", Text, nullable=False),  # "requested" for the first
    Column("state", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("detail", LargeBinary, nullable=False),  # JSON object of texts
)

command_meters = Table(
    "command_meters",
    metadata,
    Column("meter", Text, primary_key=True),
    Column("fence", _Big, nullable=False),  # only rises; an open with a lower one is void
    Column("supply", Text, nullable=False),  # open | closed | permitted | unknown, as last proven
    Column("supply_at", _Big),  # when it was proven
    Column("supply_by", Text, nullable=False),  # the command that proved it
    Column("paid_at", _Big),  # the payment system's stamp of the newest payment
)

command_payments = Table(
    "command_payments",
    metadata,
    Column("reference", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("digest", Text, nullable=False),  # SHA-256 of the payment: another one under this reference is refused
    Column("paid_at", _Big, nullable=False),
    Column("received_at", _Big, nullable=False),
    Column("amount_minor", _Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("fence", _Big, nullable=False),
    Column("obligation", Text, nullable=False),  # "" when nothing was owed
)

obligations = Table(
    "obligations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("meter", Text, nullable=False),
    Column("is_open", SmallInteger),  # 1; NULL once it has ended
    Column("since", _Big, nullable=False),
    Column("due_at", _Big, nullable=False),  # of the next try
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("meter", "is_open"),
)
Index("obligations_by_due", obligations.c.is_open, obligations.c.due_at)

command_switches = Table(
    "command_switches",
    metadata,
    Column("name", Text, primary_key=True),  # "stop": all opens
    Column("is_on", SmallInteger, nullable=False),
    Column("at", _Big, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

"""Tables of prepaid supply, in a database of their own. Times are epoch milliseconds, UTC; days are numbers of local days since 1970.

An entry names the book it takes from and the one it gives to, so that no transaction can be unbalanced. What a book holds is kept
beside it and written in the same transaction; `check_books` compares it with the sum of all entries.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "account_changes",
    "account_meters",
    "account_tariffs",
    "accounts",
    "books",
    "charges",
    "contacts",
    "customers",
    "debits",
    "entries",
    "feed_cursor",
    "fenced_payments",
    "fences",
    "flags",
    "holders",
    "metadata",
    "meter_days",
    "move_outs",
    "news",
    "off_meters",
    "orders",
    "outbox",
    "payments",
    "points",
    "positions",
    "premises",
    "statements",
    "tenancies",
    "touched",
    "unsettled",
]

metadata = MetaData()

_Big = BigInteger().with_variant(Integer, "sqlite")

customers = Table(
    "customers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("identity_digest", Text, nullable=False),  # salted; the number itself is not kept
    Column("identity_tail", Text, nullable=False),
)

premises = Table(
    "premises",
    metadata,
    Column("id", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("is_submetered", SmallInteger, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # ours: small, for the tables with a row a day
    Column("id", Text, nullable=False, unique=True),
    Column("customer", Text, ForeignKey("customers.id"), nullable=False),
    Column("premises", Text, ForeignKey("premises.id"), nullable=False),
    Column("currency", Text, nullable=False),
    Column("tariff", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_on", Integer, nullable=False),
    Column("closed_on", Integer),
    Column("reminder_minor", _Big, nullable=False),
    Column("topup_minor", _Big, nullable=False),
    Column("bank", Text, nullable=False),
    Column("is_large_household", SmallInteger, nullable=False),
)

account_meters = Table(
    "account_meters",
    metadata,
    Column("account", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("since", Integer, primary_key=True, autoincrement=False),
    Column("until", Integer),
    Index("account_meters_by_meter", "meter"),
)

account_changes = Table(
    "account_changes",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("account", Text, nullable=False),
    Column("at", _Big, nullable=False),
    Column("by", Text, nullable=False),
    Column("what", Text, nullable=False),  # headend.prepayment.accounts.changes
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Index("account_changes_of_account", "account", "number"),
)

contacts = Table(
    "contacts",
    metadata,
    Column("account", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("since", _Big, primary_key=True, autoincrement=False),
    Column("phone", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("is_reachable", SmallInteger, nullable=False),
    Column("by", Text, nullable=False),
)

holders = Table(
    "holders",
    metadata,
    Column("account", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("since", _Big, primary_key=True, autoincrement=False),
    Column("customer", Text, ForeignKey("customers.id"), nullable=False),
    Column("by", Text, nullable=False),
)

tenancies = Table(
    "tenancies",
    metadata,
    Column("account", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("since", Integer, primary_key=True, autoincrement=False),
    Column("landlord", Text, ForeignKey("customers.id"), nullable=False),
    Column("until", Integer),
    Index("tenancies_by_landlord", "landlord"),
)

books = Table(
    "books",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("balance_minor", _Big, nullable=False),
    UniqueConstraint("name", "currency"),
)

entries = Table(
    "entries",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("from_book", Integer, ForeignKey("books.id"), nullable=False),
    Column("to_book", Integer, ForeignKey("books.id"), nullable=False),
    Column("amount_minor", _Big, nullable=False),
    Column("cause", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("day", Integer, nullable=False),
    Column("at", _Big, nullable=False),
    Column("reference", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("reverses", _Big),
    Index("entries_from", "from_book", "day"),
    Index("entries_to", "to_book", "day"),
)

payments = Table(
    "payments",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("receipt", Text, primary_key=True),
    Column("account", Text, nullable=False),  # as the channel said it; there may be no such account
    Column("booked_for", Text, nullable=False),  # "" of an unmatched one
    Column("amount_minor", _Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("paid_at", _Big, nullable=False),
    Column("received_at", _Big, nullable=False),
    Column("state", Text, nullable=False),
    Column("entry", _Big),
    Column("problem", Text, nullable=False),
    Index("payments_by_account", "booked_for", "paid_at"),
    Index("payments_by_day", "channel", "paid_at"),
)

meter_days = Table(
    "meter_days",
    metadata,
    # The day first: what a day brings is written side by side, not one row in each of a hundred thousand places.
    Column("day", Integer, primary_key=True, autoincrement=False),  # in which the intervals end
    Column("meter", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # headend.prepayment.usage.heard
    sqlite_with_rowid=False,
)

touched = Table(
    "touched",  # accounts that settlement has to look at
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("day", Integer, nullable=False),  # the first that may say something else now
    Index("touched_by_day", "day"),
)

account_tariffs = Table(
    "account_tariffs",  # of accounts that ever changed theirs
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("since", Integer, primary_key=True, autoincrement=False),
    Column("tariff", Text, nullable=False),
)

unsettled = Table(
    "unsettled",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)

news = Table(
    "news",  # accounts that were charged anew and whose use was not looked at since
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
)

positions = Table(
    "positions",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("day", Integer, nullable=False),  # the last charged one
    Column("carried", Text, nullable=False),  # minor units
    Column("corrections", Integer, nullable=False),
    Column("position", LargeBinary, nullable=False),
)

charges = Table(
    "charges",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("since", Integer, nullable=False),  # first day of the stretch that is charged on this one
    Column("exact", Text, nullable=False),  # minor units, as it is known now
    Column("minor", _Big, nullable=False),  # as booked with the day
    Column("revision", Integer, nullable=False),
    Column("is_withdrawn", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # headend.prepayment.settlement.chain
    sqlite_with_rowid=False,
)

statements = Table(
    "statements",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True, autoincrement=False),
    Column("month", Text, primary_key=True),
    Column("made_at", _Big, nullable=False),
    Column("last_entry", _Big, nullable=False),  # of the books when it was made
    Column("opening_minor", _Big, nullable=False),
    Column("closing_minor", _Big, nullable=False),
)

move_outs = Table(
    "move_outs",
    metadata,
    Column("account", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("last_day", Integer, nullable=False),
    Column("asked_at", _Big, nullable=False),
    Column("by", Text, nullable=False),
    Column("done_at", _Big),
    Column("remainder_minor", _Big),  # given back; less than nothing is owed
)

fences = Table(
    "fences",
    metadata,
    Column("account", Text, primary_key=True),
    Column("number", _Big, nullable=False),  # counts up with every payment that is told
)

fenced_payments = Table(
    "fenced_payments",  # told to the command interface, not booked yet
    metadata,
    Column("channel", Text, primary_key=True),
    Column("receipt", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("fence", _Big, nullable=False),
    Column("since", _Big, nullable=False),
    Index("fenced_payments_by_account", "account"),
)

off_meters = Table(
    "off_meters",  # whose supply was seen to be off
    metadata,
    Column("meter", Text, primary_key=True),
    Column("since", _Big, nullable=False),
)

debits = Table(
    "debits",
    metadata,
    Column("account", Text, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),  # once a settlement
    Column("key", Text, nullable=False),  # of the newest try
    Column("amount_minor", _Big, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("asked_at", _Big, nullable=False),
    Column("next_try_at", _Big),  # None when it is over
    Column("problem", Text, nullable=False),
    Column("agreement", Text, nullable=False),  # that the bank was asked under; "" before it was
    Index("debits_to_try", "next_try_at"),
)

points = Table(
    "points",
    metadata,
    Column("account", Text, primary_key=True),
    Column("month", Text, primary_key=True),  # at most once a month
    Column("rule", Text, nullable=False),
    Column("points", Integer, nullable=False),
    Column("bonus_minor", _Big, nullable=False),
    Column("entry", _Big),
    Column("channel", Text, nullable=False),  # of the payment that earned them
    Column("receipt", Text, nullable=False),
    Column("taken_back", SmallInteger, nullable=False),
)

flags = Table(
    "flags",
    metadata,
    Column("account", Text, primary_key=True),
    Column("kind", Text, primary_key=True),  # what an operator should look at
    Column("since", _Big, nullable=False),
    Column("text", Text, nullable=False),
    Column("evidence", Text, nullable=False),  # JSON object
)

orders = Table(
    "orders",
    metadata,
    Column("key", Text, primary_key=True),  # idempotency key of the command
    Column("account", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("command", Text, nullable=False),  # id that the command interface gave; "" before
    Column("state", Text, nullable=False),
    Column("asked_at", _Big, nullable=False),
    Column("changed_at", _Big, nullable=False),
    Column("detail", Text, nullable=False),  # JSON object
    Index("orders_by_account", "account"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("at", _Big, nullable=False),
    Column("data", LargeBinary, nullable=False),  # JSON object
)

feed_cursor = Table(
    "feed_cursor",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", _Big, nullable=False),
)

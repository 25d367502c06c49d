"""Rows of payments and of the debts that they make. Every function takes the connection of a transaction that somebody else ends."""

from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, insert, select, update

from headend.commands.obligations import Obligation
from headend.database.hot import HotStatement
from headend.store.commands_tables import command_payments, obligations
from headend.store.rows import epoch_ms, from_epoch_ms

__all__ = [
    "StoredPayment",
    "add_obligation",
    "add_payment",
    "obligation",
    "open_obligation_of",
    "open_obligations",
    "payments_under",
    "save_obligation",
]

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Obligation).decode

_UNDER = HotStatement(
    select(command_payments).where(command_payments.c.reference == bindparam("reference_is")), "reference_is"
)
_ADD_PAYMENT = HotStatement(insert(command_payments), *command_payments.columns.keys())
_CHANGING = ("is_open", "since", "due_at", "body")
_ADD = HotStatement(insert(obligations), "id", "meter", *_CHANGING)
_SAVE = HotStatement(update(obligations).where(obligations.c.id == bindparam("debt_id")), "debt_id", *_CHANGING)
_BODY = HotStatement(select(obligations.c.body).where(obligations.c.id == bindparam("debt_id")), "debt_id")
_OPEN_OF = HotStatement(
    select(obligations.c.body).where(obligations.c.meter == bindparam("meter_is"), obligations.c.is_open == 1),
    "meter_is",
)


class StoredPayment(Struct, frozen=True, kw_only=True):
    """What one payment was for one meter. digest: of the whole payment. obligation: the debt it made or joined; "" none."""

    reference: str
    meter: str
    digest: str
    paid_at: datetime
    received_at: datetime
    amount_minor: int
    currency: str
    fence: int
    obligation: str


def payments_under(connection: Connection, reference: str) -> list[StoredPayment]:
    """One for each meter that it was for; empty when the reference is new."""
    return [
        StoredPayment(
            reference=known,
            meter=meter,
            digest=digest,
            paid_at=from_epoch_ms(paid_at),
            received_at=from_epoch_ms(received_at),
            amount_minor=amount_minor,
            currency=currency,
            fence=fence,
            obligation=obligation,
        )
        for known, meter, digest, paid_at, received_at, amount_minor, currency, fence, obligation in _UNDER.all(
            connection, reference
        )
    ]


def add_payment(connection: Connection, payment: StoredPayment) -> None:
    _ADD_PAYMENT.change(
        connection,
        payment.reference,
        payment.meter,
        payment.digest,
        epoch_ms(payment.paid_at),
        epoch_ms(payment.received_at),
        payment.amount_minor,
        payment.currency,
        payment.fence,
        payment.obligation,
    )


def add_obligation(connection: Connection, new: Obligation) -> None:
    _ADD.change(connection, new.id, new.meter, *_changing(new))


def save_obligation(connection: Connection, changed: Obligation) -> None:
    _SAVE.change(connection, changed.id, *_changing(changed))


def obligation(connection: Connection, identity: str) -> Obligation | None:
    row = _BODY.first(connection, identity)
    return None if row is None else _decode(row[0])


def open_obligation_of(connection: Connection, meter: str) -> Obligation | None:
    row = _OPEN_OF.first(connection, meter)
    return None if row is None else _decode(row[0])


def open_obligations(connection: Connection) -> list[Obligation]:
    """The oldest debt first."""
    statement = select(obligations.c.body).where(obligations.c.is_open == 1).order_by(obligations.c.since)
    return [_decode(row.body) for row in connection.execute(statement)]


def _changing(debt: Obligation) -> tuple[int | None, int, int, bytes]:
    """In the order of _CHANGING."""
    return 1 if debt.is_open else None, epoch_ms(debt.since), epoch_ms(debt.due_at), _encode(debt)

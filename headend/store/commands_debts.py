"""Rows of payments and of the debts that they make. Every function takes the connection of a transaction that somebody else ends."""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, insert, select, update

from headend.commands.obligations import Obligation
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

_UNDER = select(command_payments).where(command_payments.c.reference == bindparam("reference_is"))
_ADD_PAYMENT = insert(command_payments)
_ADD = insert(obligations)
_SAVE = update(obligations).where(obligations.c.id == bindparam("obligation_id"))
_BODY = select(obligations.c.body).where(obligations.c.id == bindparam("obligation_id"))
_OPEN_OF = select(obligations.c.body).where(obligations.c.meter == bindparam("meter_is"), obligations.c.is_open == 1)


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
    rows = connection.execute(_UNDER, {"reference_is": reference})
    return [
        StoredPayment(
            reference=row.reference,
            meter=row.meter,
            digest=row.digest,
            paid_at=from_epoch_ms(row.paid_at),
            received_at=from_epoch_ms(row.received_at),
            amount_minor=row.amount_minor,
            currency=row.currency,
            fence=row.fence,
            obligation=row.obligation,
        )
        for row in rows
    ]


def add_payment(connection: Connection, payment: StoredPayment) -> None:
    values = {name: getattr(payment, name) for name in payment.__struct_fields__}
    values |= {"paid_at": epoch_ms(payment.paid_at), "received_at": epoch_ms(payment.received_at)}
    connection.execute(_ADD_PAYMENT, values)


def add_obligation(connection: Connection, new: Obligation) -> None:
    connection.execute(_ADD, {"id": new.id, "meter": new.meter, **_changing(new)})


def save_obligation(connection: Connection, changed: Obligation) -> None:
    connection.execute(_SAVE, {"obligation_id": changed.id, **_changing(changed)})


def obligation(connection: Connection, identity: str) -> Obligation | None:
    body = connection.execute(_BODY, {"obligation_id": identity}).scalar()
    return None if body is None else _decode(body)


def open_obligation_of(connection: Connection, meter: str) -> Obligation | None:
    body = connection.execute(_OPEN_OF, {"meter_is": meter}).scalar()
    return None if body is None else _decode(body)


def open_obligations(connection: Connection) -> list[Obligation]:
    """The oldest debt first."""
    statement = select(obligations.c.body).where(obligations.c.is_open == 1).order_by(obligations.c.since)
    return [_decode(row.body) for row in connection.execute(statement)]


def _changing(debt: Obligation) -> dict[str, Any]:
    return {
        "is_open": 1 if debt.is_open else None,
        "since": epoch_ms(debt.since),
        "due_at": epoch_ms(debt.due_at),
        "body": _encode(debt),
    }

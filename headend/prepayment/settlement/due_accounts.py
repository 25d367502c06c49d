"""Accounts that are due for settlement, with everything that settling them needs: loaded for a batch at once."""

from collections.abc import Sequence
from decimal import Decimal

from msgspec import Struct
from sqlalchemy import Connection, select

from headend.prepayment.settlement.chain import decode_position
from headend.prepayment.storage.tables import (
    account_meters,
    account_tariffs,
    accounts,
    charges,
    positions,
    touched,
    unsettled,
)
from headend.prepayment.tariffs.tariff import Position
from headend.prepayment.usage.pieces import STRETCH_DAYS_MAX, Measuring

__all__ = ["DueAccount", "load_due"]


class DueAccount(Struct, kw_only=True):
    """start: the first day that may say something else now. last: that was charged, None before the first."""

    number: int
    id: str
    currency: str
    tariff: str
    state: str
    opened: int
    closed: int | None
    is_large: bool
    start: int
    tariffs: list[tuple[int, str]]
    meters: list[Measuring]
    last: int | None = None
    carried: Decimal = Decimal(0)
    corrections: int = 0
    position: Position = Position()


def load_due(connection: Connection, due: Sequence[tuple[int, int]]) -> list[DueAccount]:
    """due: by number, in order. What else `touched` has between the first and the last of them is left for later."""
    start = dict(due)
    found: dict[int, DueAccount] = {}
    asked = touched.c.account.between(due[0][0], due[-1][0])
    statement = (
        select(
            accounts.c.number, accounts.c.id, accounts.c.currency, accounts.c.tariff, accounts.c.state,
            accounts.c.opened_on, accounts.c.closed_on, accounts.c.is_large_household,
            positions.c.day, positions.c.carried, positions.c.corrections, positions.c.position,
        )
        .select_from(touched)
        .join(accounts, accounts.c.number == touched.c.account)
        .join(positions, positions.c.account == accounts.c.number, isouter=True)
    )  # fmt: skip
    for row in connection.execute(statement.where(asked)):
        number, identity, currency, tariff, state, opened, closed, is_large, last, carried, corrections, body = row
        if number not in start:
            continue  # nobody asked for it: its news are of today, it is put off, or it is of another part of the batch
        one = DueAccount(
            number=number, id=identity, currency=currency, tariff=tariff, state=state, opened=opened, closed=closed,
            is_large=bool(is_large), start=start[number], tariffs=[], meters=[],
        )  # fmt: skip
        if last is not None:
            one.last, one.carried, one.corrections = last, Decimal(carried), corrections
            one.position = decode_position(body)
        found[number] = one
    own = account_meters.c
    by_account = (
        select(accounts.c.number, own.meter, own.since, own.until)
        .select_from(touched)
        .join(accounts, accounts.c.number == touched.c.account)
        .join(account_meters, own.account == accounts.c.id)
        .where(asked)
        .order_by(own.since, own.meter)
    )
    for number, meter, since, until in connection.execute(by_account):
        if number in found:
            found[number].meters.append(Measuring(meter, since, until))
    history = select(account_tariffs).join(touched, touched.c.account == account_tariffs.c.account).where(asked)
    for number, since, tariff in connection.execute(history.order_by(account_tariffs.c.since)):
        if number in found:
            found[number].tariffs.append((since, tariff))
    waits = (
        select(unsettled.c.account, unsettled.c.day)
        .join(touched, touched.c.account == unsettled.c.account)
        .where(asked)
    )
    waiting = {(number, day) for number, day in connection.execute(waits)}
    for one in found.values():
        # One meter's span may end where another's begins: the stretch goes back over all days in a row that wait.
        while (one.number, one.start - 1) in waiting:
            one.start -= 1
        if one.last is not None and one.start <= one.last:
            _widen(connection, one, one.last)
    return list(found.values())


def _widen(connection: Connection, one: DueAccount, last: int) -> None:
    """Where the news falls into a stretch that was charged as one, from its first day on."""
    top = min(last, one.start + STRETCH_DAYS_MAX)
    statement = select(charges.c.since).where(
        charges.c.account == one.number, charges.c.day.in_(range(one.start, top + 1)), charges.c.since < one.start
    )
    one.start = min([one.start, *connection.execute(statement).scalars()])

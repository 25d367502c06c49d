"""What a channel told, against the books: its day in sums, and payments that it began to tell and that were never booked.

A payment is told to the command interface before it is booked. Where the program, or the channel, dies in between, the account is not
disconnected until the channel tells it again, or a person says that there is no such payment. Every function works inside its caller's
transaction.
"""

from datetime import date, datetime, timedelta

from msgspec import Struct
from sqlalchemy import Connection, select

from headend.prepayment.books.fences import FencedPayment, booked, fenced
from headend.prepayment.books.payments import of_day
from headend.prepayment.days import LocalDays, day_number
from headend.prepayment.errors import BadInput, UnknownPayment
from headend.prepayment.model import CHANNELS, Payment
from headend.prepayment.storage.tables import flags
from headend.prepayment.trouble.flags import clear_flag, raise_flag
from headend.prepayment.trouble.kinds import NOT_BOOKED

__all__ = ["Reconciliation", "StateSum", "clear_if_booked", "drop_told", "flag_told", "reconciliation_of"]

FLAG_AFTER = timedelta(hours=1)  # a channel tells again within minutes; then it is somebody's affair
DROP_AFTER = timedelta(minutes=10)  # until then it may be on its way between its two transactions


class StateSum(Struct, frozen=True, kw_only=True):
    """state: "booked", "unmatched" or "reversed"."""

    state: str
    currency: str
    count: int
    amount_minor: int


class Reconciliation(Struct, frozen=True, kw_only=True):
    """payments: by the channel's time, then receipt. not_booked: of the channel, whenever it began to tell them."""

    channel: str
    day: date
    payments: tuple[Payment, ...]
    sums: tuple[StateSum, ...]
    not_booked: tuple[FencedPayment, ...]


def reconciliation_of(connection: Connection, channel: str, day: date, days: LocalDays) -> Reconciliation:
    """Raises BadInput."""
    if channel not in CHANNELS:
        raise BadInput(f"channel {channel!r}; expected one of {', '.join(CHANNELS)}")
    try:
        first = day_number(day)
        start, end = (datetime.fromtimestamp(days.midnight(one), days.zone) for one in (first, first + 1))
    except (ValueError, OverflowError) as error:
        raise BadInput(f"day {day}: {error}; expected a day of this century") from error
    found = tuple(of_day(connection, channel, start, end))
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for one in found:
        key = (one.state.value, one.currency)
        count, amount = sums.get(key, (0, 0))
        sums[key] = (count + 1, amount + one.amount_minor)
    return Reconciliation(
        channel=channel,
        day=day,
        payments=found,
        sums=tuple(
            StateSum(state=state, currency=currency, count=count, amount_minor=amount)
            for (state, currency), (count, amount) in sorted(sums.items())
        ),
        not_booked=tuple(one for one in fenced(connection) if one.channel == channel),
    )


def drop_told(connection: Connection, channel: str, receipt: str, now: datetime, *, by: str) -> FencedPayment:
    """Raises UnknownPayment, BadInput while it may yet be on its way."""
    found = [one for one in fenced(connection) if (one.channel, one.receipt) == (channel, receipt)]
    if not found:
        raise UnknownPayment(channel, receipt, state="told and not booked")
    if now - found[0].since < DROP_AFTER:
        raise BadInput(
            f"receipt {receipt} of {channel} began to be told at {found[0].since:%Y-%m-%d %H:%M:%S}Z; expected that "
            f"{DROP_AFTER} pass before it is dropped, it may be on its way"
        )
    booked(connection, channel, receipt)
    clear_if_booked(connection, found[0].account)
    return found[0]


def clear_if_booked(connection: Connection, account: str) -> None:
    """Ends the flag when nothing of the account waits any more."""
    if not fenced(connection, account):
        clear_flag(connection, account, NOT_BOOKED)


def flag_told(connection: Connection, now: datetime) -> int:
    """Makes those that wait for an hour somebody's affair, and ends flags that have no reason any more; how many there were."""
    done = 0
    waiting = fenced(connection)
    for one in waiting:
        if now - one.since >= FLAG_AFTER:
            text = (
                f"{one.channel} began to tell a payment, receipt {one.receipt}, at {one.since:%Y-%m-%d %H:%M}Z and has not told it "
                f"again; nothing is disconnected until it does, or until somebody drops it"
            )
            evidence = {"channel": one.channel, "receipt": one.receipt}
            done += raise_flag(connection, one.account, NOT_BOOKED, now, text, evidence)
    names = {one.account for one in waiting}
    for account in connection.execute(select(flags.c.account).where(flags.c.kind == NOT_BOOKED)).scalars().all():
        if account not in names:
            clear_flag(connection, account, NOT_BOOKED)
            done += 1
    return done

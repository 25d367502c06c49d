"""Episodes, orders and fences as the tables keep them. Every function works inside its caller's transaction."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from headend.prepayment.accounts.accounts import account_of, meters_of, of_meter
from headend.prepayment.books.books import balance_of
from headend.prepayment.books.fences import fenced
from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.errors import NotEligible
from headend.prepayment.model import AccountState
from headend.prepayment.ports import OpenProof, OrderState, ProvenNotice
from headend.prepayment.storage.database import AT_ONCE
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.storage.tables import account_meters, orders
from headend.prepayment.supply.engine import Episode, Ordered, State

__all__ = [
    "Content",
    "Order",
    "OrderLook",
    "Row",
    "Telling",
    "add_order",
    "check_no_order",
    "is_ordered",
    "load",
    "meters_in_service",
    "meters_to_tell",
    "newest_orders",
    "note_order",
    "order_prefix",
    "orders_of",
    "restores",
    "row_of",
    "save",
    "touch",
    "touch_all",
    "void_orders",
]

ENDING = timedelta(minutes=10)  # what was sent in an order's last moment is proven, or unconfirmed, by then
_DAY = timedelta(days=1)
MADE_VOID = "void"  # our word for an order that was never known to have arrived, and that a payment has overtaken


class Telling(Struct, frozen=True, kw_only=True):
    """What the command interface is told of a credit; kept until it was told, so that a repeat says the same."""

    reference: str
    paid_at: datetime
    amount_minor: int
    currency: str
    fence: int
    since: datetime | None = None  # None: noted by a version that did not keep it


class Row(Struct, frozen=True, kw_only=True):
    """An episode with what its shell keeps beside it. orders: how often it was ordered."""

    episode: Episode
    look_at: datetime | None = None
    orders: int = 0
    telling: Telling | None = None
    is_told: bool = False
    is_new: bool = False


class Content(Struct, frozen=True, kw_only=True):
    """Of an order: the same key goes out with the same content, however often."""

    reason: str
    proof: OpenProof
    notices: tuple[ProvenNotice, ...]
    expires_at: datetime
    problem: str = ""


class Order(Struct, frozen=True, kw_only=True):
    """command: "" while the command interface is not known to have it."""

    key: str
    account: str
    meter: str
    episode: int
    command: str
    state: str
    is_final: bool
    content: Content

    @property
    def facts(self) -> Ordered:
        return Ordered(state=self.state, is_final=self.is_final, problem=self.content.problem)


class OrderLook(Struct, frozen=True, kw_only=True):
    """An order as people are shown it. command, state: "" while nobody is known to have it. problem: of a refusal."""

    meter: str
    episode: int
    command: str
    state: str
    is_final: bool
    asked_at: datetime
    changed_at: datetime
    expires_at: datetime
    problem: str


# ------------------------------------------------------------------------------------------------ episodes


def load(connection: Connection, account: str, now: datetime) -> Row:
    """Of an account that has none: well, since always."""
    row = connection.execute(select(episodes).where(episodes.c.account == account)).first()
    return row_of(row, account, now)


def row_of(row: Any, account: str, now: datetime) -> Row:
    """row: of the table, None of an account that has none."""
    if row is None:
        return Row(episode=Episode(account=account, since=from_epoch_ms(0)), is_new=True)
    since = from_epoch_ms(row.since)
    if since > now:
        since = now  # the clock was set back, and nobody waits for it to come round again
    return Row(
        episode=Episode(
            account=account,
            number=row.number,
            state=State(row.state),
            since=since,
            retry_at=None if row.retry_at is None else from_epoch_ms(row.retry_at),
            carries=row.carries,
            off_at=None if row.off_at is None else from_epoch_ms(row.off_at),
        ),
        look_at=None if row.look_at is None else from_epoch_ms(row.look_at),
        orders=row.orders,
        telling=msgspec.json.decode(row.telling, type=Telling) if row.telling else None,
        is_told=bool(row.told),
    )


def save(connection: Connection, row: Row) -> None:
    episode = row.episode
    values = {
        "account": episode.account,
        "number": episode.number,
        "state": episode.state.value,
        "since": epoch_ms(episode.since),
        "look_at": None if row.look_at is None else epoch_ms(row.look_at),
        "retry_at": None if episode.retry_at is None else epoch_ms(episode.retry_at),
        "orders": row.orders,
        "carries": episode.carries,
        "off_at": None if episode.off_at is None else epoch_ms(episode.off_at),
        "telling": "" if row.telling is None else msgspec.json.encode(row.telling).decode(),
        "told": int(row.is_told),
    }
    if row.is_new:
        connection.execute(insert(episodes), [values])
    else:
        connection.execute(update(episodes).where(episodes.c.account == episode.account).values(values))


def touch(connection: Connection, account: str, now: datetime) -> bool:
    """Something has happened to the account: it is looked at with the next tick. False where it has no episode: the round finds it."""
    found = connection.execute(update(episodes).where(episodes.c.account == account).values(look_at=epoch_ms(now)))
    return found.rowcount > 0


def touch_all(connection: Connection, accounts: Sequence[str], now: datetime) -> None:
    """Those of them that are in the middle of an episode; the others are found by the round."""
    own = episodes.c
    for start in range(0, len(accounts), AT_ONCE):
        some = accounts[start : start + AT_ONCE]
        wanted = (own.account.in_(some), own.state != State.WELL.value)
        connection.execute(update(episodes).where(*wanted).values(look_at=epoch_ms(now)))


# ------------------------------------------------------------------------------------------------ fences


def restores(
    connection: Connection, account: str, amount_minor: int, *, counted_minor: Callable[[], int] = lambda: 0
) -> bool:
    """Whether a payment is to be told to the command interface before it is booked.

    Not when the account's supply is off for certain and the payment leaves it owing: telling it would bring the supply back. No order
    can be under way then, so there is nothing that its fence would have to stop. counted_minor: what the desk counts against the
    balance beyond the books; asked only where it matters, since it goes through days that are not settled.
    """
    row = connection.execute(select(episodes.c.state).where(episodes.c.account == account)).first()
    if row is None or row.state != State.DISCONNECTED.value:
        return True
    found = account_of(connection, account)
    waiting = any(True for _ in fenced(connection, account))  # of these nobody knows here how much they are
    return waiting or balance_of(connection, account, found.currency) + amount_minor - counted_minor() >= 0


# ------------------------------------------------------------------------------------------------ meters


def meters_in_service(connection: Connection, account: str, today: date) -> list[str]:
    """Those that measure the account on this local day; of an exchange that is noted ahead, the old one."""
    found = meters_of(connection, account)
    return [one.meter for one in found if one.since <= today and (one.until is None or one.until >= today)]


def meters_to_tell(connection: Connection, account: str, today: date, *, also: Iterable[str] = ()) -> list[str]:
    """Of a credit: those that measure the account, or will, since an exchange may be noted ahead of its day; and those that an order is
    under way for. But none that is another account's: one that is taken over with a debt is that account's to switch.

    also: meters of orders that have ended.
    """
    measuring = {one.meter for one in meters_of(connection, account) if one.until is None or one.until >= today - _DAY}
    asked = _under_way(connection, account)
    return sorted(one for one in {*measuring, *asked, *also} if _is_free(connection, one, account, today))


def _is_free(connection: Connection, meter: str, account: str, today: date) -> bool:
    """Whether the meter is the account's, or nobody's. Until the day that an exchange was noted for, it is whose it measures."""
    whose = of_meter(connection, meter, on=today)
    if whose is None or account_of(connection, whose).state is AccountState.CLOSED:
        whose = of_meter(connection, meter)
    return whose in (None, account)


# ------------------------------------------------------------------------------------------------ orders


def is_ordered(connection: Connection, account: str) -> bool:
    """Whether an order may be under way, as far as is known."""
    return bool(_under_way(connection, account))


def _under_way(connection: Connection, account: str) -> set[str]:
    """Meters that an order may be under way for, however old it is and however many came after it."""
    rows = connection.execute(select(orders.c.meter, orders.c.detail).where(orders.c.account == account))
    return {meter for meter, detail in rows if not msgspec.json.decode(detail, type=_Ended).is_final}


def check_no_order(connection: Connection, meters: Iterable[str], now: datetime) -> None:
    """A meter changes hands only when no order can reach it any more. Raises NotEligible."""
    for meter in meters:
        whose = select(account_meters.c.account).where(account_meters.c.meter == meter)
        for row in connection.execute(select(orders).where(orders.c.account.in_(whose), orders.c.meter == meter)):
            order = _order(row)
            until = order.content.expires_at + ENDING
            # One that was never answered may have arrived all the same.
            if now < until and (not order.is_final or order.state == MADE_VOID):
                raise NotEligible(
                    f"meter {meter!r} may still be switched by an order for account {order.account!r}; expected that it "
                    f"has ended: try again then, at {until:%Y-%m-%d %H:%M}Z at the latest"
                )


def orders_of(connection: Connection, account: str, episode: int, number: int) -> list[Order]:
    """Those of the episode's order with that number, one a meter."""
    prefix = order_prefix(account, episode, number)
    statement = select(orders).where(orders.c.account == account, orders.c.episode == episode).order_by(orders.c.key)
    return [_order(row) for row in connection.execute(statement) if row.key.startswith(prefix)]


def newest_orders(connection: Connection, account: str, *, limit: int = 20) -> list[OrderLook]:
    """The newest first; to be shown, and not to decide on."""
    statement = select(orders).where(orders.c.account == account).order_by(orders.c.asked_at.desc(), orders.c.key)
    found = []
    for row in connection.execute(statement.limit(limit)):
        order = _order(row)
        found.append(
            OrderLook(
                meter=order.meter,
                episode=order.episode,
                command=order.command,
                state=order.state,
                is_final=order.is_final,
                asked_at=from_epoch_ms(row.asked_at),
                changed_at=from_epoch_ms(row.changed_at),
                expires_at=order.content.expires_at,
                problem=order.content.problem,
            )
        )
    return found


def order_prefix(account: str, episode: int, number: int) -> str:
    return f"prepaid:{account}:{episode}:{number}:"


def add_order(connection: Connection, order: Order, now: datetime) -> None:
    at = epoch_ms(now)
    row = {
        "key": order.key,
        "account": order.account,
        "meter": order.meter,
        "kind": "open",
        "episode": order.episode,
        "command": order.command,
        "state": order.state,
        "asked_at": at,
        "changed_at": at,
        "detail": _detail(order.content, order.is_final),
    }
    connection.execute(insert(orders), [row])


def note_order(connection: Connection, order: Order, told: OrderState, now: datetime) -> None:
    """What the command interface says of it now."""
    content = msgspec.structs.replace(order.content, problem=told.problem)
    values = {
        "command": told.command,
        "state": told.state,
        "changed_at": epoch_ms(now),
        "detail": _detail(content, told.is_final),
    }
    connection.execute(update(orders).where(orders.c.key == order.key).values(values))


def void_orders(connection: Connection, some: Sequence[Order], now: datetime) -> None:
    """They were perhaps never heard, and are not to be sent any more."""
    for order in some:
        if not order.command and not order.is_final:
            note_order(connection, order, OrderState(command="", state=MADE_VOID, is_final=True), now)


class _Detail(Struct, frozen=True):
    content: Content
    is_final: bool


class _Ended(Struct, frozen=True):
    """Of a `_Detail` the one thing, without the rest."""

    is_final: bool


def _detail(content: Content, is_final: bool) -> str:
    return msgspec.json.encode(_Detail(content, is_final)).decode()


def _order(row: Any) -> Order:
    detail = msgspec.json.decode(row.detail, type=_Detail)
    return Order(
        key=row.key,
        account=row.account,
        meter=row.meter,
        episode=row.episode,
        command=row.command,
        state=row.state,
        is_final=detail.is_final,
        content=detail.content,
    )

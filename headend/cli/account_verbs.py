"""The commands of `headend account` as a table: what is typed, how its text is read, and which request it becomes."""

import enum
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from headend.cli import account_show as show

__all__ = ["REQUIRED", "TARIFF_VERBS", "VERBS", "Kind", "Place", "Typed", "Verb"]

REQUIRED: Any = ...


class Kind(enum.Enum):
    """How a text is read. MONEY: 12.34 of the account's currency. KEY: a new one where none is typed. USES: OBIS=KWH, several."""

    TEXT = "TEXT"
    MANY = "TEXT…"
    YES = "YES"
    COUNT = "NUMBER"
    DAY = "YYYY-MM-DD"
    MONTH = "YYYY-MM"
    MOMENT = "TIME"
    MONEY = "AMOUNT"
    KEY = "KEY"
    SECRET = "SECRET"
    USES = "OBIS=KWH"


class Place(enum.Enum):
    """LOCAL: is no part of the request, and says how another part is read."""

    PATH = "path"
    QUERY = "query"
    BODY = "body"
    LOCAL = "local"


class Typed(Struct, frozen=True, kw_only=True):
    """name: of the parameter, an argument or an `--option`. key: in the request, the name without one."""

    name: str
    help: str
    kind: Kind = Kind.TEXT
    place: Place = Place.BODY
    key: str = ""
    default: Any = REQUIRED
    is_option: bool = True


class Verb(Struct, frozen=True, kw_only=True):
    """method, path: of the request; path with the names of what is typed. expected: a member that a good answer has."""

    name: str
    says: str
    method: str
    path: str
    expected: str
    show: Callable[[dict[str, Any]], None]
    typed: tuple[Typed, ...] = ()


def _argument(
    name: str, help_: str, kind: Kind = Kind.TEXT, place: Place = Place.PATH, default: Any = REQUIRED
) -> Typed:
    return Typed(name=name, help=help_, kind=kind, place=place, default=default, is_option=False)


def _option(name: str, help_: str, kind: Kind = Kind.TEXT, default: Any = REQUIRED, *, key: str = "") -> Typed:
    return Typed(name=name, help=help_, kind=kind, default=default, key=key)


def _asked(name: str, help_: str, kind: Kind = Kind.TEXT, default: Any = "", *, key: str = "") -> Typed:
    return Typed(name=name, help=help_, kind=kind, place=Place.QUERY, default=default, key=key)


_ACCOUNT = _argument("account", "Customer number.")
_AN_ACCOUNT = _argument("account", "Customer number.", place=Place.BODY)
_CHANNELS = "app, bank, counter, collection-point, agent or bank-debit."
_CHANNEL = _argument("channel", _CHANNELS)
_RECEIPT = _argument("receipt", "The channel's own number.")
_REASON = _option("reason", "Why.")
_KEY = _option("key", "The same one again books nothing again; without it a new one.", Kind.KEY, None)
_CURRENCY = Typed(name="currency", help="ISO 4217; without it that of the account.", place=Place.LOCAL, default=None)
_LIMIT = _asked("limit", "How many at most.", Kind.COUNT, 200)
_BY_CASHIER = "Needs a token with role cashier or admin."
_BY_ADMIN = "Needs a token with role admin."
_ONE = "/v1/accounts/{account}"


def _amount(help_: str, name: str = "amount", default: Any = REQUIRED) -> Typed:
    return _option(name, help_, Kind.MONEY, default, key=f"{name}_minor")


VERBS: tuple[Verb, ...] = (
    Verb(
        name="list",
        says="Accounts by customer number: all, or those in which a text is found (number, name, phone, meter, premises).",
        method="GET",
        path="/v1/accounts",
        expected="accounts",
        show=show.accounts,
        typed=(
            _argument("search", "Any part of it.", place=Place.QUERY, default=""),
            _asked("after", "Only those behind this customer number."),
            _asked("limit", "How many at most.", Kind.COUNT, 50),
        ),
    ),
    Verb(
        name="show",
        says="An account in one look.",
        method="GET",
        path=_ONE,
        expected="standing",
        show=show.account,
        typed=(_ACCOUNT,),
    ),
    Verb(
        name="enrol",
        says=f"An account that waits for its agreement, which is sent to the customer. {_BY_CASHIER}",
        method="POST",
        path="/v1/accounts",
        expected="standing",
        show=show.account,
        typed=(
            _AN_ACCOUNT,
            _option("customer", "Who it is, by the number he is known by."),
            _option("name", "As in the document."),
            _option(
                "identity",
                "Number of the document; without it it is asked for, or read from standard input.",
                Kind.SECRET,
                None,
            ),
            _option("premises", "Their number."),
            _option("address", "Where they are."),
            _option("meter", "Asset number; may be given several times.", Kind.MANY, key="meters"),
            _option("phone", "Where notices go."),
            _option("tariff", "Name of the tariff."),
            _amount("Below it the first notice goes out.", "reminder"),
            _amount("What the bank draws then.", "topup", "0"),
            _option("bank", "Reference of the agreement with the bank.", default=""),
            _option("currency", "ISO 4217.", default="CNY"),
            _option("language", "zh or en.", default="zh"),
            _option("large-household", "Five people or more.", Kind.YES, False, key="is_large_household"),
            _option("landlord", "Customer who lets the premises.", default=""),
        ),
    ),
    Verb(
        name="confirm",
        says=f"The customer has agreed: days are charged from now on. {_BY_CASHIER}",
        method="POST",
        path=_ONE + "/confirm",
        expected="standing",
        show=show.account,
        typed=(
            _ACCOUNT,
            _option("from", "First day that is charged; without it today.", Kind.DAY, None, key="opens_on"),
        ),
    ),
    Verb(
        name="contact",
        says=f"A new number for notices. {_BY_CASHIER}",
        method="PUT",
        path=_ONE + "/contact",
        expected="standing",
        show=show.account,
        typed=(
            _ACCOUNT,
            _argument("phone", "11 digits, or + and country code.", place=Place.BODY),
            _option("language", "zh or en; without it as it is.", default=None),
        ),
    ),
    Verb(
        name="holder",
        says=f"Another head of household. {_BY_ADMIN}",
        method="PUT",
        path=_ONE + "/holder",
        expected="standing",
        show=show.account,
        typed=(
            _ACCOUNT,
            _argument("customer", "The number he is known by.", place=Place.BODY),
            _option("name", "Of somebody who is no customer yet.", default=""),
            _option("identity", "Number of his document.", default=""),
        ),
    ),
    Verb(
        name="amounts",
        says=f"Below what the first notice goes out, and what the bank draws then. {_BY_ADMIN}",
        method="PUT",
        path=_ONE + "/amounts",
        expected="standing",
        show=show.account,
        typed=(
            _ACCOUNT,
            _amount("Below it the first notice goes out.", "reminder"),
            _amount("What the bank draws then.", "topup", "0"),
            _option("bank", "Reference of the agreement with the bank.", default=""),
            _CURRENCY,
        ),
    ),
    Verb(
        name="tariff",
        says=f"Another tariff, from the first day that is not charged yet. {_BY_ADMIN}",
        method="PUT",
        path=_ONE + "/tariff",
        expected="standing",
        show=show.account,
        typed=(_ACCOUNT, _argument("tariff", "Its name.", place=Place.BODY)),
    ),
    Verb(
        name="exchange",
        says=f"Another meter measures from a day on. {_BY_ADMIN}",
        method="POST",
        path=_ONE + "/meter-exchange",
        expected="standing",
        show=show.account,
        typed=(
            _ACCOUNT,
            _argument("old", "Asset number.", place=Place.BODY),
            _argument("new", "Asset number.", place=Place.BODY),
            _argument("day", "First day of the new one.", Kind.DAY, Place.BODY),
        ),
    ),
    Verb(
        name="move-out",
        says=f"The last day that is charged; the account is closed when all its days are settled. {_BY_ADMIN}",
        method="POST",
        path=_ONE + "/move-out",
        expected="last_day",
        show=show.move_out,
        typed=(_ACCOUNT, _argument("last_day", "Local day.", Kind.DAY, Place.BODY)),
    ),
    Verb(
        name="hold",
        says=f"Not to be disconnected, whatever is owed. {_BY_ADMIN}",
        method="POST",
        path=_ONE + "/hold",
        expected="standing",
        show=show.account,
        typed=(_ACCOUNT, _REASON),
    ),
    Verb(
        name="release",
        says=f"End a hold, or take another flag away that somebody has looked at. {_BY_ADMIN}",
        method="DELETE",
        path=_ONE + "/flags/{flag}",
        expected="standing",
        show=show.account,
        typed=(_ACCOUNT, _argument("flag", "Which.", default="hold")),
    ),
    Verb(
        name="pay",
        says=f"Tell of money that was taken; the same receipt again books nothing again. {_BY_CASHIER}",
        method="POST",
        path="/v1/payments",
        expected="payment",
        show=show.payment,
        typed=(
            _AN_ACCOUNT,
            _amount("Such as 100.00."),
            _option("receipt", "The channel's own number."),
            _option("channel", _CHANNELS, default="counter"),
            _option(
                "paid-at", "The channel's own time, with its zone; without it now.", Kind.MOMENT, None, key="paid_at"
            ),
            _option("currency", "ISO 4217; without it that of the account.", default=None),
        ),
    ),
    Verb(
        name="reverse",
        says=f"The channel took a payment back. {_BY_ADMIN}",
        method="POST",
        path="/v1/payments/{channel}/{receipt}/reversal",
        expected="payment",
        show=show.payment,
        typed=(_CHANNEL, _RECEIPT, _REASON),
    ),
    Verb(
        name="assign",
        says=f"An unmatched payment was this account's. {_BY_ADMIN}",
        method="POST",
        path="/v1/payments/{channel}/{receipt}/assignment",
        expected="payment",
        show=show.payment,
        typed=(_CHANNEL, _RECEIPT, _AN_ACCOUNT),
    ),
    Verb(
        name="drop",
        says=f"The channel has no such payment: what was told of it holds up nothing any more. {_BY_ADMIN}",
        method="DELETE",
        path="/v1/payments/{channel}/{receipt}/telling",
        expected="receipt",
        show=show.dropped,
        typed=(_CHANNEL, _RECEIPT),
    ),
    Verb(
        name="unmatched",
        says=f"Money that is nobody's yet, and payments that were told and never booked. {_BY_CASHIER}",
        method="GET",
        path="/v1/payments/unmatched",
        expected="told",
        show=show.unmatched,
    ),
    Verb(
        name="reconcile",
        says=f"What a channel told of a day, and its sums. {_BY_CASHIER}",
        method="GET",
        path="/v1/payments/reconciliation",
        expected="sums",
        show=show.reconciliation,
        typed=(
            _argument("channel", _CHANNELS, place=Place.QUERY),
            _argument("day", "Local day, by the channel's own times.", Kind.DAY, Place.QUERY),
        ),
    ),
    Verb(
        name="statement",
        says="The statement of a month.",
        method="GET",
        path=_ONE + "/statement",
        expected="closing_minor",
        show=show.statement,
        typed=(_ACCOUNT, _argument("month", "Such as 2026-03; without it the newest.", Kind.MONTH, Place.QUERY, "")),
    ),
    Verb(
        name="daily",
        says="What was used day by day, and what it cost.",
        method="GET",
        path=_ONE + "/daily",
        expected="days",
        show=show.daily,
        typed=(
            _ACCOUNT,
            _asked("from", "First day; without it the 1st of last month.", Kind.DAY, ""),
            _asked("until", "The day behind the last one; without it tomorrow.", Kind.DAY, ""),
        ),
    ),
    Verb(
        name="notices",
        says="What the customer was told, and whether it arrived; the newest first.",
        method="GET",
        path=_ONE + "/notices",
        expected="notices",
        show=show.notices,
        typed=(_ACCOUNT, _LIMIT),
    ),
    Verb(
        name="payments",
        says="What was paid for an account, and what it earned.",
        method="GET",
        path=_ONE + "/payments",
        expected="payments",
        show=show.payments,
        typed=(_ACCOUNT,),
    ),
    Verb(
        name="entries",
        says="The newest entries of an account's book.",
        method="GET",
        path=_ONE + "/entries",
        expected="entries",
        show=show.entries,
        typed=(_ACCOUNT, _LIMIT),
    ),
    Verb(
        name="debits",
        says="What the bank was asked to draw.",
        method="GET",
        path=_ONE + "/debits",
        expected="debits",
        show=show.debits,
        typed=(_ACCOUNT,),
    ),
    Verb(
        name="why",
        says="Why the supply would not be disconnected now.",
        method="GET",
        path=_ONE + "/obstacles",
        expected="obstacles",
        show=show.obstacles,
        typed=(_ACCOUNT,),
    ),
    Verb(
        name="adjust",
        says=f"Correct the books by hand: more to the customer's credit, or with - less of it. {_BY_ADMIN}",
        method="POST",
        path=_ONE + "/adjustments",
        expected="number",
        show=show.booked,
        typed=(_ACCOUNT, _amount("Such as 12.34, or -12.34."), _option("note", "Why."), _KEY, _CURRENCY),
    ),
    Verb(
        name="refund",
        says=f"Money that was given back to the customer. {_BY_ADMIN}",
        method="POST",
        path=_ONE + "/refunds",
        expected="number",
        show=show.booked,
        typed=(_ACCOUNT, _amount("Such as 12.34."), _option("note", "How."), _KEY, _CURRENCY),
    ),
    Verb(
        name="token",
        says=f"A token with which the customer sees this account, shown once; those before stop. {_BY_CASHIER}",
        method="POST",
        path=_ONE + "/tokens",
        expected="token",
        show=show.token,
        typed=(_ACCOUNT,),
    ),
    Verb(
        name="landlord",
        says="What a landlord may know of the tenants' accounts.",
        method="GET",
        path="/v1/landlords/{customer}/accounts",
        expected="accounts",
        show=show.landlord,
        typed=(_argument("customer", "The number he is known by."),),
    ),
    Verb(
        name="use",
        says=f"Tell what a meter counted on a day for which no read will ever come. {_BY_ADMIN}",
        method="POST",
        path="/v1/meter-use",
        expected="used",
        show=show.use,
        typed=(
            _argument("meter", "Asset number.", place=Place.BODY),
            _argument("day", "Local day.", Kind.DAY, Place.BODY),
            _argument("used", "Such as 1-0:1.8.0=12.5.", Kind.USES, Place.BODY),
            _option("note", "How it is known."),
        ),
    ),
)

TARIFF_VERBS: tuple[Verb, ...] = (
    Verb(
        name="list",
        says="Tariffs that accounts may have.",
        method="GET",
        path="/v1/tariffs",
        expected="tariffs",
        show=show.tariffs,
    ),
    Verb(
        name="show",
        says="A tariff in words, all its versions.",
        method="GET",
        path="/v1/tariffs/{name}",
        expected="words",
        show=show.words,
        typed=(_argument("name", "Its name."), _asked("language", "en or zh.", default="en")),
    ),
)

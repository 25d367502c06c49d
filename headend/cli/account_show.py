"""How answers about accounts look on a terminal. Money is shown in the currency's main unit."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from rich.markup import escape
from rich.table import Table

from headend.cli.output import print_table, stderr, stdout
from headend.prepayment.money import MINOR_DIGITS, shown

__all__ = [
    "account",
    "accounts",
    "booked",
    "daily",
    "debits",
    "dropped",
    "entries",
    "landlord",
    "move_out",
    "notices",
    "obstacles",
    "payment",
    "payments",
    "reconciliation",
    "statement",
    "tariffs",
    "token",
    "unmatched",
    "use",
    "words",
]

Body = dict[str, Any]
_COLOURS = {"booked": "green", "unmatched": "yellow", "reversed": "red", "delivered": "green", "undeliverable": "red"}


def accounts(body: Body) -> None:
    _table(
        ("account", "state", "available", "", "supply", "name", "phone", "meters", "address", "flags"),
        (
            (
                one["id"],
                one["state"],
                _signed(one["available_minor"], one["currency"]),
                one["currency"],
                _off(one["supply"], one["is_off"]),
                escape(one["name"]),
                one["phone"],
                escape(", ".join(one["meters"])),
                escape(one["address"]),
                ", ".join(one["flags"]),
            )
            for one in body["accounts"]
        ),
        nothing="there is none",
    )
    if body["next"]:
        stderr.print(f"there are more: --after {escape(body['next'])}")


def account(body: Body) -> None:
    own, currency = body["standing"], body["currency"]
    holder, contact, supply = body["holder"], body["contact"], body["supply"]
    reach = "" if contact["is_reachable"] else ", [red]not reachable[/]"
    lines = [
        ("account", f"{body['id']}, {body['state']} since {body['opened_on']}" + _until(body["closed_on"])),
        (
            "holder",
            f"{escape(holder['name'])} ({escape(holder['customer'])}), document …{escape(holder['identity_tail'])}",
        ),
        ("premises", f"{escape(body['premises']['address'])} ({escape(body['premises']['id'])})"),
        (
            "meters",
            escape(", ".join(f"{one['meter']} since {one['since']}{_until(one['until'])}" for one in body["meters"])),
        ),
        ("contact", f"{contact['phone']}, {contact['language']}{reach}"),
        ("tariff", escape(body["tariff"])),
        ("available", f"{_signed(own['available_minor'], currency)} {currency}" + _days_left(own)),
        ("owed", _money(own["owed_minor"], currency)),
        ("this month", f"{own['month_kwh']} kWh"),
        ("charged", _money(own["charged_minor"], currency)),
        ("paid", _money(own["paid_minor"], currency)),
        ("charged to", own["settled_through"] or "nothing yet"),
        ("reminder", f"below {_money(body['reminder_minor'], currency)}" + _topup(body)),
        ("supply", _off(supply["state"], supply["is_off"]) + f" since {supply['since'][:19]}"),
    ]
    for name, text in lines:
        stdout.print(f"{name:<11} {text}")
    for one in own["unsettled"]:
        stdout.print(f"[yellow]not charged[/] {one['day']}: {escape(one['reason'])}")
    for kind, text in sorted(body["flags"].items()):
        stdout.print(f"[yellow]{escape(kind)}[/]: {escape(text)}")
    if body["move_out"] is not None:
        move_out(body["move_out"])
    for one in body["changes"]:
        moved = " → ".join(text for text in (one["before"], one["after"]) if text)
        stdout.print(f"{one['at'][:19]} {escape(one['by'])}: {one['what']} {escape(moved)}")


def move_out(body: Body) -> None:
    state = "waits" if body["done_at"] is None else f"done at {body['done_at'][:19]}"
    stdout.print(f"moves out: the last day is {body['last_day']}; {state}")


def payment(body: Body) -> None:
    one = body["payment"]
    whose = escape(one["booked_for"] or "nobody")
    again = ", known already: nothing happened again" if body["is_repeat"] else ""
    stdout.print(f"{_state(one['state'])} {_money(one['amount_minor'], one['currency'])} for {whose}{again}")
    if one["problem"]:
        stdout.print(f"  {escape(one['problem'])}")
    if body["next_step"]:
        typed = escape(f"headend account assign {one['channel']} {one['receipt']} ACCOUNT")
        stderr.print(f"  the money is kept: `{typed}` gives it to an account")


def payments(body: Body) -> None:
    _payments(body["payments"], "nothing was paid")


def unmatched(body: Body) -> None:
    _payments(body["payments"], "no payment is unmatched")
    _told(body["told"])


def reconciliation(body: Body) -> None:
    _payments(body["payments"], f"{body['channel']} told nothing of {body['day']}")
    for one in body["sums"]:
        stdout.print(f"{_state(one['state'])}: {one['count']}, {_money(one['amount_minor'], one['currency'])}")
    _told(body["told"])


def dropped(body: Body) -> None:
    stdout.print(f"{escape(body['channel'])} receipt {escape(body['receipt'])} holds up nothing any more")


def statement(body: Body) -> None:
    currency = body["currency"]
    final = "" if body["is_final"] else ", [yellow]not final[/]"
    stdout.print(f"account {body['account']}, {body['month']}{final}: {escape(body['address'])}")
    for name in ("opening", "charged", "paid", "other", "closing"):
        stdout.print(f"  {name:<8} {shown(body[name + '_minor'], currency):>12} {currency}")
    stdout.print(f"  used     {body['use']['kwh']:>12} kWh, last month {body['last_month']['kwh']} kWh")
    _table(
        ("what", "kWh", "price", currency),
        (
            (escape(one["what"]), one["kwh"] or "", one["price"], _exact(one["exact_minor"], currency))
            for one in body["totals"]
        ),
    )
    _entries([one["entry"] for one in body["entries"]])
    for one in body["unsettled"]:
        stdout.print(f"[yellow]not charged[/] {one['day']}: {escape(one['reason'])}")


def daily(body: Body) -> None:
    currency = body["currency"]
    _table(
        ("day", "since", "kWh", "charged", "", "tariff"),
        (
            (
                one["day"],
                "" if one["since"] == one["day"] else one["since"],
                one["kwh"],
                shown(one["booked_minor"], currency),
                currency,
                escape(f"{one['tariff']} {one['version']}"),
            )
            for one in body["days"]
        ),
        nothing="no day is charged",
    )
    for name, said in (("this", "this month"), ("last_so_far", "last month by then"), ("last", "all of last month")):
        month = body["comparison"][name]
        stdout.print(
            f"{said}: {month['kwh']} kWh in {month['days']} days, {_exact(month['exact_minor'], currency)} {currency}"
        )


def notices(body: Body) -> None:
    _table(
        ("made", "kind", "state", "to", "delivered", "channel", "reference", "text", "problem"),
        (
            (
                one["created_at"][:19],
                one["kind"],
                _state(one["state"]),
                one["phone"],
                (one["delivered_at"] or "")[:19],
                escape(one["channel"]),
                escape(one["reference"]),
                escape(one["text"]),
                escape(one["problem"]),
            )
            for one in body["notices"]
        ),
        nothing="the customer was told nothing",
    )


def entries(body: Body) -> None:
    _entries(body["entries"], nothing="nothing is booked")


def debits(body: Body) -> None:
    _table(
        ("day", "amount", "state", "tries", "next try", "key", "problem"),
        (
            (
                one["day"],
                _money(one["amount_minor"], body["currency"]),
                one["state"],
                str(one["tries"]),
                (one["next_try_at"] or "")[:19],
                escape(one["key"]),
                escape(one["problem"]),
            )
            for one in body["debits"]
        ),
        nothing="the bank was asked for nothing",
    )


def obstacles(body: Body) -> None:
    for one in body["obstacles"]:
        stdout.print(escape(one))
    if not body["obstacles"]:
        stdout.print("[yellow]nothing here stands against it[/]; the switch has the last word")


def booked(body: Body) -> None:
    stdout.print(f"entry {body['number']}" + (", known already: nothing was booked again" if body["is_repeat"] else ""))


def token(body: Body) -> None:
    stdout.print(body["token"])
    stderr.print(escape(f"token {body['name']!r} sees account {body['account']} only; it is not shown again"))
    for name in body["revoked"]:
        stderr.print(escape(f"token {name!r} is revoked"))


def landlord(body: Body) -> None:
    _table(
        (
            "account",
            "premises",
            "since",
            "until",
            "available",
            "this month",
            "kWh",
            "last day",
            "kWh",
            "today",
            "until",
            "days left",
        ),
        (
            (
                one["account"],
                escape(one["premises"]),
                one["since"],
                one["until"] or "",
                _signed(one["available_minor"], one["currency"]),
                _money(one["month_minor"], one["currency"]),
                one["month_kwh"],
                one["last_day"] or "",
                one["day_kwh"] or "",
                one["today_kwh"] or "",
                (one["today_until"] or "")[:19],
                "" if one["days_left"] is None else str(one["days_left"]),
            )
            for one in body["accounts"]
        ),
        nothing="no tenancy is known",
    )


def use(body: Body) -> None:
    told = ", ".join(f"{obis} {kwh} kWh" for obis, kwh in body["used"].items())
    stdout.print(escape(f"{body['meter']} on {body['day']}: {told}; charged with the next settlement"))


def tariffs(body: Body) -> None:
    for name in body["tariffs"]:
        stdout.print(escape(name))


def words(body: Body) -> None:
    for line in body["words"]:
        stdout.print(escape(line))


# ------------------------------------------------------------------------------------------------ parts


def _payments(found: Sequence[Body], nothing: str) -> None:
    has_earned = any("earned" in one for one in found)
    _table(
        ("paid", "state", "amount", "channel", "receipt", "told for", "booked for", "problem")
        + (("earned",) if has_earned else ()),
        (
            (
                one["paid_at"][:19],
                _state(one["state"]),
                _money(one["amount_minor"], one["currency"]),
                one["channel"],
                escape(one["receipt"]),
                escape(one["account"]),
                escape(one["booked_for"]),
                escape(one["problem"]),
                *([_earned(one)] if has_earned else []),
            )
            for one in found
        ),
        nothing=nothing,
    )


def _earned(payment: Body) -> str:
    earned = payment.get("earned")
    if earned is None:
        return ""
    parts = [f"{earned['points']} points"] if earned["points"] else []
    if earned["bonus_minor"]:
        parts.append(f"{_money(earned['bonus_minor'], payment['currency'])} bonus")
    told = ", ".join(parts)
    return f"[red]taken back[/]: {told}" if earned["is_taken_back"] else told


def _told(found: Sequence[Body]) -> None:
    for one in found:
        stdout.print(
            f"[yellow]told, not booked[/]: {escape(one['channel'])} receipt {escape(one['receipt'])} for {escape(one['account'])}, "
            f"since {one['since'][:19]}"
        )


def _entries(found: Sequence[Body], nothing: str = "") -> None:
    _table(
        ("number", "day", "cause", "moved", "", "reference", "note"),
        (
            (
                str(one["number"]),
                one["day"],
                one["cause"],
                _signed(one["moved_minor"], one["currency"]),
                one["currency"],
                escape(one["reference"]),
                escape(one["note"]),
            )
            for one in found
        ),
        nothing=nothing,
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, nothing: str = "") -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        print_table(table)
    elif nothing:
        stdout.print(nothing)


def _money(minor: int, currency: str) -> str:
    return f"{shown(minor, currency)} {currency}"


def _signed(minor: int, currency: str) -> str:
    return f"[red]{shown(minor, currency)}[/]" if minor < 0 else shown(minor, currency)


def _exact(minor: str, currency: str) -> str:
    """Decimal text in minor units, as many digits as a price has."""
    return f"{Decimal(minor).scaleb(-MINOR_DIGITS[currency]):.4f}"


def _state(state: str) -> str:
    return f"[{_COLOURS.get(state, 'default')}]{state}[/]"


def _off(state: str, is_off: bool) -> str:
    return f"[red]{state}, supply off[/]" if is_off else state


def _until(day: str | None) -> str:
    return "" if day is None else f" to {day}"


def _days_left(standing: Body) -> str:
    left = standing["days_left"]
    return "" if left is None else f", {left} days left"


def _topup(body: Body) -> str:
    return f", the bank draws {_money(body['topup_minor'], body['currency'])}" if body["topup_minor"] else ""

"""What the daily use says of itself: a sudden increase, and energy that flows although the supply is off.

A sudden increase is a leak, a theft, a heater that was left on. People use much more on single days for good reasons, so the rule
asks for three days in a row, each two and a half times as much as the greatest day of the three months before: an ordinary household
does not do that, not even when it comes home from its holidays or when the first hot days come, and a heater of 2 kW left on does. It
is told once.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct
from sqlalchemy import Connection, delete, or_, select

from headend.prepayment.accounts.accounts import account_of
from headend.prepayment.days import LocalDays, day_number, day_of, epoch_ms, from_epoch_ms
from headend.prepayment.ports import Supply
from headend.prepayment.settlement.daily import daily_use
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.storage.tables import account_meters, meter_days, off_meters
from headend.prepayment.trouble.flags import clear_flag, flags_of, raise_flag
from headend.prepayment.trouble.kinds import INCREASE, USE_WHILE_DISCONNECTED
from headend.prepayment.usage.heard import decode_day

__all__ = [
    "Found",
    "UseOfDay",
    "find_increase",
    "find_while_off",
    "look_at",
    "look_at_off",
    "meters_to_ask",
]

USUAL_DAYS = 28  # at least: four of each weekday
USUAL_DAYS_MAX = 90  # so that whoever comes home after a month away is not told of it
DAYS_IN_A_ROW = 3
TIMES = Decimal("2.5")  # of the greatest usual day; at 2.2 one simulated house in 150 had a false alarm in a year
LEAST_KWH = Decimal(8)  # more than the greatest usual day: a third of a kilowatt, all day long
OFF_KWH = Decimal("0.1")  # a register may show a last digit that was counted before the contact opened


class UseOfDay(Struct, frozen=True):
    """A day that is known by itself; stretches of several days say nothing of any one of them."""

    day: date
    kwh: Decimal


class Found(Struct, frozen=True, kw_only=True):
    """kwh: what was used. day: on which one, None where it was on several. evidence: what it rests on, for whoever looks."""

    account: str
    rule: str
    text: str
    kwh: Decimal
    day: date | None = None
    evidence: dict[str, str]


def find_increase(account: str, uses: Sequence[UseOfDay]) -> Found | None:
    """uses: by day; the newest last."""
    recent, usual = uses[-DAYS_IN_A_ROW:], uses[-DAYS_IN_A_ROW - USUAL_DAYS_MAX : -DAYS_IN_A_ROW]
    if len(usual) < USUAL_DAYS or (recent[-1].day - recent[0].day).days != DAYS_IN_A_ROW - 1:
        return None
    most = max(use.kwh for use in usual)
    limit = max(most * TIMES, most + LEAST_KWH)
    if any(use.kwh <= limit for use in recent):
        return None
    average = sum((use.kwh for use in usual), Decimal(0)) / len(usual)
    return Found(
        account=account,
        rule=INCREASE,
        text=(
            f"{recent[-1].kwh} kWh on {recent[-1].day}, and more than {limit:.1f} kWh on each of {DAYS_IN_A_ROW} days; in the "
            f"{len(usual)} days before no day had more than {most}. Look for a leak, a heater left on, or somebody else's cable"
        ),
        kwh=recent[-1].kwh,
        day=recent[-1].day,
        evidence={
            "since": recent[0].day.isoformat(),
            "day": recent[-1].day.isoformat(),
            "kwh": str(recent[-1].kwh),
            "usual_most_kwh": str(most),
            "usual_average_kwh": f"{average:.2f}",
            "limit_kwh": f"{limit:.2f}",
            "usual_days": str(len(usual)),
        },
    )


def find_while_off(
    account: str, meter: str, off_since: datetime, uses: Iterable[UseOfDay], days: LocalDays
) -> Found | None:
    """Of days that lie wholly after the supply was off."""
    moved = [use for use in uses if use.day > days.today(off_since) and use.kwh > OFF_KWH]
    if not moved:
        return None
    total = sum((use.kwh for use in moved), Decimal(0))
    return Found(
        account=account,
        rule=USE_WHILE_DISCONNECTED,
        text=(
            f"meter {meter} counted {total} kWh on {len(moved)} days although its supply is off since {off_since:%Y-%m-%d %H:%M} UTC: "
            f"a contact that does not part, or a bridge around it"
        ),
        kwh=total,
        evidence={
            "meter": meter,
            "off_since": off_since.isoformat(),
            "first_day": moved[0].day.isoformat(),
            "days": str(len(moved)),
            "kwh": str(total),
        },
    )


def look_at(connection: Connection, account: str, now: datetime, days: LocalDays) -> Found | None:
    """After an account's day was settled: raises or clears its flag; gives what is new to be told."""
    today = days.today(now)
    since = max(account_of(connection, account).opened_on, today - timedelta(days=USUAL_DAYS_MAX + DAYS_IN_A_ROW))
    uses = [UseOfDay(use.day, use.kwh) for use in daily_use(connection, account, since, today) if use.since == use.day]
    found = find_increase(account, uses) if uses else None
    held = INCREASE in flags_of(connection, account)
    if found is None:
        if held and _is_usual(uses):
            clear_flag(connection, account, INCREASE)
        return None
    if held:
        return None
    raise_flag(connection, account, INCREASE, now, found.text, found.evidence)
    return found


def look_at_off(
    connection: Connection,
    meters: Iterable[tuple[str, str]],
    supplies: Mapping[str, Supply],
    now: datetime,
    days: LocalDays,
) -> list[Found]:
    """meters: account and meter of those that were ordered off. supplies: of the meters that could be asked.

    Off since it was first seen so: days before that say nothing.
    """
    news = []
    for account, meter in meters:
        supply = supplies.get(meter, "unknown")
        row = connection.execute(select(off_meters).where(off_meters.c.meter == meter)).first()
        if supply == "on":
            connection.execute(delete(off_meters).where(off_meters.c.meter == meter))
            clear_flag(connection, account, USE_WHILE_DISCONNECTED)
        if supply != "off":
            continue
        if row is None:
            put_rows(connection, off_meters, [(meter, epoch_ms(now))])
            continue
        since = from_epoch_ms(row.since)
        found = find_while_off(account, meter, since, _meter_uses(connection, meter, since, now, days), days)
        if found is not None and USE_WHILE_DISCONNECTED not in flags_of(connection, account):
            raise_flag(connection, account, USE_WHILE_DISCONNECTED, now, found.text, found.evidence)
            news.append(found)
    return news


def meters_to_ask(connection: Connection, today: date) -> list[tuple[str, str]]:
    """Account and meter of those in service whose supply was ordered or seen off, and is not known to be back; for `look_at_off`."""
    ordered_off = select(episodes.c.account).where(episodes.c.off_at.is_not(None))
    own, day = account_meters.c, day_number(today)
    statement = (
        select(own.account, own.meter)
        .where(own.since <= day, or_(own.until.is_(None), own.until >= day))
        .where(or_(own.account.in_(ordered_off), own.meter.in_(select(off_meters.c.meter))))
        .order_by(own.account, own.meter)
    )
    return [(account, meter) for account, meter in connection.execute(statement)]


def _meter_uses(connection: Connection, meter: str, since: datetime, now: datetime, days: LocalDays) -> list[UseOfDay]:
    """The total register's whole days, as the feed told them; charged or not."""
    first, last = day_number(days.today(since)), day_number(days.today(now))
    first = max(first, last - USUAL_DAYS_MAX)
    statement = select(meter_days).where(meter_days.c.meter == meter, meter_days.c.day.in_(range(first, last)))
    found = []
    for row in connection.execute(statement.order_by(meter_days.c.day)):
        own = [told for told in decode_day(row.body) if told.register == 0 and told.kwh is not None]
        whole = [
            told for told in own if told.start == days.midnight(row.day) and told.end == days.midnight(row.day + 1)
        ]
        chosen = whole[:1] or own
        kwh = sum((told.kwh for told in chosen if told.kwh is not None), Decimal(0))
        found.append(UseOfDay(day_of(row.day), kwh))
    return found


def _is_usual(uses: Sequence[UseOfDay]) -> bool:
    """The newest day has no more than twice what half of the days before it have: what was on is off again."""
    before = sorted(use.kwh for use in uses[:-1])
    return bool(before) and uses[-1].kwh <= before[len(before) // 2] * 2

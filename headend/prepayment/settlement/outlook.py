"""How long balances last and how fresh they are, as settlement knows it: what the supply desk asks about many accounts at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, func, select

from headend.prepayment.days import LocalDays, day_number, day_of
from headend.prepayment.model import Account
from headend.prepayment.settlement.forecast import AVERAGE_DAYS
from headend.prepayment.settlement.so_far import SoFar, Tariffs, so_far_of
from headend.prepayment.storage.database import AT_ONCE
from headend.prepayment.storage.tables import accounts as account_rows
from headend.prepayment.storage.tables import charges, positions
from headend.prepayment.supply.facts import Standing

__all__ = ["SettledOutlook"]


class SettledOutlook:
    """By what was booked in the last 30 local days. Less exact than `standing.standing`, which asks about one account at a time.

    tariffs: where what was heard and is not settled counts against the balance, too; None where only whole days count.
    """

    def __init__(self, days: LocalDays, *, tariffs: Tariffs | None = None) -> None:
        self._days = days
        self._tariffs = tariffs

    def __call__(
        self, connection: Connection, accounts: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> dict[str, Standing]:
        since = day_number(self._days.today(now)) - AVERAGE_DAYS
        found: dict[str, Standing] = {}
        heard = {} if self._tariffs is None else so_far_of(connection, accounts, now, self._days, self._tariffs)
        for identity, so_far in heard.items():
            found[identity] = Standing(settled_until=so_far.known_through, counted_minor=so_far.minor)
        ids = [one.id for one in accounts]
        for start in range(0, len(ids), AT_ONCE):
            own = account_rows.c
            statement = (
                select(
                    own.id,
                    positions.c.day,
                    func.sum(charges.c.minor),
                    func.sum(charges.c.day - charges.c.since + 1),
                )
                .join(positions, positions.c.account == own.number)
                .outerjoin(
                    charges,
                    # Day by day, as the key is: a range would walk through every account's charges.
                    (charges.c.account == own.number)
                    & charges.c.day.in_(range(since, since + AVERAGE_DAYS + 2))
                    & (charges.c.is_withdrawn == 0),
                )
                .where(own.id.in_(ids[start : start + AT_ONCE]))
                .group_by(own.id, positions.c.day)
            )
            for identity, day, minor, days in connection.execute(statement):
                so_far = heard.get(identity, SoFar())
                known = day_of(day) if so_far.known_through is None else max(day_of(day), so_far.known_through)
                found[identity] = Standing(
                    days_left=_days_left(balances.get(identity, 0) - so_far.minor, minor, days),
                    settled_until=known,
                    counted_minor=so_far.minor,
                )
        return found


def _days_left(balance_minor: int, minor: int | None, days: int | None) -> Decimal | None:
    if balance_minor <= 0:
        return Decimal(0)
    return Decimal(balance_minor) * int(days) / int(minor) if minor and days and minor > 0 else None

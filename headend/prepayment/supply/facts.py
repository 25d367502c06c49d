"""What is known of one account at one moment, as the engine asks for it; everything is read in its caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

import structlog
from msgspec import Struct
from sqlalchemy import Connection, or_, select

from headend.prepayment.accounts.accounts import account_of, account_of_row, contact_of
from headend.prepayment.accounts.changes import flag_cleared_at
from headend.prepayment.books.autopay import is_unanswered
from headend.prepayment.books.books import balance_of, balances_of
from headend.prepayment.books.fences import fenced
from headend.prepayment.model import Account, AccountState
from headend.prepayment.notices.notice import Notice
from headend.prepayment.notices.notices import notices_of, tried_of
from headend.prepayment.notices.plan import WARNINGS, NoticePlan
from headend.prepayment.ports import Supply
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.storage.tables import accounts as account_rows
from headend.prepayment.supply.engine import Facts, State
from headend.prepayment.supply.store import Row, load, meters_in_service, orders_of
from headend.prepayment.trouble.faults import is_own_fault
from headend.prepayment.trouble.flags import flags_of
from headend.prepayment.trouble.kinds import HOLDS, WARNED_IN_VAIN

__all__ = ["Outlook", "Standing", "SupplyFacts"]

ROUND = 500  # accounts that one step of the round goes through
_log = structlog.get_logger(__name__)


class Standing(Struct, frozen=True, kw_only=True):
    """days_left: that the balance covers at the account's own average; None when nobody can say. settled_until: local day.

    counted_minor: what counts against the balance beyond the books, of use that is not settled yet.
    """

    days_left: Decimal | None = None
    settled_until: date | None = None
    counted_minor: int = 0


class Outlook(Protocol):
    def __call__(
        self, connection: Connection, accounts: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> Mapping[str, Standing]:
        """By account; those of which nothing is known are absent."""
        ...


class SupplyFacts:
    """outlook: how long balances last, and how fresh they are."""

    def __init__(self, plan: NoticePlan, outlook: Outlook) -> None:
        self._plan = plan
        self._outlook = outlook
        self._round_at = ""

    def of(self, connection: Connection, account: str, now: datetime, supply: Supply) -> tuple[Row, Facts, Account]:
        row = load(connection, account, now)
        found = account_of(connection, account)
        balance = balance_of(connection, account, found.currency)
        standing = self._outlook(connection, [found], {account: balance}, now).get(account, Standing())
        contact = contact_of(connection, account)
        episode = row.episode
        notices: dict[str, Notice] = {}
        if episode.carries:
            earlier = notices_of(connection, account, episode.carries)
            notices = {kind: notice for kind, notice in earlier.items() if kind in WARNINGS[:2]}
        notices |= notices_of(connection, account, episode.number)
        last_warnings = 0
        if "last-warning" in notices:
            looked = flag_cleared_at(connection, account, WARNED_IN_VAIN)
            last_warnings = tried_of(connection, account, episode.number, "last-warning", looked)
        asked = orders_of(connection, account, episode.number, row.orders) if row.orders else []
        return (
            row,
            Facts(
                now=now,
                balance_minor=balance - standing.counted_minor,
                currency=found.currency,
                reminder_minor=found.reminder_minor,
                days_left=standing.days_left,
                settled_until=standing.settled_until,
                is_open=found.state is AccountState.ACTIVE,
                is_paying=bool(fenced(connection, account)) or is_unanswered(connection, account, now),
                is_held=any(kind in HOLDS for kind in flags_of(connection, account)),
                contact_since=contact.since if contact.is_reachable else None,
                notices=notices,
                last_warnings=last_warnings,
                orders=tuple(one.facts for one in asked),
                is_told=row.is_told,
                credit_since=None if row.telling is None else row.telling.since,
                is_measured=bool(self.meters(connection, account, now)),
                supply=supply,
            ),
            found,
        )

    def meters(self, connection: Connection, account: str, now: datetime) -> list[str]:
        return meters_in_service(connection, account, self.today(now))

    def today(self, now: datetime) -> date:
        return now.astimezone(self._plan.zone).date()

    def counted_minor(self, connection: Connection, account: str, now: datetime) -> int:
        """What counts against the account's balance beyond the books. Raises UnknownAccount."""
        return (
            self._outlook(connection, [account_of(connection, account)], {}, now).get(account, Standing()).counted_minor
        )

    def still_proven(self, connection: Connection, account: str, episode: int, facts: Facts) -> bool:
        """Whether the first two notices of that episode still count."""
        notices = notices_of(connection, account, episode) if episode > 0 else {}
        for kind, step in zip(WARNINGS[:2], self._plan.steps, strict=False):
            proven_at = notices[kind].proven_at if kind in notices else None
            if proven_at is None or facts.now > proven_at + step.valid:
                return False
        return True

    def seem_due(self, connection: Connection, now: datetime) -> list[str]:
        """Of the next accounts in order of their ids, those that seem to need a look; after the last it begins again.

        Those of whom it cannot be said are among them: a look finds the fault, and they are put off.
        """
        active, faulty = self._next(connection)
        own = episodes.c
        in_their_turn = set(
            connection.execute(
                select(own.account)
                .where(own.account.in_([*(one.id for one in active), *faulty]))
                .where(or_(own.state != State.WELL.value, own.look_at.is_not(None)))
            ).scalars()
        )
        others = [one for one in active if one.id not in in_their_turn]
        balances = balances_of(connection, [one.id for one in others])
        standings, unknown = self._standings(connection, others, balances, now)
        found = [one for one in faulty if one not in in_their_turn]
        for one in others:
            if one.id in unknown:
                found.append(one.id)
                continue
            standing = standings.get(one.id, Standing())
            balance = balances.get(one.id, 0) - standing.counted_minor
            days_left = standing.days_left
            if balance < max(0, one.reminder_minor) or (days_left is not None and days_left < self._plan.low_days):
                found.append(one.id)
        return found

    def _next(self, connection: Connection) -> tuple[list[Account], list[str]]:
        """The active ones of the round's next stretch, and the ids of those that cannot be read."""
        own = account_rows.c
        statement = select(account_rows).where(own.id > self._round_at).order_by(own.id).limit(ROUND)
        rows = connection.execute(statement).all()
        self._round_at = rows[-1].id if len(rows) == ROUND else ""
        active: list[Account] = []
        faulty: list[str] = []
        for row in rows:
            try:
                one = account_of_row(row._mapping)
            except Exception:  # whatever it is, the look at that account says it again, and it is logged there
                faulty.append(row.id)
                continue
            if one.state is AccountState.ACTIVE:
                active.append(one)
        return active, faulty

    def _standings(
        self, connection: Connection, some: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> tuple[Mapping[str, Standing], set[str]]:
        """By account, and the ids of those whose standing cannot be told."""
        try:
            return self._outlook(connection, some, balances, now), set()
        except Exception as error:
            if not is_own_fault(error):
                raise
        found: dict[str, Standing] = {}
        unknown: set[str] = set()
        for one in some:
            try:
                found.update(self._outlook(connection, [one], balances, now))
            except Exception as error:
                # Whatever it is: everybody else's notices must not wait for it.
                if not is_own_fault(error):
                    raise
                _log.error("how long a balance lasts could not be told", account=one.id, exc_info=error)
                unknown.add(one.id)
        return found, unknown

"""Daily settlement: every account whose days say something new is charged for them, in batches, each in one transaction.

Settling twice books nothing twice: what an account has to be looked at for is noted in `touched` by the transaction that took the feed
in, and goes with the transaction that books. A crash between any two steps leaves either both or neither.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, and_, delete, func, select

from headend.prepayment.accounts.agenda import done, due_after, due_among, has_due
from headend.prepayment.books.books import post
from headend.prepayment.days import LocalDays, day_number, day_of, epoch_ms
from headend.prepayment.model import AccountState, Cause, Entry, customer_book
from headend.prepayment.money import shown
from headend.prepayment.settlement.chain import (
    Charged,
    Reckoned,
    decode_body,
    encode_body,
    encode_position,
    reckon,
)
from headend.prepayment.settlement.due_accounts import DueAccount, load_due
from headend.prepayment.storage.database import AT_ONCE, Database, put_rows
from headend.prepayment.storage.tables import (
    accounts,
    charges,
    flags,
    meter_days,
    news,
    positions,
    touched,
    unsettled,
)
from headend.prepayment.supply.store import touch_all
from headend.prepayment.tariffs.tariff import Household, Position, Tariff, tariff_on
from headend.prepayment.trouble.kinds import REVISED_AFTER_CLOSING
from headend.prepayment.trouble.put_off import PutOff
from headend.prepayment.usage.heard import Told, decode_day
from headend.prepayment.usage.pieces import Unsettled, pieces_of

__all__ = ["BATCH", "Settled", "Settlement", "UnsettledDay", "charges_of", "unsettled_days"]

BATCH = 500  # accounts in one transaction: a payment waits for one batch at most, some 50 ms
REVENUE = "revenue:energy"
_BACK_DAYS = 31
_FRESH_DAYS = 3  # accounts whose news is that new are loaded together

Tariffs = Mapping[str, Sequence[Tariff]]


class Settled(Struct, frozen=True, kw_only=True):
    """What one run did. days: charged for the first time. corrections: entries. unsettled: days that wait."""

    accounts: int = 0
    days: int = 0
    corrections: int = 0
    unsettled: int = 0

    def __add__(self, other: "Settled") -> "Settled":
        return Settled(
            accounts=self.accounts + other.accounts,
            days=self.days + other.days,
            corrections=self.corrections + other.corrections,
            unsettled=self.unsettled + other.unsettled,
        )


class UnsettledDay(Struct, frozen=True, kw_only=True):
    account: str
    day: date
    reason: str


class _Booked(Struct):
    """What a batch writes."""

    entries: list[Entry]
    charges: list[tuple[Any, ...]]
    positions: list[tuple[Any, ...]]
    unsettled: list[tuple[Any, ...]]
    flags: list[tuple[Any, ...]]
    cleared: list[tuple[int, int, int]]
    changed: dict[int, str]
    settled: Settled


class Settlement:
    """tariffs: by name, all versions. days: of the site's zone, as the feed's boundaries are. batch: `AT_ONCE` at most."""

    def __init__(self, database: Database, tariffs: Tariffs, days: LocalDays, *, batch: int = BATCH) -> None:
        self._database = database
        self._tariffs = tariffs
        self.days = days
        self._batch = batch
        self.put_off: PutOff[int] = PutOff("settling", name=self._id_of)  # by number
        self._versions: dict[tuple[str, int], Tariff | None] = {}

    def run(self, now: datetime) -> Settled:
        """All that is due. Raises StoreError, and PrepaymentError where accounts were put off; what was settled is kept."""
        total = Settled()
        while True:
            looked_at, settled = self._step(now, None)
            if not looked_at:
                self.put_off.check(now)
                return total
            total += settled

    def step(self, now: datetime, *, before: date | None = None) -> int:
        """One batch of what is due; how many accounts were looked at. before: those alone that have news of a day before that one.

        Whom it fails for is in `put_off`. Raises StoreError.
        """
        return self._step(now, before)[0]

    def _step(self, now: datetime, before: date | None) -> tuple[int, Settled]:
        # Looked for outside of the writer's lock, which payments want too.
        with self._database.reading("looking for accounts to settle") as connection:
            due = self._due(connection, now, before)
        settled: list[Settled] = []

        def settle(numbers: Sequence[int]) -> int:
            with self._database.writing("settling accounts") as connection:
                still = due_among(connection, numbers)
                found = self._settle(connection, still, now) if still else Settled()
            settled.append(found)
            return len(numbers)

        if due:
            self.put_off.do(due, settle, now)
        return len(due), sum(settled, Settled())

    def _due(self, connection: Connection, now: datetime, before: date | None) -> list[int]:
        if not has_due(connection, before, without=self.put_off.waiting(now)):
            return []

        def page_after(number: int | None) -> list[int]:
            after = -1 if number is None else number
            return [due for due, _ in due_after(connection, after, self._batch, before=before)]

        return self.put_off.pick(page_after, now)

    def _id_of(self, number: int) -> str:
        with self._database.reading("looking for an account") as connection:
            return connection.execute(select(accounts.c.id).where(accounts.c.number == number)).scalar() or f"{number}"

    def settle_account(self, connection: Connection, account: str, now: datetime) -> Settled:
        """One, inside its caller's transaction, when it is due."""
        statement = (
            select(touched.c.account, touched.c.day)
            .join(accounts, accounts.c.number == touched.c.account)
            .where(accounts.c.id == account)
        )
        due = [(row.account, row.day) for row in connection.execute(statement)]
        return self._settle(connection, due, now) if due else Settled()

    # -------------------------------------------------------------------------------------------- inside

    def _settle(self, connection: Connection, due: Sequence[tuple[int, int]], now: datetime) -> Settled:
        found = load_due(connection, due)
        booked = _Booked([], [], [], [], [], [], {}, Settled())
        newest = max((one.start for one in found), default=0)
        # A read of today's midnight may end an interval of a clock that is ahead.
        until = day_number(self.days.today(now)) + 1
        fresh = [one for one in found if one.start > newest - _FRESH_DAYS]
        if fresh:
            heard = _heard(connection, fresh, min(one.start for one in fresh), until)
            for one in fresh:
                self._account(connection, one, heard, now, booked)
        for one in found:
            if one.start <= newest - _FRESH_DAYS:
                # Its days alone, so that one revision of last year does not load a year of everybody.
                self._account(connection, one, _heard(connection, [one], one.start, until), now, booked)
        _write(connection, booked, [number for number, _ in due], now)
        return booked.settled

    def _account(
        self,
        connection: Connection,
        one: DueAccount,
        heard: Mapping[tuple[str, int], list[Told]],
        now: datetime,
        booked: _Booked,
    ) -> None:
        if one.state == AccountState.ENROLLED.value:
            return
        before: list[Charged] = []
        position = one.position
        if one.last is not None and one.start <= one.last:
            before, position = _charged(connection, one, one.start, one.last)
        first = max(one.start, one.opened)
        last = _last_heard(one, heard, day_number(self.days.today(now)))
        if one.closed is not None:
            last = min(last, one.closed)
        pieces, missing = pieces_of(first, last, one.meters, heard, lambda day: self._tariff(one, day), self.days)
        home = Household(began_on=day_of(one.opened), is_large=one.is_large)
        result = reckon(pieces, before, position, one.carried, home, closes_on=one.closed)
        if one.state == AccountState.CLOSED.value:
            _tell_closed(one, result, now, booked)
            return
        booked.entries += _entries(one, result, now, self.days)
        self._keep(one, result, first, last, missing, booked)

    def _keep(
        self, one: DueAccount, result: Reckoned, first: int, last: int, missing: Sequence[Unsettled], booked: _Booked
    ) -> None:
        booked.charges += [
            (
                charge.day, one.number, charge.since, str(charge.exact), charge.minor, charge.revision,
                int(charge.is_withdrawn), encode_body(charge.body),
            )
            for charge in result.charges
        ]  # fmt: skip
        is_corrected = result.correction_minor != 0
        if result.charges:
            booked.changed[one.number] = one.id
            newest = max(charge.day for charge in result.charges)
            one.last = newest if one.last is None else max(newest, one.last)
            booked.positions.append(
                (
                    one.number, one.last, str(result.carried), one.corrections + is_corrected,
                    encode_position(result.position),
                )
            )  # fmt: skip
        booked.cleared.append((one.number, first, last))
        booked.unsettled += [(one.number, day.day, day.reason) for day in missing]
        booked.settled += Settled(
            accounts=1,
            days=sum(not amount.is_minimum for amount in result.amounts),
            corrections=int(is_corrected),
            unsettled=len(missing),
        )

    def _tariff(self, one: DueAccount, day: int) -> Tariff | None:
        name = one.tariff
        for since, other in one.tariffs:
            if since <= day:
                name = other
        key = (name, day)
        if key not in self._versions:
            if len(self._versions) > 10_000:
                self._versions.clear()
            self._versions[key] = tariff_on(self._tariffs.get(name, ()), day_of(day))
        return self._versions[key]


def unsettled_days(connection: Connection, until: date, *, account: str | None = None) -> list[UnsettledDay]:
    """Local days up to that one, not included, that could not be charged, and why; also those of which nothing was heard."""
    statement = select(accounts, positions.c.day.label("last")).join(
        positions, positions.c.account == accounts.c.number, isouter=True
    )
    statement = statement.where(accounts.c.state == AccountState.ACTIVE.value)
    if account is not None:
        statement = statement.where(accounts.c.id == account)
    reasons = select(unsettled.c.account, unsettled.c.day, unsettled.c.reason)
    if account is not None:
        reasons = reasons.join(accounts, accounts.c.number == unsettled.c.account).where(accounts.c.id == account)
    known: dict[int, dict[int, str]] = {}
    for number, day, reason in connection.execute(reasons):
        known.setdefault(number, {})[day] = reason
    found = []
    for row in connection.execute(statement.order_by(accounts.c.id)):
        own = known.get(row.number, {})
        last = max(own, default=-1)
        charged = row.opened_on - 1 if row.last is None else row.last
        for day in range(max(last, charged) + 1, min(day_number(until), (row.closed_on or 10**9) + 1)):
            own[day] = "nothing was told of that day yet"
        found += [
            UnsettledDay(account=row.id, day=day_of(day), reason=reason)
            for day, reason in sorted(own.items())
            if day < day_number(until)
        ]
    return found


# ------------------------------------------------------------------------------------------------ inside


def _heard(
    connection: Connection, some: Sequence[DueAccount], since: int, until: int
) -> dict[tuple[str, int], list[Told]]:
    meters = sorted({meter.meter for one in some for meter in one.meters})
    newest = connection.execute(select(func.max(meter_days.c.day))).scalar()
    days = range(since, min(until, since - 1 if newest is None else newest) + 1)
    width = max(1, AT_ONCE // (len(days) or 1))
    found: dict[tuple[str, int], list[Told]] = {}
    for at in range(0, len(meters), width):
        statement = select(meter_days).where(
            meter_days.c.day.in_(days), meter_days.c.meter.in_(meters[at : at + width])
        )
        for day, meter, body in connection.execute(statement):
            found[meter, day] = decode_day(body)
    return found


def _last_heard(one: DueAccount, heard: Mapping[tuple[str, int], list[Told]], today: int) -> int:
    """The last day of which something is known of one of its meters."""
    for day in range(today + 1, one.start - 1, -1):
        if any((meter.meter, day) in heard for meter in one.meters):
            return day
    return max(one.start, one.opened) - 1


def _charged(connection: Connection, one: DueAccount, start: int, last: int) -> tuple[list[Charged], Position]:
    """What was charged from that day on, and where the day before it left off."""
    before = charges_of(connection, one.number, start, last)
    at = start - 1
    while at >= one.opened:
        # Back by days, since that is how charges lie; the day before is there, as a rule.
        for charge in reversed(charges_of(connection, one.number, max(at - _BACK_DAYS, one.opened), at)):
            if not charge.is_withdrawn:
                return before, charge.body.position()
        at -= _BACK_DAYS + 1
    return before, Position()


def charges_of(connection: Connection, number: int, first: int, last: int) -> list[Charged]:
    """Of an account's days from first to last, both included; by day, withdrawn ones too."""
    own = charges.c
    found = []
    for start in range(first, last + 1, AT_ONCE):
        days = range(start, min(start + AT_ONCE, last + 1))
        for row in connection.execute(
            select(charges).where(own.account == number, own.day.in_(days)).order_by(own.day)
        ):
            found.append(
                Charged(
                    day=row.day,
                    since=row.since,
                    exact=Decimal(row.exact),
                    minor=row.minor,
                    revision=row.revision,
                    body=decode_body(row.body),
                    is_withdrawn=bool(row.is_withdrawn),
                )
            )
    return found


def _entries(one: DueAccount, result: Reckoned, now: datetime, days: LocalDays) -> list[Entry]:
    found = []
    for amount in result.amounts:
        day = day_of(amount.day)
        if amount.minor:
            kind = "minimum" if amount.is_minimum else "charge"
            found.append(
                Entry(
                    from_book=customer_book(one.id),
                    to_book=REVENUE,
                    amount_minor=amount.minor,
                    currency=one.currency,
                    cause=Cause.MINIMUM if amount.is_minimum else Cause.DAILY_CHARGE,
                    key=f"{kind}:{one.id}:{day}:0",
                    day=day,
                    at=now,
                    note="" if amount.since == amount.day else f"one charge for {day_of(amount.since)} to {day}",
                )
            )
    if result.correction_minor:
        corrected = [day_of(day).isoformat() for day in result.corrected]
        named = ", ".join(corrected[:5]) + (f" and {len(corrected) - 5} more" if len(corrected) > 5 else "")
        customer, pays = customer_book(one.id), result.correction_minor > 0
        found.append(
            Entry(
                from_book=customer if pays else REVENUE,
                to_book=REVENUE if pays else customer,
                amount_minor=abs(result.correction_minor),
                currency=one.currency,
                cause=Cause.CORRECTION,
                key=f"correct:{one.id}:{one.corrections + 1}",
                day=days.today(now),
                at=now,
                note=f"of {named}" if corrected else "",
            )
        )
    return found


def _tell_closed(one: DueAccount, result: Reckoned, now: datetime, booked: _Booked) -> None:
    """A final settlement is final; a person decides what a later revision is worth."""
    if result.correction_minor or result.amounts:
        minor = result.correction_minor + sum(amount.minor for amount in result.amounts)
        text = f"reads of days before account {one.id} was closed were revised: {shown(minor, one.currency)} {one.currency} more"
        days = ",".join(day_of(day).isoformat() for day in result.corrected[:31])
        evidence = msgspec.json.encode({"amount_minor": str(minor), "currency": one.currency, "days": days}).decode()
        booked.flags.append((one.id, REVISED_AFTER_CLOSING, epoch_ms(now), text, evidence))


def _write(connection: Connection, booked: _Booked, looked_at: Sequence[int], now: datetime) -> None:
    post(connection, booked.entries)
    put_rows(connection, news, [(number,) for number in booked.changed])
    touch_all(connection, list(booked.changed.values()), now)
    put_rows(connection, charges, booked.charges)
    put_rows(connection, positions, booked.positions)
    put_rows(connection, flags, booked.flags)
    waiting = {number for number, _, _ in booked.cleared}
    held = set()
    for at in range(0, len(looked_at), AT_ONCE):
        some = looked_at[at : at + AT_ONCE]
        statement = select(unsettled.c.account).where(unsettled.c.account.in_(some)).distinct()
        held |= set(connection.execute(statement).scalars()) & waiting
    for number, first, last in booked.cleared:
        if number in held:
            own = unsettled.c
            connection.execute(delete(unsettled).where(and_(own.account == number, own.day >= first, own.day <= last)))
    put_rows(connection, unsettled, booked.unsettled)
    done(connection, looked_at)

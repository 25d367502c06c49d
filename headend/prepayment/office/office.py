"""The one door to prepaid supply: what HTTP routes, pages, the command line and the running duties ask of it.

Every method is blocking and whole: one transaction as a rule, in which the account is noted for the supply desk and the messages are
written down. It is called on threads of prepaid supply's own, any number at once, never on an event loop: a payment calls the command
interface, which may answer on that loop. Every method raises StoreError; what else it raises stands with it. `by` is who does it, as
the entries, contacts and flags keep it.

Longer than other modules: it is the list of what can be asked, and nothing is worked out here.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from headend.clock import Clock
from headend.feed.envelope import plain
from headend.prepayment.accounts import accounts, enrolment
from headend.prepayment.accounts.changes import Change, changes_of, note_change, note_cleared
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.books import autopay, fences, payments, points
from headend.prepayment.books.autopay import Debit
from headend.prepayment.books.books import entries_of
from headend.prepayment.books.corrections import refund
from headend.prepayment.books.fences import FencedPayment
from headend.prepayment.books.points import Award
from headend.prepayment.books.reconciliation import Reconciliation, drop_told, reconciliation_of
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import BadInput, NotEligible, UnknownTariff
from headend.prepayment.model import Account, Entry, Payment, Posted
from headend.prepayment.money import shown
from headend.prepayment.notices.notices import Letter, letters_of
from headend.prepayment.office.duties import all_duties
from headend.prepayment.office.input import (
    WORDS_MAX,
    check_enrolment,
    check_language,
    check_limit,
    check_texts,
    not_far,
    words,
)
from headend.prepayment.office.parts import Outside, Settings, parts_of
from headend.prepayment.office.service import Duty
from headend.prepayment.settlement import move_out
from headend.prepayment.settlement.daily import Comparison, DayUse, comparison, daily_use
from headend.prepayment.settlement.move_out import MoveOut
from headend.prepayment.storage.database import Database
from headend.prepayment.supply.store import check_no_order, touch
from headend.prepayment.tariffs.words import explain
from headend.prepayment.trouble.flags import clear_flag, flags_of, raise_flag
from headend.prepayment.trouble.kinds import HOLD, NOT_BOOKED, UNREACHABLE
from headend.prepayment.usage.telling import tell_use
from headend.prepayment.views.account_card import AccountCard, card_of
from headend.prepayment.views.account_rows import AccountRow, find_rows
from headend.prepayment.views.health import problems_of
from headend.prepayment.views.standing import LandlordRow, Standing, landlord_view, standing
from headend.prepayment.views.statement_data import StatementData, statement, statements_of

__all__ = ["DAILY_DAYS_MAX", "Office", "Outside", "Settings"]

DAILY_DAYS_MAX = 400  # of one answer: a year, and the month that it is compared with
OPENS_AHEAD = timedelta(days=92)


class Office:
    """days: of the site's zone, which is the feed's and should be the plan's. The database is closed by whoever opened it."""

    def __init__(
        self, database: Database, settings: Settings, outside: Outside, *, days: LocalDays, clock: Clock
    ) -> None:
        self._database = database
        self._settings = settings
        self._outside = outside
        self._days = days
        self._clock = clock
        self._parts = parts_of(database, settings, outside, days=days, clock=clock)

    # -------------------------------------------------------------------------------------------- running

    def duties(self) -> Sequence[Duty]:
        """In the order in which one makes work for the next; each tick is bounded, some tenths of a second without slow answers."""
        return all_duties(self._parts.desks)

    def problems(self) -> Sequence[str]:
        """For /healthz, with no customer in it."""
        return problems_of(self._database, self._clock.now())

    # -------------------------------------------------------------------------------------------- accounts

    def enrol(self, wanted: Enrolment, *, by: str) -> AccountCard:
        """An account that waits for its agreement, which is sent. Raises NotEligible, BadContact, BadInput."""
        by, now = words("by", by), self._clock.now()
        check_enrolment(wanted)
        self._check_bank(wanted.bank)
        ours = self._outside.our_meters()
        with self._database.writing("enrolling an account") as connection:
            check_no_order(connection, wanted.meters, now)
            enrolment.enrol(
                connection,
                wanted,
                now,
                self._days.today(now),
                our_meters=ours,
                tariffs=self._tariffs_in(wanted.currency),
                salt=self._settings.salt,
                by=by,
            )
            self._agreement(connection, wanted.account, now)
            note_change(connection, wanted.account, "enrolled", now, by=by, after=", ".join(wanted.meters))
            return self._card(connection, wanted.account, now)

    def confirm(self, account: str, *, by: str, opens_on: date | None = None) -> AccountCard:
        """The customer agreed: days are charged from that local day on, the whole of it; None is today.

        Where it is another day than the agreement told, that is sent anew. Raises UnknownAccount, NotEligible, BadInput.
        """
        by, now = words("by", by), self._clock.now()
        today = self._days.today(now)
        day = today if opens_on is None else opens_on
        if not today <= day <= today + OPENS_AHEAD:
            raise BadInput(f"opens_on {day}; expected a local day from today, {today}, to {today + OPENS_AHEAD}")
        with self._database.writing("confirming an agreement") as connection:
            enrolment.confirm(connection, account, day)
            self._agreement(connection, account, now)
            note_change(connection, account, "confirmed", now, by=by, after=f"from {day}")
            return self._looked_after(connection, account, now)

    def account(self, account: str) -> Account:
        """Its own row, without what it costs to work out how it stands. Raises UnknownAccount."""
        with self._database.reading("looking at an account") as connection:
            return accounts.account_of(connection, account)

    def card(self, account: str) -> AccountCard:
        """Raises UnknownAccount."""
        with self._database.reading("looking at an account") as connection:
            return self._card(connection, account, self._clock.now())

    def search(self, text: str = "", *, after: str = "", limit: int = 50) -> Sequence[AccountRow]:
        """By account, meter, customer, name, phone or premises, any part of them; in order of ids. Raises BadInput."""
        now = self._clock.now()
        with self._database.reading("looking for accounts") as connection:
            return find_rows(
                connection,
                text,
                after=after,
                limit=limit,
                outlook=self._parts.outlook,
                now=now,
                today=self._days.today(now),
            )

    def changes(self, account: str, *, limit: int = 200) -> Sequence[Change]:
        """Who changed what, the newest first; what moved money stands in `entries`. Raises UnknownAccount, BadInput."""
        check_limit(limit)
        with self._database.reading("looking at an account's changes") as connection:
            accounts.account_of(connection, account)
            return changes_of(connection, account, limit=limit)

    def change_contact(self, account: str, phone: str, *, language: str | None = None, by: str) -> AccountCard:
        """Raises UnknownAccount, BadContact, BadInput."""
        by, now = words("by", by), self._clock.now()
        if language is not None:
            check_language(language)
        with self._database.writing("changing a contact") as connection:
            before = accounts.contact_of(connection, account)
            after = accounts.change_contact(connection, account, phone, now, language=language, by=by)
            told = [f"{one.phone}, {one.language}" for one in (before, after)]
            note_change(connection, account, "contact", now, by=by, before=told[0], after=told[1])
            clear_flag(connection, account, UNREACHABLE)  # that was the number before
            return self._looked_after(connection, account, now)

    def change_holder(self, account: str, customer: str, *, name: str = "", identity: str = "", by: str) -> AccountCard:
        """name, identity: of a customer who is not known yet. Raises UnknownAccount, AccountClosed, NotEligible, BadInput."""
        by, now = words("by", by), self._clock.now()
        check_texts({"name": name, "identity": identity})
        with self._database.writing("changing an account's holder") as connection:
            before = accounts.not_closed(connection, account)
            if name.strip() or identity.strip():
                enrolment.note_customer(connection, customer, name, identity, self._settings.salt)
            accounts.change_holder(connection, account, customer, now, by=by)
            note_change(connection, account, "holder", now, by=by, before=before.customer, after=customer)
            return self._card(connection, account, now)

    def change_amounts(self, account: str, *, reminder_minor: int, topup_minor: int, bank: str, by: str) -> AccountCard:
        """topup_minor 0 and bank "" end automatic top-up. Raises UnknownAccount, AccountClosed, NotEligible, BadInput."""
        by, now = words("by", by), self._clock.now()
        check_texts({"bank": bank})
        self._check_bank(bank)
        with self._database.writing("changing an account's amounts") as connection:
            before = accounts.not_closed(connection, account)
            after = accounts.amounts(
                connection, account, reminder_minor=reminder_minor, topup_minor=topup_minor, bank=bank
            )
            note_change(connection, account, "amounts", now, by=by, before=_amounts(before), after=_amounts(after))
            return self._looked_after(connection, account, now)

    def change_tariff(self, account: str, tariff: str, *, by: str) -> AccountCard:
        """From the first day that is not charged. Raises UnknownAccount, AccountClosed, NotEligible, BadInput."""
        by, now = words("by", by), self._clock.now()
        with self._database.writing("changing an account's tariff") as connection:
            found = accounts.not_closed(connection, account)
            accounts.change_tariff(connection, account, tariff, tariffs=self._tariffs_in(found.currency))
            note_change(connection, account, "tariff", now, by=by, before=found.tariff, after=tariff)
            return self._looked_after(connection, account, now)

    def exchange_meter(self, account: str, old: str, new: str, day: date, *, by: str) -> AccountCard:
        """day: the first local one that the new meter measures. Raises UnknownAccount, AccountClosed, NotEligible, BadInput."""
        by, now = words("by", by), self._clock.now()
        not_far("day", day, self._days.today(now))
        ours = self._outside.our_meters()
        with self._database.writing("exchanging a meter") as connection:
            accounts.not_closed(connection, account)
            check_no_order(connection, (old, new), now)
            accounts.exchange_meter(connection, account, old, new, day, our_meters=ours)
            note_change(connection, account, "meter", now, by=by, before=old, after=f"{new} from {day}")
            return self._looked_after(connection, account, now)

    def move_out(self, account: str, last_day: date, *, by: str) -> MoveOut:
        """Done as soon as the last day is over and every day is charged. Raises UnknownAccount, AccountClosed, BadInput."""
        by, now = words("by", by), self._clock.now()
        not_far("last_day", last_day, self._days.today(now))
        with self._database.writing("moving out") as connection:
            before = move_out.asked(connection, account)
            asked = move_out.ask(connection, account, last_day, now, by=by)
            was = "" if before is None else f"{before.last_day}"
            note_change(connection, account, "move-out", now, by=by, before=was, after=f"{last_day}")
            touch(connection, account, now)
            return asked

    def hold(self, account: str, text: str, *, by: str) -> AccountCard:
        """Nothing of the account is disconnected until somebody clears the flag "hold". Raises UnknownAccount, BadInput."""
        by, text, now = words("by", by), words("text", text), self._clock.now()
        with self._database.writing("holding an account") as connection:
            accounts.account_of(connection, account)
            before = flags_of(connection, account).get(HOLD, "")
            clear_flag(connection, account, HOLD)
            raise_flag(connection, account, HOLD, now, f"{text} ({by})", {"by": by})
            note_change(connection, account, "hold", now, by=by, before=before, after=text)
            return self._looked_after(connection, account, now)

    def clear_flag(self, account: str, kind: str, *, by: str) -> AccountCard:
        """Raises UnknownAccount; BadInput for a flag that does not stand, or one that stands as long as its reason does."""
        by, now = words("by", by), self._clock.now()
        with self._database.writing("clearing a flag") as connection:
            accounts.account_of(connection, account)
            standing_ = flags_of(connection, account)
            if kind not in standing_:
                raise BadInput(
                    f"account {account!r} has no flag {kind!r}; expected one of {', '.join(standing_) or 'none'}"
                )
            if kind == NOT_BOOKED:
                raise BadInput(f"flag {kind!r} ends when its payment is told again, or is dropped")
            clear_flag(connection, account, kind)
            note_cleared(connection, account, kind, standing_[kind], now, by=by)
            return self._looked_after(connection, account, now)

    def why_not(self, account: str) -> Sequence[str]:
        """What stands against disconnecting the account now, in words; the switch has its own list. Raises UnknownAccount."""
        return self._parts.desks.desk.why_not(account, self._clock.now())

    def tell_use(self, meter: str, day: date, used: Mapping[str, Decimal], *, by: str, note: str) -> None:
        """For lack of a read: kWh by OBIS code. Raises BadTelling."""
        by, now = words("by", by), self._clock.now()
        check_texts({"note": note})
        with self._database.writing("noting what a person told") as connection:
            tell_use(connection, meter, day, used, now, self._days, by=by, note=note)
            whose = accounts.of_meter(connection, meter, on=day)
            if whose is not None:
                told = ", ".join(f"{obis} {plain(kwh)} kWh" for obis, kwh in sorted(used.items()))
                note_change(connection, whose, "use", now, by=by, after=f"{meter} on {day}: {told}")

    # -------------------------------------------------------------------------------------------- money

    def take(self, payment: Payment) -> Payment:
        """Once, however often it is told. Raises BadPayment, KeyReused, SwitchboardUnavailable: then it is to be told again."""
        return self._parts.till.take(payment)

    def reverse(self, channel: str, receipt: str, *, reason: str, by: str) -> Payment:
        """The channel took it back; once, however often it is told. The customer is told. Raises UnknownPayment, BadInput."""
        return self._parts.till.reverse(channel, receipt, reason=words("reason", reason), by=words("by", by))

    def assign(self, channel: str, receipt: str, account: str, *, by: str) -> Payment:
        """An unmatched payment was this account's; told again it is the same.

        Raises UnknownPayment, BadPayment, BadInput; SwitchboardUnavailable as `take`.
        """
        return self._parts.till.assign(channel, receipt, account, by=words("by", by))

    def adjust(self, account: str, amount_minor: int, *, key: str, note: str, by: str) -> Posted:
        """More than 0 is to the customer's credit. The same key is booked once.

        Raises UnknownAccount, AccountClosed, KeyReused, BadInput; of a credit SwitchboardUnavailable, as `take`.
        """
        by, note, key = words("by", by), words("note", note), words("key", key)
        return self._parts.till.adjust(account, amount_minor, key=key, note=note, by=by)

    def refund(self, account: str, amount_minor: int, *, key: str, note: str, by: str) -> Posted:
        """Money given back: of an open account's credit, or of what a closed one left over; each key once.

        Raises UnknownAccount, KeyReused, BadInput.
        """
        by, note, key, now = words("by", by), words("note", note), words("key", key), self._clock.now()
        with self._database.writing("refunding") as connection:
            found = accounts.account_of(connection, account)
            posted = refund(
                connection, found, amount_minor, key=key, note=f"{note} ({by})", now=now, day=self._days.today(now)
            )
            touch(connection, account, now)
            return posted

    def unmatched(self) -> Sequence[Payment]:
        """Money that waits for somebody to say whose it is; oldest first."""
        with self._database.reading("looking for unmatched payments") as connection:
            return payments.unmatched(connection)

    def told_not_booked(self) -> Sequence[FencedPayment]:
        """Payments that a channel began to tell and that were never booked; oldest first."""
        with self._database.reading("looking for payments not booked") as connection:
            return fences.fenced(connection)

    def drop_told(self, channel: str, receipt: str, *, by: str) -> FencedPayment:
        """The channel has no such payment, says a person: it holds up no disconnection any more.

        Should it be told after all, it is taken as any other. Raises UnknownPayment; BadInput while it may yet be on its way.
        """
        by, now = words("by", by), self._clock.now()
        with self._database.writing("dropping a payment that was not booked") as connection:
            dropped = drop_told(connection, channel, receipt, now, by=by)
            note_change(
                connection,
                dropped.account,
                "payment",
                now,
                by=by,
                before=f"{channel} receipt {receipt} told, not booked",
            )
            touch(connection, dropped.account, now)
            return dropped

    def reconciliation(self, channel: str, day: date) -> Reconciliation:
        """What the channel told of that local day, by its own times, and its sums by state. Raises BadInput."""
        with self._database.reading("reconciling a channel") as connection:
            return reconciliation_of(connection, channel, day, self._days)

    # -------------------------------------------------------------------------------------------- looking

    def standing(self, account: str) -> Standing:
        """Raises UnknownAccount."""
        with self._database.reading("looking at an account") as connection:
            return self._standing(connection, account, self._clock.now())

    def daily(self, account: str, since: date, until: date) -> Sequence[DayUse]:
        """Charged days in [since, until), oldest first. Raises UnknownAccount, BadInput."""
        if not 0 <= (until - since).days <= DAILY_DAYS_MAX:
            raise BadInput(f"days from {since} to {until}; expected 0 to {DAILY_DAYS_MAX} of them")
        with self._database.reading("looking at daily use") as connection:
            return daily_use(connection, account, since, until)

    def comparison(self, account: str) -> Comparison:
        """Raises UnknownAccount."""
        with self._database.reading("looking at monthly use") as connection:
            return comparison(connection, account, self._days.today(self._clock.now()))

    def statement(self, account: str, month: date) -> StatementData | None:
        """month: any day of it. None where none was made for it. Raises UnknownAccount."""
        with self._database.reading("looking at a statement") as connection:
            return statement(connection, account, month, self._clock.now(), self._days)

    def statements(self, account: str) -> Sequence[str]:
        """Months that have a statement, as 2026-03; the newest first. Raises UnknownAccount."""
        with self._database.reading("looking for statements") as connection:
            accounts.account_of(connection, account)
            return statements_of(connection, account)

    def payments(self, account: str) -> Sequence[Payment]:
        """Oldest first, reversed ones too. Raises UnknownAccount."""
        with self._database.reading("looking at payments") as connection:
            accounts.account_of(connection, account)
            return payments.of_account(connection, account)

    def payment(self, channel: str, receipt: str) -> Payment | None:
        """receipt: as the books spell it (`payments.receipt_of`). None where the channel told no such payment."""
        with self._database.reading("looking at a payment") as connection:
            return payments.find(connection, channel, receipt)

    def letters(self, account: str, *, limit: int = 200) -> Sequence[Letter]:
        """Messages, the newest first. Raises UnknownAccount, BadInput."""
        check_limit(limit)
        with self._database.reading("looking at messages") as connection:
            accounts.account_of(connection, account)
            return letters_of(connection, account, limit=limit)

    def debits(self, account: str) -> Sequence[Debit]:
        """Oldest first. Raises UnknownAccount."""
        with self._database.reading("looking at debits") as connection:
            accounts.account_of(connection, account)
            return autopay.debits_of(connection, account)

    def awards(self, account: str) -> Sequence[Award]:
        """By month. Raises UnknownAccount."""
        with self._database.reading("looking at points") as connection:
            accounts.account_of(connection, account)
            return points.awards_of(connection, account)

    def entries(self, account: str, *, limit: int = 200) -> Sequence[tuple[int, Entry, int]]:
        """The newest of them, by number: number, entry, and what it did to the customer's credit. Raises UnknownAccount, BadInput."""
        check_limit(limit)
        with self._database.reading("looking at entries") as connection:
            accounts.account_of(connection, account)
            return entries_of(connection, account, newest=limit)

    def landlord(self, customer: str) -> Sequence[LandlordRow]:
        """Of the customer's tenants; none where he lets to nobody."""
        with self._database.reading("looking at tenancies") as connection:
            return landlord_view(
                connection,
                customer,
                self._clock.now(),
                self._days,
                tariffs=self._settings.tariffs,
                counts_today=self._settings.plan.count_today,
            )

    def tariff_names(self) -> Sequence[str]:
        return sorted(self._settings.tariffs)

    def tariff_words(self, name: str, *, language: str = "en") -> Sequence[str]:
        """All versions, the newest first, one sentence a line. language: "en" or "zh". Raises UnknownTariff, BadInput."""
        check_language(language)
        versions = self._settings.tariffs.get(name)
        if versions is None:
            raise UnknownTariff(name, self._settings.tariffs)
        newest_first = sorted(versions, key=lambda version: version.applies_from, reverse=True)
        return [line for version in newest_first for line in explain(version, language)]

    def receipt(self, reference: str, *, delivered: bool, problem: str) -> bool:
        """What a channel tells later about a message that it took; False when no message has that reference."""
        return self._parts.desks.mailroom.receipt(
            reference, self._clock.now(), delivered=delivered, problem=problem[:WORDS_MAX]
        )

    # -------------------------------------------------------------------------------------------- inside

    def _looked_after(self, connection: Connection, account: str, now: datetime) -> AccountCard:
        """The supply desk looks at it next."""
        touch(connection, account, now)
        return self._card(connection, account, now)

    def _card(self, connection: Connection, account: str, now: datetime) -> AccountCard:
        return card_of(connection, account, self._standing(connection, account, now), now)

    def _standing(self, connection: Connection, account: str, now: datetime) -> Standing:
        return standing(
            connection,
            account,
            now,
            self._days,
            tariffs=self._settings.tariffs,
            counts_today=self._settings.plan.count_today,
        )

    def _agreement(self, connection: Connection, account: str, now: datetime) -> None:
        self._parts.desks.letters.agreement(connection, account, now)

    def _tariffs_in(self, currency: str) -> list[str]:
        """An account is charged in its own currency only."""
        return [name for name, some in self._settings.tariffs.items() if all(one.currency == currency for one in some)]

    def _check_bank(self, agreement: str) -> None:
        if agreement and self._outside.bank is None:
            raise NotEligible(
                f"bank {agreement!r}, and there is no bank that draws; expected an account without automatic top-up, or "
                f"[prepayment.bank] in the configuration"
            )


def _amounts(account: Account) -> str:
    topup = (
        f", top-up of {shown(account.topup_minor, account.currency)} by {account.bank}" if account.topup_minor else ""
    )
    return f"reminder below {shown(account.reminder_minor, account.currency)} {account.currency}{topup}"

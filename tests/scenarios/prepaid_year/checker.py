"""What must never be seen in a year, looked at where it happens: at the switch, at the phones, and every day in the books."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from headend.prepayment.books.books import check_books
from headend.prepayment.ports import Message
from headend.prepayment.storage.database import Database
from tests.scenarios.prepaid_year.household import Household
from tests.scenarios.prepaid_year.known import known_use, sure_before
from tests.scenarios.prepaid_year.meters import DAY, ZONE
from tests.scenarios.prepaid_year.outside import Command

if TYPE_CHECKING:
    from tests.scenarios.prepaid_year.world import Year

__all__ = ["Checker", "table_of"]

EPOCH = date(1970, 1, 1)
HOUR = timedelta(hours=1)
WARNINGS = {"low": "first", "used-up": "second", "last-warning": "final"}
NEVER_AFTER_PAYING = ("used-up", "last-warning", "disconnected")
WITHIN = timedelta(hours=24)
OWED_MIN = 3000  # as the plan has it
HELD_GRACE = timedelta(minutes=10)  # an order that is out when somebody holds an account is valid for 8 minutes
DEBIT_GRACE = timedelta(hours=36)  # lost answers of the bank, and a switch that does not answer, by few turns a day
BOOKED = "('daily-charge', 'minimum-charge', 'correction')"


class Checker:
    """back: how long after each payment that sufficed the light came back, by the channel's own time of the payment."""

    def __init__(self, year: "Year") -> None:
        self._year = year
        self.back: list[timedelta] = []
        self.back_otherwise = 0
        self.cuts: list[str] = []
        self.checks = 0
        self._times: dict[str, int] = {}
        self._settled_to = EPOCH

    # ---------------------------------------------------------------------------------------- at the phones

    def watch_message(self, message: Message) -> None:
        year = self._year
        household = year.households[message.account]
        kind = message.kind
        local = year.town.now.astimezone(ZONE)
        if kind not in ("paid", "restored"):
            assert 8 <= local.hour < 20, f"{message.key} at {local}, in quiet hours"
        if kind in NEVER_AFTER_PAYING:
            assert household.truth() < 0, f"{message.key} at {local}: the customer owes nothing ({household.truth()})"
        if kind in (*WARNINGS, "disconnected", "paid", "restored"):
            account, episode, _, attempt = message.key.split("/")
            known = f"{account}/{episode}/{kind}"
            times = self._times[known] = self._times.get(known, 0) + 1
            if kind == "last-warning":
                assert int(attempt) <= 5
                assert times <= 5, f"{message.key}: warned for the {times}. time"
            else:
                assert times == 1, f"{message.key}: {kind} was given before in this episode"

    # ---------------------------------------------------------------------------------------- at the switch

    def watch_open(self, command: Command) -> None:
        year = self._year
        now, meter = year.town.now, command.meter
        household = year.of_meter[meter]
        who = f"{household.account} at {now.astimezone(ZONE):%Y-%m-%d %H:%M}"
        drawn = self._drawn_not_booked(household)
        assert not household.is_closed, f"{who}: the account is closed"
        assert household.truth() < 0, f"{who}: disconnected after paying, {household.truth()}"
        assert household.truth() + drawn < 0, (
            f"{who}: disconnected after the bank had paid, {household.truth()} and {drawn}"
        )
        assert household.truth() < -OWED_MIN, f"{who}: disconnected for {household.truth()}"
        assert meter not in year.switch.protected, f"{who}: protected"
        held = household.held_since
        assert held is None or now - held < HELD_GRACE, f"{who}: held since {held}"
        local = now.astimezone(ZONE)
        assert local.weekday() < 5, f"{who}: at the weekend"
        assert (
            timedelta(hours=9) <= timedelta(hours=local.hour, minutes=local.minute) < timedelta(hours=16, minutes=9)
        ), who
        self._check_notices(household, command, who)
        household.dark_since, household.enough_at = now, None
        self.cuts.append(household.account)

    def _check_notices(self, household: Household, command: Command, who: str) -> None:
        """Against what the phones have taken; the program's own word counts for nothing."""
        now = self._year.town.now
        assert [one.step for one in command.notices] == list(WARNINGS.values()), f"{who}: {command.notices}"
        given = [self._year.phones.by_reference[one.reference] for one in command.notices]
        assert [one.message.kind for one in given] == list(WARNINGS), who
        assert {one.message.account for one in given} == {household.account}, who
        first, second, final = (one.at for one in given)
        assert now - first >= 7 * DAY, f"{who}: first warned {first}"
        assert second - first >= 24 * HOUR, f"{who}: first {first}, second {second}"
        # Seven days to pay, less what the message itself may have been under way.
        assert now - second >= 5 * DAY, f"{who}: told to pay {second}"
        assert final - second >= 24 * HOUR, f"{who}: second {second}, final {final}"
        assert 2 * HOUR <= now - final <= 24 * HOUR + timedelta(minutes=10), f"{who}: final {final}"
        assert 8 <= final.astimezone(ZONE).hour < 20
        owing_since = household.not_owing_at
        assert owing_since is not None
        assert second >= owing_since, f"{who}: the second warning is of {second}; nothing was owed at {owing_since}"
        assert household.back_at is None or first >= household.back_at, f"{who}: warned before it was back"

    def watch_close(self, meter: str) -> None:
        household = self._year.of_meter.get(meter)
        if household is None:
            return  # ordered for somebody who has left since
        now = self._year.town.now
        if household.enough_at is None:
            self.back_otherwise += 1
        else:
            paid_at, known_at = household.enough_at
            self.back.append(now - paid_at)
            assert now - known_at <= WITHIN
        household.dark_since = household.enough_at = None
        household.back_at = now

    def check_turn(self) -> None:
        """Nobody who has paid waits for longer than a day, and each final settlement is right."""
        now = self._year.town.now
        self._note_debits()
        self._check_closings()
        for household in self._year.households.values():
            if household.truth() >= 0:
                household.not_owing_at = now  # and the program has had its turn, so it knows
            if household.dark_since is not None and household.enough_at is not None:
                waits = now - household.enough_at[1]
                assert waits <= WITHIN, (
                    f"{household.account} paid at {household.enough_at[0]} and is dark since {waits}"
                )

    def _drawn_not_booked(self, household: Household) -> int:
        """What the bank took from the customer and nobody has told us of."""
        if not household.agreement:
            return 0
        drawn = {key: one for key, one in self._year.bank.drawn.items() if one[0] == household.agreement}
        return sum(one[1] for key, one in drawn.items() if key not in self._year.booked)

    # ---------------------------------------------------------------------------------------- every turn

    def reckon(self) -> None:
        """Before a turn: what a person told since the last one is charged in it."""
        for household in self._year.households.values():
            if not household.is_closed:
                self._reckon(household, self._year.today)

    # ---------------------------------------------------------------------------------------- every day

    def check_day(self) -> None:
        """After the day's reads were settled: each charge is the oracle's, each balance what was paid less what was charged."""
        year = self._year
        today = year.today
        self._note_debits()
        with Database(year.engine).reading("checking the day") as connection:
            if today.weekday() == 0:
                assert check_books(connection) == []
            since = today - 25 * DAY
            charges, books, closed = _charges(connection, since), _books(connection), _closed(connection)
        for name, household in year.households.items():
            if household.is_closed:
                continue
            self._reckon(household, today)
            self._check_charges(household, since, charges)
            if name not in closed:
                self._check_balance(household, books.get(f"customer:{name}", 0), "")
        self.checks += 1
        self._settled_to = today - DAY

    def _check_closings(self) -> None:
        """In the turn that made them: what is found out later is flagged, and changes nothing of a final settlement."""
        year = self._year
        leaving = [one for one in year.households.values() if one.leaves is not None and not one.is_closed]
        if not leaving:
            return
        with Database(year.engine).reading("checking final settlements") as connection:
            closed = _closed(connection)
            leaving = [one for one in leaving if one.account in closed]
            if not leaving:
                return
            since = min(one.leaves or year.today for one in leaving) - 25 * DAY
            charges, books = _charges(connection, since), _books(connection)
        for household in leaving:
            self._check_charges(household, since, charges)
            self._check_closed(household, closed[household.account], books)

    def _check_charges(self, household: Household, since: date, charges: dict[str, dict[date, Fraction]]) -> None:
        expected, charged = household.reckoning.exact(since), charges.get(household.account, {})
        if expected != charged:
            raise AssertionError(self._difference(household, expected, charged))

    def _reckon(self, household: Household, today: date) -> None:
        if household.dirty is None:
            return
        year, last = self._year, today - DAY
        if household.leaves is not None:
            last = min(last, household.leaves)
        since = sure_before(household.measures, max(household.dirty, household.opened), household.opened)
        tariff = household.reckoning.tariff_of(since)
        used = known_use(year.book, tariff, household.measures, household.told, since, last)
        household.reckoning.reckon(used, since)
        household.dirty = None
        household.charged = household.reckoning.total
        if (newest := household.reckoning.last) is not None:
            household.charged_to = max(newest, household.charged_to or newest)
        year.purses.note_truth(household)

    def _check_balance(self, household: Household, balance: int, what: str) -> None:
        expected = household.credit - household.reckoning.total
        slack = max(self._year.book.slack(name) for _, name in household.reckoning.tariffs)
        assert abs(balance - expected) <= slack, (
            f"{household.account}{what}: the book has {balance}, paid {household.credit}, charged {float(household.reckoning.total)}"
        )

    def _check_closed(self, household: Household, remainder: int, books: dict[str, int]) -> None:
        """The final settlement: nothing is left in the account; what there was is to be given back, or stays owed."""
        balance = books.get(f"customer:{household.account}", 0)
        assert balance == 0, f"{household.account} is closed with {balance}"
        assert household.leaves is not None
        held = books.get(f"refund:{household.account}", 0) + books.get(f"claim:{household.account}", 0)
        assert held == remainder
        self._check_balance(household, remainder, " at its final settlement")
        last = household.reckoning.last
        assert last == household.leaves, f"{household.account} was closed, its days are known to {last}"
        household.is_closed = True
        year = self._year
        year.count("final settlement")
        year.tenants.next_tenant(household)

    def _note_debits(self) -> None:
        """A bank's debit is booked as soon as its answer is known; none waits for long."""
        year = self._year
        with Database(year.engine).reading("looking for debits") as connection:
            since = int((year.town.now - 2 * DAY).timestamp() * 1000)
            statement = text(
                "SELECT receipt, booked_for, amount_minor FROM payments WHERE channel = 'bank-debit' AND received_at >= :since"
            )
            rows = connection.execute(statement, {"since": since})
            for receipt, account, amount in rows:
                agreement, drawn, _ = year.bank.drawn[receipt]
                household = year.households[account]
                assert (agreement, drawn) == (household.agreement, amount), f"{receipt} was booked and not drawn so"
                if receipt not in year.booked:
                    year.booked.add(receipt)
                    year.count("paid by bank-debit")
                    year.purses.credit(household, amount)
        for key, (_, _, at) in year.bank.drawn.items():
            assert key in year.booked or year.town.now - at < DEBIT_GRACE, f"{key} was drawn at {at} and never booked"

    def _difference(self, household: Household, expected: dict[date, Fraction], charged: dict[date, Fraction]) -> str:
        days = sorted(day for day in {*expected, *charged} if expected.get(day) != charged.get(day))
        shown = [f"{day}: oracle {_shown(expected.get(day))}, charged {_shown(charged.get(day))}" for day in days[:6]]
        return f"{household.account} ({household.tariff}) on {self._year.today}: {'; '.join(shown)}"

    # ---------------------------------------------------------------------------------------- at the end

    def check_end(self) -> None:
        """Every day of every account is charged, and what was charged is what its meters counted."""
        year = self._year
        with Database(year.engine).reading("checking the year") as connection:
            assert check_books(connection) == []
        for household in year.households.values():
            if household.is_closed:
                continue
            last = household.reckoning.last
            wanted = min(self._settled_to, household.leaves or date.max)
            if household.opened <= wanted:
                assert last == wanted, f"{household.account} is charged to {last}, expected {wanted}"
            self.check_energy(household)
            assert household.dark_since is None or household.truth() < 0, f"{household.account} has paid and is dark"

    def check_energy(self, household: Household) -> None:
        last = household.reckoning.last
        if last is None:
            return
        counted = Decimal(0)
        for one in household.measures:
            until = last if one.until is None else min(one.until, last)
            if one.since <= until:
                counted += one.meter.counted(one.since, until)
                counted -= _replaced(household, one.meter.name, one.since, until, one.meter.counted)
        counted += sum((_sum(used) for used in household.told.values()), Decimal(0))
        assert household.reckoning.kwh == counted, (
            f"{household.account}: charged {household.reckoning.kwh} of {counted} kWh"
        )


def table_of(back: Sequence[timedelta]) -> str:
    """From payment to light."""
    ordered = sorted(back)
    if not ordered:
        return "nobody was disconnected"

    def at(share: float) -> str:
        return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))].total_seconds() / 60:8.1f} min"

    rows = [
        ("reconnections", f"{len(ordered):8}"),
        ("median", at(0.5)),
        ("95 %", at(0.95)),
        ("99 %", at(0.99)),
        ("longest", at(1.0)),
    ]
    for hours in (1, 2, 4, 8, 24):
        share = sum(one <= hours * HOUR for one in ordered) / len(ordered)
        rows.append((f"within {hours} h", f"{share:8.1%}"))
    return "\n".join(f"  {name:14}{value}" for name, value in rows)


def _charges(connection: Connection, since: date) -> dict[str, dict[date, Fraction]]:
    """By account and day, minor units."""
    accounts = {number: name for name, number in connection.execute(text("SELECT id, number FROM accounts"))}
    found: dict[str, dict[date, Fraction]] = {}
    statement = text("SELECT account, day, exact FROM charges WHERE day >= :day AND is_withdrawn = 0")
    for number, day, exact in connection.execute(statement, {"day": (since - EPOCH).days}):
        found.setdefault(accounts[number], {})[EPOCH + day * DAY] = Fraction(Decimal(exact))
    return found


def _books(connection: Connection) -> dict[str, int]:
    """Balances, minor units."""
    return {name: balance for name, balance in connection.execute(text("SELECT name, balance_minor FROM books"))}


def _closed(connection: Connection) -> dict[str, int]:
    """What remained of the accounts that are closed, minor units."""
    done = connection.execute(text("SELECT account, remainder_minor FROM move_outs WHERE done_at > 0"))
    return {account: remainder for account, remainder in done}


def _shown(money: Fraction | None) -> str:
    return "nothing" if money is None else f"{float(money):.6f}"


def _sum(used: dict[int, Decimal]) -> Decimal:
    return used[0] if 0 in used else sum(used.values(), Decimal(0))


def _replaced(household: Household, meter: str, since: date, until: date, counted: object) -> Decimal:
    """What a meter counted on days for which a person told an amount instead."""
    days = [day for name, day in household.told if name == meter and since <= day <= until]
    return sum((counted(day, day) for day in days), Decimal(0))  # type: ignore[operator]

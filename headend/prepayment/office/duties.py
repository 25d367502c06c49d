"""What prepaid supply does by itself, as duties in the order in which one makes work for the next.

They run in turn on one thread, so each tick is a bounded piece: a page of the feed, a few batches of accounts, a handful of messages.
A first settlement of 150,000 accounts takes some 20 s of work; cut into pieces of half a second, orders, messages and all others have
their turn in between. What a duty keeps in memory is how far it has come in a round, and nothing is lost when that is forgotten.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial

import structlog
from msgspec import Struct, field
from sqlalchemy import Connection, delete, select

from headend.clock import Clock
from headend.prepayment.accounts.events import hand_over
from headend.prepayment.books.autopay import Autopay
from headend.prepayment.books.reconciliation import flag_told
from headend.prepayment.errors import AccountClosed, NotSettled, SwitchboardUnavailable
from headend.prepayment.notices.mailroom import Mailroom
from headend.prepayment.office.letter_drafts import LetterDrafts
from headend.prepayment.office.service import Duty
from headend.prepayment.outside.patience import PatientSwitchboard
from headend.prepayment.ports import Outbox, Supply
from headend.prepayment.settlement import move_out
from headend.prepayment.settlement.findings import look_at, look_at_off, meters_to_ask
from headend.prepayment.settlement.settlement import Settlement
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.tables import accounts, news
from headend.prepayment.supply.desk import SupplyDesk
from headend.prepayment.supply.engine import MAY_BE_OFF
from headend.prepayment.supply.relay_events import RelayFollower
from headend.prepayment.supply.store import load
from headend.prepayment.trouble.flags import raise_flag
from headend.prepayment.trouble.kinds import CLOSED_WHILE_OFF
from headend.prepayment.trouble.put_off import PutOff
from headend.prepayment.usage.intake import Intake
from headend.prepayment.views.statement_data import due_statements, make_statement

__all__ = ["Desks", "all_duties"]

PIECE_S = 0.5  # of settlement in one tick; one batch at least
SETTLE_AFTER = timedelta(minutes=5)  # of a day: its last reads need a moment to come in
STATEMENTS = 10  # made in one tick
FINDINGS = 20  # accounts whose use is looked at in one transaction
ASKED = 20  # supplies asked in one tick
DEBITS = 10
LOOKS = 50
LETTERS = 200
MOVE_OUTS = 20
WITHIN_S = 60.0
HOUR_S = 3600.0
DAY_S = 86_400.0
_log = structlog.get_logger(__name__)


class Desks(Struct, frozen=True, kw_only=True):
    """The parts whose turn it is. autopay: None where no bank draws."""

    database: Database
    intake: Intake
    settlement: Settlement
    autopay: Autopay | None
    follower: RelayFollower
    desk: SupplyDesk
    mailroom: Mailroom
    letters: LetterDrafts
    switch: PatientSwitchboard
    outbox: Outbox
    clock: Clock


def all_duties(desks: Desks) -> list[Duty]:
    found = [
        Duty(name="intake", tick=lambda _: desks.intake.catch_up(pages_max=1).events),
        Duty(name="settlement", tick=_Settling(desks).tick),
        Duty(name="move-outs", tick=_MovingOut(desks).tick, every_s=WITHIN_S),
        Duty(name="statements", tick=_Statements(desks).tick),
        Duty(name="findings", tick=_Findings(desks).tick),
        Duty(name="supplies", tick=_Supplies(desks).tick),
    ]
    if desks.autopay is not None:
        found += [
            Duty(name="debits", tick=_Noting(desks.autopay, desks.clock).tick, every_s=WITHIN_S),
            Duty(name="bank", tick=_Drawing(desks.autopay).tick),
        ]
    return [
        *found,
        Duty(name="supply-switches", tick=lambda now: desks.follower.tick(now, pages_max=2)),
        Duty(name="desk", tick=_Deciding(desks).tick),
        Duty(name="mailroom", tick=lambda now: desks.mailroom.tick(now, limit=LETTERS)),
        Duty(name="reconciliation", tick=_Reconciling(desks).tick, every_s=WITHIN_S),
        Duty(name="hand-over", tick=lambda _: hand_over(desks.database, desks.outbox)),
        Duty(name="forgetting", tick=lambda now: desks.intake.forget_unknown(now), every_s=DAY_S),
    ]


class _Settling(Struct, frozen=True):
    """Days that are over, as soon as intake brought something of them: in the night all accounts, later those of late reads."""

    desks: Desks

    def tick(self, now: datetime) -> int:
        settlement, clock = self.desks.settlement, self.desks.clock
        before = settlement.days.today(now - SETTLE_AFTER)
        began, done = clock.monotonic(), 0
        while looked_at := settlement.step(now, before=before):
            done += looked_at
            if clock.monotonic() - began >= PIECE_S:
                break
        settlement.put_off.tell(now)
        return done


class _MovingOut(Struct):
    """Everybody in turn, so that those who wait for a read hold up no other."""

    desks: Desks
    after: str = ""
    put_off: PutOff[str] = field(default_factory=lambda: PutOff("final settlements"))

    def tick(self, now: datetime) -> int:
        settlement = self.desks.settlement
        with self.desks.database.reading("looking for move-outs") as connection:
            waiting = sorted(one.account for one in move_out.waiting(connection, settlement.days.today(now)))
        some = [one for one in waiting if one > self.after and not self.put_off.waits(one, now)][:MOVE_OUTS]
        self.after = some[-1] if len(some) == MOVE_OUTS else ""
        done = 0
        for account in some:
            done += self.put_off.do([account], partial(self._finish, now), now)
        self.put_off.tell(now)
        return done

    def _finish(self, now: datetime, accounts: Sequence[str]) -> bool:
        (account,) = accounts
        try:
            with self.desks.database.writing("settling finally") as connection:
                move_out.finish(connection, account, self.desks.settlement, now)
                if load(connection, account, now).episode.state in MAY_BE_OFF:
                    text = "the account was closed while its supply was off; the next customer of these premises needs it back"
                    raise_flag(connection, account, CLOSED_WHILE_OFF, now, text)
        except (NotSettled, AccountClosed) as waits:
            _log.debug("a final settlement waits", problem=str(waits))
            return False
        return True


class _Statements(Struct):
    """Asked once every ten minutes whose statement of last month can be made; it is a question to all accounts.

    month: any day of the one that `due` was asked for. Making them may outlast it, and the next one's are not due then.
    """

    desks: Desks
    month: date = date.min
    due: list[str] = []
    ask_at: float = 0.0
    put_off: PutOff[str] = field(default_factory=lambda: PutOff("statements"))

    def tick(self, now: datetime) -> int:
        desks, days = self.desks, self.desks.settlement.days
        if not self.due and desks.clock.monotonic() >= self.ask_at:
            self.ask_at = desks.clock.monotonic() + HOUR_S / 6
            self.month = days.today(now).replace(day=1) - timedelta(days=1)
            with desks.database.reading("looking for due statements") as connection:
                self.due = [one for one in due_statements(connection, now, days) if not self.put_off.waits(one, now)]
            self.due.reverse()
        made = 0
        for _ in range(min(STATEMENTS, len(self.due))):
            made += self.put_off.do([self.due.pop()], partial(self._make, now), now)
        self.put_off.tell(now)
        return made

    def _make(self, now: datetime, some: Sequence[str]) -> int:
        desks = self.desks
        with desks.database.writing("making a statement") as connection:
            for account in some:
                made = make_statement(connection, account, self.month, now, desks.settlement.days)
                desks.letters.statement(connection, made, now)
        return len(some)


class _Findings(Struct):
    """What the use of accounts says that were charged since they were looked at. put_off: by number and id."""

    desks: Desks
    put_off: PutOff[tuple[int, str]] = field(default_factory=lambda: PutOff("looking at use", name=lambda key: key[1]))

    def tick(self, now: datetime) -> int:
        with self.desks.database.reading("looking for accounts with news") as connection:
            some = self.put_off.pick(partial(self._news, connection), now)
        done = self.put_off.do(some, partial(self._look, now), now) if some else 0
        self.put_off.tell(now)
        return done

    @staticmethod
    def _news(connection: Connection, after: tuple[int, str] | None) -> list[tuple[int, str]]:
        statement = select(news.c.account, accounts.c.id).join(accounts, accounts.c.number == news.c.account)
        if after is not None:
            statement = statement.where(news.c.account > after[0])
        found = connection.execute(statement.order_by(news.c.account).limit(FINDINGS))
        return [(number, account) for number, account in found]

    def _look(self, now: datetime, some: Sequence[tuple[int, str]]) -> int:
        desks, days = self.desks, self.desks.settlement.days
        with desks.database.writing("looking at use") as connection:
            for _, account in some:
                found = look_at(connection, account, now, days)
                if found is not None:
                    desks.letters.finding(connection, found, days.today(now), now)
            connection.execute(delete(news).where(news.c.account.in_([number for number, _ in some])))
        return len(some)


class _Supplies(Struct):
    """Once an hour, meters whose supply should be off: whether it is, and whether they count all the same."""

    desks: Desks
    meters: list[tuple[str, str]] = []
    ask_at: float = 0.0
    put_off: PutOff[tuple[str, str]] = field(
        default_factory=lambda: PutOff("looking at supplies that are off", name=lambda key: key[0])
    )

    def tick(self, now: datetime) -> int:
        desks, days = self.desks, self.desks.settlement.days
        if not self.meters and desks.clock.monotonic() >= self.ask_at:
            self.ask_at = desks.clock.monotonic() + HOUR_S
            with desks.database.reading("looking for supplies that are off") as connection:
                self.meters = meters_to_ask(connection, days.today(now))
        some, self.meters = self.meters[:ASKED], self.meters[ASKED:]
        if some:
            # Asked before the transaction: an answer may take its time.
            desks.switch.begin()
            known = self._asked(meter for _, meter in some)
            self.put_off.do(some, partial(self._look, now, known), now)
        self.put_off.tell(now)
        return len(some)

    def _look(self, now: datetime, known: Mapping[str, Supply], some: Sequence[tuple[str, str]]) -> int:
        desks, days = self.desks, self.desks.settlement.days
        with desks.database.writing("looking at supplies that are off") as connection:
            for found in look_at_off(connection, some, known, now, days):
                desks.letters.finding(connection, found, days.today(now), now)
        return len(some)

    def _asked(self, meters: Iterable[str]) -> dict[str, Supply]:
        """Of those that can be asked; after one that took long the others of this turn are not tried.

        Raises SwitchboardUnavailable when not one can be.
        """
        known: dict[str, Supply] = {}
        problems = []
        for meter in meters:
            try:
                known[meter] = self.desks.switch.supply(meter)
            except SwitchboardUnavailable as error:
                problems.append(error)
        if problems:
            if not known:
                raise problems[0]
            _log.warning("some supplies could not be asked", count=len(problems), problem=str(problems[0]))
        return known


class _Noting(Struct):
    """Whose balance is below its reminder amount, a stretch of all accounts at a time."""

    autopay: Autopay
    clock: Clock
    after: str = ""

    def tick(self, _: datetime) -> int:
        began = self.clock.monotonic()
        self.after = self.autopay.note(self.after)
        while self.after and self.clock.monotonic() - began < PIECE_S:
            self.after = self.autopay.note(self.after)
        return 0


class _Drawing(Struct, frozen=True):
    autopay: Autopay

    def tick(self, _: datetime) -> int:
        drawn = self.autopay.draw(limit=DEBITS)
        return drawn.accepted + drawn.refused + drawn.unknown


class _Deciding(Struct, frozen=True):
    desks: Desks

    def tick(self, now: datetime) -> int:
        self.desks.switch.begin()
        return self.desks.desk.tick(now, limit=LOOKS)


class _Reconciling(Struct, frozen=True):
    desks: Desks

    def tick(self, now: datetime) -> int:
        with self.desks.database.writing("looking for payments not booked") as connection:
            return flag_told(connection, now)

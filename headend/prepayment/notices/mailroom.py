"""Sends what is due: several messages at once, those of an episode before all others.

Each is claimed, durable, before it leaves, and what became of it is written down on its own. Between the claim and the answer of a
messenger nobody knows whether it went out: it is sent again, with the same id, which the channels here take as the same message.

A message is given up by a try that fails when its time is over, never without one. What was not tried in all its time stayed here
for reasons of our own, and says nothing about the customer: a warning is dropped then, since its figures are old, and the supply desk
makes it anew; any other is true still, and is sent.

A channel that is down says nothing about a customer either: the next one is asked at once, and a try in which one of them was down
counts for nothing. Whoever is slow may have taken a message all the same: the same key is one message to one channel, not to two.
"""

import enum
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace
from sqlalchemy import Connection, or_, select, update

from headend.clock import Clock
from headend.prepayment.accounts.accounts import contact_of, set_reachable
from headend.prepayment.days import epoch_ms
from headend.prepayment.errors import ChannelsDown, UnknownAccount
from headend.prepayment.notices.channel_watch import ChannelWatch
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.notices.notices import Channel, Letter, Still, letter_of_row, patience
from headend.prepayment.notices.plan import NoticePlan
from headend.prepayment.ports import Delivery, Message
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.supply_tables import messages
from headend.prepayment.trouble.faults import is_own_fault
from headend.prepayment.trouble.flags import clear_flag, raise_flag
from headend.prepayment.trouble.kinds import UNREACHABLE

__all__ = ["MAIL_THREADS", "Mailroom"]

MAIL_THREADS = 16  # a gateway answers within a second: as many messages a second, and 150,000 in three hours
KEPT_FREE = 4  # of the threads, for what cannot wait
PIECE_S = 0.5  # of a tick with threads
SLOW_S = 0.25  # no answer for so long: the other duties have their turn, and the answers come meanwhile
FAR = timedelta(days=3)  # nothing is planned further ahead: the clock was set back
LATE = timedelta(hours=1)  # so long after a message's end we were not there, and no receipt could be told to us
GRACE = timedelta(hours=6)  # for a receipt, from then on, and since its channel was down
MAILROOM = "notices"  # as `by` of a contact
PENDING = (NoticeState.WAITING, NoticeState.SENDING, NoticeState.SENT)
_log = structlog.get_logger(__name__)


class Mailroom:
    """channels: tried in turn, each try on the next one that works. still: whether an episode's message has its reason yet."""

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        *,
        plan: NoticePlan,
        still: Callable[[Connection, Letter, datetime], Still],
        settled: Callable[[Connection, str, datetime], object],
        clock: Clock,
        senders: Executor | None = None,
    ) -> None:
        """settled: told in the transaction in which a message of an episode is proven or given up.

        senders: MAIL_THREADS threads; None: each message is sent before the next one is claimed.
        """
        self._database = database
        self._channels = channels
        self._plan = plan
        self._still = still
        self._settled = settled
        self._clock = clock
        self._senders = senders
        self._under_way: dict[Future[None], str] = {}
        self._watch = ChannelWatch(clock)

    def tick(self, now: datetime, *, limit: int = 100) -> int:
        """Deals with at most `limit` messages, and gives how many there were. With threads it does not wait for slow answers.

        One that cannot be looked at is put off, and holds up no other; in the end the first of their problems is raised.
        Raises StoreError at once, but for a value of one message's that cannot be stored; ChannelsDown where no channel works.
        """
        began, dealt = self._clock.monotonic(), 0
        problems: list[Exception] = []
        while dealt < limit:
            problems += self._note_ended()
            if not any(self._watch.works(channel) for channel in self._channels):
                break
            some = self._next(now, limit - dealt)
            for identity in some:
                try:
                    self._send(identity, now)
                except Exception as problem:
                    self._note_fault(identity, problem)
                    self._put_off(identity, now)
                    problems.append(problem)
            dealt += len(some)
            if self._senders is None or not self._under_way or self._clock.monotonic() - began >= PIECE_S:
                break
            if not wait(self._under_way, timeout=SLOW_S, return_when=FIRST_COMPLETED).done:
                break
        if problems:
            raise problems[0]
        return dealt

    def receipt(self, reference: str, now: datetime, *, delivered: bool, problem: str = "") -> bool:
        """What a channel tells later about a message that it took; False when no message has that reference."""
        with self._database.writing("noting a receipt") as connection:
            row = connection.execute(select(messages).where(messages.c.reference == reference)).first()
            if row is None or not reference:
                return False
            letter = letter_of_row(row)
            if letter.state not in (NoticeState.SENT, NoticeState.UNDELIVERABLE):
                return True
            if delivered:
                self._proven(connection, letter, now, letter.channel, reference)
            elif letter.state is NoticeState.SENT:
                self._give_up(connection, letter, now, problem or "the channel could not deliver it")
            return True

    # -------------------------------------------------------------------------------------------- which

    def _next(self, now: datetime, limit: int) -> list[str]:
        """As many as there are threads free for."""
        busy = set(self._under_way.values())
        found: list[str] = []
        with self._database.reading("looking for messages") as connection:
            for can_wait, threads in ((0, MAIL_THREADS), (1, MAIL_THREADS - KEPT_FREE)):
                room = limit - len(found)
                if self._senders is not None:
                    room = min(room, threads - len(busy) - len(found))
                if room > 0:
                    due = _due(connection, now, can_wait, room + len(busy))
                    found += [identity for identity in due if identity not in busy][:room]
        return found

    # -------------------------------------------------------------------------------------------- sending

    def _send(self, identity: str, now: datetime) -> None:
        found = self._claim(identity, now)
        if found is None:
            return
        if self._senders is None:
            self._deliver(*found)
        else:
            self._under_way[self._senders.submit(self._deliver, *found)] = identity

    def _deliver(self, before: Letter, letter: Letter) -> None:
        """On any thread. before: as it was when it was claimed. Raises ChannelsDown."""
        message = Message(
            key=letter.id,
            kind=letter.kind,
            account=letter.account,
            to=letter.phone,
            language=letter.language,
            title=letter.title,
            text=letter.text,
        )
        first = (letter.tries - 1) % len(self._channels)
        is_any_down, problem = False, ""
        for channel in (*self._channels[first:], *self._channels[:first]):
            if not self._watch.works(channel):
                is_any_down = True
                continue
            delivery = channel.messenger.send(message)
            if self._watch.hear(letter.id, channel, delivery):
                if delivery.reference or not is_any_down:
                    self._note(letter, channel, delivery, self._clock.now())
                else:
                    self._not_tried(before, f"{channel.name}: {delivery.problem}", self._clock.now())
                return
            is_any_down, problem = True, f"{channel.name}: {delivery.problem}"
        if not problem:
            self._not_claimed(before)
            return
        self._not_tried(before, problem, self._clock.now())
        raise ChannelsDown(f"no message leaves, because no channel takes any; {problem}")

    def _note(self, letter: Letter, channel: Channel, delivery: Delivery, now: datetime) -> None:
        with self._database.writing("noting a delivery") as connection:
            if delivery.reference and (delivery.delivered or self._plan.proof == "sent"):
                self._proven(connection, letter, now, channel.name, delivery.reference)
            elif delivery.reference:
                _set(
                    connection,
                    letter,
                    state=NoticeState.SENT,
                    sent_at=now,
                    channel=channel.name,
                    reference=delivery.reference,
                    next_try_at=letter.give_up_at,
                    problem="",
                )
            else:
                self._failed(connection, letter, channel, now, delivery.problem or "the channel gave no proof")

    def _note_ended(self) -> list[Exception]:
        """What sending, or writing down the answer, has raised: those messages are sent again in their time. Raises StoreError."""
        ended = [(future, identity) for future, identity in self._under_way.items() if future.done()]
        for future, _ in ended:
            del self._under_way[future]
        problems = []
        for future, identity in ended:
            problem = None if future.cancelled() else future.exception()
            if problem is None:
                continue
            if not isinstance(problem, Exception):
                raise problem
            self._note_fault(identity, problem)
            problems.append(problem)
        return problems

    @staticmethod
    def _note_fault(identity: str, problem: Exception) -> None:
        """Of one message, whatever it is: among those behind it are others' last warnings. Raises it where it is everybody's. That
        channels are down is everybody's, too, and is told when the others' answers are noted."""
        if not is_own_fault(problem):
            raise problem
        if isinstance(problem, ChannelsDown):
            return
        _log.error("a message could not be sent", message=identity, exc_info=problem)

    def _not_claimed(self, before: Letter) -> None:
        """Its place in the queue is its own again: nobody was asked."""
        with self._database.writing("putting a message back") as connection:
            self._put_back(connection, before, next_try_at=before.next_try_at)

    def _not_tried(self, before: Letter, problem: str, now: datetime) -> None:
        """As if it had not been claimed, but for its pause, which grows with its age."""
        pause = min(max((now - before.created_at) / 8, self._plan.pause_first), self._plan.pause_max)
        with self._database.writing("noting that a channel is down") as connection:
            self._put_back(connection, before, next_try_at=now + pause, problem=problem)
            if before.step and now >= before.give_up_at:
                self._drop(connection, before, now, "a channel was down when its time was over")

    def _put_back(self, connection: Connection, before: Letter, **values: object) -> None:
        own = {"state": NoticeState.WAITING, "tries": before.tries, "give_up_at": before.give_up_at}
        _set(connection, before, **own | values)

    def _claim(self, identity: str, now: datetime) -> tuple[Letter, Letter] | None:
        """Durable before anything leaves: as it was, and as it is now. None when it is not to be sent now."""
        with self._database.writing("claiming a message") as connection:
            row = connection.execute(select(messages).where(messages.c.id == identity)).first()
            assert row is not None
            letter = letter_of_row(row)
            if letter.state not in PENDING:
                return None
            if letter.state is NoticeState.SENT:
                self._look_for_receipt(connection, letter, now)
                return None
            if letter.tries >= self._plan.tries_max:
                self._give_up(connection, letter, now, letter.problem or "no proof of delivery came")
                return None
            if not self._plan.may_send(letter.kind, now):
                _set(connection, letter, next_try_at=self._plan.when_to_send(letter.kind, now))
                return None
            if letter.step and not letter.tries and now >= letter.give_up_at:
                self._drop(connection, letter, now, "it was not sent in its time, for reasons of our own")
                return None
            still = self._still(connection, letter, now) if letter.episode else Still.SEND
            if still is Still.WAIT:
                _set(connection, letter, next_try_at=now + self._plan.pause_first)
                return None
            if still is Still.DROP:
                self._drop(connection, letter, now, "no reason any more")
                return None
            pause = min(self._plan.pause_first * 2**letter.tries, self._plan.pause_max)
            end = letter.give_up_at if letter.tries else max(letter.give_up_at, now + patience(self._plan, letter.kind))
            claimed = replace(letter, tries=letter.tries + 1, give_up_at=end)
            _set(
                connection,
                letter,
                state=NoticeState.SENDING,
                tries=claimed.tries,
                give_up_at=end,
                next_try_at=now + pause,
            )
            return letter, claimed

    def _put_off(self, identity: str, now: datetime) -> None:
        """One that is due still: where its claim stands, the pause that it was claimed with stands too."""
        own = messages.c
        with self._database.writing("putting a message off") as connection:
            still_due = or_(own.next_try_at <= epoch_ms(now), own.next_try_at > epoch_ms(now + FAR))
            next_try_at = epoch_ms(now + self._plan.pause_first)
            connection.execute(update(messages).where(own.id == identity, still_due).values(next_try_at=next_try_at))

    # -------------------------------------------------------------------------------------------- what becomes of it

    def _look_for_receipt(self, connection: Connection, letter: Letter, now: datetime) -> None:
        if now < letter.give_up_at:
            _set(connection, letter, next_try_at=min(letter.give_up_at, now + FAR))
        elif now >= letter.give_up_at + LATE or self._watch.is_doubtful(letter.channel, GRACE):
            _set(connection, letter, give_up_at=now + GRACE, next_try_at=now + GRACE)
        else:
            self._give_up(connection, letter, now, letter.problem or "no proof of delivery came")

    def _failed(self, connection: Connection, letter: Letter, channel: Channel, now: datetime, problem: str) -> None:
        _log.warning("message not delivered", message=letter.id, channel=channel.name, problem=problem)
        if now >= letter.give_up_at or letter.tries >= self._plan.tries_max:
            self._give_up(connection, letter, now, problem)
        else:
            _set(connection, letter, state=NoticeState.WAITING, problem=problem)

    def _drop(self, connection: Connection, letter: Letter, now: datetime, reason: str) -> None:
        _set(connection, letter, state=NoticeState.WITHDRAWN, next_try_at=None, problem=reason)
        self._settled(connection, letter.account, now)

    def _proven(self, connection: Connection, letter: Letter, now: datetime, channel: str, reference: str) -> None:
        _set(
            connection,
            letter,
            state=NoticeState.DELIVERED,
            sent_at=letter.sent_at or now,
            delivered_at=max(now, letter.sent_at or now),
            channel=channel,
            reference=reference,
            next_try_at=None,
            problem="",
        )
        if _is_of_newest_contact(connection, letter):
            set_reachable(connection, letter.account, True, now, by=MAILROOM)
            clear_flag(connection, letter.account, UNREACHABLE)
        if letter.episode:
            self._settled(connection, letter.account, now)

    def _give_up(self, connection: Connection, letter: Letter, now: datetime, problem: str) -> None:
        _set(connection, letter, state=NoticeState.UNDELIVERABLE, next_try_at=None, problem=problem)
        if _is_of_newest_contact(connection, letter):
            set_reachable(connection, letter.account, False, now, by=MAILROOM)
            evidence = {"message": letter.id, "kind": letter.kind, "tries": letter.tries, "problem": problem}
            text = f"{letter.phone} could not be reached; nothing is disconnected until somebody is"
            raise_flag(connection, letter.account, UNREACHABLE, now, text, evidence)
        if letter.episode:
            self._settled(connection, letter.account, now)
        _log.warning("message given up", message=letter.id, problem=problem)


# ------------------------------------------------------------------------------------------------ rows


def _due(connection: Connection, now: datetime, can_wait: int, limit: int) -> list[str]:
    """Two questions, each answered by a stretch of the index: those that are over have no time, and are many."""
    own = messages.c
    found: list[str] = []
    for due in (own.next_try_at <= epoch_ms(now), own.next_try_at > epoch_ms(now + FAR)):
        statement = select(own.id).where(own.can_wait == can_wait, due).order_by(own.next_try_at)
        found += connection.execute(statement.limit(limit - len(found))).scalars()
    return found


def _is_of_newest_contact(connection: Connection, letter: Letter) -> bool:
    try:
        return contact_of(connection, letter.account).phone == letter.phone
    except UnknownAccount:
        return False


def _set(connection: Connection, letter: Letter, **values: object) -> None:
    row = {
        name: epoch_ms(one) if isinstance(one, datetime) else one.value if isinstance(one, enum.Enum) else one
        for name, one in values.items()
    }
    connection.execute(update(messages).where(messages.c.id == letter.id).values(row))

"""Messages to customers: durable before they are sent, sent once each, proven, kept for ever.

`post` writes a message down, inside the transaction of whatever is its reason; `Mailroom.tick` sends what is due. The id of a message
is its reason's own, so that a repeat after a crash is the same message. Between the claim and the answer of a messenger nobody knows
whether it went out: it is sent again, with the same id, which the channels here take as the same message.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy import Connection, insert, or_, select, update

from headend.prepayment.accounts import contact_of, set_reachable
from headend.prepayment.database import Database
from headend.prepayment.engine import Notice, NoticeState
from headend.prepayment.errors import UnknownAccount
from headend.prepayment.notice_plan import WARNINGS, NoticePlan
from headend.prepayment.notice_texts import Figure, NoticeTexts
from headend.prepayment.ports import Delivery, Message, Messenger
from headend.prepayment.rows import epoch_ms, from_epoch_ms
from headend.prepayment.supply_flags import clear_flag, raise_flag
from headend.prepayment.supply_tables import messages

__all__ = ["Channel", "Draft", "Letter", "Mailroom", "Still", "letters_of", "notices_of", "post", "withdraw"]

GIVE_UP = timedelta(days=2)  # of messages that are no step
FAR = timedelta(days=3)  # nothing is planned further ahead: the clock was set back
MAILROOM = "notices"  # as `by` of a contact
PENDING = (NoticeState.WAITING, NoticeState.SENDING, NoticeState.SENT)
UNREACHABLE = "unreachable"
_log = structlog.get_logger(__name__)


class Channel(Struct, frozen=True):
    """name: as the switch's policy names it, such as "sms"."""

    name: str
    messenger: Messenger


class Draft(Struct, frozen=True, kw_only=True):
    """A message in the making. id: the same one is the same message. episode: 0 of none. deadline: that the text tells."""

    id: str
    account: str
    kind: str
    figures: Mapping[str, Figure]
    episode: int = 0
    attempt: int = 1
    deadline: datetime | None = None


class Letter(Struct, frozen=True, kw_only=True):
    """A message and what became of it; for the account's page, and as evidence. step: "" of what proves nothing."""

    id: str
    account: str
    episode: int
    kind: str
    step: str
    attempt: int
    language: str
    phone: str
    title: str
    text: str
    state: NoticeState
    created_at: datetime
    give_up_at: datetime
    tries: int
    channel: str
    reference: str
    problem: str
    deadline: datetime | None = None
    next_try_at: datetime | None = None
    sent_at: datetime | None = None
    delivered_at: datetime | None = None


class Still(enum.Enum):
    """Whether a message still has its reason, asked in the transaction that claims it."""

    SEND = "send"
    WAIT = "wait"
    DROP = "drop"


def post(connection: Connection, draft: Draft, now: datetime, *, plan: NoticePlan, texts: NoticeTexts) -> bool:
    """False when it was there already. To the account's newest contact. Raises UnknownAccount, KeyError for a missing figure."""
    if connection.execute(select(messages.c.id).where(messages.c.id == draft.id)).first() is not None:
        return False
    contact = contact_of(connection, draft.account)
    written = texts.write(draft.kind, contact.language, draft.account, draft.figures)
    step = plan.step_of(draft.kind)
    start = plan.when_to_send(draft.kind, now)
    row = {
        "id": draft.id,
        "account": draft.account,
        "episode": draft.episode,
        "kind": draft.kind,
        "step": "" if step is None else step.name,
        "attempt": draft.attempt,
        "language": contact.language,
        "phone": contact.phone,
        "title": written.title,
        "text": written.text,
        "state": NoticeState.WAITING.value,
        "created_at": epoch_ms(now),
        "deadline": None if draft.deadline is None else epoch_ms(draft.deadline),
        "next_try_at": epoch_ms(start),
        "give_up_at": epoch_ms(start + (GIVE_UP if step is None else step.give_up)),
        "tries": 0,
        "channel": "",
        "reference": "",
        "sent_at": None,
        "delivered_at": None,
        "problem": "",
    }
    connection.execute(insert(messages), [row])
    return True


def withdraw(connection: Connection, account: str, episode: int, reason: str) -> None:
    """What was not sent yet of an episode's warnings goes nowhere any more."""
    own = messages.c
    connection.execute(
        update(messages)
        .where(own.account == account, own.episode == episode, own.kind.in_((*WARNINGS, "disconnected")))
        .where(own.state == NoticeState.WAITING.value)
        .values(state=NoticeState.WITHDRAWN.value, next_try_at=None, problem=reason)
    )


def letters_of(connection: Connection, account: str, *, limit: int = 200) -> list[Letter]:
    """The newest first."""
    statement = select(messages).where(messages.c.account == account)
    rows = connection.execute(statement.order_by(messages.c.created_at.desc(), messages.c.id.desc()).limit(limit))
    return [_letter(row) for row in rows]


def notices_of(connection: Connection, account: str, episode: int) -> dict[str, Notice]:
    """By kind, the newest attempt of each."""
    own = messages.c
    rows = connection.execute(
        select(messages).where(own.account == account, own.episode == episode).order_by(own.attempt)
    )
    found = {}
    for row in rows:
        letter = _letter(row)
        found[letter.kind] = Notice(
            id=letter.id,
            attempt=letter.attempt,
            state=letter.state,
            created_at=letter.created_at,
            deadline=letter.deadline,
            sent_at=letter.sent_at,
            delivered_at=letter.delivered_at,
            channel=letter.channel,
            reference=letter.reference,
        )
    return found


class Mailroom:
    """Sends what is due. channels: tried in turn, each try on the next one. still: whether an episode's message has its reason yet."""

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        *,
        plan: NoticePlan,
        still: Callable[[Connection, Letter, datetime], Still],
        settled: Callable[[Connection, str, datetime], None],
    ) -> None:
        """settled: told in the transaction in which a message of an episode is proven or given up."""
        self._database = database
        self._channels = channels
        self._plan = plan
        self._still = still
        self._settled = settled

    def tick(self, now: datetime, *, limit: int = 100) -> int:
        """Sends at most `limit` messages; gives how many it dealt with. Raises StoreUnavailable."""
        with self._database.reading("looking for messages") as connection:
            ids = self._due(connection, now, limit)
        for identity in ids:
            self._send(identity, now)
        return len(ids)

    def receipt(self, reference: str, now: datetime, *, delivered: bool, problem: str = "") -> bool:
        """What a channel tells later about a message that it took; False when no message has that reference."""
        with self._database.writing("noting a receipt") as connection:
            row = connection.execute(select(messages).where(messages.c.reference == reference)).first()
            if row is None or not reference:
                return False
            letter = _letter(row)
            if letter.state not in (NoticeState.SENT, NoticeState.UNDELIVERABLE):
                return True
            if delivered:
                self._proven(connection, letter, now, letter.channel, reference)
            elif letter.state is NoticeState.SENT:
                self._give_up(connection, letter, now, problem or "the channel could not deliver it")
            return True

    @staticmethod
    def _due(connection: Connection, now: datetime, limit: int) -> list[str]:
        at = messages.c.next_try_at
        due = or_(at <= epoch_ms(now), at > epoch_ms(now + FAR))
        return list(connection.execute(select(messages.c.id).where(due).order_by(at).limit(limit)).scalars())

    def _send(self, identity: str, now: datetime) -> None:
        letter = self._claim(identity, now)
        if letter is None:
            return
        channel = self._channels[letter.tries % len(self._channels)]
        message = Message(
            key=letter.id,
            kind=letter.kind,
            account=letter.account,
            to=letter.phone,
            language=letter.language,
            title=letter.title,
            text=letter.text,
        )
        delivery = channel.messenger.send(message)
        self._note(letter, channel, delivery, now)

    def _claim(self, identity: str, now: datetime) -> Letter | None:
        """Durable before anything leaves. None when it is not to be sent now."""
        with self._database.writing("claiming a message") as connection:
            row = connection.execute(select(messages).where(messages.c.id == identity)).first()
            assert row is not None
            letter = _letter(row)
            if letter.state not in PENDING:
                return None
            if now >= letter.give_up_at or letter.tries >= self._plan.tries_max:
                self._give_up(connection, letter, now, letter.problem or "no proof of delivery came")
                return None
            if letter.state is NoticeState.SENT:
                return None
            if not self._plan.may_send(letter.kind, now):
                _set(connection, letter, next_try_at=self._plan.when_to_send(letter.kind, now))
                return None
            still = self._still(connection, letter, now) if letter.episode else Still.SEND
            if still is Still.WAIT:
                _set(connection, letter, next_try_at=now + self._plan.pause_first)
                return None
            if still is Still.DROP:
                _set(connection, letter, state=NoticeState.WITHDRAWN, next_try_at=None, problem="no reason any more")
                self._settled(connection, letter.account, now)
                return None
            pause = min(self._plan.pause_first * 2**letter.tries, self._plan.pause_max)
            _set(connection, letter, state=NoticeState.SENDING, tries=letter.tries + 1, next_try_at=now + pause)
            return letter

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
                problem = delivery.problem or "the channel gave no proof"
                _set(connection, letter, state=NoticeState.WAITING, problem=problem)
                _log.warning("message not delivered", message=letter.id, channel=channel.name, problem=problem)

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
        if self._is_of_newest_contact(connection, letter):
            set_reachable(connection, letter.account, True, now, by=MAILROOM)
            clear_flag(connection, letter.account, UNREACHABLE)
        if letter.episode:
            self._settled(connection, letter.account, now)

    def _give_up(self, connection: Connection, letter: Letter, now: datetime, problem: str) -> None:
        _set(connection, letter, state=NoticeState.UNDELIVERABLE, next_try_at=None, problem=problem)
        if self._is_of_newest_contact(connection, letter):
            set_reachable(connection, letter.account, False, now, by=MAILROOM)
            evidence = {"message": letter.id, "kind": letter.kind, "tries": letter.tries, "problem": problem}
            text = f"{letter.phone} could not be reached; nothing is disconnected until somebody is"
            raise_flag(connection, letter.account, UNREACHABLE, now, text, evidence)
        if letter.episode:
            self._settled(connection, letter.account, now)
        _log.warning("message given up", message=letter.id, problem=problem)

    @staticmethod
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


def _letter(row: Any) -> Letter:
    found = dict(row._mapping)
    for name in ("created_at", "give_up_at", "deadline", "next_try_at", "sent_at", "delivered_at"):
        moment = found[name]
        found[name] = None if moment is None else from_epoch_ms(moment)
    return Letter(**found | {"state": NoticeState(found["state"])})

"""Messages to customers: durable before they are sent, sent once each, proven, kept for ever.

`post` writes a message down, inside the transaction of whatever is its reason; the mailroom sends it. The id of a message is its
reason's own, so that a repeat after a crash is the same message.
"""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, func, insert, or_, select, update

from headend.prepayment.accounts.accounts import contact_of
from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.notices.notice import Notice, NoticeState
from headend.prepayment.notices.plan import WARNINGS, NoticePlan
from headend.prepayment.notices.texts import Figure, NoticeTexts
from headend.prepayment.ports import Messenger
from headend.prepayment.storage.supply_tables import messages

__all__ = [
    "CAN_WAIT",
    "Channel",
    "Draft",
    "Letter",
    "Still",
    "letter_of_row",
    "letters_of",
    "notices_of",
    "patience",
    "post",
    "tried_of",
    "withdraw",
]

CAN_WAIT = (
    "statement",
    "finding",
)  # go out when nothing else is to be sent: a month has as many statements as accounts
GIVE_UP = timedelta(days=2)  # of messages that are no step


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
        "give_up_at": epoch_ms(start + patience(plan, draft.kind)),
        "can_wait": int(draft.kind in CAN_WAIT),
        "tries": 0,
        "channel": "",
        "reference": "",
        "sent_at": None,
        "delivered_at": None,
        "problem": "",
    }
    connection.execute(insert(messages), [row])
    return True


def patience(plan: NoticePlan, kind: str) -> timedelta:
    """From the first try to the last one."""
    step = plan.step_of(kind)
    return GIVE_UP if step is None else step.give_up


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
    return [letter_of_row(row) for row in rows]


def notices_of(connection: Connection, account: str, episode: int) -> dict[str, Notice]:
    """By kind, the newest attempt of each."""
    own = messages.c
    rows = connection.execute(
        select(messages).where(own.account == account, own.episode == episode).order_by(own.attempt)
    )
    found = {}
    for row in rows:
        letter = letter_of_row(row)
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


def tried_of(connection: Connection, account: str, episode: int, kind: str, since: datetime | None) -> int:
    """How many attempts at a step were tried, of those made since then. What never left says nothing about the customer."""
    own = messages.c
    mine = [own.account == account, own.episode == episode, own.kind == kind]
    if since is not None:
        mine.append(own.created_at >= epoch_ms(since))
    was_tried = or_(own.state != NoticeState.WITHDRAWN.value, own.tries > 0)
    return connection.execute(select(func.count()).select_from(messages).where(*mine, was_tried)).scalar() or 0


def letter_of_row(row: Any) -> Letter:
    found = dict(row._mapping)
    del found["can_wait"]
    for name in ("created_at", "give_up_at", "deadline", "next_try_at", "sent_at", "delivered_at"):
        moment = found[name]
        found[name] = None if moment is None else from_epoch_ms(moment)
    return Letter(**found | {"state": NoticeState(found["state"])})

"""Approvals and limits as rows: asked for by one person, agreed to by another. Every function works inside somebody's transaction."""

import secrets
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from headend.commands.approval import Approval, Purpose, digest_of_words
from headend.commands.governor import Limits, raised
from headend.errors import HeadendError
from headend.store.governor_tables import governor_approvals, governor_limits
from headend.store.rows import epoch_ms

__all__ = [
    "NotApproved",
    "approve",
    "approve_limits",
    "ask",
    "ask_limits",
    "find_approval",
    "given",
    "is_wider",
    "limits_digest",
    "limits_in_force",
    "newest",
    "standing",
    "void",
    "waiting_limits",
]

_row = governor_approvals.c
_limits = governor_limits.c
_LIMITS_SUBJECT = "limits"


class NotApproved(HeadendError):
    """It may not be approved, or not by this person. The text says why, and what would be needed."""


def ask(
    connection: Connection,
    purpose: Purpose,
    subject: str,
    digest: str,
    person: str,
    now: datetime,
    *,
    others: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> Approval:
    """A new request; an older one about the same subject is void, approved or not. Raises NotApproved without a person."""
    if not person:
        raise NotApproved("nobody has said which person holds the token; expected a token with a person")
    for older in _of(connection, purpose, subject):
        if not older.voided:
            _write(connection, msgspec.structs.replace(older, voided="asked for anew"))
    number = (connection.execute(select(func.max(_row.number))).scalar() or 0) + 1
    approval = Approval(
        id=f"{purpose.value}-{number}-{secrets.token_hex(4)}",
        purpose=purpose,
        subject=subject,
        digest=digest,
        asked_by=person,
        asked_at=now,
        others=tuple(dict.fromkeys(other for other in others if other)),
        commands=tuple(commands),
    )
    connection.execute(
        insert(governor_approvals).values(
            id=approval.id, number=number, purpose=purpose.value, subject=subject, body=msgspec.json.encode(approval)
        )
    )
    return approval


def approve(connection: Connection, identity: str, digest: str, person: str, now: datetime) -> Approval:
    """digest: of what is there now, computed by whoever calls. Another one than asked for makes it void.

    Raises NotApproved; then the row is as before, so that the same transaction may record why.
    """
    approval = find_approval(connection, identity)
    if approval is None:
        raise NotApproved(f"there is nothing to approve under {identity!r}")
    if why := approval.why_not_by(person, digest, now):
        raise NotApproved(f"{identity}: {why}")
    agreed = msgspec.structs.replace(approval, approved_by=person, approved_at=now)
    _write(connection, agreed)
    return agreed


def void(connection: Connection, purpose: Purpose, subject: str, why: str) -> None:
    """Nothing of this subject is approved any more."""
    for approval in _of(connection, purpose, subject):
        if not approval.voided:
            _write(connection, msgspec.structs.replace(approval, voided=why))


def given(connection: Connection, purpose: Purpose, subject: str, digest: str) -> Approval | None:
    """The approval of exactly this; None: there is none."""
    return next((one for one in reversed(_of(connection, purpose, subject)) if one.is_given(digest)), None)


def newest(connection: Connection, limit: int = 100) -> list[Approval]:
    """The one that was asked for last first, given and void ones too."""
    rows = connection.execute(select(_row.body).order_by(_row.number.desc()).limit(limit))
    return [msgspec.json.decode(body, type=Approval) for (body,) in rows]


def standing(connection: Connection, purpose: Purpose, subject: str) -> Approval | None:
    """The newest request about this that is not void; None: there is none."""
    return next((one for one in reversed(_of(connection, purpose, subject)) if not one.voided), None)


def waiting_limits(connection: Connection, position_ms: int) -> list[tuple[Limits, int | None]]:
    """Limits that do not hold yet, with the position at which they will; None: they wait for a second person."""
    rows = connection.execute(
        select(_limits.body, _limits.effective_ms)
        .where(_limits.is_void == 0, (_limits.effective_ms.is_(None)) | (_limits.effective_ms > position_ms))
        .order_by(_limits.number)
    )
    return [(msgspec.json.decode(body, type=Limits), effective_ms) for body, effective_ms in rows]


def find_approval(connection: Connection, identity: str) -> Approval | None:
    body = connection.execute(select(_row.body).where(_row.id == identity)).scalar()
    return None if body is None else msgspec.json.decode(body, type=Approval)


# limits


def limits_in_force(connection: Connection, position_ms: int) -> Limits | None:
    """None: there are none, and nothing may be opened."""
    body = connection.execute(
        select(_limits.body)
        .where(_limits.is_void == 0, _limits.effective_ms <= position_ms)
        .order_by(_limits.number.desc())
        .limit(1)
    ).scalar()
    return None if body is None else msgspec.json.decode(body, type=Limits)


def ask_limits(connection: Connection, limits: Limits, person: str, now: datetime, position_ms: int) -> Approval | None:
    """What is narrower holds at once (None: that is all); what is wider waits for the approval given back, and a delay after it.

    Either way wider limits that have not taken effect yet are void: they were approved before this. Raises NotApproved.
    """
    before = limits_in_force(connection, position_ms)
    connection.execute(
        update(governor_limits)
        .where((_limits.effective_ms.is_(None)) | (_limits.effective_ms > position_ms))
        .values(is_void=1)
    )
    void(connection, Purpose.LIMITS, _LIMITS_SUBJECT, "other limits were asked for since")
    wider = raised(before, limits)
    narrowed = (
        limits if before is None else msgspec.structs.replace(limits, **{name: getattr(before, name) for name in wider})
    )
    if before is not None and narrowed != before:
        _put_limits(connection, narrowed, person, now, position_ms)
    if not wider:
        return None
    _put_limits(connection, limits, person, now, None)
    return ask(connection, Purpose.LIMITS, _LIMITS_SUBJECT, limits_digest(limits), person, now)


def _put_limits(connection: Connection, limits: Limits, person: str, now: datetime, effective_ms: int | None) -> None:
    number = (connection.execute(select(func.max(_limits.number))).scalar() or 0) + 1
    connection.execute(
        insert(governor_limits).values(
            number=number,
            effective_ms=effective_ms,
            is_void=0,
            asked_by=person,
            approved_by="",
            at=epoch_ms(now),
            body=msgspec.json.encode(limits),
        )
    )


def is_wider(connection: Connection, limits: Limits, position_ms: int) -> bool:
    """Whether anything in them is wider than what is in force."""
    return bool(raised(limits_in_force(connection, position_ms), limits))


def limits_digest(limits: Limits) -> str:
    return digest_of_words(msgspec.json.encode(limits, order="sorted").decode())


def approve_limits(
    connection: Connection, identity: str, person: str, now: datetime, position_ms: int
) -> tuple[Limits, int]:
    """The limits, and the position of the governor's clock at which they take effect. Raises NotApproved."""
    waiting = connection.execute(
        select(_limits.number, _limits.body).where(_limits.is_void == 0, _limits.effective_ms.is_(None))
    ).first()
    if waiting is None:
        raise NotApproved(f"no limits wait for approval under {identity!r}")
    number, body = waiting
    limits = msgspec.json.decode(body, type=Limits)
    approve(connection, identity, limits_digest(limits), person, now)
    delay_s = (limits_in_force(connection, position_ms) or limits).raise_delay_s
    effective_ms = position_ms + delay_s * 1000
    connection.execute(
        update(governor_limits).where(_limits.number == number).values(effective_ms=effective_ms, approved_by=person)
    )
    return limits, effective_ms


def _of(connection: Connection, purpose: Purpose, subject: str) -> list[Approval]:
    rows = connection.execute(
        select(_row.body).where(_row.purpose == purpose.value, _row.subject == subject).order_by(_row.number)
    )
    return [msgspec.json.decode(body, type=Approval) for (body,) in rows]


def _write(connection: Connection, approval: Approval) -> None:
    connection.execute(
        update(governor_approvals).where(_row.id == approval.id).values(body=msgspec.json.encode(approval))
    )

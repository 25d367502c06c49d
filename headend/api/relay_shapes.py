"""What is said over HTTP about orders, commands and debts, and how it becomes the words of the command room."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headend.api.problems import problem
from headend.commands.approval import Approval
from headend.commands.model import BalanceProof, CapturedRegister, Command, Kind, NoticeProof, Order
from headend.commands.obligations import OWED, Obligation
from headend.store.commands import Step

__all__ = [
    "ApprovalShape",
    "CommandShape",
    "CommandWithSteps",
    "NoticeShape",
    "ObligationShape",
    "OrderShape",
    "ProofShape",
    "aware",
    "checked_text",
    "command_shape",
    "obligation_shape",
    "order_of",
    "step_shapes",
]

TEXT_MAX = 500
KEY_MAX = 128
NOTICES_MAX = 20

Text = Annotated[str, Meta(min_length=1, max_length=TEXT_MAX)]


class ProofShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why billing says that the customer owes. fence: billing's token of the meter as of `as_of`; every payment raises it."""

    account: Text
    balance_minor: Annotated[int, Meta(description="in minor units of the currency; negative is debt")]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    as_of: datetime
    fence: Annotated[int, Meta(ge=0, le=2**62)]


class NoticeShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One notice that the customer was given. reference: where its sender can be asked about it."""

    step: Text
    sent_at: datetime
    delivered_at: datetime
    channel: Text
    reference: Text


class OrderShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order to one meter. proof, notices: what the policy asks of an open. batch: of a list, the same name in all of it."""

    kind: Annotated[
        Literal["open", "permit-close", "close", "protect", "unprotect", "status"],
        Meta(description="open: supply off; close: on; permit-close: the customer may press the button"),
    ]
    meter: Annotated[str, Meta(min_length=1, max_length=64, description="asset number")]
    reason: Text
    idempotency_key: Annotated[
        str, Meta(min_length=1, max_length=KEY_MAX, description="yours; the same key and order is the same command")
    ]
    expires_at: Annotated[datetime, Meta(description="no byte leaves at or after this")]
    not_before: Annotated[datetime | None, Meta(description="null: at once")] = None
    proof: ProofShape | None = None
    notices: Annotated[list[NoticeShape], Meta(max_length=NOTICES_MAX)] = []
    batch: Annotated[str, Meta(max_length=64)] = ""


class RegisterShape(Struct, frozen=True, kw_only=True):
    """The energy register as it stood when the supply was switched. value: decimal text."""

    obis: str
    value: str
    unit: str
    read_at: datetime


class CommandShape(Struct, frozen=True, kw_only=True):
    """A command as it stands. detail: evidence and reasons so far. problem: why it has not left yet; "" when nothing is in its way.

    waiting_for_customer: verified as permitted, and no power was seen yet. due_at: not before this.
    """

    id: str
    kind: str
    meter: str
    state: str
    reason: str
    requester: str
    approver: str
    idempotency_key: str
    created_at: datetime
    changed_at: datetime
    due_at: datetime
    expires_at: datetime
    not_before: datetime | None
    policy_version: str
    batch: str
    attempts: int
    obligation: str
    waiting_for_customer: bool
    detail: dict[str, str]
    register: RegisterShape | None
    problem: str
    is_final: bool


class StepShape(Struct, frozen=True, kw_only=True):
    """One line of a command's journal."""

    number: int
    at: datetime
    event: str
    state: str
    actor: str
    detail: dict[str, str]


class CommandWithSteps(Struct, frozen=True, kw_only=True):
    command: CommandShape
    steps: list[StepShape]


class ObligationShape(Struct, frozen=True, kw_only=True):
    """A reconnection that is owed. since: the payment's own stamp; due_by: 24 hours later. next_try_at: of the next close.

    state: open | escalated | incident | ended. ended: how; "" while it is open.
    """

    id: str
    meter: str
    state: str
    cause: str
    reference: str
    since: datetime
    due_by: datetime
    opened_at: datetime
    next_try_at: datetime
    kind: str
    expires_at: datetime | None
    tries: int
    command: str
    stage: int
    problem: str
    ended: str
    ended_at: datetime | None
    took_s: float | None


class ApprovalShape(Struct, frozen=True, kw_only=True):
    """Something that needs two people. digest: of exactly what is asked for; name it when you approve.

    state: waiting | given | void | over (nobody may give it any more).
    """

    id: str
    purpose: str
    subject: str
    digest: str
    state: str
    asked_by: str
    asked_at: datetime
    approved_by: str
    approved_at: datetime | None
    voided: str
    commands: list[str]

    @classmethod
    def of(cls, asked: Approval, *, is_open: bool) -> "ApprovalShape":
        state = "void" if asked.voided else "given" if asked.approved_by else "waiting" if is_open else "over"
        return cls(
            id=asked.id,
            purpose=asked.purpose.value,
            subject=asked.subject,
            digest=asked.digest,
            state=state,
            asked_by=asked.asked_by,
            asked_at=asked.asked_at,
            approved_by=asked.approved_by,
            approved_at=asked.approved_at,
            voided=asked.voided,
            commands=list(asked.commands),
        )


def order_of(shape: OrderShape, requester: str) -> Order:
    """Raises the 400 problem."""
    checked_text("reason", shape.reason)
    if not shape.idempotency_key.isprintable():
        raise problem(400, "idempotency_key must be printable characters.")
    if not shape.batch.isprintable():
        raise problem(400, "batch must be printable characters.")
    proof = shape.proof
    return Order(
        kind=Kind(shape.kind),
        meter=shape.meter,
        reason=shape.reason.strip(),
        requester=requester,
        idempotency_key=shape.idempotency_key,
        expires_at=aware("expires_at", shape.expires_at),
        not_before=None if shape.not_before is None else aware("not_before", shape.not_before),
        proof=None
        if proof is None
        else BalanceProof(
            account=proof.account,
            balance_minor=proof.balance_minor,
            currency=proof.currency,
            as_of=aware("proof.as_of", proof.as_of),
            fence=proof.fence,
        ),
        notices=tuple(
            NoticeProof(
                step=one.step,
                sent_at=aware("notices.sent_at", one.sent_at),
                delivered_at=aware("notices.delivered_at", one.delivered_at),
                channel=one.channel,
                reference=one.reference,
            )
            for one in shape.notices
        ),
        batch=shape.batch,
    )


def aware(name: str, moment: datetime) -> datetime:
    """To the millisecond, as it is kept. Raises the 400 problem."""
    if moment.tzinfo is None:
        raise problem(400, f"{name} must carry a zone, as in 2026-01-31T10:15:00Z, found {moment.isoformat()}.")
    if not 2000 <= moment.year <= 2200:
        raise problem(400, f"{name} is in the year {moment.year}; expected one of this century.")
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def checked_text(name: str, text: str) -> str:
    """Without surrounding blanks. Raises the 400 problem."""
    text = text.strip()
    if not 1 <= len(text) <= TEXT_MAX or not text.isprintable():
        raise problem(400, f"{name} must be 1 to {TEXT_MAX} printable characters.")
    return text


def command_shape(command: Command, problem_now: str = "") -> CommandShape:
    order = command.order
    return CommandShape(
        id=command.id,
        kind=order.kind.value,
        meter=order.meter,
        state=command.state.value,
        reason=order.reason,
        requester=order.requester,
        approver=command.approver,
        idempotency_key=order.idempotency_key,
        created_at=command.created_at,
        changed_at=command.changed_at,
        due_at=command.due_at,
        expires_at=order.expires_at,
        not_before=order.not_before,
        policy_version=command.policy_version,
        batch=order.batch,
        attempts=command.attempts,
        obligation=command.obligation,
        waiting_for_customer=command.waiting_for_customer,
        detail=dict(command.detail),
        register=_register(command.register),
        problem=problem_now if command.is_active else command.detail.get("problem", ""),
        is_final=not command.is_active,
    )


def _register(captured: CapturedRegister | None) -> RegisterShape | None:
    if captured is None:
        return None
    return RegisterShape(
        obis=captured.obis, value=format(captured.amount, "f"), unit=str(captured.unit), read_at=captured.read_at
    )


def step_shapes(steps: Sequence[Step]) -> list[StepShape]:
    return [
        StepShape(
            number=step.number,
            at=step.at,
            event=step.event,
            state=step.state.value,
            actor=step.actor,
            detail=dict(step.detail),
        )
        for step in steps
    ]


def obligation_shape(debt: Obligation) -> ObligationShape:
    state = "ended" if debt.ended else "incident" if debt.is_incident else "escalated" if debt.stage else "open"
    return ObligationShape(
        id=debt.id,
        meter=debt.meter,
        state=state,
        cause=debt.cause,
        reference=debt.reference,
        since=debt.since,
        due_by=debt.since + OWED,
        opened_at=debt.opened_at,
        next_try_at=debt.due_at,
        kind=debt.kind.value,
        expires_at=debt.expires_at,
        tries=debt.tries,
        command=debt.command,
        stage=debt.stage,
        problem=debt.problem,
        ended=debt.ended,
        ended_at=debt.ended_at,
        took_s=debt.took_s,
    )

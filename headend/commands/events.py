"""The feed's events of the command room, in the style of `headend.feed.payloads`, which describes them to consumers."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from headend.commands.model import Command, State
from headend.commands.obligations import ESCALATIONS, Obligation
from headend.feed.envelope import iso_utc, plain
from headend.feed.schema_gate import OPEN_WORDS
from headend.model import Event

__all__ = [
    "RELAY_TYPE",
    "AlarmData",
    "CommandData",
    "ObligationData",
    "RelayData",
    "RelayRegister",
    "ReminderData",
    "StopSwitchData",
    "alarm_event",
    "command_event",
    "obligation_event",
    "reminder_event",
    "stop_switch_event",
]

RELAY_TYPE = "headend.relay.v1"

Moment = Annotated[
    str,
    Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$",
        description="UTC, to the millisecond at most",
        extra_json_schema={"format": "date-time"},
    ),
]
Amount = Annotated[str, Meta(pattern=r"^-?\d+(\.\d+)?$", description="decimal number as text, with its digits")]
AssetNumber = Annotated[str, Meta(description="asset number")]


def _words(*words: str) -> Meta:
    return Meta(extra_json_schema={OPEN_WORDS: list(words)})


class RelayRegister(Struct, frozen=True, kw_only=True):
    """The energy register as it stood when the supply was switched."""

    obis: str
    value: Amount
    unit: str
    read_at: Moment


class CommandData(Struct, frozen=True, kw_only=True, tag_field="about", tag="command"):
    """A command took a step."""

    command: Annotated[str, Meta(description="id of the command")]
    meter: AssetNumber
    kind: Annotated[str, _words("open", "permit-close", "close", "protect", "unprotect", "status")]
    state: Annotated[str, _words(*(state.value for state in State))]
    step: Annotated[int, Meta(ge=1, description="of this command, 1 is the request; a higher one is the newer")]
    reason: Annotated[str, Meta(description="why it was ordered")]
    requester: Annotated[str, Meta(description="who ordered it")]
    at: Annotated[Moment, Meta(description="our clock at the step")]
    expires_at: Annotated[Moment, Meta(description="no byte of it leaves at or after this")]
    waiting_for_customer: Annotated[
        bool, Meta(description="closing is permitted, and the customer has not been seen to have pressed the button")
    ]
    detail: Annotated[dict[str, str], Meta(description="evidence and reasons so far, for people")]
    policy_version: str | UnsetType = UNSET
    approver: Annotated[str, Meta(description="who approved it, where that was needed")] | UnsetType = UNSET
    batch: Annotated[str, Meta(description="the list it came with")] | UnsetType = UNSET
    obligation: Annotated[str, Meta(description="the debt that it is to pay")] | UnsetType = UNSET
    register: RelayRegister | UnsetType = UNSET


class ObligationData(Struct, frozen=True, kw_only=True, tag_field="about", tag="obligation"):
    """A reconnection is owed, is late, or is done."""

    obligation: str
    meter: AssetNumber
    state: Annotated[str, _words("open", "escalated", "incident", "ended")]
    cause: Annotated[str, _words("payment", "order")]
    reference: Annotated[str, Meta(description="of the payment, or the id of the ordered command")]
    since: Annotated[Moment, Meta(description="the payment system's own stamp: the 24 hours begin here")]
    at: Moment
    stage: Annotated[int, Meta(ge=0, le=len(ESCALATIONS), description="steps passed of: 1 h, 4 h, 12 h, 20 h, 24 h")]
    tries: Annotated[int, Meta(ge=0)]
    problem: Annotated[str, Meta(description="why it is not done yet; empty: nothing has gone wrong")]
    ended: (
        Annotated[str, _words("verified", "permitted", "already-on", "forgiven", "lapsed"), Meta(description="how")]
        | UnsetType
    ) = UNSET
    took_s: Annotated[float, Meta(description="from `since` to the read-back")] | UnsetType = UNSET


class StopSwitchData(Struct, frozen=True, kw_only=True, tag_field="about", tag="stop-switch"):
    """Somebody stopped all opens, or allowed them again."""

    meter: Annotated[None, Meta(description="null: it is about all meters")]
    state: Annotated[Literal["on", "off"], Meta(description="on: nothing is opened")]
    actor: str
    reason: str
    at: Moment


class ReminderData(Struct, frozen=True, kw_only=True, tag_field="about", tag="reminder"):
    """Closing has been permitted for some time, and the customer has not pressed the button."""

    command: str
    meter: AssetNumber
    permitted_at: Moment
    at: Moment
    number: Annotated[int, Meta(ge=1, description="of the reminder")]


class AlarmData(Struct, frozen=True, kw_only=True, tag_field="about", tag="alarm"):
    """What is ordered, what is paid and what is read do not go together."""

    meter: AssetNumber
    alarm: Annotated[
        str, _words("paid-but-dark", "cut-but-consuming", "closed-but-should-be-open", "quarantined", "batch-stopped")
    ]
    state: Annotated[str, _words("raised", "cleared")]
    at: Moment
    detail: dict[str, str]


RelayData = CommandData | ObligationData | StopSwitchData | ReminderData | AlarmData


def command_event(command: Command) -> Event:
    """Of the step that the command has just taken."""
    captured = command.register
    data = CommandData(
        command=command.id,
        meter=command.meter,
        kind=command.kind.value,
        state=command.state.value,
        step=command.steps,
        reason=command.order.reason,
        requester=command.order.requester,
        at=iso_utc(command.changed_at),
        expires_at=iso_utc(command.expires_at),
        waiting_for_customer=command.waiting_for_customer,
        detail=dict(command.detail),
        policy_version=command.policy_version or UNSET,
        approver=command.approver or UNSET,
        batch=command.order.batch or UNSET,
        obligation=command.obligation or UNSET,
        register=UNSET
        if captured is None
        else RelayRegister(
            obis=captured.obis,
            value=plain(captured.amount),
            unit=str(captured.unit),
            read_at=iso_utc(captured.read_at),
        ),
    )
    identity = f"relay:{command.id}:{command.state.value}:{command.steps}"
    return _event(command.meter, data, command.changed_at, identity)


def obligation_event(obligation: Obligation, now: datetime) -> Event:
    took_s = obligation.took_s
    state = "ended" if obligation.ended else "incident" if obligation.is_incident else ""
    data = ObligationData(
        obligation=obligation.id,
        meter=obligation.meter,
        state=state or ("escalated" if obligation.stage else "open"),
        cause=obligation.cause,
        reference=obligation.reference,
        since=iso_utc(obligation.since),
        at=iso_utc(now),
        stage=obligation.stage,
        tries=obligation.tries,
        problem=obligation.problem,
        ended=obligation.ended or UNSET,
        took_s=UNSET if took_s is None else took_s,
    )
    # Tried anew, older by a second payment, or owed again, it is in the same state: told again, and not a repeat.
    times = f"{int(obligation.since.timestamp())}:{int(obligation.opened_at.timestamp())}"
    told = f"{data.state}:{obligation.stage}:{obligation.tries}:{times}"
    return _event(obligation.meter, data, now, f"relay:{obligation.id}:{told}")


def stop_switch_event(is_on: bool, actor: str, reason: str, now: datetime) -> Event:
    state: Literal["on", "off"] = "on" if is_on else "off"
    data = StopSwitchData(meter=None, state=state, actor=actor, reason=reason, at=iso_utc(now))
    return _event("stop-switch", data, now, "")


def reminder_event(command: Command, permitted_at: datetime, number: int, now: datetime) -> Event:
    data = ReminderData(
        command=command.id, meter=command.meter, permitted_at=iso_utc(permitted_at), at=iso_utc(now), number=number
    )
    return _event(command.meter, data, now, f"relay:{command.id}:reminder:{number}")


def alarm_event(meter: str, alarm: str, *, is_raised: bool, detail: dict[str, str], now: datetime) -> Event:
    data = AlarmData(
        meter=meter, alarm=alarm, state="raised" if is_raised else "cleared", at=iso_utc(now), detail=detail
    )
    return _event(meter, data, now, "")


def _event(subject: str, data: RelayData, now: datetime, identity: str) -> Event:
    return Event(type=RELAY_TYPE, subject=subject, data=to_builtins(data), time=now, id=identity)

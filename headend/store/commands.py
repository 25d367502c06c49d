"""Rows of the command room. Every function takes the connection of a transaction that somebody else ends."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from headend.commands.model import ACTIVE, Command, State, order_digest
from headend.store.commands_tables import command_journal, command_meters, command_switches, commands
from headend.store.rows import epoch_ms, from_epoch_ms

__all__ = [
    "Step",
    "StopSwitch",
    "Supply",
    "active_of",
    "add_command",
    "add_steps",
    "by_key",
    "command",
    "commands_in",
    "commands_of",
    "count_by_state",
    "journal_of",
    "save_commands",
    "set_stop_switch",
    "set_supply",
    "stop_switch",
    "supplies",
    "supply_of",
    "unconfirmed_of",
    "waiting_commands",
]

_encode = msgspec.json.Encoder(decimal_format="string").encode
_decode = msgspec.json.Decoder(Command).decode
_TEXTS = msgspec.json.Decoder(dict[str, str]).decode
_SAVE = update(commands).where(commands.c.id == bindparam("command_id"))
_SAVE_ENDED = _SAVE.values(place=None)
_ADD = insert(commands)
_ADD_STEPS = insert(command_journal)
# Built once: several are asked for every step of a command, and building them costs more than their answers.
_BODY = select(commands.c.body).where(commands.c.id == bindparam("command_id"))
_BY_KEY = select(commands.c.body, commands.c.digest).where(
    commands.c.requester == bindparam("requester_is"), commands.c.idempotency_key == bindparam("key_is")
)
_ACTIVE_OF = (
    select(commands.c.place, commands.c.body)
    .where(commands.c.meter == bindparam("meter_is"), commands.c.place.is_not(None))
    .order_by(commands.c.place)
)
_UNCONFIRMED_OF = select(commands.c.body).where(
    commands.c.meter == bindparam("meter_is"), commands.c.state == State.UNCONFIRMED.value
)
_SUPPLY = select(command_meters).where(command_meters.c.meter == bindparam("meter_is"))
_SET_SUPPLY = update(command_meters).where(command_meters.c.meter == bindparam("meter_is"))
_ADD_SUPPLY = insert(command_meters)
_STOP = select(command_switches).where(command_switches.c.name == "stop")


class Step(Struct, frozen=True, kw_only=True):
    """One line of a command's journal. event: "requested" for the first."""

    number: int
    at: datetime
    event: str
    state: State
    actor: str
    detail: dict[str, str]


class Supply(Struct, frozen=True, kw_only=True):
    """What is known of one meter's supply. contact: open | closed | permitted | unknown, as last proven by command `by`.

    paid_at: the payment system's stamp of the newest payment; None: none has been told.
    """

    meter: str
    fence: int = 0
    contact: str = "unknown"
    at: datetime | None = None
    by: str = ""
    paid_at: datetime | None = None


class StopSwitch(Struct, frozen=True, kw_only=True):
    """The one switch that stops all opens. at: None: it was never touched."""

    is_on: bool = False
    at: datetime | None = None
    actor: str = ""
    reason: str = ""


# -------------------------------------------------------------------------------------------- commands


def add_command(connection: Connection, new: Command, *, place: int | None) -> None:
    order = new.order
    values = {
        "id": new.id,
        "meter": order.meter,
        "kind": order.kind.value,
        "requester": order.requester,
        "idempotency_key": order.idempotency_key,
        "digest": order_digest(order),
        "batch": order.batch,
        "obligation": new.obligation,
        "created_at": epoch_ms(new.created_at),
    }
    connection.execute(_ADD, {**values, **_changing(new), "place": place})


def save_commands(connection: Connection, changed: Sequence[Command]) -> None:
    """The rows as the commands now are. A place ends with its command's activity, and stays while it is active."""
    active = [one for one in changed if one.state in ACTIVE]
    ended = [one for one in changed if one.state not in ACTIVE]
    # Places are given up before others are taken.
    for statement, group in ((_SAVE_ENDED, ended), (_SAVE, active)):
        if group:
            connection.execute(statement, [{"command_id": one.id, **_changing(one)} for one in group])


def command(connection: Connection, identity: str) -> Command | None:
    body = connection.execute(_BODY, {"command_id": identity}).scalar()
    return None if body is None else _decode(body)


def by_key(connection: Connection, requester: str, key: str) -> tuple[Command, str] | None:
    """The command that this caller made under this key, and the digest of its order."""
    row = connection.execute(_BY_KEY, {"requester_is": requester, "key_is": key}).first()
    return None if row is None else (_decode(row.body), row.digest)


def active_of(connection: Connection, meter: str) -> list[tuple[int, Command]]:
    """Place and command of what is active at the meter, the lower place first."""
    return [(row.place, _decode(row.body)) for row in connection.execute(_ACTIVE_OF, {"meter_is": meter})]


def unconfirmed_of(connection: Connection, meter: str) -> list[Command]:
    """Those of which nobody knows what they have done to this meter."""
    return [_decode(row.body) for row in connection.execute(_UNCONFIRMED_OF, {"meter_is": meter})]


def commands_in(connection: Connection, states: Iterable[State]) -> list[Command]:
    """Those that stand in one of the states, the one made first first."""
    statement = select(commands.c.body).where(commands.c.state.in_([state.value for state in states]))
    rows = connection.execute(statement.order_by(commands.c.created_at, commands.c.id))
    return [_decode(row.body) for row in rows]


def waiting_commands(connection: Connection) -> list[Command]:
    """Verified, and the customer has not been seen to have pressed the button."""
    rows = connection.execute(select(commands.c.body).where(commands.c.is_waiting == 1))
    return [_decode(row.body) for row in rows]


def commands_of(
    connection: Connection, *, meter: str | None = None, batch: str | None = None, limit: int = 1000
) -> list[Command]:
    """The newest first; of a batch the one made first first."""
    statement = select(commands.c.body).limit(limit)
    if meter is not None:
        statement = statement.where(commands.c.meter == meter)
    if batch is not None:
        statement = statement.where(commands.c.batch == batch).order_by(commands.c.created_at, commands.c.id)
    else:
        statement = statement.order_by(commands.c.created_at.desc(), commands.c.id.desc())
    return [_decode(row.body) for row in connection.execute(statement)]


def count_by_state(connection: Connection) -> dict[tuple[str, str], int]:
    """(kind, state) to how many there are."""
    statement = select(commands.c.kind, commands.c.state, func.count()).group_by(commands.c.kind, commands.c.state)
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


def _changing(changed: Command) -> dict[str, Any]:
    return {
        "state": changed.state.value,
        "due_at": epoch_ms(changed.due_at),
        "is_waiting": int(changed.waiting_for_customer),
        "body": _encode(changed),
    }


# -------------------------------------------------------------------------------------------- journal


def add_steps(connection: Connection, steps: Sequence[tuple[str, Step]]) -> None:
    """steps: each with its command's id."""
    if not steps:
        return
    values = [
        {
            "command": identity,
            "number": step.number,
            "at": epoch_ms(step.at),
            "event": step.event,
            "state": step.state.value,
            "actor": step.actor,
            "detail": _encode(step.detail),
        }
        for identity, step in steps
    ]
    connection.execute(_ADD_STEPS, values)


def journal_of(connection: Connection, identity: str) -> list[Step]:
    statement = select(command_journal).where(command_journal.c.command == identity).order_by(command_journal.c.number)
    return [
        Step(
            number=row.number,
            at=from_epoch_ms(row.at),
            event=row.event,
            state=State(row.state),
            actor=row.actor,
            detail=_TEXTS(row.detail),
        )
        for row in connection.execute(statement)
    ]


# -------------------------------------------------------------------------------------------- meters and the stop switch


def supply_of(connection: Connection, meter: str) -> Supply:
    row = connection.execute(_SUPPLY, {"meter_is": meter}).first()
    return Supply(meter=meter) if row is None else _supply(row)


def supplies(connection: Connection) -> dict[str, Supply]:
    return {row.meter: _supply(row) for row in connection.execute(select(command_meters))}


def set_supply(connection: Connection, supply: Supply) -> None:
    values = {
        "fence": supply.fence,
        "supply": supply.contact,
        "supply_at": None if supply.at is None else epoch_ms(supply.at),
        "supply_by": supply.by,
        "paid_at": None if supply.paid_at is None else epoch_ms(supply.paid_at),
    }
    if not connection.execute(_SET_SUPPLY, {"meter_is": supply.meter, **values}).rowcount:
        connection.execute(_ADD_SUPPLY, {"meter": supply.meter, **values})


def _supply(row: Any) -> Supply:
    return Supply(
        meter=row.meter,
        fence=row.fence,
        contact=row.supply,
        at=None if row.supply_at is None else from_epoch_ms(row.supply_at),
        by=row.supply_by,
        paid_at=None if row.paid_at is None else from_epoch_ms(row.paid_at),
    )


def stop_switch(connection: Connection) -> StopSwitch:
    row = connection.execute(_STOP).first()
    if row is None:
        return StopSwitch()
    return StopSwitch(is_on=bool(row.is_on), at=from_epoch_ms(row.at), actor=row.actor, reason=row.reason)


def set_stop_switch(connection: Connection, switch: StopSwitch) -> None:
    """switch.at: never None here."""
    assert switch.at is not None
    connection.execute(delete(command_switches).where(command_switches.c.name == "stop"))
    connection.execute(
        insert(command_switches).values(
            name="stop", is_on=int(switch.is_on), at=epoch_ms(switch.at), actor=switch.actor, reason=switch.reason
        )
    )

"""Rows of the command room. Every function takes the connection of a transaction that somebody else ends."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from headend.commands.model import ACTIVE, Command, State, order_digest
from headend.database.hot import HotStatement
from headend.store.commands_tables import command_journal, command_meters, command_switches, commands
from headend.store.rows import epoch_ms, from_epoch_ms

__all__ = [
    "Step",
    "StopSwitch",
    "Supply",
    "active_of",
    "add_commands",
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
_CHANGING = ("state", "due_at", "is_waiting", "body")
_save = update(commands).where(commands.c.id == bindparam("command_id"))
_SAVE = HotStatement(_save, "command_id", *_CHANGING)
_SAVE_ENDED = HotStatement(_save.values(place=None), "command_id", *_CHANGING)
_ADD = HotStatement(insert(commands), *commands.columns.keys())
_ADD_STEP = HotStatement(insert(command_journal), *command_journal.columns.keys())
_BODY = HotStatement(select(commands.c.body).where(commands.c.id == bindparam("command_id")), "command_id")
_BY_KEY = HotStatement(
    select(commands.c.body, commands.c.digest).where(
        commands.c.requester == bindparam("requester_is"), commands.c.idempotency_key == bindparam("key_is")
    ),
    "requester_is",
    "key_is",
)
_ACTIVE_OF = HotStatement(
    select(commands.c.place, commands.c.body)
    .where(commands.c.meter == bindparam("meter_is"), commands.c.place.is_not(None))
    .order_by(commands.c.place),
    "meter_is",
)
_UNCONFIRMED_OF = HotStatement(
    select(commands.c.body).where(
        commands.c.meter == bindparam("meter_is"), commands.c.state == State.UNCONFIRMED.value
    ),
    "meter_is",
)
_SUPPLY = HotStatement(select(command_meters).where(command_meters.c.meter == bindparam("meter_is")), "meter_is")
_SET_SUPPLY = HotStatement(
    update(command_meters).where(command_meters.c.meter == bindparam("meter_is")),
    "meter_is",
    "fence",
    "supply",
    "supply_at",
    "supply_by",
    "paid_at",
)
_ADD_SUPPLY = HotStatement(insert(command_meters), *command_meters.columns.keys())
_STOP = HotStatement(
    select(command_switches.c.is_on, command_switches.c.at, command_switches.c.actor, command_switches.c.reason).where(
        command_switches.c.name == "stop"
    )
)


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


def add_commands(connection: Connection, new: Sequence[tuple[Command, int | None]]) -> None:
    """new: each with its place; None: it has ended."""
    for one, place in new:
        order = one.order
        state, due_at, is_waiting, body = _changing(one)
        _ADD.change(
            connection,
            one.id,
            order.meter,
            order.kind.value,
            state,
            place,
            order.requester,
            order.idempotency_key,
            order_digest(order),
            order.batch,
            one.obligation,
            epoch_ms(one.created_at),
            due_at,
            is_waiting,
            body,
        )


def save_commands(connection: Connection, changed: Sequence[Command]) -> None:
    """The rows as the commands now are. A place ends with its command's activity, and stays while it is active."""
    # Places are given up before others are taken.
    _SAVE_ENDED.change_each(connection, [(one.id, *_changing(one)) for one in changed if one.state not in ACTIVE])
    _SAVE.change_each(connection, [(one.id, *_changing(one)) for one in changed if one.state in ACTIVE])


def command(connection: Connection, identity: str) -> Command | None:
    row = _BODY.first(connection, identity)
    return None if row is None else _decode(row[0])


def by_key(connection: Connection, requester: str, key: str) -> tuple[Command, str] | None:
    """The command that this caller made under this key, and the digest of its order."""
    row = _BY_KEY.first(connection, requester, key)
    return None if row is None else (_decode(row[0]), row[1])


def active_of(connection: Connection, meter: str) -> list[tuple[int, Command]]:
    """Place and command of what is active at the meter, the lower place first."""
    return [(place, _decode(body)) for place, body in _ACTIVE_OF.all(connection, meter)]


def unconfirmed_of(connection: Connection, meter: str) -> list[Command]:
    """Those of which nobody knows what they have done to this meter."""
    return [_decode(body) for (body,) in _UNCONFIRMED_OF.all(connection, meter)]


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


def _changing(changed: Command) -> tuple[str, int, int, bytes]:
    """In the order of _CHANGING."""
    return changed.state.value, epoch_ms(changed.due_at), int(changed.waiting_for_customer), _encode(changed)


# -------------------------------------------------------------------------------------------- journal


def add_steps(connection: Connection, steps: Sequence[tuple[str, Step]]) -> None:
    """steps: each with its command's id."""
    values = [
        (
            identity,
            step.number,
            epoch_ms(step.at),
            step.event,
            step.state.value,
            step.actor,
            _encode(step.detail),
        )
        for identity, step in steps
    ]
    if values:
        _ADD_STEP.change_each(connection, values)


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
    row = _SUPPLY.first(connection, meter)
    return Supply(meter=meter) if row is None else _supply(*row)


def supplies(connection: Connection) -> dict[str, Supply]:
    return {row[0]: _supply(*row) for row in connection.execute(select(command_meters))}


def set_supply(connection: Connection, supply: Supply) -> None:
    values = (
        supply.meter,
        supply.fence,
        supply.contact,
        None if supply.at is None else epoch_ms(supply.at),
        supply.by,
        None if supply.paid_at is None else epoch_ms(supply.paid_at),
    )
    if not _SET_SUPPLY.change(connection, *values):
        _ADD_SUPPLY.change(connection, *values)


def _supply(meter: str, fence: int, contact: str, at: int | None, by: str, paid_at: int | None) -> Supply:
    """In the order of the table's columns."""
    return Supply(
        meter=meter,
        fence=fence,
        contact=contact,
        at=None if at is None else from_epoch_ms(at),
        by=by,
        paid_at=None if paid_at is None else from_epoch_ms(paid_at),
    )


def stop_switch(connection: Connection) -> StopSwitch:
    row = _STOP.first(connection)
    if row is None:
        return StopSwitch()
    is_on, at, actor, reason = row
    return StopSwitch(is_on=bool(is_on), at=from_epoch_ms(at), actor=actor, reason=reason)


def set_stop_switch(connection: Connection, switch: StopSwitch) -> None:
    """switch.at: never None here."""
    assert switch.at is not None
    connection.execute(delete(command_switches).where(command_switches.c.name == "stop"))
    connection.execute(
        insert(command_switches).values(
            name="stop", is_on=int(switch.is_on), at=epoch_ms(switch.at), actor=switch.actor, reason=switch.reason
        )
    )

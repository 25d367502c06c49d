"""The governor's durable ledger. Every function works inside somebody's transaction and is durable with it.

An open is counted from the moment it is admitted: 10,000 orders at once must not each find an empty ledger. It waits as a claim, which
counts against the day for as long as it waits, and is spent in the transaction that makes the command `sending`; there it counts anew,
from then on. A claim is worth nothing once its command is over without a byte having left.
"""

import hashlib
from collections.abc import Iterator, Sequence
from decimal import Decimal

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from headend.commands.governor import DAY_MS, HOUR_MS, OpenFacts, Over, Tally
from headend.store.commands_tables import commands
from headend.store.governor_tables import governor_clock, governor_entries, governor_over

__all__ = [
    "claim_of",
    "load_position",
    "mark_told",
    "note_over",
    "prune",
    "put_claim",
    "release",
    "released_of",
    "save_position",
    "spend",
    "tally",
    "untold",
    "waiting_or_spent",
]

_WAITING, _SPENT = 0, 1
# States in which no byte of a command has left, but may: a claim waits, and one that was spent in vain waits again.
_UNSENT = frozenset({"requested", "checked", "approved", "scheduled", "due"})
# States in which nothing was done, nor will be. A meter's own refusal is none of them: something was tried.
_NOTHING_LEFT = frozenset({"failed", "cancelled", "expired"})
_KEEP_MS = 8 * DAY_MS
_entry = governor_entries.c
_over = governor_over.c


def claim_of(requester: str, idempotency_key: str) -> str:
    """The same for an order each time it comes, and for its command."""
    return hashlib.sha256(f"{len(requester)}:{requester}{idempotency_key}".encode()).hexdigest()[:40]


def load_position(connection: Connection) -> int:
    """Where the governor's clock was durable last; 0 in a new store. Locks it against other head-ends' transactions."""
    row = connection.execute(select(governor_clock.c.position_ms).with_for_update()).first()
    counted = connection.execute(select(func.max(_entry.position_ms))).scalar()
    return max(0 if row is None else row[0], counted or 0)


def save_position(connection: Connection, position_ms: int) -> None:
    """The clock never goes back."""
    clock = governor_clock
    moved = connection.execute(
        update(clock).where(clock.c.id == 1, clock.c.position_ms < position_ms).values(position_ms=position_ms)
    )
    if moved.rowcount == 0 and connection.execute(select(clock.c.id)).first() is None:
        connection.execute(insert(clock).values(id=1, position_ms=position_ms))


def tally(connection: Connection, position_ms: int, *, waiting: bool, without: str = "") -> Tally:
    """What counts now. waiting: claims too, as when more are admitted; when one is spent only what was spent counts.

    without: a claim that is left out, because it is the one that is asked about.
    """
    hour, day = position_ms - HOUR_MS, position_ms - DAY_MS
    of_command = and_(commands.c.requester == _entry.requester, commands.c.idempotency_key == _entry.idempotency_key)
    columns = (_entry.position_ms, _entry.requester, _entry.meter, _entry.feeder, _entry.line, _entry.watts)
    rows = connection.execute(
        select(_entry.state, commands.c.state, *columns)
        .join_from(governor_entries, commands, of_command, isouter=True)
        .where(_entry.claim != without)
        .where(or_(_entry.state == _WAITING, and_(_entry.state == _SPENT, _entry.position_ms > day)))
    )
    found = Tally()
    for state, command_state, position, requester, meter, feeder, line, watts in rows:
        if command_state in _NOTHING_LEFT:
            continue
        waits = state == _WAITING or command_state in _UNSENT
        if waits and not (waiting and (command_state is None or command_state in _UNSENT)):
            continue
        facts = OpenFacts(caller=requester, meter=meter, feeder=feeder, line=line, kw=None)
        found.add(facts, Decimal(watts) / 1000, in_hour=position > hour)
    return found


def waiting_or_spent(connection: Connection, claims: Sequence[str]) -> set[str]:
    """Of these claims, those that count already."""
    found: set[str] = set()
    for some in _portions(claims):
        found.update(
            connection.execute(
                select(_entry.claim).where(_entry.claim.in_(some), _entry.state.in_((_WAITING, _SPENT)))
            ).scalars()
        )
    return found


def put_claim(
    connection: Connection, requester: str, key: str, facts: OpenFacts, kw: Decimal, position_ms: int
) -> None:
    """The open is admitted and waits. One that was given back waits anew."""
    claim = claim_of(requester, key)
    connection.execute(delete(governor_entries).where(_entry.claim == claim))
    connection.execute(
        insert(governor_entries).values(
            claim=claim,
            state=_WAITING,
            position_ms=position_ms,
            requester=requester,
            idempotency_key=key,
            meter=facts.meter,
            feeder=facts.feeder,
            line=facts.line,
            watts=int(kw * 1000),
        )
    )


def spend(connection: Connection, claim: str, position_ms: int) -> None:
    """It is about to be sent: it counts from now on. The claim must be there."""
    connection.execute(
        update(governor_entries).where(_entry.claim == claim).values(state=_SPENT, position_ms=position_ms)
    )


def released_of(connection: Connection, claims: Sequence[str]) -> dict[str, bool]:
    """Of these claims, those that went over a limit: whether two people have let them go on."""
    found: dict[str, bool] = {}
    for some in _portions(claims):
        rows = connection.execute(select(_over.claim, _over.is_released).where(_over.claim.in_(some)))
        found.update((claim, bool(released)) for claim, released in rows)
    return found


def release(connection: Connection, claims: Sequence[str]) -> None:
    """Two people let these go on; that they are two is seen to by `headend.commands.rulebook`."""
    for some in _portions(claims):
        connection.execute(update(governor_over).where(_over.claim.in_(some)).values(is_released=1))


def note_over(connection: Connection, overs: Sequence[tuple[str, Over]]) -> None:
    """Claims that go over a limit, for the alarm; each counts once, however often it is _over."""
    known = released_of(connection, [claim for claim, _ in overs])
    fresh = {claim: over for claim, over in overs if claim not in known}
    rows = [
        {
            "claim": claim,
            "position_ms": over.position_ms,
            "requester": over.caller,
            "meter": over.meter,
            "limit_name": over.limit,
            "used": str(over.used),
            "allowed": str(over.allowed),
            "is_told": 0,
            "is_released": 0,
        }
        for claim, over in fresh.items()
    ]
    if rows:
        connection.execute(insert(governor_over), rows)


def untold(connection: Connection, limit: int = 100_000) -> list[tuple[str, Over]]:
    """Claims that went over, of which no alarm has told."""
    rows = connection.execute(
        select(
            _over.claim, _over.requester, _over.meter, _over.limit_name, _over.used, _over.allowed, _over.position_ms
        )
        .where(_over.is_told == 0)
        .order_by(_over.position_ms)
        .limit(limit)
    )
    return [
        (
            claim,
            Over(
                caller=caller,
                meter=meter,
                limit=name,
                used=Decimal(used),
                allowed=Decimal(allowed),
                position_ms=position_ms,
            ),
        )
        for claim, caller, meter, name, used, allowed, position_ms in rows
    ]


def mark_told(connection: Connection, claims: Sequence[str]) -> None:
    for some in _portions(claims):
        connection.execute(update(governor_over).where(_over.claim.in_(some)).values(is_told=1))


def prune(connection: Connection, position_ms: int) -> None:
    """Forget what no limit counts any more: what is long past, and claims of commands that are over."""
    old = position_ms - _KEEP_MS
    over = select(_entry.claim).join_from(
        governor_entries,
        commands,
        and_(commands.c.requester == _entry.requester, commands.c.idempotency_key == _entry.idempotency_key),
    )
    over = over.where(_entry.state == _WAITING, commands.c.state.not_in([*_UNSENT, "quarantined"]))
    connection.execute(delete(governor_entries).where(_entry.claim.in_(over)))
    connection.execute(delete(governor_entries).where(_entry.state != _WAITING, _entry.position_ms < old))
    connection.execute(delete(governor_over).where(_over.is_told == 1, _over.position_ms < old))


def _portions(claims: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(claims), 500):  # databases limit the number of parameters
        yield claims[start : start + 500]

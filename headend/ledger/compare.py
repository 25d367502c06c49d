"""A copy beside the feed itself, event by event: what a manifest can only narrow down is named here with its sequence and member."""

from collections.abc import Iterable, Iterator
from typing import Any

from headend.ledger.copy import Copy, sequence_of
from headend.ledger.digest import canonical
from headend.ledger.sums import Finding

__all__ = ["compare", "differences"]

_NEEDED = ("sequence", "id", "type", "data")


def compare(copy: Copy, feed: Iterable[dict[str, Any]], *, after: int) -> Iterator[Finding]:
    """feed: every event behind `after` up to the copy's last, or as far as there are any."""
    mine = ((sequence, event) for _, sequence, event in copy.events() if sequence > after)
    here = next(mine, None)
    last = 0
    for event in feed:
        last = int(event["sequence"])
        while here is not None and here[0] < last:
            yield from _extra(copy, here[0])
            here = next(mine, None)
        if here is None or here[0] > last:
            yield Finding(kind="missing", what=f"event {last}, {event['id']}, is missing", first=last, last=last)
            continue
        if said := differences(here[1], event, with_envelope=copy.has_envelopes):
            yield Finding(kind="changed", what=f"event {last}, {event['id']}: {said}", first=last, last=last)
        here = next(mine, None)
    while here is not None:
        yield from _extra(copy, here[0])
        here = next(mine, None)


def _extra(copy: Copy, sequence: int) -> Iterator[Finding]:
    """Nothing where a restore of the head-end has made the number void: the event was given out before."""
    if not any(void.first <= sequence <= void.last for void in copy.voids):
        yield Finding(kind="extra", what=f"event {sequence} is not in the feed", first=sequence, last=sequence)


def differences(copied: dict[str, Any], event: dict[str, Any], *, with_envelope: bool) -> str:
    """What the copy says otherwise, member by member; "" when nothing."""
    names = [*event, *(name for name in copied if name not in event)] if with_envelope else _NEEDED
    said = []
    for name in names:
        mine, theirs = copied.get(name), event.get(name)
        if name == "data" and isinstance(mine, dict) and isinstance(theirs, dict):
            members = [*theirs, *(member for member in mine if member not in theirs)]
            said += [
                f"data.{one} {_shown(mine, one)}, expected {_shown(theirs, one)}"
                for one in members
                if _differ(mine, theirs, one)
            ]
        elif name == "sequence" and not with_envelope:
            if sequence_of(mine) != sequence_of(theirs):
                said.append(f"sequence {mine!r}, expected {theirs!r}")
        elif _differ(copied, event, name):
            said.append(f"{name} {_shown(copied, name)}, expected {_shown(event, name)}")
    return "; ".join(said)


def _differ(mine: dict[str, Any], theirs: dict[str, Any], name: str) -> bool:
    return (name in mine) is not (name in theirs) or _text(mine.get(name)) != _text(theirs.get(name))


def _shown(members: dict[str, Any], name: str) -> str:
    return f"is {_text(members[name])}" if name in members else "is not there"


def _text(value: object) -> str:
    try:
        return canonical(value).decode()
    except ValueError:
        return repr(value)

"""JSON Schema 2020-12 of every event type, made from `payloads`, and kept in the folder schemas/ so that a change is seen.

    python -m headend.feed.schemas --check [--against FOLDER]   refuses a breaking change, and files that are out of date
    python -m headend.feed.schemas --write                      writes the files; never over a breaking change

A version is MAJOR.MINOR. The major is the one in the type's name: what breaks consumers gets a new name beside the old one. The
minor counts additions (see `schema_gate`) and is raised by hand, in the table below.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from headend.audit.checkpoint import CHECKPOINT_TYPE, Checkpoint
from headend.commands.events import RELAY_TYPE, RelayData
from headend.feed.account_event import ACCOUNT_TYPE, AccountData
from headend.feed.envelope import READ_TYPE
from headend.feed.interval_event import INTERVAL_TYPE
from headend.feed.payloads import (
    IntervalData,
    MeterEventData,
    MeterStatusData,
    Moment,
    ReadData,
    ServiceStatusData,
)
from headend.feed.schema_gate import CATCH_ALL, OPEN_UNION, TAG, compare
from headend.ledger.manifest import MANIFEST_TYPE, PART_TYPE, Manifest, Part

__all__ = [
    "EVENT_TYPES",
    "FOLDER",
    "EventType",
    "Problem",
    "check",
    "data_schema",
    "main",
    "schema_file",
    "schema_of",
    "write",
]

FOLDER = Path(__file__).parents[2] / "schemas"  # of the repository; an installed head-end makes them on demand
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/"


class EventType(Struct, frozen=True, kw_only=True):
    """name: with its major version. subject: whom it is about. says: one sentence. data: the type of its `data`."""

    name: str
    version: str
    subject: str
    says: str
    data: Any


class Problem(Struct, frozen=True):
    """What is wrong with a type. is_stale: only its file is, and writing it anew is all there is to do."""

    text: str
    is_stale: bool = False


EVENT_TYPES: tuple[EventType, ...] = (
    EventType(
        name=READ_TYPE,
        version="1.1",
        subject="the meter",
        says="one register for one interval end: captured, or known to be missing",
        data=ReadData,
    ),
    EventType(
        name=INTERVAL_TYPE,
        version="1.0",
        subject="the meter",
        says="what one register counted in one interval: known, or why not",
        data=IntervalData,
    ),
    EventType(
        name="headend.meter-event.v1",
        version="1.0",
        subject="the meter",
        says="a concentrator reported something that happened at a meter: an alarm, a relay that switched",
        data=MeterEventData,
    ),
    EventType(
        name="headend.meter-status.v1",
        version="1.1",
        subject="the meter, or the concentrator",
        says="something about the meter or concentrator itself changed, for example its clock is off; `data` names it and what",
        data=MeterStatusData,
    ),
    EventType(
        name="headend.service-status.v1",
        version="1.0",
        subject="the head-end",
        says="something about the head-end itself changed: the store's capacity, what it can keep for a destination, a restore",
        data=ServiceStatusData,
    ),
    EventType(
        name=RELAY_TYPE,
        version="1.0",
        subject="the meter, or `stop-switch`",
        says="a supply switch: a command took a step, a reconnection is owed or done, an alarm was raised; `data.about` names which",
        data=RelayData,
    ),
    EventType(
        name=ACCOUNT_TYPE,
        version="1.0",
        subject="the account",
        says="something happened to a prepaid account: it ran low, was warned, is back; `data.about` names what",
        data=AccountData,
    ),
    EventType(
        name=CHECKPOINT_TYPE,
        version="1.0",
        subject="audit",
        says="the audit log up to a record, signed, so that a consumer can prove that nothing was cut off or rewritten",
        data=Checkpoint,
    ),
    EventType(
        name=MANIFEST_TYPE,
        version="1.0",
        subject="the local day, 2026-11-21",
        says="what the feed holds of a day, signed, so that a consumer can prove its copy",
        data=Manifest,
    ),
    EventType(
        name=PART_TYPE,
        version="1.0",
        subject="the local day",
        says="the manifest's meters, some of them",
        data=Part,
    ),
)


class _Envelope(Struct, frozen=True):
    """CloudEvents 1.0, JSON format. `type` and `data` are set per event type."""

    specversion: str
    id: Annotated[
        str, Meta(min_length=1, description="made from the content: a repeat has the same, a correction another")
    ]
    source: Annotated[str, Meta(min_length=1, description="the head-end, /headend/NAME")]
    type: str
    subject: Annotated[str, Meta(min_length=1)]
    time: Moment
    sequence: Annotated[
        str, Meta(pattern=r"^[1-9]\d*$", description="number in the feed, consecutive from 1, as decimal text")
    ]
    data: dict[str, Any]


def schema_of(event_type: EventType) -> dict[str, Any]:
    """Of the whole event, envelope and data; it stands for itself, without references."""
    envelope = _plain(_Envelope)
    properties = envelope["properties"]
    properties["specversion"] = {"const": "1.0"}
    properties["type"] = {"const": event_type.name}
    properties["subject"]["description"] = event_type.subject
    properties["data"] = data_schema(event_type)
    return {
        "$schema": DIALECT,
        "$id": f"urn:headend:schema:{event_type.name}",
        "title": event_type.name,
        "description": event_type.says,
        "x-version": event_type.version,
        "type": "object",
        "properties": properties,
        "required": envelope["required"],
    }


def data_schema(event_type: EventType) -> dict[str, Any]:
    """Of `data` alone. A union of kinds gets one more, for kinds of later versions."""
    schema = _plain(event_type.data)
    discriminator = schema.pop("discriminator", None)
    if discriminator is not None:
        tag = discriminator["propertyName"]
        schema["anyOf"].append(_catch_all(tag, schema["anyOf"]))
        schema[TAG], schema[OPEN_UNION] = tag, True
    return schema


def schema_file(event_type: EventType) -> bytes:
    return msgspec.json.format(msgspec.json.encode(schema_of(event_type)), indent=2) + b"\n"


def check(kept: Mapping[str, bytes], types: Sequence[EventType] = EVENT_TYPES, *, exact: bool = True) -> list[Problem]:
    """What is wrong with the types, held against the files of their last version by name of the event type.

    exact: a file must also be what is made now; not so when the files are of an earlier release.
    """
    names = {event_type.name for event_type in types}
    problems = [
        Problem(f"{name}: the type is gone, but consumers know it") for name in sorted(kept) if name not in names
    ]
    for event_type in types:
        file = kept.get(event_type.name)
        if file is not None:
            problems += _problems(event_type, file, exact)
        elif exact:
            problems.append(Problem(f"{event_type.name}: has no file; --write makes it", is_stale=True))
    return problems


def write(folder: Path, types: Sequence[EventType] = EVENT_TYPES) -> list[Problem]:
    """Write all files, or none and say why: a breaking change, or an addition under an old version. Raises OSError."""
    problems = [problem for problem in check(_kept(folder), types) if not problem.is_stale]
    if not problems:
        folder.mkdir(parents=True, exist_ok=True)
        for event_type in types:
            (folder / f"{event_type.name}.json").write_bytes(schema_file(event_type))
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is well; 1: something is not, on standard error."""
    parser = argparse.ArgumentParser(prog="python -m headend.feed.schemas", description="Schemas of the feed.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="refuse breaking changes and files that are out of date")
    action.add_argument("--write", action="store_true", help="write the files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are  [default: schemas/]")
    parser.add_argument(
        "--against", type=Path, help="with --check: files of an earlier release, in place of the present ones"
    )
    asked = parser.parse_args(arguments)
    if asked.write:
        problems = write(asked.folder)
    else:
        problems = check(_kept(asked.against or asked.folder), exact=asked.against is None)
    for problem in problems:
        sys.stderr.write(f"{problem.text}\n")
    return 1 if problems else 0


def _kept(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("headend.*.json"))}


def _problems(event_type: EventType, file: bytes, exact: bool) -> Iterator[Problem]:
    name = event_type.name
    try:
        old = msgspec.json.decode(file, type=dict[str, Any])
    except msgspec.DecodeError as error:
        yield Problem(f"{name}: its file is no JSON object: {error}")
        return
    changes = list(compare(old, schema_of(event_type)))
    breaking = [change for change in changes if change.is_breaking]
    stem, _, major = name.rpartition(".v")
    for change in breaking:
        yield Problem(f"{name}: breaking: {change}; make it {stem}.v{int(major) + 1} beside this one")
    was, now = _version(str(old.get("x-version", ""))), _version(event_type.version)
    if now is None or now[0] != int(major) or was is None or now < was:
        yield Problem(f"{name}: version {event_type.version} does not follow {old.get('x-version')!r}")
    elif changes and not breaking and now == was:
        told = "; ".join(map(str, changes))
        yield Problem(f"{name}: {told}: raise its version to {now[0]}.{now[1] + 1}")
    elif exact and not breaking and file != schema_file(event_type):
        yield Problem(f"{name}: its file is out of date; --write makes it new", is_stale=True)


def _version(text: str) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def _catch_all(tag: str, kinds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = [kind["properties"][tag]["enum"][0] for kind in kinds]
    return {
        "title": "Later",
        "description": "A kind of a later version: skip it.",
        CATCH_ALL: True,
        "type": "object",
        "properties": {tag: {"type": "string", "not": {"enum": known}}},
        "required": [tag],
    }


def _plain(kind: Any) -> dict[str, Any]:
    """The schema of a type with every reference replaced by what it points to; none of ours goes in circles."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template=_REFERENCE + "{name}")
    resolved: dict[str, Any] = _resolved(schema, parts)
    return resolved


def _resolved(node: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_resolved(one, parts) for one in node]
    if not isinstance(node, dict):
        return node
    own = {keyword: _resolved(value, parts) for keyword, value in node.items() if keyword != "$ref"}
    if "$ref" in node:
        return {**_resolved(parts[node["$ref"].removeprefix(_REFERENCE)], parts), **own}
    return own


if __name__ == "__main__":
    raise SystemExit(main())

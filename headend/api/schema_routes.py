"""What the feed is, for programs: its AsyncAPI document, the JSON Schema of each event type, and CIM's name of a quantity."""

from functools import lru_cache
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.feed.asyncapi import MEDIA_TYPE, document_json
from headend.feed.reading_type import FIELDS, Kind, kind_of, reading_type
from headend.feed.schemas import EVENT_TYPES, schema_file
from headend.store.tokens import Role
from protocols.errors import UnknownUnit
from protocols.values import Unit

__all__ = ["asyncapi_document", "event_schema", "list_schemas", "name_quantity"]

SCHEMA_MEDIA_TYPE = "application/schema+json"


class EventTypeEntry(Struct, frozen=True):
    """type: as in events. version: its minor counts additions."""

    type: str
    version: str
    says: str
    schema: str


class EventTypes(Struct, frozen=True):
    types: list[EventTypeEntry]


class QuantityName(Struct, frozen=True):
    """reading_type: the eighteen fields of IEC 61968-9; null where we know none. fields: the same with their names."""

    obis: str
    unit: str
    kind: str | None
    period_s: int | None
    side: str
    reading_type: str | None
    fields: dict[str, int] | None


@get(
    "/v1/asyncapi.json",
    opt=needs(Role.READ),
    media_type=MEDIA_TYPE,
    responses={200: ResponseSpec(dict[str, Any], description="AsyncAPI 3.0.", media_type=MEDIA_TYPE)},
)
async def asyncapi_document() -> Response[bytes]:
    """The feed as an AsyncAPI 3.0 document: pull, stream and pushes, with the schema of every event."""
    return Response(_document(), media_type=MEDIA_TYPE)


@get("/v1/schemas", opt=needs(Role.READ), responses={200: ResponseSpec(EventTypes, description="Event types.")})
async def list_schemas() -> Response[bytes]:
    """The event types of the feed, each with the path of its JSON Schema."""
    types = [EventTypeEntry(one.name, one.version, one.says, f"/v1/schemas/{one.name}") for one in EVENT_TYPES]
    return Response(msgspec.json.encode(EventTypes(types)), media_type="application/json")


@get(
    "/v1/schemas/{event_type:str}",
    opt=needs(Role.READ),
    media_type=SCHEMA_MEDIA_TYPE,
    responses={200: ResponseSpec(dict[str, Any], description="JSON Schema 2020-12.", media_type=SCHEMA_MEDIA_TYPE)},
)
async def event_schema(event_type: FromPath[str]) -> Response[bytes]:
    """The JSON Schema of one event type, envelope and data."""
    found = next((one for one in EVENT_TYPES if one.name == event_type), None)
    if found is None:
        raise problem(404, f"There is no event type {event_type!r}.", next_step="GET /v1/schemas lists them.")
    return Response(schema_file(found), media_type=SCHEMA_MEDIA_TYPE)


@get(
    "/v1/reading-type",
    opt=needs(Role.READ),
    responses={200: ResponseSpec(QuantityName, description="The quantity's name in CIM.")},
)
async def name_quantity(
    request: Request[Any, Any, Any],
    obis: Annotated[str, QueryParameter(description="As in events: 1-0:1.8.0.")],
    unit: Annotated[str, QueryParameter(description="As in events: kWh.")],
    period_s: Annotated[
        int | None, QueryParameter(description="Of an interval its length; otherwise leave it out.", ge=1)
    ] = None,
    kind: Annotated[
        Kind | None, QueryParameter(description="What kind of value; without it, what a read of the quantity is.")
    ] = None,
    side: Annotated[str, QueryParameter(description="Of the transformers: secondary or primary.")] = "secondary",
) -> Response[bytes]:
    """The IEC 61968-9 ReadingType of a quantity. It follows from what every event says, so events do not repeat it."""
    refuse_unknown(request, "obis", "unit", "period_s", "kind", "side")
    if side not in ("secondary", "primary"):
        raise problem(400, f"side must be secondary or primary, found {side!r}.")
    try:
        known = Unit.from_text(unit)
    except UnknownUnit as error:
        raise problem(400, f"{error}.") from error
    meant = kind or ("interval" if period_s is not None else kind_of(obis))
    code = None if meant is None else reading_type(obis, known, period_s, meant, primary=side == "primary")
    fields = None if code is None else dict(zip(FIELDS, map(int, code.split(".")), strict=True))
    return Response(
        msgspec.json.encode(QuantityName(obis, unit, meant, period_s, side, code, fields)),
        media_type="application/json",
    )


@lru_cache(1)
def _document() -> bytes:
    return document_json(version("headend"))

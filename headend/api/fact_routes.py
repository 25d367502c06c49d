"""Facts about meters that people tell: exchanges, and amounts that were doubted and are right."""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from headend.api.auth import needs
from headend.api.problems import UNKNOWN_METER, problem
from headend.intervals.fact_desk import FactConflict, FactDesk, FactRefused, Readings
from headend.intervals.known_facts import ACCEPTANCE, EXCHANGE
from headend.intervals.teller import PeriodOf
from headend.quantities import BadQuantity, channel_of
from headend.store.intervals import FactRow
from headend.store.tokens import Role

__all__ = ["fact_routes"]

KEY_MAX = 100
TEXT_MAX = 500
REGISTERS_MAX = 100
DIGITS_MAX = 20
# Nothing was metered before, and the days around a moment must have a date of their own.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_AGAIN = "Correct what the detail names, and send it again with the same idempotency_key."


class ReadingsShape(Struct, frozen=True, forbid_unknown_fields=True):
    """Decimal strings as the displays showed them; null where nobody wrote it down."""

    final: str | None = None
    first: str | None = None


class ExchangeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """at: a read captured at or after it is the new meter's. registers: by OBIS code. told_by: who says so."""

    idempotency_key: str
    at: datetime
    registers: dict[str, ReadingsShape]
    told_by: str
    new_address: str = ""
    new_serial: str = ""
    note: str = ""


class AcceptanceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """interval_end: of the suspect read. told_by: who says that its amount is right."""

    idempotency_key: str
    obis: str
    interval_end: datetime
    told_by: str
    note: str = ""


class Exchange(Struct, frozen=True, kw_only=True):
    """is_applied: the intervals that it touches are told anew. recorded_by: name of the token."""

    idempotency_key: str
    meter: str
    at: datetime
    registers: dict[str, ReadingsShape]
    told_by: str
    recorded_by: str
    recorded_at: datetime
    new_address: str
    new_serial: str
    note: str
    is_applied: bool


class Acceptance(Struct, frozen=True, kw_only=True):
    """value: the amount that was accepted."""

    idempotency_key: str
    meter: str
    obis: str
    interval_end: datetime
    value: str
    told_by: str
    recorded_by: str
    recorded_at: datetime
    note: str


class ExchangeList(Struct, frozen=True):
    """In the order in which they were recorded."""

    exchanges: list[Exchange]


class AcceptanceList(Struct, frozen=True):
    """In the order in which they were recorded."""

    acceptances: list[Acceptance]


def fact_routes(desk: FactDesk, *, period_of: PeriodOf) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    def known(meter: str) -> None:
        if period_of(meter) is None:
            raise problem(404, f"No meter {meter!r} is configured.", next_step=UNKNOWN_METER)

    @post("/v1/meters/{meter_id:str}/exchanges", opt=needs(Role.OPERATE))
    async def record_exchange(
        request: Request[Any, Any, Any], meter_id: FromPath[str], data: JSONBody[ExchangeRequest]
    ) -> Response[Exchange]:
        """The meter was exchanged. 201 when it is recorded, 200 when it was already; intervals it lies in are told anew."""
        known(meter_id)
        _check(data.idempotency_key, told_by=data.told_by, note=data.note, more=(data.new_address, data.new_serial))
        if len(data.registers) > REGISTERS_MAX:
            raise problem(400, f"at most {REGISTERS_MAX} registers, found {len(data.registers)}.")
        registers = {
            _obis(obis): Readings(_amount(f"{obis} final", one.final), _amount(f"{obis} first", one.first))
            for obis, one in data.registers.items()
        }
        try:
            fact, is_new = await desk.exchange(
                meter_id,
                at=_aware("at", data.at),
                registers=registers,
                key=data.idempotency_key,
                told_by=data.told_by,
                recorded_by=request.state.token.name,
                new_address=data.new_address,
                new_serial=data.new_serial,
                note=data.note,
            )
        except FactRefused as error:
            raise problem(422, str(error), next_step=_AGAIN) from error
        except FactConflict as error:
            raise problem(409, str(error)) from error
        return Response(_exchange(fact), status_code=201 if is_new else 200)

    @post("/v1/meters/{meter_id:str}/acceptances", opt=needs(Role.OPERATE))
    async def record_acceptance(
        request: Request[Any, Any, Any], meter_id: FromPath[str], data: JSONBody[AcceptanceRequest]
    ) -> Response[Acceptance]:
        """A suspect amount is right: its read gets a revision that is not suspect, and its intervals are told anew."""
        known(meter_id)
        _check(data.idempotency_key, told_by=data.told_by, note=data.note)
        try:
            fact, is_new = await desk.accept(
                meter_id,
                obis=_obis(data.obis),
                interval_end=_aware("interval_end", data.interval_end),
                key=data.idempotency_key,
                told_by=data.told_by,
                recorded_by=request.state.token.name,
                note=data.note,
            )
        except FactRefused as error:
            raise problem(422, str(error), next_step=_AGAIN) from error
        except FactConflict as error:
            raise problem(409, str(error)) from error
        return Response(_acceptance(fact), status_code=201 if is_new else 200)

    @get("/v1/meters/{meter_id:str}/exchanges", opt=needs(Role.READ))
    async def list_exchanges(meter_id: FromPath[str]) -> ExchangeList:
        """What was recorded of exchanges of this meter."""
        known(meter_id)
        return ExchangeList([_exchange(one) for one in await desk.facts(meter_id, EXCHANGE)])

    @get("/v1/meters/{meter_id:str}/acceptances", opt=needs(Role.READ))
    async def list_acceptances(meter_id: FromPath[str]) -> AcceptanceList:
        """Which suspect amounts of this meter were accepted."""
        known(meter_id)
        return AcceptanceList([_acceptance(one) for one in await desk.facts(meter_id, ACCEPTANCE)])

    return record_exchange, record_acceptance, list_exchanges, list_acceptances


def _check(key: str, *, told_by: str, note: str, more: tuple[str, ...] = ()) -> None:
    if not 1 <= len(key) <= KEY_MAX or not key.isprintable():
        raise problem(400, f"idempotency_key must have 1 to {KEY_MAX} printable characters, found {key[:20]!r}.")
    if not told_by.strip():
        raise problem(400, "told_by is empty; expected who says so.")
    for text in (told_by, note, *more):
        if len(text) > TEXT_MAX:
            raise problem(400, f"texts have at most {TEXT_MAX} characters, found {len(text)}: {text[:20]!r}….")


def _obis(text: str) -> str:
    try:
        return channel_of(text)
    except BadQuantity as error:
        raise problem(400, str(error)) from error


def _aware(name: str, moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise problem(400, f"{name} must carry a zone, as in 2026-01-31T10:15:00Z, found {moment.isoformat()}.")
    if not EARLIEST <= moment < LATEST:
        raise problem(
            400, f"{name} must lie in the years {EARLIEST.year} to {LATEST.year - 1}, found {moment.isoformat()}."
        )
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _amount(name: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise problem(400, f'{name} must be a decimal string such as "123456.78", found {text[:20]!r}.') from error
    if not amount.is_finite() or "E" in str(amount) or len(amount.as_tuple().digits) > DIGITS_MAX:
        raise problem(400, f'{name} must be a decimal string such as "123456.78", found {text[:20]!r}.')
    return amount


def _key(fact: FactRow) -> str:
    return fact.key.removeprefix(f"{fact.kind}:{fact.meter}:")


def _exchange(fact: FactRow) -> Exchange:
    body = fact.body
    return Exchange(
        idempotency_key=_key(fact),
        meter=fact.meter,
        at=fact.at,
        registers={obis: ReadingsShape(one["final"], one["first"]) for obis, one in body["registers"].items()},
        told_by=body["told_by"],
        recorded_by=body["recorded_by"],
        recorded_at=fact.recorded_at,
        new_address=body["new_address"],
        new_serial=body["new_serial"],
        note=body["note"],
        is_applied=fact.is_applied,
    )


def _acceptance(fact: FactRow) -> Acceptance:
    body = fact.body
    return Acceptance(
        idempotency_key=_key(fact),
        meter=fact.meter,
        obis=body["obis"],
        interval_end=fact.at,
        value=body["value"],
        told_by=body["told_by"],
        recorded_by=body["recorded_by"],
        recorded_at=fact.recorded_at,
        note=body["note"],
    )

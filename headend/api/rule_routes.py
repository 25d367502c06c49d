"""The rules over HTTP: policy, limits, protections, the stop switch, the weather."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct
from sqlalchemy import Connection

from headend.api.auth import needs_one_of
from headend.api.problems import problem
from headend.api.refusals import LOOKERS, PROBLEMS, allow, as_problem, caller_of, refused
from headend.api.relay_shapes import ApprovalShape, aware, checked_text
from headend.commands.forecasts import BadForecast, ForecastShape
from headend.commands.governor import Limits
from headend.commands.journal import Page
from headend.commands.model import Refusal
from headend.commands.protections import Protection, Scope
from headend.commands.roles import Action
from headend.commands.room import CommandRoom
from headend.store import governor_approvals as approval_rows
from headend.store.commands import StopSwitch
from headend.store.governor_protections import active_protections, add_protection

__all__ = ["rule_routes"]


class StopShape(Struct, frozen=True, kw_only=True):
    """is_on: nothing is opened, whatever waits. at: null: it was never touched."""

    is_on: bool
    at: datetime | None
    actor: str
    reason: str


class Why(Struct, frozen=True, forbid_unknown_fields=True):
    reason: str


class ProtectionShape(Struct, frozen=True, kw_only=True):
    """Who must not be cut off. until: null: never ends."""

    id: str
    scope: str
    target: str
    category: str
    reason: str
    since: datetime
    until: datetime | None
    added_by: str


class ProtectionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """target: asset number, line or feeder; "" with scope all. until: a time, or "never" in so many words. since: null: now."""

    scope: Scope
    target: Annotated[str, Meta(max_length=64)] = ""
    category: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    until: str
    since: datetime | None = None


class ProtectionList(Struct, frozen=True):
    protections: list[ProtectionShape]


class LimitsShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Opens at most; null: no such limit. Shares of the fleet and of a feeder: "0.005" is 0.5 %. See docs/policy.md."""

    per_hour: Annotated[int, Meta(ge=0, le=1_000_000)]
    per_day: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    of_fleet_per_day: Decimal = Decimal("0.005")
    of_feeder_per_day: Decimal = Decimal("0.05")
    caller_per_hour: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    caller_per_day: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    line_per_hour: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    line_per_day: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    kw_per_hour: Decimal | None = Decimal(250)
    kw_per_day: Decimal | None = None
    kw_when_unknown: Decimal = Decimal(5)
    batch_max: Annotated[int, Meta(ge=0, le=1000)] = 10
    raise_delay_s: Annotated[int, Meta(ge=0, le=30 * 86400)] = 3600


class Used(Struct, frozen=True, kw_only=True):
    """What counts now: opens that were sent, and that wait to be. By caller, feeder and line over the last day."""

    last_hour: int
    last_day: int
    kw_last_hour: str
    kw_last_day: str
    by_caller: dict[str, int]
    by_feeder: dict[str, int]
    by_line: dict[str, int]


class LimitsView(Struct, frozen=True, kw_only=True):
    """limits: in force; null: none, and nothing is opened. ceiling: of the configuration. waiting: higher ones that do not hold yet,
    each with the seconds of governor time until they do; null: they wait for a second person. position_s: of the governor's clock."""

    limits: LimitsShape | None
    ceiling: dict[str, str]
    waiting: list[tuple[LimitsShape, float | None]]
    used: Used
    position_s: float


class LimitsAnswer(Struct, frozen=True, kw_only=True):
    """limits: in force now. approval: what is wider waits for a second person, and for a delay after that; null: all holds."""

    limits: LimitsShape | None
    approval: ApprovalShape | None


class PolicyView(Struct, frozen=True, kw_only=True):
    """policy: as it was read, calendars included; null: there is none, and nothing is opened. years: that the calendar knows."""

    version: str
    policy: dict[str, Any] | None
    sha256: str
    signed_by: str
    years: list[int]
    enabled: bool
    next_open_allowed_at: datetime | None


class ForecastView(Struct, frozen=True):
    """By feeder; "" is everywhere else."""

    forecasts: dict[str, dict[str, Any]]


def rule_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    return (*_stop_routes(room), *_protection_routes(room), *_limit_routes(room), *_policy_routes(room))


# ------------------------------------------------------------------------------------------------ stop switch


def _stop_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    @get("/v1/stop-switch", opt=needs_one_of(*LOOKERS))
    async def stop_switch() -> StopShape:
        """Whether all opens are stopped."""
        return _stop(room.desk.stop)

    @put("/v1/stop-switch", opt=needs_one_of(*LOOKERS))
    async def stop_opens(request: Request[Any, Any, Any], data: JSONBody[Why]) -> StopShape:
        """Stop all opens, those that wait already, too. Supplies are given back all the same."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.STOP_OPENS])
        who = caller.name
        return _stop(await room.desk.set_stop(True, who, checked_text("reason", data.reason)))

    @delete("/v1/stop-switch", opt=needs_one_of(*LOOKERS), status_code=200)
    async def allow_opens(
        request: Request[Any, Any, Any],
        reason: Annotated[str, QueryParameter(description="Why they may go on.")] = "",
    ) -> StopShape:
        """Allow opens again; those that wait go on."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.ALLOW_OPENS])
        return _stop(await room.desk.set_stop(False, caller.person, checked_text("reason", reason)))

    return stop_switch, stop_opens, allow_opens


def _stop(stop: StopSwitch) -> StopShape:
    return StopShape(is_on=stop.is_on, at=stop.at, actor=stop.actor, reason=stop.reason)


# ------------------------------------------------------------------------------------------------ protections


def _protection_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    @get("/v1/protections", opt=needs_one_of(*LOOKERS))
    async def list_protections() -> ProtectionList:
        """Who must not be cut off now or later, and why; protected classes of customers are in the policy."""
        now = room.clock.now()
        found = await room.journal.read(lambda connection: active_protections(connection, now), "listing protections")
        return ProtectionList([_protection(one) for one in found])

    @post("/v1/protections", opt=needs_one_of(*LOOKERS), status_code=201)
    async def protect(request: Request[Any, Any, Any], data: JSONBody[ProtectionRequest]) -> ProtectionShape:
        """Protect a meter, a line, a feeder or the whole fleet. It holds when this answers, also for opens that wait."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.PROTECT])
        now = room.clock.now()
        if data.scope is Scope.METER and not room.rulebook.knows(data.target):
            raise problem(404, f"No meter {data.target!r} is served here.")
        protection = Protection(
            id=uuid.uuid4().hex,
            scope=data.scope,
            target=data.target,
            category=checked_text("category", data.category),
            reason=checked_text("reason", data.reason),
            since=now if data.since is None else aware("since", data.since),
            until=_until(data.until),
            added_by=caller.name,
        )

        def add(page: Page) -> None:
            add_protection(page.connection, protection)
            told = msgspec.to_builtins(protection)
            about = {"meter": protection.target} if protection.scope is Scope.METER else {}
            page.record("fact", protection.id, protection.added_by, {**told, **about}, is_needed=False)
            # Before it is durable: a last look in this moment sees it, and if it fails the next look-up forgets it.
            room.rulebook.refresh(page.connection)

        try:
            await room.journal.write(add, "adding a protection")
        except ValueError as error:
            raise problem(422, f"{error}.") from error
        return _protection(protection)

    @delete("/v1/protections/{protection_id:str}", opt=needs_one_of(*LOOKERS), status_code=202)
    async def ask_unprotect(request: Request[Any, Any, Any], protection_id: FromPath[str]) -> ApprovalShape:
        """Ask for the end of a protection; it ends when another person approves."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.ASK_UNPROTECT])
        try:
            asked = await room.approvals.ask_unprotect(protection_id, caller)
        except PROBLEMS as error:
            raise as_problem(error) from error
        return ApprovalShape.of(asked, is_open=True)

    return list_protections, protect, ask_unprotect


def _protection(one: Protection) -> ProtectionShape:
    return ProtectionShape(
        id=one.id,
        scope=one.scope.value,
        target=one.target,
        category=one.category,
        reason=one.reason,
        since=one.since,
        until=one.until,
        added_by=one.added_by,
    )


def _until(text: str) -> datetime | None:
    if text == "never":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise problem(
            400, f'until is {text[:40]!r}; expected a time such as 2026-12-01T00:00:00Z, or "never".'
        ) from error
    return aware("until", moment)


# ------------------------------------------------------------------------------------------------ limits


def _limit_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    @get("/v1/limits", opt=needs_one_of(*LOOKERS))
    async def limits() -> LimitsView:
        """How many supplies may be opened, by whom and where, and how much of that is used."""
        usage = await room.usage()
        position_ms = int(usage.position_s * 1000)

        def look(connection: Connection) -> tuple[Limits | None, list[tuple[Limits, int | None]]]:
            there = approval_rows.limits_in_force(connection, position_ms)
            return there, approval_rows.waiting_limits(connection, position_ms)

        there, waiting = await room.journal.read(look, "looking up limits")
        tally = usage.tally
        return LimitsView(
            limits=_limits(there),
            ceiling={name: str(most) for name, most in room.settings.ceiling.items()},
            waiting=[
                (_shape_of(one), None if at_ms is None else (at_ms - position_ms) / 1000) for one, at_ms in waiting
            ],
            used=Used(
                last_hour=tally.hour["", ""],
                last_day=tally.day["", ""],
                kw_last_hour=str(tally.kw_hour),
                kw_last_day=str(tally.kw_day),
                by_caller=_by("caller", tally.day),
                by_feeder=_by("feeder", tally.day),
                by_line=_by("line", tally.day),
            ),
            position_s=usage.position_s,
        )

    @put("/v1/limits", opt=needs_one_of(*LOOKERS))
    async def set_limits(request: Request[Any, Any, Any], data: JSONBody[LimitsShape]) -> Response[LimitsAnswer]:
        """Set limits. What is lower holds at once; what is higher waits for another person, and then for a delay."""
        caller = await caller_of(room, request)
        asked = Limits(**{name: getattr(data, name) for name in data.__struct_fields__})
        _check_limits(asked)
        if beyond := room.settings.beyond(asked):
            named = ", ".join(f"{name} {room.settings.ceiling[name]}" for name in beyond)
            refusal = Refusal(
                rule="ceiling",
                version=room.rulebook.version,
                text=f"the configuration allows {named} at most",
                needed="limits under those, or others under [control.limits] and a restart",
            )
            raise refused([refusal])

        def is_wider(connection: Connection) -> bool:
            return approval_rows.is_wider(connection, asked, room.rulebook.position_ms())

        wider = await room.journal.read(is_wider, "comparing limits")
        await allow(room, caller, [Action.ASK_LIMITS if wider else Action.LOWER_LIMITS])
        try:
            approval = await room.approvals.ask_limits(asked, caller)
        except PROBLEMS as error:
            raise as_problem(error) from error
        answer = LimitsAnswer(
            limits=_limits(room.rulebook.limits),
            approval=None if approval is None else ApprovalShape.of(approval, is_open=True),
        )
        return Response(answer, status_code=200 if approval is None else 202)

    return limits, set_limits


def _limits(there: Limits | None) -> LimitsShape | None:
    return None if there is None else _shape_of(there)


def _shape_of(there: Limits) -> LimitsShape:
    return LimitsShape(**{name: getattr(there, name) for name in there.__struct_fields__})


def _check_limits(asked: Limits) -> None:
    for name in ("of_fleet_per_day", "of_feeder_per_day"):
        share = getattr(asked, name)
        if not share.is_finite() or not 0 <= share <= 1:
            raise problem(400, f'{name} is {share}; expected a share, "0.005" for 0.5 %.')
    for name in ("kw_per_hour", "kw_per_day", "kw_when_unknown"):
        kw = getattr(asked, name)
        if kw is not None and (not kw.is_finite() or not 0 <= kw <= 10_000_000):
            raise problem(400, f"{name} is {kw}; expected kilowatts.")


def _by(place: str, counted: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {name: count for (kind, name), count in counted.items() if kind == place and count}


# ------------------------------------------------------------------------------------------------ policy and weather


def _policy_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    @get("/v1/policy", opt=needs_one_of(*LOOKERS))
    async def policy() -> PolicyView:
        """The policy in force: version, content, the years that its calendar knows, and when the next open may be."""
        there, version = room.rulebook.policy, room.rulebook.version
        if there is None:
            return PolicyView(
                version=version,
                policy=None,
                sha256="",
                signed_by="",
                years=[],
                enabled=room.settings.enabled,
                next_open_allowed_at=None,
            )
        return PolicyView(
            version=version,
            policy=msgspec.to_builtins(there.data),
            sha256=there.sha256,
            signed_by=there.signed_by,
            years=sorted(year.year for year in there.data.years),
            enabled=room.settings.enabled,
            next_open_allowed_at=there.next_allowed(room.clock.now()),
        )

    @get("/v1/forecast", opt=needs_one_of(*LOOKERS))
    async def forecasts() -> ForecastView:
        """The weather that opens are held against."""
        return ForecastView({place: msgspec.to_builtins(one) for place, one in room.forecasts.told.items()})

    @post("/v1/forecast", opt=needs_one_of(*LOOKERS), status_code=200)
    async def tell_forecast(request: Request[Any, Any, Any], data: JSONBody[ForecastShape]) -> ForecastView:
        """Tell the weather: lowest and highest temperature until `reaches`, °C. It is not kept over a restart."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.TELL_FORECAST])
        try:
            room.forecasts.tell(data)
        except BadForecast as error:
            raise problem(422, f"{error}.") from error
        told: dict[str, object] = {"forecast": msgspec.to_builtins(data)}
        await room.record("fact", f"forecast {data.feeder}".strip(), caller.name, told)
        return ForecastView({place: msgspec.to_builtins(one) for place, one in room.forecasts.told.items()})

    return policy, forecasts, tell_forecast

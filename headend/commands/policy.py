"""The policy: when, whom, and after which warnings a supply may be opened, as versioned data.

`examine` gives every refusal, not the first one, so that a caller learns in one answer what stands in the way. It is asked when an
order comes in, and again in the last look before the first byte leaves.

Only opens need all of it. A supply is given back whatever the calendar, the clock, the audit log or the disk are like: the one
close that is refused is a direct one where the policy wants the customer to press the button.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from headend.commands.calendar import Calendar, CalendarYear
from headend.commands.conditions import Refuse, examine_debt, examine_notices, examine_weather
from headend.commands.model import Kind, Order, Refusal
from headend.commands.open_times import next_moment, objections
from headend.commands.protections import Protection
from headend.commands.rules import Forecast, Rules, Season

__all__ = [
    "NO_POLICY",
    "Forecast",
    "Installation",
    "MeterFacts",
    "Policy",
    "PolicyData",
    "ProtectedClass",
    "Reconnect",
    "canonical",
    "examine",
]

_Reason = tuple[str, str, str]

NO_POLICY = "(no policy)"


class MeterFacts(Struct, frozen=True, kw_only=True):
    """What is known of a meter and its customer. feeder, tariff_group, customer_class: "" when unknown.

    protections: those that reach this meter, see `protections_of`. estimated_kw: what it draws, None when nobody knows.
    """

    meter: str
    feeder: str
    line: str
    tariff_group: str
    customer_class: str
    protections: tuple[Protection, ...] = ()
    estimated_kw: Decimal | None = None


class ProtectedClass(Struct, frozen=True, kw_only=True):
    """Customers that are never cut off. until: last local day; None: for ever, which the file says in so many words."""

    customer_class: str
    reason: str
    until: date | None


class Reconnect(Struct, frozen=True, kw_only=True):
    """How a supply is given back. Directly only where somebody has said so: a stove may have been left on.

    close_directly: everywhere. direct_meters, direct_tariff_groups: only there.
    spread_s: over how long a mass re-closing of at least `spread_from` supplies is spread.
    """

    close_directly: bool
    direct_meters: frozenset[str]
    direct_tariff_groups: frozenset[str]
    spread_s: int
    spread_from: int


class PolicyData(Struct, frozen=True, kw_only=True):
    """A policy as it is written, calendars included: what its SHA-256 is taken of.

    allow_unknown_class: whether a customer of no known class may be cut off. margin_s: an open must still be allowed so long after it
    was looked at, because its last byte leaves a little later than its last look. groups: rules by tariff group, instead of `rules`.
    """

    id: str
    version: str
    title: str
    timezone: str
    sources: tuple[str, ...]
    calendar: str
    years: tuple[CalendarYear, ...]
    margin_s: int
    allow_unknown_class: bool
    rules: Rules
    groups: Mapping[str, Rules]
    protected: tuple[ProtectedClass, ...]
    seasons: tuple[Season, ...]
    reconnect: Reconnect


class Policy:
    """A policy that can be asked. signed_by: id of the key whose signature over the content was checked; "" for none."""

    def __init__(self, data: PolicyData, *, signed_by: str = "") -> None:
        self.data = data
        self.signed_by = signed_by
        self.sha256 = hashlib.sha256(canonical(data)).hexdigest()
        self.version = f"{data.id}@{data.version}#{self.sha256[:12]}"
        self.zone = ZoneInfo(data.timezone)
        self.calendar = Calendar(data.calendar, data.years)

    def rules_of(self, tariff_group: str) -> Rules:
        return self.data.groups.get(tariff_group, self.data.rules)

    def reconnect_kind(self, meter: MeterFacts) -> Kind:
        """CLOSE or PERMIT_CLOSE."""
        return Kind.CLOSE if self._is_direct(meter) else Kind.PERMIT_CLOSE

    def next_allowed(self, now: datetime, *, tariff_group: str = "") -> datetime | None:
        """The first moment from `now` on when the calendar lets a supply be opened, UTC; None: none as far as it is known."""
        times = self.rules_of(tariff_group).times
        return next_moment(times, self.calendar, self.zone, now.astimezone(UTC), margin_s=self.data.margin_s)

    def examine(
        self,
        order: Order,
        *,
        now: datetime,
        meter: MeterFacts,
        clock_synchronised: bool | None,
        audit_ok: bool,
        store_ok: bool,
        forecast: Forecast | None = None,
    ) -> tuple[Refusal, ...]:
        """Everything that forbids this order now; empty: it may go. clock_synchronised: None when nobody knows, which is a no.

        Of an open it looks at the whole stretch from `now` to `margin_s` later.
        """
        refusals: list[Refusal] = []

        def refuse(rule: str, text: str, needed: str) -> None:
            refusals.append(Refusal(rule=rule, version=self.version, text=text, needed=needed))

        if order.kind is Kind.CLOSE and not self._is_direct(meter):
            refuse(
                "reconnect",
                f"{meter.meter} may not be closed directly: its customer must press the button",
                "permit-close, or the meter or its tariff group named under [reconnect] as one that is closed directly",
            )
        if order.kind is not Kind.OPEN:
            return tuple(refusals)
        for rule, text, needed in _system(clock_synchronised, audit_ok, store_ok):
            refuse(rule, text, needed)
        last = now + timedelta(seconds=self.data.margin_s)
        rules = self.rules_of(meter.tariff_group)
        self._examine_times(rules, now, last, refuse)
        self._examine_customer(meter, now, last, refuse)
        examine_debt(rules, order, now, refuse)
        examine_notices(rules.notices, order.notices, now, refuse)
        if rules.weather is not None:
            examine_weather(rules.weather, forecast, now, last, refuse)
        return tuple(refusals)

    def _is_direct(self, meter: MeterFacts) -> bool:
        way = self.data.reconnect
        return way.close_directly or meter.meter in way.direct_meters or meter.tariff_group in way.direct_tariff_groups

    def _examine_times(self, rules: Rules, now: datetime, last: datetime, refuse: Refuse) -> None:
        told = set()
        for moment in (now, last):
            for objection in objections(rules.times, self.calendar, moment.astimezone(self.zone)):
                if objection.rule not in told:
                    told.add(objection.rule)
                    refuse(objection.rule, objection.text, objection.needed)

    def _examine_customer(self, meter: MeterFacts, now: datetime, last: datetime, refuse: Refuse) -> None:
        for protection in meter.protections:
            if protection.is_in_force(now, last):
                end = "without end" if protection.until is None else f"until {protection.until:%Y-%m-%d %H:%M}Z"
                refuse(
                    "protection",
                    f"{meter.meter} is protected ({protection.category}) {end}: {protection.reason}",
                    f"the end of protection {protection.id}, or its removal by two people",
                )
        days = {moment.astimezone(self.zone).date() for moment in (now, last)}
        for protected in self.data.protected:
            if protected.customer_class == meter.customer_class and (
                protected.until is None or any(day <= protected.until for day in days)
            ):
                end = "for ever" if protected.until is None else f"to {protected.until}"
                refuse(
                    "protected-class",
                    f"{meter.customer_class} is protected {end}: {protected.reason}",
                    "another customer",
                )
        for season in self.data.seasons:
            if meter.customer_class in season.customer_classes and any(season.covers(day) for day in days):
                refuse("season", f"{meter.customer_class}, {min(days)}: {season.reason}", "a day out of the season")
        if not meter.customer_class and not self.data.allow_unknown_class:
            refuse(
                "unknown-class",
                f"nobody has said what kind of customer {meter.meter} supplies, so it might be a protected one",
                "the meter's customer class",
            )


class Installation(Struct, frozen=True, kw_only=True):
    """What a head-end must have been given before it opens anything; a fresh one has nothing."""

    control_enabled: bool
    has_signing_key: bool
    has_limits: bool


def examine(
    policy: Policy | None,
    installation: Installation,
    order: Order,
    *,
    now: datetime,
    meter: MeterFacts,
    clock_synchronised: bool | None,
    audit_ok: bool,
    store_ok: bool,
    forecast: Forecast | None = None,
) -> tuple[Refusal, ...]:
    """As `Policy.examine`, for a head-end that may have no policy and nothing else yet: then nothing is opened."""
    refusals: tuple[Refusal, ...] = ()
    if order.kind is Kind.OPEN:
        version = NO_POLICY if policy is None else policy.version
        missing = _missing(policy, installation)
        if policy is None:
            missing += _system(clock_synchronised, audit_ok, store_ok)
        refusals = tuple(
            Refusal(rule=rule, version=version, text=text, needed=needed) for rule, text, needed in missing
        )
    if policy is None:
        return refusals
    return refusals + policy.examine(
        order,
        now=now,
        meter=meter,
        clock_synchronised=clock_synchronised,
        audit_ok=audit_ok,
        store_ok=store_ok,
        forecast=forecast,
    )


def canonical(data: PolicyData) -> bytes:
    """The one spelling that is hashed and signed: JSON, all members and sets sorted."""
    return msgspec.json.encode(data, order="sorted")


def _missing(policy: Policy | None, installation: Installation) -> list[_Reason]:
    missing = []
    if not installation.control_enabled:
        missing.append(("control", "this head-end may not open anything", "enabled = true under [control]"))
    if policy is None:
        missing.append(
            ("policy", "there is no policy, so nothing says who may be cut off and when", "a policy, and its calendar")
        )
    if not installation.has_limits:
        missing.append(("limits", "there are no limits on opens", "limits, set by two people"))
    if not installation.has_signing_key:
        missing.append(("signing-key", "there is no key that signs the audit log", "a signing key"))
    return missing


def _system(clock_synchronised: bool | None, audit_ok: bool, store_ok: bool) -> list[_Reason]:
    found = []
    if clock_synchronised is not True:
        known = "is not synchronised" if clock_synchronised is False else "may or may not be synchronised"
        found.append(("clock", f"the head-end's clock {known}", "a clock that is known to be synchronised"))
    if not audit_ok:
        found.append(
            ("audit", "the audit log cannot be written or is broken", "an audit log that is whole and takes records")
        )
    if not store_ok:
        found.append(("store", "the store cannot be written", "room on the disk, and a store that commits"))
    return found

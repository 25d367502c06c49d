"""The governor: how many supplies may be opened in an hour and a day, by whom, and where. Pure; what was done is given as a tally.

Whoever holds a stolen token, or a billing run gone wrong, can order as many opens as there are meters. The governor bounds what
becomes of it: what goes over a limit is quarantined and waits for two people.

Time here is the governor's own, see `governor_clock`. An hour and a day are sliding windows behind its present position.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal

from msgspec import Struct

__all__ = [
    "DAY_MS",
    "HOUR_MS",
    "Admitted",
    "Alarm",
    "Fleet",
    "Governor",
    "Limits",
    "OpenFacts",
    "Over",
    "OverLimit",
    "Tally",
    "alarms",
    "raised",
]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Limits(Struct, frozen=True, kw_only=True):
    """Opens allowed at most; the narrowest counts. None: no such limit.

    of_fleet_per_day, of_feeder_per_day: shares, 0.005 is 0.5 %; at least one open, or a small feeder could never be served.
    kw: the sum of what the opened meters are estimated to draw; kw_when_unknown stands for a meter of which nobody knows.
    batch_max: a list with more opens needs a second person. raise_delay_s: governor time between the approval of higher limits and
    their taking effect.
    """

    per_hour: int = 50
    per_day: int | None = None
    of_fleet_per_day: Decimal = Decimal("0.005")
    of_feeder_per_day: Decimal = Decimal("0.05")
    caller_per_hour: int | None = None
    caller_per_day: int | None = None
    line_per_hour: int | None = None
    line_per_day: int | None = None
    kw_per_hour: Decimal | None = Decimal(250)
    kw_per_day: Decimal | None = None
    kw_when_unknown: Decimal = Decimal(5)
    batch_max: int = 10
    raise_delay_s: int = 3600


# Where less is stricter; of `kw_when_unknown` and `raise_delay_s` more is.
_STRICTER_WHEN_MORE = ("kw_when_unknown", "raise_delay_s")


def raised(before: Limits | None, after: Limits) -> tuple[str, ...]:
    """Names of the limits that are wider in `after`. Without limits nothing is opened, so the first ones are all wider."""
    if before is None:
        return Limits.__struct_fields__
    wider = []
    for name in Limits.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if name in _STRICTER_WHEN_MORE:
            wider += [name] if new < old else []
        elif old is not None and (new is None or new > old):
            wider.append(name)
    return tuple(wider)


class Fleet(Struct, frozen=True, kw_only=True):
    """meters: of the whole head-end. on_feeder: by feeder."""

    meters: int
    on_feeder: Mapping[str, int]


class OpenFacts(Struct, frozen=True, kw_only=True):
    """One open as the governor sees it. feeder: the line's name where nobody knows the feeder. kw: None when nobody knows."""

    caller: str
    meter: str
    feeder: str
    line: str
    kw: Decimal | None


class Admitted(Struct, frozen=True):
    """Within every limit."""


class OverLimit(Struct, frozen=True, kw_only=True):
    """limit: name in `Limits`, with what it is about, "caller_per_hour of billing". used: without this open."""

    limit: str
    used: Decimal
    allowed: Decimal


class Tally:
    """What counts against the limits at one position: opens and kilowatts by place, over the last hour and the last day."""

    def __init__(self) -> None:
        self.hour: Counter[tuple[str, str]] = Counter()
        self.day: Counter[tuple[str, str]] = Counter()
        self.kw_hour = Decimal(0)
        self.kw_day = Decimal(0)

    def add(self, facts: OpenFacts, kw: Decimal, *, in_hour: bool = True, in_day: bool = True) -> None:
        places = (("", ""), ("caller", facts.caller), ("feeder", facts.feeder), ("line", facts.line))
        if in_hour:
            self.hour.update(places)
            self.kw_hour += kw
        if in_day:
            self.day.update(places)
            self.kw_day += kw


class Governor:
    """limits: None allows nothing."""

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits

    def kw_of(self, facts: OpenFacts) -> Decimal:
        """What the open counts for."""
        if facts.kw is not None:
            return max(facts.kw, Decimal(0))
        return Decimal(0) if self.limits is None else self.limits.kw_when_unknown

    def admit(self, facts: OpenFacts, tally: Tally, fleet: Fleet) -> Admitted | OverLimit:
        """The first limit that one more open would go over, in the order of `Limits`."""
        limits = self.limits
        if limits is None:
            return OverLimit(limit="no limits are set", used=Decimal(0), allowed=Decimal(0))
        everywhere, caller = ("", ""), ("caller", facts.caller)
        feeder, line = ("feeder", facts.feeder), ("line", facts.line)
        of_fleet = _share(limits.of_fleet_per_day, fleet.meters)
        of_feeder = _share(limits.of_feeder_per_day, fleet.on_feeder.get(facts.feeder, 0))
        counted: list[tuple[str, int, int | None]] = [
            ("per_hour", tally.hour[everywhere], limits.per_hour),
            ("per_day", tally.day[everywhere], limits.per_day),
            ("of_fleet_per_day", tally.day[everywhere], of_fleet),
            (f"of_feeder_per_day of {facts.feeder}", tally.day[feeder], of_feeder),
            (f"caller_per_hour of {facts.caller}", tally.hour[caller], limits.caller_per_hour),
            (f"caller_per_day of {facts.caller}", tally.day[caller], limits.caller_per_day),
            (f"line_per_hour of {facts.line}", tally.hour[line], limits.line_per_hour),
            (f"line_per_day of {facts.line}", tally.day[line], limits.line_per_day),
        ]
        for name, used, allowed in counted:
            if allowed is not None and used + 1 > allowed:
                return OverLimit(limit=name, used=Decimal(used), allowed=Decimal(allowed))
        kw = self.kw_of(facts)
        for name, used_kw, allowed_kw in (
            ("kw_per_hour", tally.kw_hour, limits.kw_per_hour),
            ("kw_per_day", tally.kw_day, limits.kw_per_day),
        ):
            if allowed_kw is not None and used_kw + kw > allowed_kw:
                return OverLimit(limit=name, used=used_kw, allowed=allowed_kw)
        return Admitted()


class Over(Struct, frozen=True, kw_only=True):
    """An open that went over a limit, as it was noted. position_ms: of the governor's clock."""

    caller: str
    meter: str
    limit: str
    used: Decimal
    allowed: Decimal
    position_ms: int


class Alarm(Struct, frozen=True, kw_only=True):
    """Opens that one caller was refused by one limit since the last alarm. meters: a few of them."""

    caller: str
    limit: str
    count: int
    allowed: Decimal
    meters: tuple[str, ...]


def alarms(noted: Sequence[Over]) -> tuple[Alarm, ...]:
    """One per caller and limit. noted: those that no alarm has told of yet."""
    groups: dict[tuple[str, str], list[Over]] = {}
    for over in noted:
        groups.setdefault((over.caller, over.limit), []).append(over)
    return tuple(
        Alarm(
            caller=caller,
            limit=limit,
            count=len(group),
            allowed=group[0].allowed,
            meters=tuple(over.meter for over in group[:5]),
        )
        for (caller, limit), group in sorted(groups.items())
    )


def _share(share: Decimal, meters: int) -> int:
    """Rounded down, but one at least where there is any meter."""
    if meters < 1 or share <= 0:
        return 0
    return max(1, int((share * meters).to_integral_value(ROUND_FLOOR)))

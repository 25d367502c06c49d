"""How much of what was expected has been collected: per line, per concentrator, and for the whole day, against a target. Pure.

Collected is what is measured or back-filled. A suspect value is held, so it is not collected until it is confirmed or corrected. What
is still open counts as expected: the rate of a day can only rise while back-filling works.
"""

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal

from msgspec import Struct

from headend.ledger.account import MeterAccount, Window
from headend.ledger.states import COLLECTED, State, states_of

__all__ = ["TARGET", "CollectionReport", "Intervals", "LineRate", "MeterRate", "report_of"]

TARGET = Decimal("0.98")
METERS_MAX = 100  # of a report, those that miss most; a manifest names all
_PLACES = Decimal("0.0001")


class Intervals(Struct, frozen=True, kw_only=True):
    """rate: collected of expected, cut after four places, so that 1.0000 is all; null when nothing was expected. states: how many
    ended so. reasons: of those that are not collected.
    """

    expected: int
    collected: int
    rate: Decimal | None
    states: dict[str, int]
    reasons: dict[str, int]


class LineRate(Struct, frozen=True, kw_only=True):
    """name: of the line or concentrator; "" of meters that are no longer configured. kind: line | concentrator. complete_meters: those
    that miss nothing. meets: whether the target is met; true when nothing was expected.
    """

    name: str
    kind: str
    meters: int
    complete_meters: int
    meets: bool
    intervals: Intervals


class MeterRate(Struct, frozen=True, kw_only=True):
    """A meter that misses something."""

    meter: str
    line: str
    intervals: Intervals


class CollectionReport(Struct, frozen=True, kw_only=True):
    """One local day. is_over: it is past. is_final: nothing is open any more. lines: the worst first. meters: those that miss most."""

    day: str
    timezone: str
    is_over: bool
    is_final: bool
    target: Decimal
    meets: bool
    intervals: Intervals
    lines: list[LineRate]
    meters: list[MeterRate]


class _Sum:
    """Of some meters."""

    def __init__(self) -> None:
        self.meters = 0
        self.complete = 0
        self.states: dict[State, int] = {}
        self.reasons: dict[str, int] = {}

    def add(self, account: MeterAccount) -> None:
        self.meters += 1
        self.complete += not account.reasons
        for state, count in account.states.items():
            self.states[state] = self.states.get(state, 0) + count
        for reason, count in account.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


def report_of(window: Window, accounts: Iterable[MeterAccount], *, target: Decimal = TARGET) -> CollectionReport:
    """accounts: of a whole day."""
    total = _Sum()
    sums: dict[tuple[str, str], _Sum] = {}
    missing: list[MeterAccount] = []
    for account in accounts:
        if not account.expected:
            continue
        total.add(account)
        sums.setdefault((account.route, account.line), _Sum()).add(account)
        if account.reasons:
            missing.append(account)
    missing.sort(key=lambda account: (-sum(account.reasons.values()), account.meter))
    lines = [_line(name, kind, found, target) for (kind, name), found in sums.items()]
    return CollectionReport(
        day=window.day.isoformat(),
        timezone=window.zone.key,
        is_over=window.is_complete,
        is_final=window.is_complete and State.OPEN not in total.states,
        target=target,
        meets=_meets(total.states, target),
        intervals=_intervals(total),
        lines=sorted(lines, key=lambda line: (line.intervals.rate or 0, line.name)),
        meters=[MeterRate(meter=one.meter, line=one.line, intervals=_intervals(one)) for one in missing[:METERS_MAX]],
    )


def _line(name: str, kind: str, found: _Sum, target: Decimal) -> LineRate:
    return LineRate(
        name=name,
        kind=kind,
        meters=found.meters,
        complete_meters=found.complete,
        meets=_meets(found.states, target),
        intervals=_intervals(found),
    )


def _meets(states: dict[State, int], target: Decimal) -> bool:
    return _collected(states) >= target * sum(states.values())


def _collected(states: dict[State, int]) -> int:
    return sum(states.get(state, 0) for state in COLLECTED)


def _intervals(of: "_Sum | MeterAccount") -> Intervals:
    expected, collected = sum(of.states.values()), _collected(of.states)
    return Intervals(
        expected=expected,
        collected=collected,
        rate=(Decimal(collected) / expected).quantize(_PLACES, ROUND_DOWN) if expected else None,
        states=states_of(of.states),
        reasons=dict(sorted(of.reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
    )

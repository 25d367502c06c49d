"""What is remembered of a channel so that its next read can be judged: a few numbers, small enough for a fleet.

The baseline (`last`, `at`) is the last good read. No suspect read ever moves it; only a good read or a fact does.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from headend.feed.envelope import plain
from headend.intervals.registers import EXPONENT_MAX, TICKS, ticks_of
from protocols.values import Unit

__all__ = ["EPOCH", "GREATEST", "History", "Suspicion", "amount_of", "moment_of", "rebased", "second_of", "shown"]

EPOCH = datetime(
    2020, 1, 1, tzinfo=UTC
)  # nobody's meter speaks of earlier times, and seconds since then are small integers
GREATEST = 10**18  # ticks: 10**12 kWh, more than any register holds, and few enough bits to be stored
_SECOND = timedelta(seconds=1)


class Suspicion(Struct, frozen=True, kw_only=True, array_like=True):
    """A channel whose reads are held.

    since: when the first suspect read was taken. level, at: of the first; last, last_at: of the latest, which tell whether the
    next one goes on from there. reads: how many so far.
    """

    rule: str
    evidence: dict[str, str]
    since: int
    level: int
    last: int
    last_at: int
    reads: int = 1
    is_confirmed: bool = False


class History(Struct, frozen=True, array_like=True, gc=False):
    """last, at: the last good read, ticks (millionths of the unit) and seconds since 2020; at 0: none yet.

    age_s: of labelled reads, how much older the label was than the interval end it claimed; None: no label.
    peak_w: the greatest average power between two good reads, W (var, VA).
    still_h: hours for which the amount has not changed; idle_h: the longest such time so far. watched_h: hours observed.
    flows: reads in a row that stood still while current flowed. Hours and reads are small integers, which cost nothing.
    generation: how often a fact has moved the baseline.
    """

    unit: Unit
    last: int = 0
    at: int = 0
    age_s: int | None = None
    peak_w: int = 0
    still_h: int = 0
    idle_h: int = 0
    watched_h: int = 0
    flows: int = 0
    suspicion: Suspicion | None = None
    generation: int = 0


def second_of(moment: datetime) -> int:
    return (moment - EPOCH) // _SECOND


def moment_of(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


def amount_of(ticks: int) -> str:
    return format((Decimal(ticks) / TICKS).normalize(), "f")


def shown(amount: Decimal) -> str:
    """The amount's own digits, for evidence; with an exponent where they would fill the page."""
    return plain(amount) if abs(amount.adjusted()) <= EXPONENT_MAX else str(amount)


def rebased(history: History, amount: Decimal | None, at: datetime, unit: Unit | None = None) -> History:
    """A fact moves the baseline: a meter exchange (first reading of the new one), or an operator who accepts an amount.

    amount: None when nobody wrote it down; the next good read is then the first. What was learned of the customer stays; the
    suspicion is lifted.
    """
    return History(
        unit=history.unit if unit is None else unit,
        last=0 if amount is None else ticks_of(amount),
        at=0 if amount is None else max(1, second_of(at)),
        peak_w=history.peak_w,
        idle_h=history.idle_h,
        watched_h=history.watched_h,
        generation=history.generation + 1,
    )

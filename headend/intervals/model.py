"""What intervals are made of, and what they are: boundaries, dated facts, and the interval itself."""

import enum
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.intervals.registers import Register
from headend.model import MeterClock, Quality, Read
from protocols.values import Unit

__all__ = [
    "REASONS",
    "Boundary",
    "Channel",
    "ClockCorrection",
    "Exchange",
    "Facts",
    "Interval",
    "Mark",
    "Part",
    "RatioChange",
    "Span",
    "boundary_of",
]

# Why an interval has no amount. Published: a word is never given another meaning.
REASONS = (
    "before-first-read",  # the channel began later
    "partial",  # the first or last read lies inside the interval
    "missing-boundary",  # one of its two reads is missing
    "no-record",  # the meter's own profile has nothing for it
    "suspect-boundary",  # one of its two reads is suspect
    "backward-step",  # the register stands lower than before, and that is no rollover
    "unit-changed",
    "exchange-without-readings",  # the meter was exchanged, and its final or first reading is not known
    "repeated-label",  # the meter recorded two different amounts under one label
)


class Mark(enum.Enum):
    """What happened inside an interval whose amount is right all the same."""

    ROLLED_OVER = "rolled-over"
    METER_EXCHANGED = "meter-exchanged"
    CLOCK_CORRECTED = "clock-corrected"
    RATIO_CHANGED = "ratio-changed"


class Channel(Struct, frozen=True, kw_only=True):
    """A stored series: meter, OBIS, period, unit, and the zone whose local day the period divides.

    is_primary: the register counts what flows in the customer's line, not the transformers' secondary side.
    source: contract row that gave layout and scale.
    """

    meter: str
    obis: str
    period_s: int
    zone: ZoneInfo
    register: Register
    is_primary: bool = False
    source: str = ""

    @property
    def unit(self) -> Unit:
        return self.register.unit


class Boundary(Struct, frozen=True, kw_only=True):
    """One register at one moment; of an interval, where it begins or ends.

    instant: what the read is for, UTC. amount: None when it is missing, `reason` says why.
    captured_at: when the register stood so, by our clock; None: taken to be `instant`.
    by_meter_clock: the moment is a label that the meter wrote (a record, a freeze), not ours.
    """

    instant: datetime
    amount: Decimal | None
    unit: Unit
    quality: tuple[Quality, ...] = (Quality.MEASURED,)
    revision: int = 0
    reason: str = ""
    captured_at: datetime | None = None
    by_meter_clock: bool = False

    @property
    def moment(self) -> datetime:
        return self.instant if self.captured_at is None else self.captured_at

    @property
    def is_good(self) -> bool:
        return self.amount is not None and Quality.SUSPECT not in self.quality


def boundary_of(read: Read, clock: MeterClock | None = None) -> Boundary:
    """clock: of the meter, for reads that carry its time; without one their label is taken as it is."""
    captured_at = read.received_at
    if read.read_at is not None:
        off_s = 0.0 if clock is None else clock.offset_at(read.read_at)
        captured_at = read.read_at - timedelta(seconds=off_s)
    return Boundary(
        instant=read.interval_end,
        amount=read.amount,
        unit=read.unit,
        quality=read.quality,
        revision=read.revision,
        reason=read.reason,
        captured_at=None if read.amount is None else captured_at,
        by_meter_clock=read.read_at is not None,
    )


class Exchange(Struct, frozen=True, kw_only=True):
    """The meter was exchanged: of one channel, what the old one showed last and the new one first. None: nobody wrote it down.

    at: a read captured at or after it is the new meter's. register: of the new meter; None: as before.
    """

    at: datetime
    final: Decimal | None
    first: Decimal | None
    register: Register | None = None


class RatioChange(Struct, frozen=True, kw_only=True):
    """The transformers' ratio as a factor of this channel. None: not known.

    at: an interval that ends here has the ratio from before. amount: what the register showed at the change; None: nobody read it.
    """

    at: datetime
    before: Decimal | None
    after: Decimal | None
    amount: Decimal | None = None


class ClockCorrection(Struct, frozen=True, kw_only=True):
    """The meter's clock was set. before_s, after_s: what its labels are off by up to then and from then on, positive is fast."""

    at: datetime
    before_s: float
    after_s: float = 0.0


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of a channel beside its reads, oldest first. ratio: before the first change; None: not known, or none."""

    exchanges: tuple[Exchange, ...] = ()
    ratio: Decimal | None = None
    ratio_changes: tuple[RatioChange, ...] = ()
    corrections: tuple[ClockCorrection, ...] = ()


class Span(Struct, frozen=True, kw_only=True):
    """What was counted between two good reads that are no single period apart. Never cut up: nobody knows how it was spread.

    ratio, primary: as of an interval.
    """

    start: datetime
    end: datetime
    amount: Decimal
    marks: tuple[Mark, ...] = ()
    ratio: Decimal | None = None
    primary: Decimal | None = None


class Part(Struct, frozen=True, kw_only=True):
    """A piece of an interval under one ratio, where the register was read at the change."""

    start: datetime
    end: datetime
    amount: Decimal
    ratio: Decimal


class Interval(Struct, frozen=True, kw_only=True):
    """What was counted in [start, end), UTC; at a clock change the real length may differ from `period_s`.

    amount: in `unit`, as the register counts; None when it is not known, `reason` says why (one of REASONS). It is never estimated.
    quality: of both reads; SUSPECT without an amount when one of them is; MISSING when there is neither.
    evidence: what `reason` and `marks` rest on. covered: what the amount really spans when that is not [start, end) to the minute.
    span: where reads before it are missing, what was counted since the last good one, to the read that ends it.
    ratio: of the transformers; None where none is known, or it changed inside. primary: what flowed in the customer's line.
    parts: where the ratio changed inside and the register was read then.
    """

    meter: str
    obis: str
    start: datetime
    end: datetime
    period_s: int
    amount: Decimal | None
    unit: Unit
    quality: tuple[Quality, ...]
    source: str
    marks: tuple[Mark, ...] = ()
    reason: str = ""
    evidence: dict[str, str] = {}
    covered: tuple[datetime, datetime] | None = None
    span: Span | None = None
    ratio: Decimal | None = None
    primary: Decimal | None = None
    parts: tuple[Part, ...] = ()
    revision: int = 0

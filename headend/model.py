"""Words the head-end's rooms share: reads with their quality, events, registered meters."""

import enum
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import Struct

from protocols.values import Unit

__all__ = [
    "Event",
    "Finding",
    "Item",
    "JudgedRead",
    "MeterClock",
    "MeterRecord",
    "PushedRead",
    "Quality",
    "Read",
    "SlotState",
]


class Quality(enum.Enum):
    """What upstream may think of a read. A read has at least one; there is no silent default.

    SUSPECT: came from the meter, but a truth check doubts it. LATE: captured after its interval end by more than
    allowed. BACK_FILLED: fetched from the meter's own memory after the fact.
    """

    MEASURED = "measured"
    MISSING = "missing"
    LATE = "late"
    ESTIMATED_BY_UPSTREAM = "estimated-by-upstream"
    SUSPECT = "suspect"
    BACK_FILLED = "back-filled"


class Finding(Struct, frozen=True, omit_defaults=True):
    """One rule of the truth checks broken, see `headend.intervals.findings.RULES`.

    evidence: what it rests on, as text. is_held: the read is suspect; otherwise it is only remarked on.
    """

    rule: str
    evidence: dict[str, str]
    is_held: bool = True


class Read(Struct, frozen=True, kw_only=True, gc=False):
    """One register of one meter for one interval end: captured, or known to be missing.

    meter: asset number, "M000001".
    amount: in `unit`, scaled as the contract row says; None exactly when the quality has MISSING, `reason` says why.
    interval_end: the boundary this read is for, UTC; of a pushed read the moment it was taken. Whole milliseconds.
    read_at: meter clock, UTC; None when the reply carries no time.
    received_at: head-end wall clock, UTC.
    source: contract row that gave layout and scale, "dlt645/base_2007:00010000".
    revision: 0 first; a correction of the same meter, quantity and interval end counts up.
    reason: of a missing read: silent | corrupt | unmatched | refused | not-measured | line-down | stopped | overrun | unsupported
    | meter-has-no-data | meter-clock-off | ambiguous-time (the last three: back-filling found out that there is nothing to get).
    occurred_at: when a maximum demand happened, meter clock, UTC; None for everything else.
    ratio: of the transformers before the meter, what held at the interval end: a secondary amount times this is the primary one.
    None: none is known, or none applies. is_primary: the meter has multiplied by itself, `amount` is the primary side.
    findings: of the truth checks, the root first; of a clean read none.

    The store and the feed keep times to the millisecond. Raises ValueError.
    """

    meter: str
    obis: str
    amount: Decimal | None
    unit: Unit
    interval_end: datetime
    read_at: datetime | None
    received_at: datetime
    quality: tuple[Quality, ...]
    source: str
    revision: int = 0
    reason: str = ""
    occurred_at: datetime | None = None
    ratio: Decimal | None = None
    is_primary: bool = False
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        missing = Quality.MISSING in self.quality
        if not self.quality or missing is not (self.amount is None):
            raise ValueError(
                f"read of {self.meter} {self.obis}: an amount is None exactly when its quality is "
                f"missing, found {self.amount} with {[quality.value for quality in self.quality]}"
            )
        if missing is not bool(self.reason):
            raise ValueError(
                f"read of {self.meter} {self.obis}: a reason belongs to a missing read and to no other, "
                f"found {self.reason!r}"
            )
        if self.amount is not None and not self.amount.is_finite():
            raise ValueError(f"read of {self.meter} {self.obis}: expected a finite amount, found {self.amount}")
        if self.interval_end.tzinfo is None or self.interval_end.microsecond % 1000:
            raise ValueError(
                f"read of {self.meter} {self.obis}: expected an aware interval end in whole milliseconds, "
                f"found {self.interval_end!r}"
            )
        for moment in (self.read_at, self.received_at, self.occurred_at):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"read of {self.meter} {self.obis}: expected aware times, found {moment!r}")


class PushedRead(Struct, frozen=True):
    """A read that somebody else sends, who may send it again: the store tells a repeat from a correction by its content.

    A repeat is what has the meter, quantity, interval end and amount of a read that is stored; it is dropped. Another amount for
    the same moment gets the next revision and is SUSPECT: one of the two is wrong, and nobody can say which. A missing read adds
    nothing to one that is there, and an amount after a missing read is a revision like any other. read: its revision is not used.
    """

    read: Read


class JudgedRead(Struct, frozen=True, gc=False):
    """A read, and what its channel is remembered by from now on: both are stored in one commit, or neither.

    history: as stored, see `headend.intervals.guard`. generation: of the history's baseline; what was learned before a fact moved the
    baseline never replaces what was learned since.
    """

    read: Read | PushedRead
    history: bytes
    generation: int = 0


class SlotState(Struct, frozen=True):
    """What the store has of one interval end of one channel. reason: of a missing read; "" when there is an amount."""

    slot: datetime
    revision: int
    reason: str


class Event(Struct, frozen=True, kw_only=True):
    """Something for the feed that is no read: meter status, relay, manifest.

    type: with its version, "headend.meter-status.v1".
    subject: whom it is about, mostly the meter's asset number.
    data: what msgspec can write as a JSON object; must not be changed afterwards.
    time: head-end wall clock, UTC.
    id: "" lets the store give one from type, subject and sequence. The store does not look for repeats of events.

    Raises ValueError.
    """

    type: str
    subject: str
    data: dict[str, object]
    time: datetime
    id: str = ""

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError(f"event {self.type} of {self.subject}: expected an aware time, found {self.time!r}")
        try:
            msgspec.json.encode(self.data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"event {self.type} of {self.subject}: its data is not JSON: {error}") from error


Item = Read | Event | PushedRead | JudgedRead


class MeterRecord(Struct, frozen=True, kw_only=True, gc=False):
    """One registered meter: where it is and how to talk to it.

    id: asset number. line, contract, plan: names in the configuration. address: as the protocol writes it. Without gc, as all
    structs of which a head-end keeps one per meter: they cannot be part of a cycle, and it saves 16 bytes each.
    """

    id: str
    line: str
    address: str
    contract: str
    plan: str
    protocol: str


class MeterClock(Struct, frozen=True, kw_only=True):
    """What is known of one meter's clock. Offsets: seconds, the meter minus us, positive is fast.

    drift_ppm: since the measurement before; None when there is none, it is too recent, or a correction lies between.
    corrected_at: when we last set it; `offset_before_s` is what its records from before that are off by. None: never.
    written_at: when we last tried to write it (not by broadcast). None: never.
    """

    measured_at: datetime
    offset_s: float
    uncertainty_s: float
    drift_ppm: float | None = None
    corrected_at: datetime | None = None
    offset_before_s: float = 0.0
    written_at: datetime | None = None

    def offset_at(self, moment: datetime) -> float:
        """What a label that the meter wrote at `moment` is off by."""
        if self.corrected_at is not None and moment < self.corrected_at:
            return self.offset_before_s
        return self.offset_s

"""What stands in `data` of each event type of the feed: the types that its schemas, the AsyncAPI document and docs/feed.md are made of.

They describe what is sent; the sending itself is `headend.feed.envelope`, and a test holds the two together. A field that is
UNSET is absent. An open word list names what is sent today: consumers must expect further words, and what a new word means is
in the documentation of the version that brings it.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from headend.feed.schema_gate import OPEN_WORDS
from headend.intervals.findings import RULES
from headend.intervals.model import REASONS, Mark
from headend.model import Quality
from protocols.values import Unit

__all__ = [
    "CapacityAlarm",
    "ClockStatus",
    "IntervalData",
    "IntervalPart",
    "IntervalSpan",
    "MeterEventData",
    "MeterStatusData",
    "PresenceStatus",
    "ProtectionAlarm",
    "ReadData",
    "ReadFinding",
    "RetainedCommandStatus",
    "ServiceStatusData",
    "SuspicionStatus",
]

READ_REASONS = (
    "silent",
    "corrupt",
    "unmatched",
    "refused",
    "not-measured",
    "line-down",
    "overrun",
    "stopped",
    "unsupported",
    "concentrator-error",
    "meter-has-no-data",
    "meter-clock-off",
    "ambiguous-time",
)
UNITS = tuple(unit.value for unit in Unit if unit not in (Unit.W, Unit.VAR, Unit.VA, Unit.BITS))  # those stay inside


def _words(*words: str) -> Meta:
    return Meta(extra_json_schema={OPEN_WORDS: list(words)})


Moment: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$",
        description="UTC, to the millisecond at most",
        extra_json_schema={"format": "date-time"},
    ),
]
Amount: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^-?\d+(\.\d+)?$",
        description="decimal number as text, with its digits; never to be read as binary floating point",
    ),
]
UnitText: TypeAlias = Annotated[str, _words(*UNITS)]
Qualities: TypeAlias = Annotated[list[Annotated[str, _words(*(one.value for one in Quality))]], Meta(min_length=1)]
Revision: TypeAlias = Annotated[int, Meta(ge=0, description="0 first; a correction counts up, the highest counts")]


RuleText: TypeAlias = Annotated[str, _words(*RULES)]


class ReadFinding(Struct, frozen=True, kw_only=True):
    """A truth check that the read did not pass."""

    rule: RuleText
    evidence: Annotated[dict[str, str], Meta(description="what it rests on, as text")]
    is_held: (
        Annotated[bool, Meta(description="absent or true: `quality` has `suspect`; false: only remarked on")]
        | UnsetType
    ) = UNSET


class ReadData(Struct, frozen=True, kw_only=True):
    """One register of one meter for one interval end: captured, or known to be missing."""

    meter: Annotated[str, Meta(description="asset number")]
    obis: Annotated[
        str,
        Meta(description="the quantity: an OBIS code; di:XXXXXXXX or reg:… where the device has one without a code"),
    ]
    value: Annotated[Amount | None, Meta(description="scaled to `unit`; null exactly when `quality` has `missing`")]
    unit: Annotated[UnitText, Meta(description="empty for a pure number")]
    interval_end: Annotated[
        Moment,
        Meta(description="the boundary this read is for, even in local time; of a pushed read the moment it was taken"),
    ]
    read_at: Annotated[Moment | None, Meta(description="the meter's clock; null where the reply carries no time")]
    received_at: Annotated[
        Moment, Meta(description="our clock when the reply was complete, or when a missing read was given up")
    ]
    quality: Qualities
    source: Annotated[str, Meta(description="contract row that gave layout and scale")]
    revision: Revision
    reason: Annotated[str, _words(*READ_REASONS), Meta(description="of a missing read")] | UnsetType = UNSET
    occurred_at: (
        Annotated[Moment, Meta(description="of a maximum demand: when it happened, meter clock")] | UnsetType
    ) = UNSET
    side: (
        Annotated[
            Literal["primary", "secondary"],
            Meta(description="of the transformers, which one `value` is; where a ratio is known"),
        ]
        | UnsetType
    ) = UNSET
    ratio: Annotated[Amount, Meta(description="secondary times this is primary, at the interval end")] | UnsetType = (
        UNSET
    )
    primary: Annotated[Amount, Meta(description="where `value` is the secondary side")] | UnsetType = UNSET
    secondary: Annotated[Amount, Meta(description="where `value` is the primary side")] | UnsetType = UNSET
    findings: (
        Annotated[
            list[ReadFinding],
            Meta(min_length=1, description="what truth checks say against it, the root first; absent of a clean read"),
        ]
        | UnsetType
    ) = UNSET


class IntervalSpan(Struct, frozen=True, kw_only=True):
    """What was counted between two good reads that are more than one period apart."""

    start: Moment
    end: Moment
    amount: Amount
    marks: Annotated[list[Annotated[str, _words(*(mark.value for mark in Mark))]], Meta(min_length=1)] | UnsetType = (
        UNSET
    )
    ratio: Annotated[Amount, Meta(description="of the transformers, where one is known")] | UnsetType = UNSET
    primary: Annotated[Amount, Meta(description="what flowed in the customer's line")] | UnsetType = UNSET


class IntervalPart(Struct, frozen=True, kw_only=True):
    """A piece of an interval under one ratio of the transformers."""

    start: Moment
    end: Moment
    amount: Amount
    ratio: Amount


class IntervalData(Struct, frozen=True, kw_only=True):
    """What was counted in [start, end)."""

    meter: Annotated[str, Meta(description="asset number")]
    obis: Annotated[str, Meta(description="the register whose difference it is")]
    start: Annotated[Moment, Meta(description="belongs to the interval")]
    end: Annotated[Moment, Meta(description="does not belong to it")]
    period_s: Annotated[int, Meta(gt=0, description="nominal; a local day has 23 or 25 hours when clocks change")]
    amount: Annotated[
        Amount | None, Meta(description="in `unit`; null when not known, `reason` says why; never estimated")
    ]
    unit: UnitText
    quality: Qualities
    source: Annotated[str, Meta(description="contract row of the register")]
    revision: Revision
    reason: Annotated[str, _words(*REASONS), Meta(description="why there is no amount")] | UnsetType = UNSET
    marks: (
        Annotated[
            list[Annotated[str, _words(*(mark.value for mark in Mark))]],
            Meta(min_length=1, description="what happened inside; the amount is right all the same"),
        ]
        | UnsetType
    ) = UNSET
    evidence: (
        Annotated[dict[str, str], Meta(min_length=1, description="what `reason` and `marks` rest on")] | UnsetType
    ) = UNSET
    covered: (
        Annotated[
            list[Moment],
            Meta(
                min_length=2, max_length=2, description="what the amount really spans, where that is not [start, end)"
            ),
        ]
        | UnsetType
    ) = UNSET
    span: (
        Annotated[
            IntervalSpan,
            Meta(description="where reads before it are missing: what was counted since the last good one"),
        ]
        | UnsetType
    ) = UNSET
    side: (
        Annotated[
            Literal["primary", "secondary"], Meta(description="of the transformers, which one `amount` is; where known")
        ]
        | UnsetType
    ) = UNSET
    ratio: Annotated[Amount, Meta(description="of the transformers, where one is known")] | UnsetType = UNSET
    primary: Annotated[Amount, Meta(description="what flowed in the customer's line")] | UnsetType = UNSET
    parts: (
        Annotated[
            list[IntervalPart], Meta(min_length=1, description="where the ratio changed inside and was read then")
        ]
        | UnsetType
    ) = UNSET


class MeterEventData(Struct, frozen=True, kw_only=True):
    """A concentrator reported something that happened at a meter."""

    meter: Annotated[str, Meta(description="asset number")]
    concentrator: str
    name: Annotated[str, Meta(description="as the concentrator calls it")]
    at: Annotated[Moment | None, Meta(description="the concentrator's or meter's clock; null where it gave no time")]
    detail: Annotated[dict[str, Any], Meta(description="as the concentrator gave it, numbers as decimal text")]


class ClockStatus(Struct, frozen=True, kw_only=True, tag_field="kind", tag="clock"):
    """A meter's clock. Offsets in seconds, the meter's time minus ours."""

    meter: Annotated[str, Meta(description="asset number")]
    state: Annotated[str, _words("beyond-limit", "within-limit", "corrected", "correction-failed")]
    offset_s: float
    uncertainty_s: float
    limit_s: Annotated[float, Meta(description="what is allowed")]
    drift_ppm: Annotated[float | None, Meta(description="how fast it runs off; null when not known yet")]
    measured_at: Moment
    method: Annotated[str, _words("broadcast", "write"), Meta(description="how it was set")] | UnsetType = UNSET


class PresenceStatus(Struct, frozen=True, kw_only=True, tag_field="kind", tag="presence"):
    """Whether a concentrator is there."""

    meter: Annotated[None, Meta(description="null: it is about a concentrator")]
    concentrator: str
    state: Annotated[str, _words("online", "offline")]
    reason: Annotated[str, _words("said", "last-will", "silence", "heard"), Meta(description="how it is known")]
    since: Moment


class RetainedCommandStatus(Struct, frozen=True, kw_only=True, tag_field="kind", tag="retained-command"):
    """Somebody left a message on a concentrator's command topic, which the broker repeats at every reconnection."""

    meter: Annotated[None, Meta(description="null: it is about a concentrator")]
    concentrator: str
    state: Annotated[str, _words("found")]
    topic: str
    size: Annotated[int, Meta(ge=0, description="bytes")]


class SuspicionStatus(Struct, frozen=True, kw_only=True, tag_field="kind", tag="suspicion"):
    """A register's reads are doubted, or no longer: one event for each change, however many reads it lasts."""

    meter: Annotated[str, Meta(description="asset number")]
    obis: Annotated[str, Meta(description="the register")]
    state: Annotated[str, _words("opened", "confirmed", "lifted")]
    rule: RuleText
    since: Annotated[Moment, Meta(description="when the first of the doubted reads was taken")]
    reads: Annotated[
        int, Meta(ge=1, description="so many were doubted by then, a second read that confirmed it included")
    ]
    by: Annotated[
        str,
        _words("read", "second-read", "meter-exchange", "accepted"),
        Meta(description="what brought the change"),
    ]
    evidence: Annotated[dict[str, str], Meta(description="what it rests on, of the first read")]


MeterStatusData: TypeAlias = ClockStatus | PresenceStatus | RetainedCommandStatus | SuspicionStatus


_LEVELS = _words("ok", "72h", "24h", "4h")


class CapacityAlarm(Struct, frozen=True, kw_only=True, tag_field="kind", tag="capacity"):
    """How long the store can go on taking events when nothing is deleted."""

    state: Annotated[str, _LEVELS, Meta(description="less than so many hours are left")]
    hours_left: Annotated[float | None, Meta(description="null when there is no end in sight")]
    destination: Annotated[str, Meta(description="empty: it is about the store")]


class ProtectionAlarm(Struct, frozen=True, kw_only=True, tag_field="kind", tag="protection"):
    """How long until events are deleted that a destination has not got."""

    state: Annotated[str, _LEVELS, Meta(description="less than so many hours are left")]
    hours_left: Annotated[float | None, Meta(description="null when nothing waits")]
    destination: Annotated[str, Meta(min_length=1, description="its name in the configuration")]


class RestoredNotice(Struct, frozen=True, kw_only=True, tag_field="kind", tag="restored"):
    """The store was restored from a backup. Events behind `last_before` that you have are true; the head-end no longer has them."""

    state: Annotated[str, _words("restored")]
    last_before: Annotated[int, Meta(ge=0, description="sequence of the last event of the backup")]
    void_through: Annotated[
        int, Meta(ge=1, description="sequences behind `last_before` up to here are never given again")
    ]
    backup_at: Annotated[Moment, Meta(description="when the backup was taken")]


ServiceStatusData: TypeAlias = CapacityAlarm | ProtectionAlarm | RestoredNotice

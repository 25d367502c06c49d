"""The rules about time: a meter whose clock is wrong, and a reading that is older than it claims."""

from datetime import datetime

from headend.feed.envelope import iso_utc
from headend.intervals.context import Seen
from headend.intervals.findings import Finding
from headend.intervals.history import EPOCH, History, second_of
from headend.model import Quality, Read

__all__ = ["FLAGGED_S", "age_of", "clock_off", "stale"]

FLAGGED_S = 60  # as Italy's and Britain's rules have it; beyond HELD_S nothing filed by this clock can be trusted
HELD_S = 4 * 3600
STEADY_S = 120  # two labels that are off by the same: the clock is wrong, not the reading old
STALE_S_MIN = 900


def age_of(read: Read) -> int | None:
    """By how much the label is older than the interval end it is filed under; None where the reply carries no time."""
    if read.read_at is None or Quality.BACK_FILLED in read.quality:
        return None
    return second_of(read.interval_end) - second_of(read.read_at)


def clock_off(read: Read, history: History | None, seen: Seen) -> Finding | None:
    """Of the measured offset; else of the label itself: in the future, before 2020, or behind by the same as last time."""
    offset_s = seen.context.clock_offset_s
    if read.read_at is not None and read.read_at < EPOCH:
        return Finding("clock-off", {"read_at": iso_utc(read.read_at), "received_at": iso_utc(read.received_at)})
    if offset_s is None:
        offset_s = _offset_by_label(read, history, seen)
    if offset_s is None or abs(offset_s) <= FLAGGED_S:
        return None
    return Finding("clock-off", {"offset_s": str(round(offset_s))}, is_held=abs(offset_s) > HELD_S)


def stale(read: Read, history: History | None, seen: Seen) -> Finding | None:
    age_s = age_of(read)
    if age_s is None or read.read_at is None or read.read_at < EPOCH:
        return None
    if history is not None and history.age_s is not None:
        # The label before was `age_s` older than its interval end, which is where the history stands.
        step_s = (second_of(read.interval_end) - age_s) - (history.at - history.age_s)
        if step_s <= 0 < second_of(read.interval_end) - history.at:
            return Finding("stale", _claims(read, read.read_at) | {"problem": "the same label again"})
        if abs(age_s - history.age_s) <= STEADY_S:
            return None  # a clock that is slow, see clock_off
    if age_s + (seen.context.clock_offset_s or 0.0) > max(seen.context.period_s, STALE_S_MIN):
        return Finding("stale", _claims(read, read.read_at) | {"age_s": str(age_s)})
    return None


def _claims(read: Read, read_at: datetime) -> dict[str, str]:
    return {"read_at": iso_utc(read_at), "claims": iso_utc(read.interval_end)}


def _offset_by_label(read: Read, history: History | None, seen: Seen) -> float | None:
    age_s = age_of(read)
    if age_s is None or read.read_at is None:
        return None
    ahead_s = second_of(read.read_at) - second_of(read.received_at)
    if ahead_s > FLAGGED_S:
        return ahead_s
    is_steady = history is not None and history.age_s is not None and abs(age_s - history.age_s) <= STEADY_S
    if is_steady and age_s > max(seen.context.period_s, STALE_S_MIN):
        return -age_s
    return None

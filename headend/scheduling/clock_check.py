"""How wrong each meter's clock is, and when it may be set right. Pure.

An offset is the meter's time minus ours at the middle of the exchange that read it; half the exchange is what cannot be known. Meters
tell whole seconds, cut off, so half a second is added.

Setting a clock changes what the meter files under which interval, so it is done rarely and away from every boundary:

- by broadcast (08H) when a meter is off by more than the limit and by at most five minutes; once per line and calendar day, as the
  meters themselves accept it (DL/T 645-2007 §7.8). Every meter on the line is set.
- by a write to one meter (14H) beyond that, only when the policy says so.
- never within five minutes of local midnight or of a settlement moment, reckoned by either clock;
- never near an interval end: five minutes where the period leaves room for that, and always more than the step itself, so that no
  clock jumps over a boundary or back to one it has passed.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from headend.model import MeterClock

__all__ = [
    "BROADCAST_S_MAX",
    "ClockPolicy",
    "Correction",
    "corrected",
    "decide",
    "is_check_due",
    "measure",
    "why_not_now",
]

BROADCAST_S_MAX = 300.0  # a meter ignores a broadcast that would move it further
GUARD_S = 300.0
STEP_MARGIN_S = 30.0
RECORD_PERIOD_S = 900  # meters keep their load records at quarter hours, whatever the plans do
DRIFT_AFTER_S = 6 * 3600.0  # a second of reading error over less would look like 50 ppm
DISPLAY_HALF_S = 0.5


class ClockPolicy(Struct, frozen=True, kw_only=True):
    """correct: nothing; by broadcast only; or by writing, too, where a broadcast does not reach.

    limit_s: an offset beyond it is an event, and the meter's own records are not trusted to the minute any more.
    settlements: moments of the month as the meters have them (04000B01..03), DDhh.
    """

    correct: Literal["off", "broadcast", "write"] = "off"
    limit_s: float = 60.0
    settlements: tuple[str, ...] = ("0100",)


class Correction(Struct, frozen=True):
    """What to do now. meters: whose clocks are beyond the limit; a write is for the first of them alone."""

    method: Literal["broadcast", "write"]
    meters: tuple[str, ...]


def measure(
    shown: datetime, *, received_at: datetime, elapsed_s: float, zone: ZoneInfo, previous: MeterClock | None
) -> MeterClock:
    """shown: the meter's wall time, without zone. elapsed_s: from the request's first byte to the reply's last."""
    middle = received_at - timedelta(seconds=elapsed_s / 2)
    ours = middle.astimezone(zone).replace(tzinfo=None)
    offset_s = round((shown - ours).total_seconds() + DISPLAY_HALF_S, 2)
    drift_ppm = None
    if previous is not None and (previous.corrected_at is None or previous.corrected_at <= previous.measured_at):
        between_s = (received_at - previous.measured_at).total_seconds()
        if between_s >= DRIFT_AFTER_S:
            drift_ppm = round((offset_s - previous.offset_s) / between_s * 1e6, 1)
    uncertainty_s = round(elapsed_s / 2 + DISPLAY_HALF_S, 2)
    if previous is None:
        return MeterClock(measured_at=received_at, offset_s=offset_s, uncertainty_s=uncertainty_s)
    return replace(
        previous, measured_at=received_at, offset_s=offset_s, uncertainty_s=uncertainty_s, drift_ppm=drift_ppm
    )


def corrected(clock: MeterClock, at: datetime) -> MeterClock:
    """The same clock after it was set at `at`: near zero, to be measured again."""
    return replace(clock, offset_s=0.0, drift_ppm=None, corrected_at=at, offset_before_s=clock.offset_s)


def is_check_due(clock: MeterClock | None, now: datetime, zone: ZoneInfo) -> bool:
    """Once per local day, and after every correction."""
    if clock is None or (clock.corrected_at is not None and clock.corrected_at > clock.measured_at):
        return True
    return not _is_same_day(clock.measured_at, now, zone)


def decide(
    policy: ClockPolicy,
    clocks: Mapping[str, MeterClock],
    *,
    now: datetime,
    zone: ZoneInfo,
    periods_s: Collection[int],
    broadcast_at: datetime | None,
) -> Correction | None:
    """What may be done now about the clocks of one line.

    broadcast_at: of the last broadcast on this line; None: never.
    """
    if policy.correct == "off":
        return None
    beyond = {meter: clock for meter, clock in clocks.items() if abs(clock.offset_s) > policy.limit_s}
    near = {m: clock for m, clock in beyond.items() if abs(clock.offset_s) + clock.uncertainty_s <= BROADCAST_S_MAX}
    if near and not _is_same_day(broadcast_at, now, zone):
        # A broadcast moves every meter it can, so the widest step on the line counts, not only those beyond the limit.
        steps = [abs(clock.offset_s) for clock in clocks.values() if abs(clock.offset_s) <= BROADCAST_S_MAX]
        if not why_not_now(policy, now, zone=zone, periods_s=periods_s, step_s=max(steps)):
            return Correction("broadcast", tuple(sorted(near)))
    if policy.correct == "write":
        for meter in sorted(beyond.keys() - near.keys()):
            step_s = abs(beyond[meter].offset_s)
            is_free = not why_not_now(policy, now, zone=zone, periods_s=periods_s, step_s=step_s, is_write=True)
            if is_free and not _is_same_day(beyond[meter].written_at, now, zone):
                return Correction("write", (meter,))
    return None


def why_not_now(
    policy: ClockPolicy,
    now: datetime,
    *,
    zone: ZoneInfo,
    periods_s: Collection[int],
    step_s: float,
    is_write: bool = False,
) -> str:
    """Which boundary is too near for a step of `step_s`; "" when none is.

    is_write: a write may be longer than any period and jump over boundaries whatever the moment; our own clock's distance is
    then what counts.
    """
    local = now.astimezone(zone).replace(tzinfo=None)
    reach_s = GUARD_S + (0.0 if is_write else step_s)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    since_midnight_s = (local - midnight).total_seconds()
    if min(since_midnight_s, 86400 - since_midnight_s) < reach_s:
        return "midnight"
    for settlement in policy.settlements:
        moment = midnight + timedelta(hours=int(settlement[2:]))
        if int(settlement[:2]) == local.day and abs((local - moment).total_seconds()) < reach_s:
            return "settlement"
    for period_s in {*periods_s, RECORD_PERIOD_S}:
        past_s = since_midnight_s % period_s
        step_guard_s = STEP_MARGIN_S + (0.0 if is_write else step_s)
        guard_s = max(step_guard_s, GUARD_S) if period_s > 2 * GUARD_S else step_guard_s
        if min(past_s, period_s - past_s) < guard_s:
            return "interval end"
    return ""


def _is_same_day(moment: datetime | None, now: datetime, zone: ZoneInfo) -> bool:
    return moment is not None and moment.astimezone(zone).date() == now.astimezone(zone).date()

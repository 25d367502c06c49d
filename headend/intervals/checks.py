"""The rules that look at one register alone. Each is a function of the read, the history and what was seen; None: nothing found.

They run for a read that is no plausible movement from the last good one; see `quality` for when.
"""

from decimal import Decimal

from headend.feed.envelope import iso_utc
from headend.intervals.context import HISTORY_AFTER_H, Context, Seen, physical_w, ticks_at
from headend.intervals.findings import Finding
from headend.intervals.history import GREATEST, History, amount_of, moment_of, shown
from headend.intervals.registers import Kind, ticks_of
from headend.model import Read
from protocols.values import Unit

__all__ = [
    "backward_step",
    "busy_as_number",
    "is_wide_mark",
    "meter_swapped",
    "rollover_implausible",
    "scale_changed",
    "serials_differ",
    "spike_history",
    "spike_physical",
    "stuck",
    "unit_changed",
    "zero_glitch",
]

UNIT = 1_000_000  # ticks of one kWh, V, …
GREATEST_DECIMALS = 6

# What devices, drivers and sloppy decoders make of "no value", as integers before scaling. Wide ones are no accident whatever the
# register; the others are believed to be marks only when the amount is implausible anyway.
_WIDE = (
    *((1 << bits) - 1 for bits in (31, 32, 63, 64)),
    *(1 << bits for bits in (31, 32, 63, 64)),
    *(-(1 << bits) for bits in (31, 63)),
    0xFFFF_0000,  # the high word is a mark, the low word another register's zero
    4_294_967_300,  # FFFFFFFFH and 7FFFFFFFH through float32, written as short as can be
    2_147_483_600,
    # DL/T 645: eight nibbles FH, EH or AH taken for digits. FFH is "not measured", AAH the separator.
    *(nibble * 11_111_111 for nibble in (15, 14, 10)),
)
_NARROW = (
    *((1 << bits) - 1 for bits in (15, 16, 23, 24)),
    *(1 << bits for bits in (15, 16, 24)),
    -1,
    *(10**digits - 1 for digits in range(4, 13)),
)


def _scaled(marks: tuple[int, ...]) -> frozenset[int]:
    """In ticks, with 0 to 6 decimals."""
    return frozenset(
        mark * 10 ** (GREATEST_DECIMALS - places) for mark in marks for places in range(GREATEST_DECIMALS + 1)
    )


_WIDE_TICKS = _scaled(_WIDE)
_NARROW_TICKS = _scaled(_NARROW)
_POWERS = (*(1 << bits for bits in (16, 23, 24, 31, 32)), *(10**digits for digits in range(4, 10)))
_STEADY = frozenset((Unit.V, Unit.HZ))  # what hardly changes from one read to the next
_FLUCTUATING = frozenset((Unit.V, Unit.A, Unit.KW, Unit.KVAR, Unit.KVA))
_WORD_SHIFTS = (str(1 << bits) for bits in (16, 32, 48))  # registers of a counter in the wrong order
_FACTORS = tuple(Decimal(text) for text in ("10", "100", "1000", "10000", "100000", "1000000", "3.6", *_WORD_SHIFTS))

STUCK_AFTER_H = 72
STUCK_WATCHED_H = 168  # a week, so that a weekend's rest is known
STUCK_IDLE_H_MAX = 6  # a register that has ever rested longer does not "always move"
STUCK_FLOWS = 4
STUCK_FLOW_STEPS = 4


def is_wide_mark(ticks: int) -> bool:
    return ticks in _WIDE_TICKS


# ------------------------------------------------------------------------------------------------ whose value, and of what


def meter_swapped(read: Read, history: History | None, seen: Seen) -> Finding | None:
    context = seen.context
    if not serials_differ(context):
        return None
    serials = {"serial_expected": context.serial_expected, "serial_found": context.serial_found}
    return Finding("meter-swapped", _evidence(read, history) | serials)


def serials_differ(context: Context) -> bool:
    return bool(context.serial_found and context.serial_expected) and context.serial_found != context.serial_expected


def unit_changed(read: Read, history: History | None, seen: Seen) -> Finding | None:
    unit = seen.context.register.unit if history is None else history.unit
    if read.unit is unit:
        return None
    return Finding("unit-changed", _evidence(read, history) | {"unit_before": unit.value, "unit": read.unit.value})


# ------------------------------------------------------------------------------------------------ levels


def busy_as_number(read: Read, history: History | None, seen: Seen) -> Finding | None:
    register = seen.context.register
    known = seen.ticks in _WIDE_TICKS or any(seen.ticks == ticks_of(mark) for mark in register.marks)
    if not known and (history is None or register.kind is not Kind.CUMULATIVE or seen.ticks not in _NARROW_TICKS):
        return None
    return Finding("busy-as-number", _evidence(read, history))


def zero_glitch(read: Read, history: History | None, seen: Seen) -> Finding | None:
    if history is None or seen.ticks or seen.has_rolled_over or abs(history.last) < UNIT:
        return None
    if seen.context.register.kind is Kind.MOMENTARY and read.unit is not Unit.HZ:
        return None  # no voltage, no current: that happens
    return Finding("zero-glitch", _evidence(read, history))


def scale_changed(read: Read, history: History | None, seen: Seen) -> Finding | None:
    slack = seen.context.register.slack_ticks
    if history is None or history.last < UNIT or seen.has_rolled_over or seen.ticks <= 0:
        return None
    if seen.context.register.kind is Kind.MOMENTARY:
        if read.unit not in _STEADY:
            return None
        low, high = history.last * 5 // 6, history.last * 7 // 6
    else:
        low, high = history.last - slack, history.last + seen.allowed
        if seen.elapsed < 0:
            low, high = max(history.last - seen.allowed, history.last // 2), history.last + slack
    ratio = seen.context.ratio
    for factor in _FACTORS if ratio is None or ratio == 1 else (ratio, *_FACTORS):
        if low * factor <= seen.ticks <= high * factor:
            return Finding("scale-changed", _evidence(read, history) | {"factor": f"x {shown(factor)}"})
        if low <= (seen.ticks + slack) * factor and seen.ticks * factor <= high and slack * factor <= low // 2:
            return Finding("scale-changed", _evidence(read, history) | {"factor": f"/ {shown(factor)}"})
    return None


def rollover_implausible(read: Read, history: History | None, seen: Seen) -> Finding | None:
    modulus = seen.context.register.modulus
    if history is None or modulus is None or seen.moved >= 0 or seen.has_rolled_over:
        return None
    end = ticks_of(modulus)
    if history.last * 10 < end * 9 or seen.ticks * 10 > end:
        return None
    evidence = {"modulus": shown(modulus), "counted": amount_of(seen.moved + end), "most": amount_of(seen.allowed)}
    return Finding("rollover-implausible", _evidence(read, history) | evidence)


def backward_step(read: Read, history: History | None, seen: Seen) -> Finding | None:
    if seen.context.register.kind is not Kind.CUMULATIVE:
        return None
    if history is None:
        return None if seen.ticks >= 0 else Finding("backward-step", _evidence(read, history))
    if seen.has_rolled_over:
        return None
    if seen.elapsed < 0:  # an older read, fetched later: it may not stand higher than what came after it
        return (
            None if seen.moved <= 0 else Finding("backward-step", _evidence(read, history) | {"later": "stands lower"})
        )
    if seen.moved >= 0:
        return None
    evidence = _evidence(read, history) | {"step": amount_of(seen.moved)}
    if (modulus := _binary_modulus(history.last, seen.ticks, seen.allowed)) is not None:
        evidence["looks_like"] = f"rollover at {amount_of(modulus)}"
    return Finding("backward-step", evidence)


def spike_physical(read: Read, history: History | None, seen: Seen) -> Finding | None:
    register = seen.context.register
    if abs(seen.ticks) > GREATEST:
        return Finding("spike-physical", _evidence(read, history) | {"most": amount_of(GREATEST)})
    if register.kind is Kind.MOMENTARY:
        if register.most is None or register.most_ticks is None or abs(seen.ticks) <= register.most_ticks:
            return None
        return Finding("spike-physical", _evidence(read, history) | {"most": shown(register.most)})
    if history is None or register.kind is Kind.OTHER or seen.has_rolled_over:
        return None
    most = ticks_at(physical_w(register), abs(seen.elapsed)) + register.slack_ticks
    if abs(seen.moved) <= most or (seen.moved < 0 and register.kind is Kind.CUMULATIVE and seen.elapsed >= 0):
        return None
    return Finding("spike-physical", _evidence(read, history) | _movement(seen, most))


def spike_history(read: Read, history: History | None, seen: Seen) -> Finding | None:
    kind = seen.context.register.kind
    if history is None or history.watched_h < HISTORY_AFTER_H or kind not in (Kind.CUMULATIVE, Kind.BALANCE):
        return None
    if not seen.allowed < seen.moved or seen.elapsed < 0:
        return None
    return Finding(
        "spike-history", _evidence(read, history) | _movement(seen, seen.allowed) | {"peak_w": str(history.peak_w)}
    )


# ------------------------------------------------------------------------------------------------ standing still


def stuck(read: Read, history: History | None, seen: Seen) -> Finding | None:
    if history is None or seen.moved or seen.elapsed <= 0:
        return None
    still_h = standing_still_h(history, seen)
    if (
        still_h >= STUCK_AFTER_H
        and history.peak_w
        and history.watched_h >= STUCK_WATCHED_H
        and history.idle_h <= STUCK_IDLE_H_MAX
        and _should_move(read, seen, still_h)
    ):
        evidence = {"still_h": str(still_h), "longest_before_h": str(history.idle_h)}
        return Finding("stuck", _evidence(read, history) | evidence)
    if history.flows + 1 >= STUCK_FLOWS and still_h >= 1 and flows(seen):
        evidence = {"power_w": str(seen.power_w), "reads": str(history.flows + 1)}
        return Finding("stuck", _evidence(read, history) | evidence)
    return None


def _should_move(read: Read, seen: Seen, still_h: int) -> bool:
    register, power_w = seen.context.register, seen.power_w
    if register.kind is Kind.CUMULATIVE:
        # Where the power is known, too little may flow to show.
        return power_w is None or 2 * power_w * still_h * 1000 >= STUCK_FLOW_STEPS * register.slack_ticks
    return register.kind is Kind.MOMENTARY and read.unit in _FLUCTUATING and seen.ticks != 0


def flows(seen: Seen) -> bool:
    """Whether so much flows just now that the register ought to have moved by several steps since the last read."""
    context = seen.context
    if seen.power_w is None or context.register.kind is not Kind.CUMULATIVE:
        return False
    counted = seen.power_w * min(seen.elapsed, context.period_s) * 5 // 18
    return 2 * counted >= STUCK_FLOW_STEPS * context.register.slack_ticks


def standing_still_h(history: History, seen: Seen) -> int:
    """Hours in which nothing flowed do not count, for there a register is right to stand still; nor what happened to a momentary
    quantity while nobody looked: that it is the same after days is chance."""
    context = seen.context
    if seen.power_w == 0 and context.register.kind is not Kind.MOMENTARY:
        return history.still_h
    hours = hours_between(history.at, seen.at)
    if context.register.kind is Kind.MOMENTARY:
        hours = min(hours, 1 + context.period_s // 3600)
    return history.still_h + hours


def hours_between(since: int, until: int) -> int:
    """Full hours that began in between: adds up without remainders."""
    return until // 3600 - since // 3600


# ------------------------------------------------------------------------------------------------ evidence


def _evidence(read: Read, history: History | None) -> dict[str, str]:
    assert read.amount is not None
    evidence = {"value": shown(read.amount)}
    if history is not None and history.at:
        evidence |= {"last": amount_of(history.last), "last_at": iso_utc(moment_of(history.at))}
    return evidence


def _movement(seen: Seen, most: int) -> dict[str, str]:
    return {"counted": amount_of(seen.moved), "most": amount_of(most), "seconds": str(seen.elapsed)}


def _binary_modulus(last: int, ticks: int, allowed: int) -> int | None:
    """Where a counter that nobody told us of may have started again: a power of two or ten, of its last digit."""
    if ticks < 0:
        return None
    for power in _POWERS:
        for decimals in range(5):
            modulus: int = power * 10 ** (GREATEST_DECIMALS - decimals)
            if last < modulus and ticks - last + modulus <= min(allowed, modulus // 10):
                return modulus
    return None

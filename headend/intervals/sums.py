"""The rules that hold registers of one meter against each other: tariffs and phases against the total.

Every register is cut off after its last digit, each for itself: n tariffs may stay n digits below the total. Registers that are not
read in one reply go on counting between the reads; so much is allowed. Powers are compared within one reply only.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache

from headend.intervals.context import Context, allowed_ticks
from headend.intervals.findings import Finding
from headend.intervals.history import History, shown
from headend.intervals.registers import TICKS

__all__ = ["flow_w", "phase_sum", "tariff_sum"]

_OBIS = re.compile(r"(1-\d+):(\d+)\.([78])\.(\d+)")
_PHASES = {1: (21, 41, 61), 2: (22, 42, 62), 16: (36, 56, 76)}
_CURRENTS, _VOLTAGES = (31, 51, 71), (32, 52, 72)
_OPPOSITE = {1: 2, 2: 1}
TARIFFS_MAX = 63  # DL/T 645-2007, annex A
SHARE = Decimal("0.02")  # powers are averaged over a second or so, each phase on its own
WATT = Decimal("0.005")  # kW
APPARENT_SHARE = Decimal("1.1")


@lru_cache(maxsize=4096)
def _parsed(obis: str) -> tuple[str, int, str, int] | None:
    match = _OBIS.fullmatch(obis)
    return None if match is None else (match[1], int(match[2]), match[3], int(match[4]))


@lru_cache(maxsize=256)
def _tariffs_of(total: str) -> tuple[str, ...]:
    return tuple(f"{total[:-1]}{tariff}" for tariff in range(1, TARIFFS_MAX + 1))


def tariff_sum(obis: str, amounts: Mapping[str, Decimal], context: Context, skew_s: int) -> Finding | None:
    """amounts: of the meter's good reads of one round, by OBIS. skew_s: how far apart they were captured."""
    parsed = _parsed(obis)
    if parsed is None or parsed[2] != "8" or parsed[3] != 0:
        return None
    parts: list[Decimal] = []
    for name in _tariffs_of(obis):
        amount = amounts.get(name)
        if amount is None:
            break
        parts.append(amount)
    if not parts:
        return None
    total, together = amounts[obis], sum(parts, Decimal(0))
    step = context.register.step
    moving = _moving(context, skew_s)
    # Between its last digit and the next one each register hides less than one step.
    is_over = together - total >= step + moving
    is_under = len(parts) == context.register.tariffs and total - together >= len(parts) * step + moving
    if not (is_over or is_under):
        return None
    return Finding(
        "tariff-sum",
        {
            "total": shown(total),
            "tariffs": " + ".join(map(shown, parts)),
            "sum": shown(together),
            "skew_s": str(skew_s),
        },
    )


def phase_sum(obis: str, amounts: Mapping[str, Decimal], context: Context, skew_s: int) -> Finding | None:
    """Of energies and active powers. A total below its phases may be a balance, unless nothing flows the other way."""
    parsed = _parsed(obis)
    if parsed is None or parsed[1] not in _PHASES or parsed[3] != 0 or (parsed[2] == "7" and skew_s):
        return None
    medium, quantity, measure, _ = parsed
    total = amounts[obis]
    phases = _all(amounts, medium, _PHASES[quantity], measure)
    if phases is None or not any(phases):  # a meter that does not count by phase shows zeros
        return _beyond_apparent(medium, total, amounts) if measure == "7" and phases is None else None
    together = sum(phases, Decimal(0))
    if measure == "8":
        tolerance = (len(phases) + 1) * context.register.step + _moving(context, skew_s)
    else:
        tolerance = SHARE * max(abs(total), abs(together)) + len(phases) * context.register.step + WATT
    is_balance = quantity in _OPPOSITE and amounts.get(f"{medium}:{_OPPOSITE[quantity]}.{measure}.0") != 0
    if total - together <= tolerance and (is_balance or together - total <= tolerance):
        return None
    return Finding(
        "phase-sum",
        {
            "total": shown(total),
            "phases": " + ".join(map(shown, phases)),
            "sum": shown(together),
            "skew_s": str(skew_s),
        },
    )


def flow_w(obis: str, amounts: Mapping[str, Decimal]) -> int | None:
    """What flows in the direction that the energy register `obis` counts, W; None when the round does not say.

    Of single tariffs and of reactive energy it is only known that nothing flows.
    """
    parsed = _parsed(obis)
    if parsed is None or parsed[2] != "8":
        return None
    medium, quantity = parsed[0], parsed[1]
    net, own = amounts.get(f"{medium}:16.7.0"), None
    if quantity in _OPPOSITE:
        own = amounts.get(f"{medium}:{quantity}.7.0")
        if own is None and net is not None:
            own = net if quantity == 1 else -net
    if own is not None and (parsed[3] == 0 or own <= 0):
        return max(0, int(own * 1000))
    return 0 if net == 0 else None


def _beyond_apparent(medium: str, total: Decimal, amounts: Mapping[str, Decimal]) -> Finding | None:
    """More active power than voltages times currents can be: no power factor is above one."""
    volts, amps = _all(amounts, medium, _VOLTAGES, "7"), _all(amounts, medium, _CURRENTS, "7")
    if volts is None or amps is None:
        return None
    apparent = sum((abs(v * a) for v, a in zip(volts, amps, strict=True)), Decimal(0)) / 1000
    if abs(total) <= apparent * APPARENT_SHARE + Decimal("0.1"):
        return None
    phases = " + ".join(f"{shown(v)} V x {shown(a)} A" for v, a in zip(volts, amps, strict=True))
    return Finding("phase-sum", {"total": shown(total), "phases": phases, "apparent": shown(apparent)})


def _all(
    amounts: Mapping[str, Decimal], medium: str, quantities: tuple[int, ...], measure: str
) -> list[Decimal] | None:
    found = [amounts.get(f"{medium}:{quantity}.{measure}.0") for quantity in quantities]
    whole = [amount for amount in found if amount is not None]
    return whole if len(whole) == len(found) else None


def _moving(context: Context, skew_s: int) -> Decimal:
    if not skew_s:
        return Decimal(0)
    history = context.history or History(unit=context.register.unit)
    return Decimal(allowed_ticks(context.register, history, skew_s)) / TICKS

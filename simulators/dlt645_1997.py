"""Energies, demands and variables of a simulated meter by the identifiers of DL/T 645-1997."""

from datetime import datetime
from typing import Any

from protocols.dlt645.items import ItemSpec
from simulators.dlt645_registers import Registers
from simulators.dlt645_values import NoSuchItem, Values, blank, whole
from simulators.event_journal import DEMAND_CLEAR, PROGRAMMING
from simulators.measurement import Phases
from simulators.meter import MeterModel

__all__ = ["Items1997"]

# (reactive, DI0 high digit) -> DI2 of 2007. Quadrants are not in order in 1997: 3 I, 4 IV, 5 II, 6 III.
_KINDS = {
    (False, 1): 0x01,
    (False, 2): 0x02,
    (True, 1): 0x03,
    (True, 2): 0x04,
    (True, 3): 0x05,
    (True, 4): 0x08,
    (True, 5): 0x06,
    (True, 6): 0x07,
}


class Items1997:
    def __init__(self, model: MeterModel, registers: Registers) -> None:
        self._model = model
        self._registers = registers

    def energy(self, spec: ItemSpec, now: datetime) -> Values:
        return [self._registers.one_energy(*_place(spec.di.text), now, spec.di.text)]

    def demand(self, spec: ItemSpec, now: datetime) -> Values:
        return [self._registers.one_demand(*_place(spec.di.text), now, spec.di.text)[0]]

    def time_or_variable(self, spec: ItemSpec, now: datetime) -> Values:
        di = spec.di.text
        if int(di[1], 16) & 2 == 0:
            return [_month_time(self._registers.one_demand(*_place(di), now, di)[1])]
        instant = self._registers.instant(now)
        by_phase: dict[str, tuple[Phases, int]] = {
            "B61": (instant.voltage_v, 1),
            "B62": (instant.current_a, 1),
            "B63": (instant.active_kw, 0),
            "B64": (instant.reactive_kvar, 0),
            "B65": (instant.power_factor, 0),
        }
        if di[:3] in by_phase and di not in ("B634", "B635"):
            amounts, first = by_phase[di[:3]]
            return [self._registers.phase(amounts, int(di[3], 16) - first, di)]
        events = self._model.events
        others: dict[str, Any] = {
            "B210": self._last(PROGRAMMING),
            "B211": self._last(DEMAND_CLEAR),
            "B212": events.count(PROGRAMMING) % 10_000,
            "B213": events.count(DEMAND_CLEAR) % 10_000,
        }
        return [others[di]] if di in others else blank(spec)

    def _last(self, kind: str) -> str:
        event = self._model.events.last(kind, 1)
        return _month_time(None if event is None else event.shown)


def _place(di: str) -> tuple[int, int, int]:
    """Kind, tariff and settlement: DI1 low digit is month (bits 3-2) and active or reactive (bits 1-0)."""
    where = int(di[1], 16)
    kind = _KINDS.get((bool(where & 1), int(di[2], 16)))
    if kind is None or where & 2 or where >> 2 > 2:
        raise NoSuchItem(di)
    return kind, int(di[3], 16), where >> 2


def _month_time(at: datetime | None) -> str:
    return "00000000" if at is None else f"{whole(at):%m%d%H%M}"

"""Freezes 05xxxxxx of a simulated meter: the registers as they stood at a moment that is past."""

from datetime import datetime

from simulators.dlt645_registers import Registers
from simulators.dlt645_values import NoSuchItem, Values, whole
from simulators.meter import MeterModel

__all__ = ["SWITCH_KINDS", "Freezes"]

HOURLY = 0x04
# Switch of time-zone tables, of day tables, of price tables, of ladders: by the item that holds the time of the switch.
SWITCH_KINDS = {"04000106": 0x02, "04000107": 0x03, "04000108": 0x05, "04000109": 0x07}


class Freezes:
    def __init__(self, model: MeterModel, registers: Registers) -> None:
        self._model = model
        self._registers = registers

    def value(self, di: str, now: datetime) -> Values:
        _, kind, item, back = bytes.fromhex(di)
        at = self._moment(kind, back, now)
        if at is None:
            raise NoSuchItem(di)
        model, registers = self._model, self._registers
        if item == 0x00:
            return [whole(model.clock(at))]
        if kind == HOURLY:
            if item not in (0x01, 0x02):
                raise NoSuchItem(di)
            return [registers.energy_at(item, 0, at)]
        if 0x01 <= item <= 0x08:
            return [registers.energy_at(item, tariff, at) for tariff in registers.tariffs]
        if item in (0x09, 0x0A):
            kind_of_demand = item - 0x08
            demands = [registers.demand_at(kind_of_demand, tariff, at) for tariff in registers.tariffs]
            return [(amount, when) for amount, when in demands]
        if item == 0x10:
            instant = model.instant(at)
            return [*instant.active_kw, *instant.reactive_kvar]
        raise NoSuchItem(di)

    def _moment(self, kind: int, back: int, now: datetime) -> datetime | None:
        model = self._model
        match kind:
            case 0x00:
                return model.timed_freeze(back, now)
            case 0x01:
                return model.instant_freeze(back, now)
            case 0x04:
                return model.hourly_freeze(back, now)
            case 0x06:
                return model.daily_freeze(back, now)
            case _ if kind in SWITCH_KINDS.values():
                return model.switch_freeze(kind, back, now)
        return None

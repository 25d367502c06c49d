"""Energies, maximum demands and variables of a simulated meter, by the identifiers of DL/T 645-2007.

What a combined register adds and takes off is decided by the combination words, which can be written. Registers of one
phase are the share that the phase has of the whole.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from math import isqrt

from firmware_contracts.contract import Contract
from simulators.dlt645_values import NoSuchItem, Values, whole
from simulators.load_curve import TARIFFS, Energies, Quantity, mix
from simulators.measurement import Instant, Phases
from simulators.meter import DISPLAY_WS, MeterModel, display_energy
from simulators.prepayment import PRICES, Prepayment
from simulators.quirks import MeterQuirks

__all__ = ["KINDS", "Registers"]

Q = Quantity
# DI2 of energies and demands: what is counted. Combined ones (00, 03, 04) go by their words.
KINDS: dict[int, tuple[Quantity, ...]] = {
    0x01: (Q.FORWARD,),
    0x02: (Q.REVERSE,),
    0x05: (Q.Q1,),
    0x06: (Q.Q2,),
    0x07: (Q.Q3,),
    0x08: (Q.Q4,),
}
# Combined: the word, and which of its bit pairs (add, take off) belongs to which quantity.
_COMBINED: dict[int, tuple[str, tuple[Quantity, ...]]] = {
    0x00: ("04000601", (Q.FORWARD, Q.REVERSE)),
    0x03: ("04000602", (Q.Q1, Q.Q2, Q.Q3, Q.Q4)),
    0x04: ("04000603", (Q.Q1, Q.Q2, Q.Q3, Q.Q4)),
}
_WORDS = {"04000601": 0x05, "04000602": 0x05, "04000603": 0x50}
_APPARENT = {0x09: (Q.FORWARD, Q.Q1, Q.Q4), 0x0A: (Q.REVERSE, Q.Q2, Q.Q3)}
_FIRST_OF_PHASE = (0x15, 0x29, 0x3D)
_FIRST_HARMONIC_OF_PHASE = (0x94, 0xA8, 0xBC)
# 80H and following: of which energy, and how many thousandths of it.
_HARMONIC: tuple[tuple[Quantity, int], ...] = (
    (Q.FORWARD, 1000),
    (Q.FORWARD, 985),
    (Q.REVERSE, 985),
    (Q.FORWARD, 15),
    (Q.REVERSE, 15),
    (Q.FORWARD, 6),
    (Q.FORWARD, 4),
)
HARMONICS_MAX = 21
NOTHING = Decimal("0.00")


class Registers:
    """written: DATA of written items by DI text, for the combination words."""

    def __init__(self, model: MeterModel, contract: Contract, quirks: MeterQuirks, written: dict[str, bytes]) -> None:
        self.model = model
        self.prepayment = Prepayment(model)
        self.tariffs = range(contract.limits.tariffs + 1)
        self._absent = quirks.contract.absent_phase
        self._written = written
        self._measured: tuple[datetime, Instant] | None = None  # once for all phases of one reply

    # ------------------------------------------------------------------------------------------ energy

    def energy(self, di: str, now: datetime) -> Values:
        if (special := self._special(di, now)) is not None:
            return special
        _, kind, tariff, settlement = bytes.fromhex(di)
        return [self.one_energy(kind, tariff, settlement, now, di)]

    def one_energy(self, kind: int, tariff: int, settlement: int, now: datetime, di: str) -> Decimal:
        if tariff not in self.tariffs or settlement > 12:
            raise NoSuchItem(di)
        at = now if settlement == 0 else self.model.settlement_at(settlement, now)
        amount = self.counted(kind, tariff, at or now)  # an unknown kind has no settlement either
        return NOTHING if at is None else displayed(amount)

    def energy_at(self, kind: int, tariff: int, at: datetime) -> Decimal:
        return displayed(self.counted(kind, tariff, at))

    def counted(self, kind: int, tariff: int, at: datetime) -> int:
        """Watt-seconds (var-seconds, VA-seconds), negative where the register can be. Raises NoSuchItem."""
        counted = self.model.energies(at)
        if kind in KINDS:
            return _sum(counted, KINDS[kind], tariff)
        if kind in _COMBINED:
            return sum(sign * _sum(counted, (quantity,), tariff) for quantity, sign in self.parts(kind))
        if kind in _APPARENT:
            active, *reactive = _APPARENT[kind]
            return _hypotenuse([_sum(counted, (active,), tariff), _sum(counted, reactive, tariff)])
        if 0x80 <= kind < 0x80 + len(_HARMONIC) and tariff == 0:
            quantity, permille = _HARMONIC[kind - 0x80]
            return _sum(counted, (quantity,), 0) * permille // 1000
        for phase, (first, harmonic) in enumerate(zip(_FIRST_OF_PHASE, _FIRST_HARMONIC_OF_PHASE, strict=True)):
            for start, whole_kind in ((first, 0x01), (harmonic, 0x80)):
                size = 10 if whole_kind == 0x01 else len(_HARMONIC)
                if start <= kind < start + size and tariff == 0 and phase < self.model.phases:
                    amount = self.counted(kind - start + whole_kind, 0, at)
                    return self.model.curve.by_phase(amount)[phase]
        raise NoSuchItem(f"00{kind:02X}")

    def parts(self, kind: int) -> list[tuple[Quantity, int]]:
        """What a combined register is made of: quantities, with +1 or -1."""
        word_di, quantities = _COMBINED[kind]
        word = self._written.get(word_di, bytes([_WORDS[word_di]]))[0]
        signs = [(word >> 2 * place & 1) - (word >> 2 * place + 1 & 1) for place in range(len(quantities))]
        return [(quantity, sign) for quantity, sign in zip(quantities, signs, strict=True) if sign]

    def _special(self, di: str, now: datetime) -> Values | None:
        """Prepayment, consumption of settlement periods, settlement times, high precision."""
        model = self.model
        match di:
            case "00900100":
                return [self.prepayment.energy(now)]
            case "00900200":
                return [self.prepayment.money(now)]
            case "00900101" | "00900201":
                return [NOTHING]
            case "00600000" | "00610000":
                amount = self.counted(0x01 if di == "00600000" else 0x02, 0, now)
                return [Decimal(amount * 100 // DISPLAY_WS % 10**10).scaleb(-4)]
            case "000B0000" | "000C0000":
                return [self._used(0, now)]
            case "000B0001" | "000C0001":
                return [self._used(1, now)]
        if di.startswith("00FE00"):
            at = model.settlement_at(int(di[6:], 16), now)
            return ["00000000" if at is None else f"{whole(model.clock(at)):%y%m%d%H}"]
        return None

    def _used(self, back: int, now: datetime) -> Decimal:
        """Combined active energy of the running settlement period, or of the one before."""
        end = now if back == 0 else self.model.settlement_at(back, now)
        start = self.model.settlement_at(back + 1, now)
        if end is None:
            return NOTHING
        return displayed(self.counted(0, 0, end) - (0 if start is None else self.counted(0, 0, start)))

    # ------------------------------------------------------------------------------------------ demand

    def demand(self, di: str, now: datetime) -> Values:
        _, kind, tariff, settlement = bytes.fromhex(di)
        return [self.one_demand(kind, tariff, settlement, now, di)]

    def one_demand(
        self, kind: int, tariff: int, settlement: int, now: datetime, di: str
    ) -> tuple[Decimal, datetime | None]:
        if tariff not in self.tariffs or settlement > 12 or kind == 0:
            raise NoSuchItem(di)
        for phase, first in enumerate(_FIRST_OF_PHASE):
            if first <= kind < first + 10 and tariff == 0 and phase < self.model.phases:
                amount, at = self.one_demand(kind - first + 1, 0, settlement, now, di)
                share = self.model.curve.by_phase(int(amount.scaleb(4)))[phase]
                return Decimal(share).scaleb(-4), at
        quantities, combine = self._flows(kind, di)
        demand = self.model.max_demand(quantities, tariff, settlement, now, combine)
        return (Decimal("0.0000"), None) if demand is None else (demand.kilo, whole(demand.at))

    def demand_at(self, kind: int, tariff: int, at: datetime) -> tuple[Decimal, datetime | None]:
        """The maximum of the settlement period that was running at `at`."""
        quantities, combine = self._flows(kind, f"01{kind:02X}")
        demand = self.model.demand_at(quantities, tariff, at, combine)
        return demand.kilo, whole(demand.at)

    def _flows(self, kind: int, di: str) -> tuple[Sequence[Quantity], Callable[[Sequence[int]], int]]:
        if kind in KINDS:
            return KINDS[kind], sum
        if kind in _COMBINED:
            parts = self.parts(kind)
            signs = [sign for _, sign in parts]
            if not parts:
                raise NoSuchItem(di)
            return [quantity for quantity, _ in parts], lambda flowed: sum(map(int.__mul__, signs, flowed))
        if kind in _APPARENT:
            return _APPARENT[kind], lambda flowed: _hypotenuse([flowed[0], sum(flowed[1:])])
        raise NoSuchItem(di)

    # ------------------------------------------------------------------------------------------ variables

    def instant(self, now: datetime) -> Instant:
        if self._measured is None or self._measured[0] != now:
            self._measured = now, self.model.instant(now)
        return self._measured[1]

    def forget(self) -> None:
        """Measure again: the relay may have moved at the same moment."""
        self._measured = None

    def phase(self, amounts: Phases, index: int, di: str) -> Decimal | None:
        """One phase; an absent one as the meter's quirk has it."""
        if not 0 <= index < len(amounts):
            raise NoSuchItem(di)
        amount = amounts[index]
        if amount is None and self._absent == "omitted":
            raise NoSuchItem(di)
        return Decimal(0) if amount is None and self._absent == "zero" else amount

    def variable(self, di: str, now: datetime) -> Values:
        instant = self.instant(now)
        by_phase: dict[str, tuple[Phases, int]] = {
            "01": (instant.voltage_v, 1),
            "02": (instant.current_a, 1),
            "03": (instant.active_kw, 0),
            "04": (instant.reactive_kvar, 0),
            "05": (instant.apparent_kva, 0),
            "06": (instant.power_factor, 0),
            "07": (instant.angle_deg, 1),
        }
        if di[2:4] in by_phase and di[6:] == "00":
            amounts, first = by_phase[di[2:4]]
            return [self.phase(amounts, int(di[4:6], 16) - first, di)]
        if di[2:4] in ("08", "09", "0A", "0B"):
            return [self._distortion(di, now)]
        if not di.startswith("0280"):
            raise NoSuchItem(di)
        return [self._other(di, instant, now)]

    def _distortion(self, di: str, now: datetime) -> Decimal | None:
        """Total distortion (08, 09) or the content of one order (0A, 0B), in per cent."""
        kind, phase, order = (int(di[at : at + 2], 16) for at in (2, 4, 6))
        drawn = mix(self.model.seed + phase, int(now.timestamp()) // 60)
        percent = Decimal(100 + drawn % 200) if kind in (0x08, 0x0A) else Decimal(200 + drawn % 600)
        amount: Decimal | None = percent.scaleb(-2)
        if kind >= 0x0A:
            if not 1 <= order <= HARMONICS_MAX:
                raise NoSuchItem(di)
            amount = Decimal("99.99") if order == 1 else (percent / (order * order)).quantize(Decimal(1)).scaleb(-2)
        elif order:
            raise NoSuchItem(di)
        present: Phases = tuple(amount if index < self.model.phases else None for index in range(3))
        return self.phase(present, phase - 1, di)

    def _other(self, di: str, instant: Instant, now: datetime) -> Decimal:
        if di in ("02800004", "02800005", "02800006"):
            active = self.model.present_demand(Q.FORWARD, now)
            reactive = self.model.present_demand(Q.Q1, now)
            apparent = Decimal(_hypotenuse([int(active.scaleb(4)), int(reactive.scaleb(4))])).scaleb(-4)
            return {"02800004": active, "02800005": reactive, "02800006": apparent}[di]
        others: dict[str, Decimal] = {
            "02800001": instant.neutral_a,
            "02800002": instant.frequency_hz,
            "02800003": instant.active_kw[0] or Decimal("0.0000"),
            "02800007": instant.temperature_c,
            "02800008": Decimal("3.60"),
            "02800009": Decimal("6.05"),
            "0280000A": Decimal(0),
            "0280000B": PRICES[0],
            "02800020": PRICES[0],
            "02800021": PRICES[self.model.tariff(now)],
            "02800022": Decimal(0),
            "02800023": Decimal(0),
        }
        if di not in others:
            raise NoSuchItem(di)
        return others[di]


def displayed(amount: int) -> Decimal:
    """As a register shows it; magnitude and sign, never a complement."""
    return display_energy(amount) if amount >= 0 else -display_energy(-amount)


def _sum(counted: Energies, quantities: Sequence[Quantity], tariff: int) -> int:
    """Tariff 0 is the total; a tariff that no slot uses has counted nothing."""
    if tariff > TARIFFS:
        return 0
    amount = 0
    for quantity in quantities:
        first = quantity * TARIFFS
        amount += sum(counted[first : first + TARIFFS]) if tariff == 0 else counted[first + tariff - 1]
    return amount


def _hypotenuse(sides: Sequence[int]) -> int:
    return isqrt(sum(side * side for side in sides))

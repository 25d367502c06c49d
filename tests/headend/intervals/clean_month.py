"""A street of clean meters, read for a while: what the truth checks say of them should be nothing.

Load, registers and measurements are those of the simulators; reads come late by up to four minutes, some not at all, some meters are
away for days and come back, some are disconnected. Run as a program it prints the rate: `python -m tests.headend.intervals.clean_month
500 30 1`.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from headend.intervals.context import Context
from headend.intervals.history import History
from headend.intervals.quality import TruthChecks
from headend.intervals.registers import Connection, Kind, Register, kind_of
from headend.model import Quality, Read
from protocols.values import MeterAddress, Unit
from simulators.load_curve import TARIFFS, Quantity, total
from simulators.load_curve import Kind as Load
from simulators.meter import MeterModel, display_energy

PERIOD_S = 900
MODULUS = Decimal(1_000_000)
ENERGIES = {
    "1-0:1.8.0": (Quantity.FORWARD, 0, Unit.KWH),
    **{f"1-0:1.8.{tariff}": (Quantity.FORWARD, tariff, Unit.KWH) for tariff in range(1, TARIFFS + 1)},
    "1-0:2.8.0": (Quantity.REVERSE, 0, Unit.KWH),
    "1-0:5.8.0": (Quantity.Q1, 0, Unit.KVARH),
    "1-0:8.8.0": (Quantity.Q4, 0, Unit.KVARH),
}


class Tally(Struct):
    """What a run found. rules: how often each."""

    reads: int = 0
    held: int = 0
    flagged: int = 0
    rules: Counter[str] = Counter()
    examples: list[str] = []
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f"{self.held} held and {self.flagged} flagged of {self.reads} reads"
        return f"{rate}; {dict(self.rules)}; {self.seconds / max(1, self.reads) * 1e6:.1f} us a read {self.examples}"


class Street:
    """meters: households (a quarter with a roof), shops, factories. One in five has no connection on record."""

    def __init__(
        self, meters: int, days: int, seed: int, *, start: datetime = datetime(2026, 11, 1, tzinfo=UTC)
    ) -> None:
        self.meters, self.days, self.seed, self.start = meters, days, seed, start

    def run(self) -> Tally:
        tally, checks = Tally(), TruthChecks()
        for number in range(self.meters):
            one = _Meter(number, self)
            histories: dict[str, History | None] = {}
            for reads in one.rounds():
                given = [
                    (read, Context(register=one.registers[read.obis], history=histories.get(read.obis)))
                    for read in reads
                ]
                began = time.process_time()
                verdicts = checks.examine_round(given)
                tally.seconds += time.process_time() - began
                for verdict in verdicts:
                    histories[verdict.read.obis] = verdict.history
                    tally.reads += 1
                    tally.held += verdict.is_held
                    tally.flagged += bool(verdict.findings) and not verdict.is_held
                    for finding in verdict.findings:
                        tally.rules[finding.rule] += 1
                        if len(tally.examples) < 5:
                            tally.examples.append(f"{one.load.value} {number} {verdict.read.obis}: {finding}")
        return tally


class _Meter:
    def __init__(self, number: int, street: Street) -> None:
        self.random = random.Random(f"{street.seed}/{number}")
        self.street = street
        drawn = self.random.random()
        self.load = Load.HOUSEHOLD if drawn < 0.7 else Load.SHOP if drawn < 0.9 else Load.FACTORY
        self.model = MeterModel(
            MeterAddress(f"{number:012d}"),
            seed=street.seed * 100_003 + number,
            kind=self.load,
            clock_set_at=street.start - timedelta(days=30),
            solar=self.random.random() < 0.25 or None,
        )
        self.id = f"M{number:06d}"
        phases = range(self.model.phases)
        amps = Decimal(100 if self.load is Load.FACTORY else 60)
        power_max_w = Connection(current_max_a=amps, phases=len(phases)).power_max_w
        known = self.random.random() < 0.8
        self.is_block = self.random.random() < 0.5  # all in one reply, or one after the other
        self.registers = {
            obis: Register(
                kind=kind_of(obis, unit),
                unit=unit,
                modulus=MODULUS,
                power_max_w=power_max_w if known else None,
                tariffs=TARIFFS,
            )
            for obis, (_, _, unit) in self._energies().items()
        }
        for phase in phases:
            self._add(f"1-0:{32 + 20 * phase}.7.0", Unit.V, Decimal("0.1"), Decimal(300))
            self._add(f"1-0:{31 + 20 * phase}.7.0", Unit.A, Decimal("0.001"), amps * 2 if known else None)
            if len(phases) > 1:
                self._add(f"1-0:{36 + 20 * phase}.7.0", Unit.KW, Decimal("0.0001"), None)
        self._add("1-0:16.7.0", Unit.KW, Decimal("0.0001"), Decimal(power_max_w) / 1000 if known else None)
        self._add("1-0:14.7.0", Unit.HZ, Decimal("0.01"), Decimal(70))

    def rounds(self) -> Iterator[list[Read]]:
        away = self._away()
        for slot in range(1, self.street.days * 86_400 // PERIOD_S + 1):
            end = self.street.start + timedelta(seconds=slot * PERIOD_S)
            if self.random.random() < 0.002:
                self._switch(end)
            if away[0] <= end < away[1] or self.random.random() < 0.01:
                continue
            yield list(self._round(end))

    def _switch(self, now: datetime) -> None:
        if self.model.relay_open(now):
            if self.random.random() < 0.5:  # some stay disconnected for days
                self.model.close_relay(now)
        elif self.random.random() < 0.02:
            self.model.open_relay(now)

    def _round(self, end: datetime) -> Iterator[Read]:
        at = end + timedelta(seconds=self.random.randrange(1, 240))
        energies, instant = self.model.energies(at), self.model.instant(at)
        for obis, (quantity, tariff, unit) in self._energies().items():
            phase = -1
            if quantity is None:
                phase = (int(obis[4:6]) - 21) // 20
                flowed = self.model.curve.by_phase(total(energies, Quantity.FORWARD))[phase]
            else:
                flowed = energies[quantity * TARIFFS + tariff - 1] if tariff else total(energies, quantity)
            yield self._read(obis, display_energy(flowed), unit, end, at)
            if not self.is_block:
                at += timedelta(seconds=self.random.choice((1, 1, 2, 9)))
                energies = self.model.energies(at)
        if not self.is_block:
            instant = self.model.instant(at)
        for phase in range(self.model.phases):
            volts, amps = instant.voltage_v[phase], instant.current_a[phase]
            assert volts is not None
            assert amps is not None
            yield self._read(f"1-0:{32 + 20 * phase}.7.0", volts, Unit.V, end, at)
            yield self._read(f"1-0:{31 + 20 * phase}.7.0", amps, Unit.A, end, at)
            kilowatts = instant.active_kw[phase + 1]
            if self.model.phases > 1 and kilowatts is not None:
                yield self._read(f"1-0:{36 + 20 * phase}.7.0", kilowatts, Unit.KW, end, at)
        assert instant.active_kw[0] is not None
        yield self._read("1-0:16.7.0", instant.active_kw[0], Unit.KW, end, at)
        yield self._read("1-0:14.7.0", instant.frequency_hz, Unit.HZ, end, at)

    def _read(self, obis: str, amount: Decimal, unit: Unit, end: datetime, at: datetime) -> Read:
        return Read(
            meter=self.id,
            obis=obis,
            amount=amount,
            unit=unit,
            interval_end=end,
            read_at=None,
            received_at=at,
            quality=(Quality.MEASURED,),
            source="dlt645/base_2007",
        )

    def _energies(self) -> dict[str, tuple[Quantity | None, int, Unit]]:
        several = range(self.model.phases) if self.model.phases > 1 else ()
        return ENERGIES | {f"1-0:{21 + 20 * phase}.8.0": (None, 0, Unit.KWH) for phase in several}

    def _add(self, obis: str, unit: Unit, step: Decimal, most: Decimal | None) -> None:
        self.registers[obis] = Register(kind=Kind.MOMENTARY, unit=unit, step=step, most=most)

    def _away(self) -> tuple[datetime, datetime]:
        """One meter in five does not answer for hours or days."""
        if self.random.random() > 0.2:
            return self.street.start, self.street.start
        start = self.street.start + timedelta(hours=self.random.randrange(self.street.days * 24))
        return start, start + timedelta(hours=self.random.randrange(1, 100))


if __name__ == "__main__":
    print(Street(*map(int, sys.argv[1:4])).run())

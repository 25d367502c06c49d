"""`untrue_reads.toml`: how an entry becomes reads. The same register sequences can be played by a simulated meter."""

import itertools
import tomllib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headend.intervals.context import Context
from headend.intervals.history import History
from headend.intervals.registers import Connection, Register, kind_of
from headend.model import Quality, Read
from protocols.values import Unit

__all__ = ["Entry", "Scene", "entries"]

START = datetime(2026, 11, 1, tzinfo=UTC)
REPLY = timedelta(seconds=4)


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the head of the file."""

    report: str
    says: str
    figures: str
    meter: str
    obis: str
    usual: float | list[str]
    untrue: list[str]
    rule: str
    before: str = ""
    unit: str = "kWh"
    days: float = 8
    period_s: int = 900
    then: str = ""
    held: bool = True
    clean: int = 0
    repeat: int = 1
    after: list[str] = []
    looks_like: str = ""
    step: str = "0.01"
    modulus: str = ""
    current_max_a: int = 0
    phases: int = 1
    most: str = ""
    tariffs: int = 0
    marks: list[str] = []
    ratio: str = ""
    power_w: int | None = None
    clock_offset_s: float | None = None
    serial_expected: str = ""
    serial_found: str = ""
    label_age_s: list[int] = []
    others: dict[str, str] = {}

    @property
    def register(self) -> Register:
        unit = Unit(self.unit)
        connection = Connection(current_max_a=Decimal(self.current_max_a), voltage_v=Decimal(230), phases=self.phases)
        return Register(
            kind=kind_of(self.obis, unit),
            unit=unit,
            step=Decimal(self.step),
            modulus=Decimal(self.modulus) if self.modulus else None,
            power_max_w=connection.power_max_w or None,
            most=Decimal(self.most) if self.most else None,
            tariffs=self.tariffs,
            marks=tuple(map(Decimal, self.marks)),
        )

    def amounts_before(self) -> list[Decimal]:
        """Up to and with the last good one, a period apart."""
        count = max(2, int(self.days * 86_400 / self.period_s))
        if isinstance(self.usual, list):
            return list(map(Decimal, itertools.islice(itertools.cycle(self.usual), count)))
        last, step = Decimal(self.before), Decimal(self.step)
        each = Decimal(self.usual) * self.period_s / 3_600_000
        past = (last - each * place for place in reversed(range(count)))
        return [max(Decimal(0), amount // step * step) if amount != last else last for amount in past]


class Scene:
    """An entry on its way through time: one read after the other, each with what is known by then."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.slot = START
        self.history: History | None = None
        self.ages = iter(entry.label_age_s)
        self.age_s = next(self.ages, None)

    def next_read(self, text: str, *, again: bool = False) -> Read:
        """again: a second read, taken at once, for the same interval end."""
        amount, _, unit = text.partition(" ")
        if not again:
            self.slot += timedelta(seconds=self.entry.period_s)
        labelled = self.age_s is not None
        received_at = self.slot + REPLY * (2 if again else 1)
        return Read(
            meter="M000001",
            obis=self.entry.obis,
            amount=Decimal(amount),
            unit=Unit(unit or self.entry.unit),
            interval_end=self.slot,
            read_at=self.slot - timedelta(seconds=self.age_s or 0) if labelled else None,
            received_at=received_at,
            quality=(Quality.MEASURED,),
            source=f"{self.entry.meter}/catalogue",
        )

    def others(self, read: Read) -> list[tuple[Read, Context]]:
        found = []
        for obis, text in self.entry.others.items():
            amount, unit = text.split(" ")
            other = msgspec.structs.replace(read, obis=obis, amount=Decimal(amount), unit=Unit(unit))
            register = Register(kind=kind_of(obis, Unit(unit)), unit=Unit(unit), step=Decimal("0.01"))
            found.append((other, Context(register=register)))
        return found

    def context(self, *, true: bool = False) -> Context:
        """true: before anything is wrong, and after it was set right."""
        entry = self.entry
        return Context(
            register=entry.register,
            history=self.history,
            period_s=entry.period_s,
            clock_offset_s=None if true else entry.clock_offset_s,
            serial_expected=entry.serial_expected,
            serial_found=entry.serial_expected if true else entry.serial_found,
            power_w=None if true else entry.power_w,
            ratio=Decimal(entry.ratio) if entry.ratio else None,
        )

    def advance_label(self) -> None:
        self.age_s = next(self.ages, 0) if self.entry.label_age_s else None


def entries() -> list[Entry]:
    path = Path(__file__).parent / "untrue_reads.toml"
    document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return msgspec.convert(document["reads"], list[Entry])

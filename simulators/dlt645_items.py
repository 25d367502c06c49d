"""What a simulated meter answers for a data identifier, both editions.

One function for each family of identifiers, found by the first byte (2007) or digit (1997). Each knows single items
only; blocks are put together from the members that the contract names, as far as this meter has them. Where a family
has no answer it raises NoSuchItem, and the meter refuses.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

from msgspec.structs import replace

from firmware_contracts.contract import Contract
from firmware_contracts.errors import UnknownItem
from protocols.dlt645.items import Di, ItemSpec, Separators, encode
from simulators.dlt645_1997 import Items1997
from simulators.dlt645_events import Events
from simulators.dlt645_freezes import Freezes
from simulators.dlt645_parameters import Parameters
from simulators.dlt645_registers import Registers
from simulators.dlt645_series import Series
from simulators.dlt645_values import NoSuchItem, Values, fitting
from simulators.meter import MeterModel
from simulators.quirks import MeterQuirks

__all__ = ["ItemSource"]

SEPARATOR = b"\xaa"
Family = Callable[[ItemSpec, datetime], Values]


class ItemSource:
    """Answers for one meter.

    written: DATA of items that were written, by DI text; it answers before anything else.
    """

    def __init__(self, model: MeterModel, contract: Contract, quirks: MeterQuirks) -> None:
        self._contract = contract
        self._quirks = quirks
        self.written: dict[str, bytes] = {}
        self.registers = registers = Registers(model, contract, quirks, self.written)
        self.parameters = parameters = Parameters(model, contract, quirks)
        events = Events(model, registers, registers.prepayment)
        freezes = Freezes(model, registers)
        old = Items1997(model, registers)
        self._series = Series(model, contract, quirks, registers, self.written)
        self._families: dict[str, Family] = {
            "00": lambda spec, now: registers.energy(spec.di.text, now),
            "01": lambda spec, now: registers.demand(spec.di.text, now),
            "02": lambda spec, now: registers.variable(spec.di.text, now),
            "04": parameters.value,
            "05": lambda spec, now: freezes.value(spec.di.text, now),
            "9": old.energy,
            "A": old.demand,
            "B": old.time_or_variable,
            "C": parameters.value,
        }
        self._families |= {f"{first:02X}": events.value for first in (0x03, *range(0x10, 0x23))}

    def read(self, di: Di, now: datetime) -> list[bytes]:
        """DATA of the item in pieces that a split reply keeps whole. Raises UnknownItem, NoSuchItem."""
        self.registers.forget()
        return self._pieces(self._contract.find(di), now)

    def read_series(self, spec: ItemSpec, count: int | None, start: str | None, now: datetime) -> list[bytes]:
        """The same of a load record: N as sent, and where to begin, YYMMDDhhmm digits. Raises NoSuchItem."""
        self.registers.forget()
        return self._series.read(spec, count, start, now)

    def _pieces(self, spec: ItemSpec, now: datetime) -> list[bytes]:
        if spec.di.text in self.written:
            return [self.written[spec.di.text]]
        if not spec.members:
            if not self._contract.has(spec.di):
                raise NoSuchItem(spec.di.text)
            if spec.series:
                return self._series.read(spec, None, None, now)
            return [encode(fitting(self._values(spec, now), spec), self._as_sent(spec))]
        pieces: list[bytes] = []
        for member in spec.members:
            try:
                piece = b"".join(self._pieces(member, now))
            except (NoSuchItem, UnknownItem):
                if spec.terminated:
                    pieces.append(SEPARATOR)  # an empty block of a data set
                    continue
                if spec.partial and pieces:
                    break
                raise
            pieces.append(piece + SEPARATOR if spec.terminated or self._separators is Separators.EACH else piece)
        if self._separators is Separators.END and not spec.terminated:
            pieces[-1] += SEPARATOR
        return pieces

    @property
    def _separators(self) -> Separators:
        return self._quirks.separators

    def _as_sent(self, spec: ItemSpec) -> ItemSpec:
        return _with_texts(spec, self._quirks.contract.ascii_order) if "ASCII" in spec.layout else spec

    def _values(self, spec: ItemSpec, now: datetime) -> Values:
        di = spec.di.text
        family = self._families.get(di[:2] if len(di) == 8 else di[:1])
        if family is None:
            raise NoSuchItem(di)
        return family(spec, now)


@lru_cache(maxsize=512)
def _with_texts(spec: ItemSpec, order: str) -> ItemSpec:
    """With texts in this order, whatever the contract lets a reader expect."""
    layout = spec.layout.replace("ASCII_PLAIN*", "ASCII*").replace("ASCII_ANY*", "ASCII*")
    return replace(spec, layout=layout.replace("ASCII*", "ASCII_PLAIN*") if order == "plain" else layout)

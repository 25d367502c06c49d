"""The registers of one Modbus meter: what stands at which address now, by its contract.

Nothing is kept but settings; every other register is computed from the model when somebody reads it. A block is refused
as the meter's maker would: too long, of odd length, or across registers that do not exist. Where a contract says that
such holes may be read, they hold what this meter says of something it has not got: FFH where that is one of its marks, else 0.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_DOWN, Context, Decimal
from typing import Literal

from firmware_contracts.modbus_contract import ModbusContract
from protocols.errors import EncodeError
from protocols.modbus.points import Point, PointType, encode_point
from protocols.values import Unit
from simulators.meter import MeterModel
from simulators.modbus_quantities import Measured, Quantity, quantity_of

__all__ = ["Exc", "Holes", "ModbusRefused", "RegisterImage"]

Holes = Literal["allowed", "rejected"]
_EXACT = Context(prec=100)
_FLOATS = (PointType.FLOAT32, PointType.FLOAT64)
_UNSIGNED = (PointType.UINT16, PointType.UINT32, PointType.UINT64, PointType.BCD16, PointType.BCD32)
_BITS = {
    PointType.UINT16: 16,
    PointType.INT16: 15,
    PointType.UINT32: 32,
    PointType.INT32: 31,
    PointType.UINT64: 64,
    PointType.INT64: 63,
}
_DIGITS = {PointType.BCD16: 4, PointType.BCD32: 8}
_ENERGIES = (Unit.KWH, Unit.KVARH, Unit.KVAH)
_THOUSANDS = {(Unit.KW, Unit.W), (Unit.KVAR, Unit.VAR), (Unit.KVA, Unit.VA)}


class Exc:
    """Exception codes, MODBUS Application Protocol V1.1b3, §7."""

    FUNCTION = 0x01
    ADDRESS = 0x02
    VALUE = 0x03
    FAILURE = 0x04
    BUSY = 0x06
    NO_PATH = 0x0A
    NO_ANSWER = 0x0B


class ModbusRefused(Exception):
    """The meter answers with an exception."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code:02X}H")
        self.code = code


class RegisterImage:
    """ct, pt: of the transformers before the meter; 1 without. holes: instead of what the contract says.

    unmodelled: points that nothing here measures; they read as not measured, or 0.
    """

    def __init__(
        self, model: MeterModel, contract: ModbusContract, *, ct: Decimal, pt: Decimal, holes: Holes | None = None
    ) -> None:
        self.model = model
        self.contract = contract
        self.ct = ct
        self.pt = pt
        self.holes = holes or contract.limits.holes
        self._settings: dict[Point, bytes] = {}
        self._sources: dict[Point, Quantity | Decimal | None] = {
            point: quantity_of(point.obis, point.name) for point in contract.points
        }
        self._sources |= {point: {"ct": ct, "pt": pt}[name] for name, point in contract.ratios.items()}
        self._at: dict[int, dict[int, Point]] = {function: {} for function in (3, 4)}
        for point in self._sources:
            functions = (3, 4) if contract.limits.either_function else (point.function,)
            for function in functions:
                self._at[function] |= dict.fromkeys(range(point.address, point.end), point)
        marks = {mark for point in contract.points for mark in point.invalid}
        self._hole = b"\xff\xff" if marks & {(1 << bits) - 1 for bits in (16, 32, 64)} else b"\x00\x00"

    @property
    def unmodelled(self) -> tuple[Point, ...]:
        return tuple(point for point, source in self._sources.items() if source is None and "w" not in point.access)

    def has(self, function: int, address: int) -> bool:
        return address in self._at[function]

    def read(self, function: int, start: int, count: int, now: datetime) -> bytes:
        """Register contents as on the wire. Raises ModbusRefused."""
        limits = self.contract.limits
        if not 1 <= count <= limits.registers_max or (limits.even_only and (start % 2 or count % 2)):
            raise ModbusRefused(Exc.VALUE)
        end = start + count
        first, last = limits.window
        if start < first or end > last + 1:
            raise ModbusRefused(Exc.ADDRESS)
        points = self._at[function]
        measured = Measured(self.model, now)
        content, address = b"", start
        while address < end:
            point = points.get(address)
            if point is None:
                if self.holes == "rejected":
                    raise ModbusRefused(Exc.ADDRESS)
                content += self._hole
                address += 1
                continue
            inside = self.content(point, measured)[2 * (address - point.address) :]
            content += inside
            address = point.end
        return content[: 2 * count]

    def write(self, start: int, words: Sequence[int]) -> None:
        """Settings: points that the contract lets be written, and only whole ones. Raises ModbusRefused."""
        points = self._at[3]
        content = b"".join(word.to_bytes(2, "big") for word in words)
        taken: dict[Point, bytes] = {}
        address = start
        while address < start + len(words):
            point = points.get(address)
            if point is None or "w" not in point.access or point.address != address:
                raise ModbusRefused(Exc.ADDRESS)
            if point.end > start + len(words):
                raise ModbusRefused(Exc.VALUE)
            taken[point] = content[2 * (address - start) : 2 * (point.end - start)]
            address = point.end
        self._settings |= taken

    def content(self, point: Point, measured: Measured) -> bytes:
        """The registers of one point."""
        written = self._settings.get(point)
        if written is not None:
            return written
        try:
            return encode_point(point, self.amount(point, measured))
        except EncodeError:
            return b"\x00\x00" * point.width  # no mark for "not measured": such meters show 0

    def amount(self, point: Point, measured: Measured) -> Decimal | None:
        """What the registers of this point say, in its unit; None: this meter does not measure it."""
        source = self._sources[point]
        if not isinstance(source, Quantity):
            return None if source is None else _fitting(point, source)
        amount = source.amount(measured)
        if amount is None:
            return None
        if not point.ratio:
            amount *= source.side.factor(self.ct, self.pt)
        if (source.unit, point.unit) in _THOUSANDS:
            amount *= 1000
        return _fitting(point, amount)


def _fitting(point: Point, amount: Decimal) -> Decimal | None:
    """What the point can hold of it: without the decimals behind its scale, without a sign where it has none.

    Energies start again from 0 when the register is full, as a counter does. What else is too large is not shown.
    """
    if point.type in _UNSIGNED:
        amount = abs(amount)
    if point.type in _FLOATS:
        return amount
    steps = int(_EXACT.divide(amount, point.scale).to_integral_value(ROUND_DOWN, _EXACT))
    limit = 10 ** _DIGITS[point.type] if point.type in _DIGITS else 1 << _BITS[point.type]
    if point.unit in _ENERGIES:
        steps %= limit
    elif abs(steps) >= limit:
        return None
    return _EXACT.multiply(Decimal(steps), point.scale)

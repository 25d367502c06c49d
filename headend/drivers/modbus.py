"""Reading Modbus meters over a line: blocks of registers, and what the contract's points say of them.

A block that a meter refuses as a whole, because it has a hole there that its contract does not tell of, is read point by point from
then on; what a meter refuses by itself is missing, and the rest is read. A concentrator that answers for a meter it cannot reach
(exceptions 0AH and 0BH) is no refusal: the meter is silent. A busy meter (05H, 06H) is asked again.
"""

import asyncio
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from msgspec import Struct

from firmware_contracts.blocks import Block
from firmware_contracts.modbus_contract import RegisterName
from headend.drivers.errors import BadReply, DriverError, RefusedByMeter, SilentBehind
from headend.drivers.line import Line, Priority
from headend.drivers.reading import Reading, Register
from protocols.errors import WireError
from protocols.exchange import Replied, Request, Sent
from protocols.modbus.pdu import EXCEPTIONS, ModbusException, ReadRegisters, Registers
from protocols.modbus.points import Point, WordOrder, decode_point
from protocols.values import Obis, Unit

__all__ = ["BlockQuestion", "ModbusDriver", "PointValue", "exception_text", "point_text"]

RETRIES_DEFAULT = 2
RTU_REQUEST_BYTES = 8
RTU_REPLY_BYTES = 5  # and two for each register
_ADDRESS_REFUSED = (0x02, 0x03)  # the latter from meters that do not like the number of registers
_BUSY = (0x05, 0x06)
_UNREACHED = (0x0A, 0x0B)


class PointValue(Struct, frozen=True, kw_only=True, gc=False):
    """See `headend.drivers.reading.Value`. A reply carries no time."""

    name: str
    obis: Obis | None
    content: Decimal | None
    unit: Unit
    at: datetime | None = None


class BlockQuestion(Struct, frozen=True, cache_hash=True):
    """Registers that lie together, read in one exchange. See `headend.drivers.reading`.

    Its hash is kept, and not that of its block, which goes through all of the points: look things up by the question.
    """

    block: Block

    @property
    def registers(self) -> tuple[Register, ...]:
        return _registers_of(self)

    @property
    def wire_bytes(self) -> int:
        return RTU_REQUEST_BYTES + RTU_REPLY_BYTES + 2 * self.block.count


@lru_cache(maxsize=4096)
def _registers_of(question: BlockQuestion) -> tuple[Register, ...]:
    return tuple(
        Register(
            str(point.obis) if point.obis else point_text(point), point.unit, point.source, is_primary=not point.ratio
        )
        for point in question.block.points
    )


@lru_cache(maxsize=4096)
def _places_of(question: BlockQuestion) -> tuple[tuple[Point, slice], ...]:
    """Where in the reply's registers each point stands, see `Block.content_of`."""
    start = question.block.start
    return tuple(
        (point, slice(2 * (point.address - start), 2 * (point.end - start))) for point in question.block.points
    )


def point_text(point: Point) -> str:
    """A point's one spelling as a quantity: "reg:4:0x0048:float32"."""
    order = point.word_order if point.width > 1 else WordOrder.BIG
    return RegisterName(point.function, point.address, point.type, order).text


def exception_text(code: int) -> str:
    return f"exception {code:02X}H ({EXCEPTIONS.get(code, 'not in the standard')})"


class ModbusDriver:
    """RTU and TCP alike: the line's session knows which. Silent, corrupt and unmatched are retried, and a busy meter."""

    def __init__(self, line: Line, *, retries: int = RETRIES_DEFAULT) -> None:
        self.line = line
        self.retries = retries
        self._refused_whole: set[tuple[str, BlockQuestion]] = set()

    async def ask(
        self, address: str, question: BlockQuestion, priority: Priority, *, began_at: float | None = None
    ) -> Reading:
        """See `headend.drivers.reading.Reader`."""
        if (address, question) not in self._refused_whole:
            try:
                return await self._read(address, question, priority, began_at)
            except RefusedByMeter as error:
                if error.word not in _ADDRESS_REFUSED or len(question.block.points) == 1:
                    raise
                refusal = error
        else:
            refusal = None
        reading = await self._read_singly(address, question.block, priority, refusal)
        self._refused_whole.add((address, question))
        return reading

    async def read_registers(
        self, address: str, function: int, start: int, count: int, priority: Priority, *, began_at: float | None = None
    ) -> tuple[bytes, Replied]:
        """The registers' bytes as on the wire, two each. Raises as `ask` does."""
        request = ReadRegisters(function=function, start=start, count=count)
        replied = await self.exchange(Request(address, request, began_at), priority)
        message = replied.message
        if not isinstance(message, Registers) or len(message.content) != 2 * count:
            raise BadReply(
                address,
                WireError(f"expected {count} registers", replied.wire_received),
                replied.wire_sent,
                replied.wire_received,
            )
        return message.content, replied

    async def exchange(self, asking: Request, priority: Priority) -> Replied:
        """A question whose repetition does no harm, with retries. Raises as `ask` does."""
        if (owed_s := self.line.owed_s(asking)) > 0:
            await asyncio.sleep(owed_s)
        began_at = self.line.monotonic() if asking.began_at is None else asking.began_at
        for _ in range(self.retries):
            try:
                return _accepted(await self.line.exchange(asking, priority))
            except DriverError as error:
                if not error.retryable or error.kind in ("line-down", "line-busy"):
                    raise
            asking = Request(asking.address, asking.message, began_at)
        return _accepted(await self.line.exchange(asking, priority))

    async def exchange_once(self, asking: Request, priority: Priority) -> Replied:
        return _accepted(await self.line.exchange(asking, priority))

    async def _read(self, address: str, question: BlockQuestion, priority: Priority, began_at: float | None) -> Reading:
        block = question.block
        content, replied = await self.read_registers(
            address, block.function, block.start, block.count, priority, began_at=began_at
        )
        try:
            values = [_value_of(point, content[place]) for point, place in _places_of(question)]
        except WireError as error:
            raise BadReply(address, error, replied.wire_sent, replied.wire_received) from error
        return Reading(
            address=address,
            values=values,
            wire_sent=(replied.wire_sent,),
            wire_received=(replied.wire_received,),
            elapsed_s=replied.elapsed_s,
        )

    async def _read_singly(
        self, address: str, block: Block, priority: Priority, refusal: RefusedByMeter | None
    ) -> Reading:
        """Point by point; raises the refusal when not one of them can be had."""
        values: list[PointValue] = []
        refused: dict[int, str] = {}
        readings: list[Reading] = []
        for place, point in enumerate(block.points):
            single = Block(function=point.function, start=point.address, count=point.width, points=(point,))
            try:
                reading = await self._read(address, BlockQuestion(single), priority, None)
            except RefusedByMeter as error:
                refusal = error
                refused[place] = error.kind
                values.append(PointValue(name=point.name, obis=point.obis, content=None, unit=point.unit))
            else:
                readings.append(reading)
                values += [value for value in reading.values if isinstance(value, PointValue)]
        if not readings and refusal is not None:
            raise refusal
        return Reading(
            address=address,
            values=values,
            wire_sent=tuple(wire for reading in readings for wire in reading.wire_sent),
            wire_received=tuple(wire for reading in readings for wire in reading.wire_received),
            elapsed_s=sum(reading.elapsed_s for reading in readings),
            refused=refused,
        )


def _value_of(point: Point, content: bytes) -> PointValue:
    return PointValue(name=point.name, obis=point.obis, content=decode_point(point, content), unit=point.unit)


def _accepted(replied: Replied | Sent) -> Replied:
    """The reply, unless it is a refusal: that is raised."""
    assert isinstance(replied, Replied), "only what is broadcast has no reply, and nothing here is"
    if isinstance(replied.message, ModbusException):
        raise _refusal(replied, replied.message.code)
    return replied


def _refusal(replied: Replied, code: int) -> DriverError:
    said = exception_text(code)
    if code in _UNREACHED:
        return SilentBehind(
            replied.address, said, replied.wire_sent, replied.wire_received, elapsed_s=replied.elapsed_s
        )
    return RefusedByMeter(
        replied.address, said, code, replied.wire_sent, replied.wire_received, retryable=code in _BUSY
    )

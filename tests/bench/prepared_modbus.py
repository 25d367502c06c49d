"""The Modbus conversation that all measured clients have with the far end: sixty registers of each unit.

What the registers hold changes with every answer and has all the digits that a meter's float32 has, so that nobody can gain by
remembering what came before. Whatever came out at the other end can be checked: see `is_of`.
"""

import struct
import zlib
from decimal import Decimal
from functools import cache

from firmware_contracts.blocks import Block
from firmware_contracts.modbus_contract import ModbusContract, load_modbus
from headend.drivers.modbus import BlockQuestion
from headend.quantities import resolve_register
from protocols.modbus.points import Point

__all__ = [
    "ALL",
    "CONTRACT",
    "COUNT",
    "FUNCTION",
    "ONE",
    "START",
    "TYPICAL",
    "UNITS",
    "VARIANTS",
    "answer_of",
    "is_of",
    "meter",
    "question",
    "request_of",
]

CONTRACT = "modbus/eastron_sdm630"
FUNCTION, START, COUNT = 4, 0x000E, 60
UNITS = range(1, 248)
VARIANTS = 32  # answers of each unit, in turn
# Power of phases B and C and of all three, and the energy: what a plan may want of sixty registers.
TYPICAL = ("1-0:56.7.0", "1-0:76.7.0", "1-0:16.7.0", "1-0:1.8.0")
ONE = TYPICAL[-1:]
ALL = tuple(f"reg:{FUNCTION}:{START + at:#06x}:float32" for at in range(0, COUNT, 2))


@cache
def meter() -> ModbusContract:
    return load_modbus(CONTRACT)


@cache
def question(quantities: tuple[str, ...]) -> BlockQuestion:
    """One block: the same request for one of them as for all, though a plan of one quantity would ask for its two registers only."""
    found = {resolve_register(meter(), quantity) for quantity in quantities}
    points = sorted((point for point in found if isinstance(point, Point)), key=lambda point: point.address)
    return BlockQuestion(Block(function=FUNCTION, start=START, count=COUNT, points=tuple(points)))


def request_of(unit: int) -> bytes:
    """Behind the transaction number, with which a frame begins."""
    return struct.pack(">HHBBHH", 0, 6, unit, FUNCTION, START, COUNT)


def answer_of(unit: int, variant: int) -> bytes:
    """Behind the transaction number."""
    content = b"".join(_register_pair(unit, variant, at) for at in range(0, COUNT, 2))
    return struct.pack(">HHBBB", 0, 3 + len(content), unit, FUNCTION, len(content)) + content


def is_of(amount: Decimal | None, unit: int, point: Point) -> bool:
    """Whether the unit's registers of this point ever hold this amount: whether it becomes their bytes."""
    assert amount is not None
    wire = struct.pack(">f", float(amount / point.scale))
    return any(wire == _register_pair(unit, variant, point.address - START) for variant in range(VARIANTS))


def _register_pair(unit: int, variant: int, at: int) -> bytes:
    """A float32 from 128 to 256 with all bits of its mantissa in use."""
    mantissa = zlib.crc32(bytes((unit, variant, at))) & 0x7FFFFF
    return (0x43000000 | mantissa).to_bytes(4, "big")

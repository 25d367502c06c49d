"""Which requests read which points: the fewest, within what the meter allows.

A block is one request: a run of registers of one function. Points are never split. Where a meter refuses a request that
touches a hole (a register that no point of its contract covers), no block crosses one.

One pass over the points by address gives the fewest: the first point left over must be in some block, none that holds
it can start later than it does, and so the block that starts with it reaches furthest. Each function is planned by itself.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from firmware_contracts.errors import OutOfReach
from protocols.modbus.points import Point

__all__ = ["REGISTERS_MAX", "Block", "ModbusLimits", "plan_blocks"]

REGISTERS_MAX = 125  # what a reply's length byte and frame can carry, MODBUS Application Protocol V1.1b3 §6.3
_Address = Annotated[int, Meta(ge=0, le=0xFFFF)]
_Function = Annotated[int, Meta(ge=1, le=127)]


class ModbusLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request may ask for.

    registers_max: 32 where nobody says; most meters take more. even_only: start and count of a request must be even.
    holes: whether a request may touch registers that no point covers ("allowed": the meter answers with something).
    window: first and last register that may be touched. functions: those that the meter answers; empty: not told.
    either_function: 3 and 4 read the same registers. phases: how many the meter measures. source: where all this is from.
    """

    registers_max: Annotated[int, Meta(ge=1, le=REGISTERS_MAX)] = 32
    even_only: bool = False
    holes: Literal["allowed", "rejected"] = "rejected"
    window: tuple[_Address, _Address] = (0, 0xFFFF)
    functions: tuple[_Function, ...] = ()
    either_function: bool = False
    phases: Literal[1, 3] = 3
    source: str = ""

    def __post_init__(self) -> None:
        if self.window[0] > self.window[1]:
            raise ValueError("window: the first register stands behind the last")
        if self.even_only and self.registers_max < 2:
            raise ValueError("registers_max: even counts need at least 2")

    @property
    def count_max(self) -> int:
        """The most registers that one request can ask for."""
        return self.registers_max - self.registers_max % 2 if self.even_only else self.registers_max


class Block(Struct, frozen=True, kw_only=True):
    """One request and the points that its reply holds, by address."""

    function: int
    start: int
    count: int
    points: tuple[Point, ...]

    def content_of(self, point: Point, content: bytes) -> bytes:
        """The point's registers out of the reply's. content: two bytes for each register of the block."""
        at = 2 * (point.address - self.start)
        return content[at : at + 2 * point.width]


def plan_blocks(points: Sequence[Point], limits: ModbusLimits, *, known: Iterable[Point] = ()) -> tuple[Block, ...]:
    """The fewest requests that read these points, by function and address. The same points give the same blocks.

    known: all points of the contract; registers that neither they nor `points` cover are holes. A point that stands in
    `points` twice is read once. Raises OutOfReach for a point that no request can read.
    """
    covered = _covered([*points, *known])
    blocks: list[Block] = []
    for function in sorted({point.function for point in points}):
        wanted = sorted(
            dict.fromkeys(point for point in points if point.function == function),
            key=lambda point: (point.address, point.end, point.name),
        )
        blocks += _blocks(function, wanted, limits, covered.get(function, frozenset()))
    return tuple(blocks)


def _blocks(function: int, wanted: Sequence[Point], limits: ModbusLimits, covered: frozenset[int]) -> Iterable[Block]:
    while wanted:
        first = wanted[0]
        start, end = _span(first, first, limits)
        if problem := _problem(first, start, end, limits, covered):
            raise OutOfReach(first.name, problem)
        inside, left = [], []
        for point in wanted:
            _, reach = _span(first, point, limits)
            if reach - start <= limits.count_max and not _problem(point, start, reach, limits, covered):
                inside.append(point)
                end = max(end, reach)
            else:
                left.append(point)
        yield Block(function=function, start=start, count=end - start, points=tuple(inside))
        wanted = left


def _span(first: Point, last: Point, limits: ModbusLimits) -> tuple[int, int]:
    """The registers from one point to the end of another, widened to even ones where the meter wants that."""
    if not limits.even_only:
        return first.address, last.end
    return first.address - first.address % 2, last.end + last.end % 2


def _problem(point: Point, start: int, end: int, limits: ModbusLimits, covered: frozenset[int]) -> str:
    """Why a request from `start` to before `end` is not allowed, "" when it is."""
    if limits.functions and point.function not in limits.functions:
        return f"the meter does not answer function {point.function}"
    if end - start > limits.count_max:
        return f"{end - start} registers, the meter gives {limits.count_max} at most"
    first, last = limits.window
    if start < first or end - 1 > last:
        return f"{start:04X}H to {end - 1:04X}H, the meter answers {first:04X}H to {last:04X}H"
    if limits.holes == "rejected":
        holes = [at for at in range(start, end) if at not in covered]
        if holes:
            return f"register {holes[0]:04X}H is a hole, and the meter rejects holes"
    return ""


def _covered(points: Iterable[Point]) -> dict[int, frozenset[int]]:
    """By function, the registers of all points."""
    registers: dict[int, set[int]] = {}
    for point in points:
        registers.setdefault(point.function, set()).update(range(point.address, point.end))
    return {function: frozenset(found) for function, found in registers.items()}

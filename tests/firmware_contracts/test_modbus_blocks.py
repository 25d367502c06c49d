"""The planner: the fewest requests, and none that the meter refuses. Held against every way to share points out, on small cases."""

import itertools
from collections.abc import Iterator, Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_contracts.blocks import Block, ModbusLimits, plan_blocks
from firmware_contracts.errors import OutOfReach
from firmware_contracts.modbus_contract import load_modbus, modbus_names
from protocols.modbus.points import Point, PointType
from protocols.values import Unit

WIDTHS = {1: PointType.UINT16, 2: PointType.FLOAT32, 4: PointType.UINT64}


def point(address: int, width: int, function: int = 4) -> Point:
    return Point(
        name=f"at_{function}_{address}_{width}",
        function=function,
        address=address,
        type=WIDTHS[width],
        scale=Decimal(1),
        unit=Unit.NONE,
    )


def allowed(block: Sequence[Point], limits: ModbusLimits, known: Sequence[Point]) -> bool:
    """Whether one request can read these points, said again from the definition."""
    start, end = min(each.address for each in block), max(each.end for each in block)
    if limits.even_only:
        start, end = start // 2 * 2, (end + 1) // 2 * 2
    registers = set(range(start, end))
    covered = {at for each in known for at in range(each.address, each.end) if each.function == block[0].function}
    return (
        len({each.function for each in block}) == 1
        and len(registers) <= limits.registers_max
        and limits.window[0] <= start
        and end - 1 <= limits.window[1]
        and (limits.holes == "allowed" or registers <= covered)
    )


def partitions(points: Sequence[Point]) -> Iterator[list[list[Point]]]:
    if not points:
        yield []
        return
    first, rest = points[0], points[1:]
    for smaller in partitions(rest):
        for index in range(len(smaller)):
            yield [*smaller[:index], [first, *smaller[index]], *smaller[index + 1 :]]
        yield [[first], *smaller]


def fewest(points: Sequence[Point], limits: ModbusLimits, known: Sequence[Point]) -> int | None:
    counts = [len(shared) for shared in partitions(points) if all(allowed(block, limits, known) for block in shared)]
    return min(counts, default=None)


def points_up_to(most: int) -> st.SearchStrategy[list[Point]]:
    made = st.builds(point, st.integers(0, 24), st.sampled_from([1, 2, 4]), st.sampled_from([3, 4]))
    return st.lists(made, max_size=most, unique_by=lambda each: each.name)


LIMITS = st.builds(
    ModbusLimits,
    registers_max=st.integers(2, 12),
    even_only=st.booleans(),
    holes=st.sampled_from(["allowed", "rejected"]),
    window=st.tuples(st.integers(0, 3), st.integers(20, 40)),
)


@settings(max_examples=300, deadline=None)
@given(points_up_to(6), points_up_to(4), LIMITS)
def test_no_sharing_out_needs_fewer_requests(points: list[Point], others: list[Point], limits: ModbusLimits) -> None:
    known = [*points, *others]
    best = fewest(points, limits, known)
    if best is None:
        with pytest.raises(OutOfReach):
            plan_blocks(points, limits, known=others)
        return
    blocks = plan_blocks(points, limits, known=others)
    assert len(blocks) == best
    assert sorted(each.name for block in blocks for each in block.points) == sorted(each.name for each in points)
    for block in blocks:
        assert allowed(block.points, limits, known)
        assert all(block.start <= each.address and each.end <= block.start + block.count for each in block.points)
        assert not limits.even_only or block.start % 2 == block.count % 2 == 0


@settings(max_examples=100, deadline=None)
@given(points_up_to(8), LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_points_makes_no_difference(points: list[Point], limits: ModbusLimits, random: object) -> None:
    def plan(these: list[Point]) -> tuple[Block, ...] | str:
        try:
            return plan_blocks(these, limits)
        except OutOfReach:
            return "out of reach"

    shuffled = points[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(shuffled) == plan(points)


def test_a_hole_is_crossed_only_where_holes_are_allowed() -> None:
    pair = [point(0, 2), point(4, 2)]
    strict, open_ = ModbusLimits(registers_max=32), ModbusLimits(registers_max=32, holes="allowed")
    assert [(block.start, block.count) for block in plan_blocks(pair, strict)] == [(0, 2), (4, 2)]
    assert [(block.start, block.count) for block in plan_blocks(pair, open_)] == [(0, 6)]


def test_a_register_that_another_point_of_the_contract_covers_is_no_hole() -> None:
    pair = [point(0, 2), point(4, 2)]
    (block,) = plan_blocks(pair, ModbusLimits(registers_max=32), known=[point(2, 2)])
    assert (block.start, block.count, block.points) == (0, 6, tuple(pair))


def test_an_odd_point_is_read_with_its_neighbour_where_counts_must_be_even() -> None:
    limits = ModbusLimits(registers_max=8, even_only=True, holes="allowed")
    (block,) = plan_blocks([point(5, 1)], limits)
    assert (block.start, block.count) == (4, 2)


@pytest.mark.parametrize(
    ("wanted", "limits", "problem"),
    [
        (point(0, 4), ModbusLimits(registers_max=2), "4 registers, the meter gives 2 at most"),
        (point(0, 2), ModbusLimits(window=(0x1000, 0x8EFF)), "the meter answers 1000H to 8EFFH"),
        (point(0, 1), ModbusLimits(even_only=True), "0001H is a hole"),
        (point(0, 1), ModbusLimits(functions=(3, 16)), "does not answer function 4"),
        (point(0xFFFF, 1), ModbusLimits(even_only=True, holes="rejected"), "hole"),
    ],
)
def test_a_point_that_no_request_reads_is_named_with_the_reason(
    wanted: Point, limits: ModbusLimits, problem: str
) -> None:
    with pytest.raises(OutOfReach, match=problem) as caught:
        plan_blocks([wanted], limits)
    assert caught.value.point == wanted.name


def test_nothing_wanted_is_nothing_asked() -> None:
    assert plan_blocks([], ModbusLimits()) == ()


def test_a_blocks_reply_is_cut_into_its_points() -> None:
    (block,) = plan_blocks([point(2, 2), point(4, 1)], ModbusLimits())
    content = bytes.fromhex("43 66 33 34 00 07")
    assert [block.content_of(each, content).hex() for each in block.points] == ["43663334", "0007"]


@pytest.mark.parametrize("name", modbus_names())
def test_every_contract_can_be_read_whole_within_its_limits(name: str) -> None:
    contract = load_modbus(name)
    blocks = contract.plan(contract.points)
    assert sum(len(block.points) for block in blocks) == len(contract.points)
    covered = {(each.function, at) for each in contract.points for at in range(each.address, each.end)}
    for block in blocks:
        assert block.count <= contract.limits.registers_max
        if contract.limits.holes == "rejected":
            assert all((block.function, at) in covered for at in range(block.start, block.start + block.count))
    for one, other in itertools.pairwise(blocks):
        assert (one.function, one.start + one.count) <= (other.function, other.start)

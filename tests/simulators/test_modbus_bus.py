"""Modbus meters on a line: framing by content and by silence, the queue, broadcasts, transactions, and every fault."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import BadChecksum
from protocols.modbus import pdu as p
from protocols.modbus.adu import RtuFrame, TcpFrame
from protocols.modbus.framer import TcpFramer
from simulators.faults import BadFaults, Fault, FaultKind, FaultPlan, read_plan
from simulators.line import SimulatedLine
from simulators.modbus_bus import QUEUE_MAX, Framing, ModbusBus
from simulators.modbus_meter import Exc, ModbusMeter
from simulators.virtual_time import VirtualClock, run
from tests.simulators.modbus_bench import NOW, RELAY, modbus_meter

K = FaultKind
DELAY_S = 0.1
DTSU666 = "modbus/chint_dtsu666"
RATIOS = p.encode_request(p.ReadRegisters(3, 6, 2))  # its transformer ratios: the same for ever
READ = RtuFrame(1, RATIOS).to_bytes()
BYTE_S = 11 / 9600
SILENCE_S = 3.5 * BYTE_S
Chunks = list[tuple[float, bytes]]
Asked = Sequence[tuple[float, bytes]]  # seconds after the start, bytes


def bus(*units: int, framing: Framing = "rtu", contract: str = DTSU666, **options: Any) -> ModbusBus:
    of_meter = {key: options.pop(key) for key in ("relay_delay_s", "reply_delay_s") if key in options}
    meters = [
        modbus_meter(contract, unit, seed=unit, **{"reply_delay_s": DELAY_S} | of_meter) for unit in units or (1,)
    ]
    return ModbusBus(meters, framing=framing, **options)


def play(work: Callable[[VirtualClock], Coroutine[Any, Any, Chunks]]) -> Chunks:
    async def main(clock: VirtualClock, _: random.Random) -> Chunks:
        return await work(clock)

    return run(main, start=NOW)


def exchange(on: ModbusBus, asked: Asked, *, baud: int | None = None, until_s: float = 30.0) -> Chunks:
    """What a master hears that sends these chunks at these moments, each with the moment at which it came."""

    async def work(clock: VirtualClock) -> Chunks:
        heard: Chunks = []
        began = clock.monotonic()

        class Master(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.append((clock.monotonic() - began, data))

        line = SimulatedLine(on, clock.world, baud=baud)
        transport = await line.connect(Master())
        for at, chunk in asked:
            await asyncio.sleep(began + at - clock.monotonic())
            transport.write(chunk)
        await asyncio.sleep(began + until_s - clock.monotonic())
        line.close()
        return heard

    return play(work)


def struck_by(
    *faults: Fault, count: int = 1, on: ModbusBus | None = None, requests: Sequence[bytes] = (READ,), seed: int = 1
) -> Chunks:
    """Replies to requests every ten seconds, with the time since their request."""
    the_bus = bus() if on is None else on
    the_bus.faults = FaultPlan(seed=seed, faults=faults)
    asked = [(10.0 * index, requests[index % len(requests)]) for index in range(count)]
    return [(round(at % 10, 6), chunk) for at, chunk in exchange(the_bus, asked, until_s=10.0 * count)]


def fault(kind: FaultKind, **parameters: Any) -> Fault:
    return Fault(kind=kind, parameters=parameters)


((_, CLEAN),) = struck_by()


def is_right(wire: bytes) -> bool:
    try:
        return RtuFrame.from_bytes(wire).unit == 1
    except BadChecksum:
        return False


# ------------------------------------------------------------------------------------------ RTU


def test_a_request_is_answered_after_the_meters_delay() -> None:
    ((at, wire),) = exchange(bus(), [(0.0, READ)])
    assert at == pytest.approx(DELAY_S)
    reply = p.decode_reply(RtuFrame.from_bytes(wire).pdu)
    assert isinstance(reply, p.Registers)


def test_a_request_in_pieces_among_noise_is_found_by_its_content() -> None:
    pieces = [(0.0, b"\x17"), (0.02, READ[:3]), (0.04, READ[3:]), (1.0, READ + READ[:1]), (1.05, READ[1:])]
    assert [round(at, 2) for at, _ in exchange(bus(), pieces)] == [0.14, 1.1, 1.2]  # the third waits its turn


def test_with_a_rate_a_silence_of_three_and_a_half_characters_ends_a_request() -> None:
    whole = 8 * BYTE_S
    for gap_s, answers in ((SILENCE_S * 0.9, 1), (SILENCE_S * 1.1, 0)):
        pieces = [(0.0, READ[:3]), (3 * BYTE_S + gap_s, READ[3:])]
        assert len(exchange(bus(), pieces, baud=9600)) == answers
    ((at, wire),) = exchange(bus(reply_delay_s=0.0), [(0.0, READ)], baud=9600)
    assert at == pytest.approx(whole + SILENCE_S + len(wire) * BYTE_S)  # nor does a reply begin earlier
    damaged = RtuFrame(1, bytes.fromhex("10 0000 0010 20")).to_bytes()[:7]  # claims 32 bytes that never come
    assert len(exchange(bus(), [(0.0, damaged), (1.0, READ)], baud=9600)) == 1


def test_each_unit_answers_for_itself_and_others_stay_silent() -> None:
    asked = [(float(unit), RtuFrame(unit, RATIOS).to_bytes()) for unit in (1, 2, 3, 4, 255)]
    heard = exchange(bus(1, 2, 3), asked)
    assert [RtuFrame.from_bytes(wire).unit for _, wire in heard] == [1, 2, 3]


def test_a_broadcast_is_obeyed_by_all_and_answered_by_none() -> None:
    on = bus(1, 2, contract=RELAY)
    order = RtuFrame(0, p.encode_request(p.WriteCoil(0, False))).to_bytes()
    assert exchange(on, [(0.0, order), (1.0, RtuFrame(0, RATIOS).to_bytes())]) == []
    assert all(meter.model.relay_open(NOW + timedelta(seconds=5)) for meter in on.meters)


def test_two_meters_of_one_unit_speak_at_once_and_nobody_understands() -> None:
    twins = ModbusBus([modbus_meter(seed=seed, reply_delay_s=DELAY_S) for seed in (1, 2)])
    wires = [
        wire
        for _, wire in exchange(twins, [(0.0, RtuFrame(1, p.encode_request(p.ReadRegisters(4, 0, 80))).to_bytes())])
    ]
    assert twins.collisions == 1
    assert not is_right(b"".join(wires))


def test_what_is_asked_while_a_reply_is_owed_is_answered_one_after_the_other() -> None:
    asked = [
        (0.01 * index, RtuFrame(1, p.encode_request(p.ReadRegisters(3, 0x2006 + 2 * index, 2))).to_bytes())
        for index in range(5)
    ]
    heard = exchange(bus(), asked)
    assert [at for at, _ in heard] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    apart = [wire for index in range(5) for _, wire in exchange(bus(), [(0.0, asked[index][1])])]
    assert [wire for _, wire in heard] == apart
    flood = exchange(bus(), [(0.0, READ * 100)])
    assert len(flood) == QUEUE_MAX


def test_a_late_reply_holds_up_the_answer_to_the_repetition() -> None:
    late = bus(faults=FaultPlan(seed=1, faults=(fault(K.LATE_REPLY, timeout_s=1.0, least=2.0, most=2.0),)))
    heard = exchange(late, [(0.0, READ), (1.0, READ)])
    assert [at for at, _ in heard] == pytest.approx([2.0, 4.0])


def test_a_slow_contact_moves_without_being_asked_again() -> None:
    on = bus(contract=RELAY, relay_delay_s=2.0)
    exchange(on, [(0.0, RtuFrame(1, p.encode_request(p.WriteCoil(0, False))).to_bytes())], until_s=3.0)
    (spell,) = on.meters[0].model.relay.spans
    assert spell.start == NOW + timedelta(seconds=2)


# ------------------------------------------------------------------------------------------ TCP


def question(transaction: int, unit: int = 1, start: int = 6) -> bytes:
    return TcpFrame(transaction, unit, p.encode_request(p.ReadRegisters(3, start, 2))).to_bytes()


def answers(heard: Chunks) -> list[TcpFrame]:
    return [found.frame for _, chunk in heard for found in TcpFramer().receive(chunk)]


def test_transactions_are_answered_in_order_one_after_the_other() -> None:
    together = b"".join(question(100 + index, unit=1 + index % 2, start=0x2006 + 2 * index) for index in range(6))
    heard = exchange(bus(1, 2, framing="tcp"), [(0.0, together[:20]), (0.01, together[20:])])
    found = answers(heard)
    assert [frame.transaction for frame in found] == list(range(100, 106))
    assert [frame.unit for frame in found] == [1, 2] * 3
    assert heard[-1][0] == pytest.approx(6 * DELAY_S)


def test_transactions_may_overtake_each_other() -> None:
    on = bus(framing="tcp", out_of_order=True)
    found = answers(exchange(on, [(0.0, b"".join(question(index) for index in range(20)))]))
    order = [frame.transaction for frame in found]
    assert sorted(order) == list(range(20))
    assert order != sorted(order)


def test_the_device_itself_answers_to_0_and_255_when_it_is_the_only_one() -> None:
    asked = [(float(index), question(index, unit)) for index, unit in enumerate((0, 255, 1, 7))]
    assert [frame.unit for frame in answers(exchange(bus(framing="tcp"), asked))] == [0, 255, 1]
    assert answers(exchange(bus(1, 2, framing="tcp"), asked[:2])) == []


def test_an_absent_unit_is_silence_or_what_a_concentrator_says_of_it() -> None:
    assert exchange(bus(1, 2, framing="tcp"), [(0.0, question(1, unit=9))]) == []
    (told,) = answers(exchange(bus(1, 2, framing="tcp", answers_absent=True), [(0.0, question(1, unit=9))]))
    assert told == TcpFrame(1, 9, bytes((0x83, Exc.NO_ANSWER)))


def test_too_many_transactions_are_refused_as_busy() -> None:
    found = answers(exchange(bus(framing="tcp"), [(0.0, b"".join(question(index) for index in range(50)))]))
    assert len(found) == 50
    assert sum(frame.pdu == bytes((0x83, Exc.BUSY)) for frame in found) == 50 - QUEUE_MAX


def test_what_is_no_modbus_tcp_breaks_the_connection() -> None:
    on, broken = bus(framing="tcp"), []
    on.on_broken = lambda: broken.append(on.broken)
    on.receive(b"GET / HTTP/1.1\r\n\r\n", 0.0, NOW)
    on.receive(b"more", 0.1, NOW)
    assert len(broken) == 1
    assert "not Modbus TCP" in broken[0]


# ------------------------------------------------------------------------------------------ faults


def test_silence_keeps_the_reply_and_the_order_may_be_done_all_the_same() -> None:
    order = RtuFrame(1, p.encode_request(p.WriteCoil(0, False))).to_bytes()
    for obeys in (True, False):
        on = bus(contract=RELAY)
        assert struck_by(fault(K.SILENCE, obeys=obeys), on=on, requests=[order]) == []
        assert on.meters[0].model.relay_open(NOW + timedelta(seconds=9)) is obeys


def test_a_wrong_address_is_another_unit_with_a_right_checksum() -> None:
    assert {RtuFrame.from_bytes(wire).unit for _, wire in struck_by(fault(K.WRONG_ADDRESS), on=bus(1, 9))} == {9}
    alone = {RtuFrame.from_bytes(wire).unit for _, wire in struck_by(fault(K.WRONG_ADDRESS), count=50)}
    assert 1 not in alone
    assert all(1 <= unit <= 247 for unit in alone)
    ((_, told),) = struck_by(fault(K.WRONG_ADDRESS, address="33"))
    assert RtuFrame.from_bytes(told) == RtuFrame(33, RtuFrame.from_bytes(CLEAN).pdu)


def test_a_bad_checksum_is_one_byte_and_never_right() -> None:
    for _, wire in struck_by(fault(K.BAD_CHECKSUM), count=100):
        assert wire[:-1] == CLEAN[:-1]
        assert not is_right(wire)


def test_bytes_and_bits_are_lost_as_the_names_say() -> None:
    flipped = [wire for _, wire in struck_by(fault(K.BIT_FLIP, bits=2), count=20)]
    assert {sum((a ^ b).bit_count() for a, b in zip(wire, CLEAN, strict=True)) for wire in flipped} <= {1, 2}
    assert {len(wire) for _, wire in struck_by(fault(K.DROPPED_BYTE), count=20)} == {len(CLEAN) - 1}
    for _, wire in struck_by(fault(K.HALF_REPLY), count=20):
        assert CLEAN.startswith(wire)
        assert len(wire) < len(CLEAN)


def test_replies_are_split_merged_doubled_and_surrounded() -> None:
    split = struck_by(fault(K.SPLIT, parts=3, gap_s=0.2))
    assert [at for at, _ in split] == pytest.approx([0.1, 0.3, 0.5])
    assert b"".join(wire for _, wire in split) == CLEAN
    merged = struck_by(Fault(kind=K.MERGE, until=NOW + timedelta(seconds=5)), count=2)
    assert merged == [(0.1, CLEAN * 2)]
    assert [at for at, _ in struck_by(fault(K.DUPLICATE_REPLY, copies=2, gap_s=0.3))] == pytest.approx([0.1, 0.4, 0.7])
    ((_, before),) = struck_by(fault(K.NOISE_BEFORE, bytes=5))
    ((_, after),) = struck_by(fault(K.NOISE_AFTER, bytes=5))
    assert before.endswith(CLEAN)
    assert after.startswith(CLEAN)
    (echo, reply) = struck_by(fault(K.ECHO))
    assert (echo, reply[1]) == ((0.0, READ), CLEAN)


def test_babble_spoils_replies_on_the_line() -> None:
    heard = struck_by(fault(K.BABBLE, duty=0.6), count=50)
    wire = b"".join(chunk for _, chunk in heard)
    assert 0 < wire.count(CLEAN[:3]) < 50


def test_faults_of_the_meter_itself_happen_to_modbus_meters_too() -> None:
    during: dict[str, Any] = {"start": NOW + timedelta(seconds=5), "until": NOW + timedelta(seconds=15)}
    cut = struck_by(Fault(kind=K.POWER_CUT, **during), count=3)
    assert len(cut) == 2
    on = bus()
    energy = [RtuFrame(1, p.encode_request(p.ReadRegisters(3, 0x101E, 2))).to_bytes()]
    (_, own), (_, other), (_, again) = struck_by(Fault(kind=K.METER_SWAP, **during), count=3, on=on, requests=energy)
    assert own != other
    assert own[:3] == other[:3] == again[:3]
    assert on.struck == {"meter-swap": 1}


@pytest.mark.parametrize("kind", [K.STUCK_RELAY, K.ACK_WITHOUT_SWITCH])
def test_an_order_that_moves_nothing_is_acknowledged(kind: FaultKind) -> None:
    order = RtuFrame(1, p.encode_request(p.WriteCoil(0, False))).to_bytes()
    state = RtuFrame(1, p.encode_request(p.ReadBits(2, 0, 1))).to_bytes()
    on = bus(contract=RELAY)
    (_, echo), (_, told) = struck_by(fault(kind), count=2, on=on, requests=[order, state])
    assert echo == order
    assert p.decode_reply(RtuFrame.from_bytes(told).pdu) == p.Bits(2, (True,) + (False,) * 7)
    assert on.struck == {kind.value: 1}


def test_a_plan_names_units_and_strikes_only_those() -> None:
    on = bus(1, 2)
    content = {"faults": [{"kind": "silence", "meters": ["2"]}]}
    on.faults = read_plan(content, NOW, on.addresses)
    asked = [(float(unit), RtuFrame(unit, RATIOS).to_bytes()) for unit in (1, 2)]
    assert [RtuFrame.from_bytes(wire).unit for _, wire in exchange(on, asked)] == [1]
    for wrong in ("000000000001", "256", "01", "x"):
        with pytest.raises(BadFaults, match=r"expected a unit|a Modbus unit"):
            read_plan({"faults": [{"kind": "silence", "meters": [wrong]}]}, NOW, on.addresses)


@pytest.mark.parametrize(
    ("framing", "kind", "why"),
    [
        ("rtu", K.WRONG_DI, "does not say what was asked"),
        ("tcp", K.WRONG_DI, "does not say what was asked"),
        ("tcp", K.BAD_CHECKSUM, "no checksum"),
        ("tcp", K.BABBLE, "nobody else speaks"),
    ],
)
def test_faults_without_a_meaning_are_refused_and_the_others_stay(framing: Framing, kind: FaultKind, why: str) -> None:
    on = bus(framing=framing, faults=FaultPlan(faults=(Fault(kind=K.SILENCE),)))
    with pytest.raises(BadFaults, match=why):
        on.faults = FaultPlan(faults=(Fault(kind=kind),))
    assert [each.kind for each in on.faults.faults] == [K.SILENCE]
    with pytest.raises(BadFaults, match="expected a unit"):
        on.faults = FaultPlan(faults=(fault(K.WRONG_ADDRESS, address="300"),))


MEANINGFUL = [kind for kind in FaultKind if kind not in (K.WRONG_DI, K.WRONG_OPERATOR, K.CUSTOMERS_BUTTON)]


@pytest.mark.parametrize("kind", MEANINGFUL)
def test_the_same_seed_gives_the_same_bytes_and_afterwards_all_is_well(kind: FaultKind) -> None:
    each = Fault(kind=kind, probability=0.5, until=NOW + timedelta(seconds=65))
    one, two = struck_by(each, count=8), struck_by(each, count=8)
    assert one == two
    assert is_right(one[-1][1]) or kind is K.MERGE


chunks = st.lists(
    st.sampled_from([READ, READ[:5], READ[5:], question(1), b"\x01\x10"]) | st.binary(max_size=40), max_size=20
)


@settings(max_examples=80, deadline=None)
@given(chunks, st.sampled_from(["rtu", "tcp"]), st.sampled_from([0.0, BYTE_S]))
def test_no_bytes_and_no_fault_whatever_stop_the_bus(pieces: list[bytes], framing: Framing, byte_s: float) -> None:
    on = bus(1, 2, framing=framing, contract=RELAY, relay_delay_s=0.2)
    on.byte_s = byte_s
    kinds = [kind for kind in MEANINGFUL if framing == "rtu" or kind not in (K.BAD_CHECKSUM, K.BABBLE)]
    on.faults = FaultPlan(seed=1, faults=tuple(Fault(kind=kind, probability=0.3) for kind in kinds))
    monotonic = 0.0
    for piece in pieces:
        monotonic += 0.3
        on.receive(piece, monotonic, NOW + timedelta(seconds=monotonic))
        while (deadline := on.deadline) is not None and deadline < monotonic + 0.3:
            on.tick(max(deadline, monotonic), NOW + timedelta(seconds=max(deadline, monotonic)))
            assert all(on.take_output())


def test_meters_are_between_unit_1_and_247() -> None:
    for unit in (0, 248):
        with pytest.raises(ValueError, match="expected 1 to 247"):
            ModbusMeter(modbus_meter().model, modbus_meter().contract, unit)

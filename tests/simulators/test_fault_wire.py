"""Faults on the wire: each does what its name says to the bytes, repeatably from the seed, and can be switched off."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.framer import Damage, Framer, Heard
from protocols.dlt645.items import Di
from protocols.errors import BadChecksum
from simulators.dlt645_bus import Dlt645Bus
from simulators.faults import Fault, FaultKind, FaultPlan
from simulators.line import SimulatedLine
from simulators.virtual_time import VirtualClock, run
from tests.simulators.bench import ADDRESS, NOW, meter, relay

K = FaultKind
OTHER = "000000000001"
DELAY_S = 0.1
READ = m.encode(m.ReadRequest(di=Di("04000402")), ADDRESS).to_bytes(4)  # its meter number: the same for ever
Chunks = list[tuple[float, bytes]]


def bus(*addresses: str, edition: str = "2007") -> Dlt645Bus:
    return Dlt645Bus(
        [
            meter(address=address, seed=int(address), edition=edition, reply_delay_s=DELAY_S)
            for address in addresses or (ADDRESS,)
        ]
    )


def play(work: Callable[[VirtualClock], Coroutine[Any, Any, Chunks]]) -> Chunks:
    async def main(clock: VirtualClock, _: random.Random) -> Chunks:
        return await work(clock)

    return run(main, start=NOW)


def exchanges(
    *faults: Fault,
    seed: int = 1,
    count: int = 1,
    requests: list[bytes] | None = None,
    on: Dlt645Bus | None = None,
    baud: int | None = None,
    gap_s: float = 10.0,
) -> Chunks:
    """What a master hears that asks `count` times, with the time since the request before."""

    async def work(clock: VirtualClock) -> Chunks:
        the_bus = on if on is not None else bus()
        the_bus.faults = FaultPlan(seed=seed, faults=faults)
        heard: Chunks = []
        asked = 0.0

        class Master(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.append((clock.monotonic() - asked, data))

        line = SimulatedLine(the_bus, clock.world, baud=baud)
        transport = await line.connect(Master())
        for index in range(count):
            asked = clock.monotonic()
            transport.write(requests[index] if requests else READ)
            await asyncio.sleep(gap_s)
        line.close()
        return heard

    return play(work)


def fault(kind: FaultKind, **parameters: Any) -> Fault:
    return Fault(kind=kind, parameters=parameters)


((_, CLEAN),) = exchanges()
FRAME = Frame.from_bytes(CLEAN)


def bits_between(one: bytes, other: bytes) -> int:
    return sum((left ^ right).bit_count() for left, right in zip(one, other, strict=True))


def test_without_faults_the_reply_is_clean() -> None:
    assert FRAME.address == ADDRESS
    assert isinstance(m.decode(FRAME), m.ReadReply)


def test_silence_keeps_the_reply() -> None:
    assert exchanges(fault(K.SILENCE)) == []


def test_a_silent_meter_may_still_do_what_it_was_asked() -> None:
    freeze = m.encode(m.FreezeRequest("99999999"), ADDRESS).to_bytes(4)
    for obeys in (True, False):
        on = bus()
        assert exchanges(fault(K.SILENCE, obeys=obeys), requests=[freeze], on=on) == []
        assert (on.meters[0].model.instant_freeze(1, NOW + timedelta(hours=1)) is not None) is obeys


def test_a_late_reply_comes_after_the_time_out_it_was_told() -> None:
    heard = exchanges(fault(K.LATE_REPLY, timeout_s=0.5), count=200)
    delays = [delay for delay, _ in heard]
    assert {chunk for _, chunk in heard} == {CLEAN}
    assert 0.505 <= min(delays) < 0.6
    assert 2.4 < max(delays) <= 2.5


def test_a_wrong_address_is_another_meters_of_the_line_or_a_digit_away() -> None:
    requests = [READ] * 20
    with_other = exchanges(fault(K.WRONG_ADDRESS), on=bus(ADDRESS, OTHER), requests=requests, count=20)
    assert {Frame.from_bytes(chunk).address for _, chunk in with_other} == {OTHER}
    alone = [Frame.from_bytes(chunk).address for _, chunk in exchanges(fault(K.WRONG_ADDRESS), count=20)]
    assert {sum(a != b for a, b in zip(ADDRESS, address, strict=True)) for address in alone} == {1}
    ((_, given),) = exchanges(fault(K.WRONG_ADDRESS, address="000000000099"))
    assert Frame.from_bytes(given) == Frame("000000000099", FRAME.control, FRAME.payload)


@pytest.mark.parametrize("edition", ["2007", "1997"])
def test_a_wrong_di_is_the_only_thing_wrong(edition: str) -> None:
    di = Di("00010000" if edition == "2007" else "9010")
    request = m.encode(m.ReadRequest(di=di), ADDRESS).to_bytes(4)
    ((_, clean),) = exchanges(on=bus(edition=edition), requests=[request])
    ((_, chunk),) = exchanges(fault(K.WRONG_DI), on=bus(edition=edition), requests=[request])
    right, reply = m.decode(Frame.from_bytes(clean)), m.decode(Frame.from_bytes(chunk))
    assert isinstance(reply, m.ReadReply)
    assert isinstance(right, m.ReadReply)
    assert reply.di != di
    assert reply.data == right.data


def test_a_bad_checksum_is_one_byte_and_never_right() -> None:
    for _, chunk in exchanges(fault(K.BAD_CHECKSUM), count=100):
        assert chunk[:-2] + chunk[-1:] == CLEAN[:-2] + CLEAN[-1:]
        with pytest.raises(BadChecksum):
            Frame.from_bytes(chunk)


def test_a_bit_flip_turns_over_as_many_bits_as_it_says() -> None:
    heard = [chunk for _, chunk in exchanges(fault(K.BIT_FLIP), count=50)]
    assert {bits_between(chunk, CLEAN) for chunk in heard} == {1}
    assert len(set(heard)) > 30
    ((_, three),) = exchanges(fault(K.BIT_FLIP, bits=3))
    assert bits_between(three, CLEAN) == 3


def test_a_dropped_byte_and_a_half_reply_are_too_short() -> None:
    for _, chunk in exchanges(fault(K.DROPPED_BYTE), count=30):
        assert len(chunk) == len(CLEAN) - 1
        assert chunk.startswith(b"\xfe" * 4)
    ((_, half),) = exchanges(fault(K.HALF_REPLY, share=0.5))
    assert half == CLEAN[: len(CLEAN) // 2]
    drawn = {len(chunk) for _, chunk in exchanges(fault(K.HALF_REPLY), count=40)}
    assert len(drawn) > 10
    assert max(drawn) < len(CLEAN)


def test_a_split_reply_is_whole_when_its_chunks_are_put_together() -> None:
    heard = exchanges(fault(K.SPLIT, parts=4, gap_s=0.2))
    assert b"".join(chunk for _, chunk in heard) == CLEAN
    assert [delay for delay, _ in heard] == pytest.approx([0.1, 0.3, 0.5, 0.7])


def test_a_merged_reply_comes_with_the_next_one() -> None:
    first = Fault(kind=K.MERGE, until=NOW + timedelta(seconds=5))
    heard = exchanges(first, count=2)
    assert [chunk for _, chunk in heard] == [CLEAN + CLEAN]


def test_noise_stands_before_or_after_in_one_chunk_or_its_own() -> None:
    for _, chunk in exchanges(fault(K.NOISE_BEFORE, bytes=5), count=20):
        assert chunk.endswith(CLEAN)
        assert 1 <= len(chunk) - len(CLEAN) <= 5
    for _, chunk in exchanges(fault(K.NOISE_AFTER, bytes=5), count=20):
        assert chunk.startswith(CLEAN)
        assert 1 <= len(chunk) - len(CLEAN) <= 5
    (noise_at, _), (reply_at, reply) = exchanges(fault(K.NOISE_BEFORE, gap_s=0.3))
    assert [noise_at, reply_at] == pytest.approx([0.1, 0.4])
    assert reply == CLEAN
    assert next(chunk for _, chunk in exchanges(fault(K.NOISE_AFTER, gap_s=0.3))) == CLEAN


def test_a_doubled_reply_is_the_same_again() -> None:
    heard = exchanges(fault(K.DUPLICATE_REPLY, copies=2, gap_s=0.3))
    assert [delay for delay, _ in heard] == pytest.approx([0.1, 0.4, 0.7])
    assert [chunk for _, chunk in heard] == [CLEAN] * 3


def test_an_echo_is_the_request_at_once_even_when_nobody_answers() -> None:
    (echo_at, echo), (_, reply) = exchanges(fault(K.ECHO))
    assert (echo_at, echo, reply) == (0.0, READ, CLEAN)
    stranger = m.encode(m.ReadRequest(di=Di("00010000")), "000000000077").to_bytes(4)
    assert [chunk for _, chunk in exchanges(fault(K.ECHO), requests=[stranger])] == [stranger]


def test_faults_that_strike_together_all_show_and_are_counted() -> None:
    on = bus()
    heard = exchanges(fault(K.NOISE_BEFORE), fault(K.DUPLICATE_REPLY), fault(K.ECHO), count=5, on=on)
    assert len(heard) == 15
    assert on.struck == {"noise-before": 5, "duplicate-reply": 5, "echo": 5}


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not K.ACK_WITHOUT_SWITCH])
def test_the_same_seed_gives_the_same_bytes_and_switched_off_it_is_over(kind: FaultKind) -> None:
    each = Fault(kind=kind, probability=0.5, until=NOW + timedelta(seconds=65))
    one, two = exchanges(each, count=8), exchanges(each, count=8)
    assert one == two
    assert one[-1][1] == exchanges(on=bus(), count=8)[-1][1] or kind in (K.CLOCK_STEP, K.POWER_CUT, K.MERGE)


def test_faults_are_changed_while_the_line_runs() -> None:
    async def work(clock: VirtualClock) -> Chunks:
        the_bus, heard = bus(), []

        class Master(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                heard.append((clock.monotonic(), data))

        transport = await SimulatedLine(the_bus, clock.world).connect(Master())
        for plan in (FaultPlan(), FaultPlan().add(Fault(kind=K.SILENCE)), FaultPlan()):
            the_bus.faults = plan
            transport.write(READ)
            await asyncio.sleep(1)
        return heard

    assert [round(at) for at, _ in play(work)] == [0, 2]


@pytest.mark.parametrize("baud", [None, 2400])
def test_a_babbling_device_is_on_the_wire_for_its_share_of_the_time(baud: int | None) -> None:
    on = bus()
    heard = exchanges(Fault(kind=K.BABBLE, parameters={"duty": 0.3}), on=on, baud=baud, requests=[b""], gap_s=600.0)
    byte_s = 11 / 2400
    assert 0.27 < sum(len(chunk) for _, chunk in heard) * byte_s / 600 < 0.33
    assert on.struck["babble"] == pytest.approx(len(heard), abs=1)
    assert all(later >= earlier for (earlier, _), (later, _) in pairwise(heard))


def test_replies_that_meet_babble_are_spoilt_and_the_others_are_whole() -> None:
    def right(baud: int | None) -> int:
        babble = Fault(kind=K.BABBLE, parameters={"duty": 0.3, "bytes": 30})
        heard = exchanges(babble, count=100, baud=baud, gap_s=2.0)
        found = Framer().receive(b"".join(chunk for _, chunk in heard), 0.0)
        return sum(isinstance(each, Heard) for each in found)

    # On a wire with a rate requests meet the garbage, too: both must find a pause that is long enough.
    assert 2 < right(2400) < right(None) < 95


def test_babble_starts_and_ends_at_its_time_without_any_request() -> None:
    babble = Fault(kind=K.BABBLE, start=NOW + timedelta(seconds=100), until=NOW + timedelta(seconds=200))
    times = [at for at, _ in exchanges(babble, requests=[b""], gap_s=600.0)]
    assert 100 <= min(times) < 102
    assert 198 < max(times) <= 200.5


def test_damage_is_what_a_framer_makes_of_a_spoilt_reply() -> None:
    for kind in (K.BAD_CHECKSUM, K.HALF_REPLY, K.DROPPED_BYTE):
        framer = Framer()
        found = []
        for _, chunk in exchanges(fault(kind)):
            found = framer.receive(chunk, 0.0) + framer.tick(9.0)
        assert not any(isinstance(each, Heard) for each in found)
        assert all(isinstance(each, Damage) for each in found)


ALL = FaultPlan(
    seed=1,
    faults=tuple(Fault(kind=kind, probability=0.3, start=NOW if kind is K.POWER_CUT else None) for kind in FaultKind),
)
chunks = st.lists(
    st.sampled_from([READ, READ[:9], READ[9:], b"\x68", m.encode(relay(0x1A), ADDRESS).to_bytes()])
    | st.binary(max_size=40),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(chunks, st.sampled_from(["2007", "1997"]), st.sampled_from([0.0, 11 / 2400]))
def test_no_bytes_and_no_fault_whatever_stop_the_bus(pieces: list[bytes], edition: str, byte_s: float) -> None:
    on = bus(ADDRESS, OTHER, edition=edition)
    on.byte_s = byte_s
    on.faults = ALL
    monotonic = 0.0
    for piece in pieces:
        monotonic += 0.3
        on.receive(piece, monotonic, NOW + timedelta(seconds=monotonic))
        while (deadline := on.deadline) is not None and deadline < monotonic + 0.3:
            on.tick(max(deadline, monotonic), NOW + timedelta(seconds=max(deadline, monotonic)))
            assert all(on.take_output())

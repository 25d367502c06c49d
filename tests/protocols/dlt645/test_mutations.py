"""Mutated frames: nothing but the documented errors leaves the codec, and memory stays bounded. `--mutations N` sets how many."""

import random
import tracemalloc

import pytest

from firmware_contracts.contract import load
from firmware_contracts.errors import UnknownItem
from protocols.dlt645.frame import FRAME_SIZE_MAX, Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di
from protocols.dlt645.items import decode as decode_item
from protocols.dlt645.messages import FollowUpReply, ReadReply
from protocols.dlt645.messages import decode as decode_message
from protocols.errors import FrameError, ItemError, MessageError
from tests.vectors import constructed_vectors, dlt645_vectors

CONTRACTS = {"2007": load("dlt645/base_2007"), "1997": load("dlt645/base_1997")}


def mutated(wire: bytes, dice: random.Random) -> bytes:
    """One to four edits; half of the time the checksum is put right again, so that the damage gets past the frame."""
    frame = bytearray(wire)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(frame))
        match dice.randrange(4):
            case 0:
                frame[at] = dice.randrange(256)
            case 1:
                frame[at] ^= 1 << dice.randrange(8)
            case 2:
                del frame[at]
            case _:
                frame[at:at] = bytes([dice.randrange(256)])
        if len(frame) < 12:
            return bytes(frame)
    if dice.random() < 0.5:
        frame[0] = frame[7] = 0x68
        frame[9] = len(frame) - 12 & 0xFF
        frame[-2:] = bytes([sum(frame[:-2]) & 0xFF, 0x16])
    return bytes(frame)


def understood(frame: Frame) -> int:
    """How far a frame gets: 1 message, 2 item, 3 values."""
    try:
        message = decode_message(frame)
    except MessageError as error:
        assert error.wire == frame.payload
        return 0
    if not isinstance(message, ReadReply | FollowUpReply):
        return 1
    try:
        spec = CONTRACTS[message.di.dialect].find(message.di)
    except UnknownItem:
        return 1
    try:
        decode_item(message.data, spec)
    except ItemError:
        return 2
    except FrameError as error:  # a load record's own checksum
        assert "checksum" in str(error)
        return 2
    return 3


@pytest.mark.timeout(900)
def test_mutated_frames_give_documented_errors_only(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--mutations")
    dice = random.Random(20070)
    wires = [bytes.fromhex(vector["hex"]) for vector in [*dlt645_vectors(), *constructed_vectors()]]
    framer = Framer()
    depths = [0, 0, 0, 0]
    for _ in range(2000):  # compile and cache what there is to cache
        feed(framer, mutated(dice.choice(wires), dice), depths)
    tracemalloc.start()
    for _ in range(2000):
        feed(framer, mutated(dice.choice(wires), dice), depths)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for _ in range(count):
        feed(framer, mutated(dice.choice(wires), dice), depths)
    tracemalloc.start()
    for _ in range(2000):
        feed(framer, mutated(dice.choice(wires), dice), depths)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4_000_000, "memory grew with the number of frames"
    assert min(depths) > count / 2000, f"too few mutations reached some depth: {depths}"
    print(f"{count} mutated frames reached depths {depths}")


def feed(framer: Framer, wire: bytes, depths: list[int]) -> None:
    for item in framer.receive(wire, 0.0) + framer.tick(float("inf")):
        if isinstance(item, Heard):
            depths[understood(item.frame)] += 1
    assert len(framer._buffer) < FRAME_SIZE_MAX


def test_every_identifier_is_found_or_named_unknown() -> None:
    dice = random.Random(1)
    for _ in range(3000):
        size, edition = dice.choice(((4, "2007"), (2, "1997")))
        di = Di(dice.randbytes(size).hex())
        try:
            assert CONTRACTS[edition].find(di).di == di
        except UnknownItem as error:
            assert str(di) in str(error)

"""Finding frames in streams: three feedings, resynchronisation, gaps, echoes, bounds."""

import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dlt645.frame import FRAME_SIZE_MAX, Frame
from protocols.dlt645.framer import Damage, Framer, Heard
from protocols.errors import BadChecksum, TooShort
from tests.protocols.dlt645.test_frame import frames
from tests.vectors import constructed_vectors, dlt645_vectors

REPLY = bytes.fromhex("68 12 90 78 56 34 12 68 91 08 33 33 34 33 89 67 45 33 54 16")
OTHER = bytes.fromhex("68 03 00 00 00 00 00 68 91 06 33 34 34 35 36 56 C6 16")
Feeding = Callable[[bytes], Iterable[bytes]]


def whole(stream: bytes) -> Iterable[bytes]:
    return [stream]


def byte_by_byte(stream: bytes) -> Iterable[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def random_cuts(stream: bytes) -> Iterable[bytes]:
    cuts = sorted(random.Random(stream).sample(range(len(stream) + 1), k=min(5, len(stream))))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def heard(chunks: Iterable[bytes], framer: Framer | None = None) -> list[bytes]:
    framer = framer or Framer()
    found = [item for chunk in chunks for item in framer.receive(chunk, 0.0)]
    found += framer.tick(framer.deadline) if framer.deadline is not None else []
    return [item.wire for item in found if isinstance(item, Heard)]


@pytest.mark.parametrize("feeding", [whole, byte_by_byte, random_cuts])
@pytest.mark.parametrize("vector", [*dlt645_vectors(), *constructed_vectors()], ids=lambda vector: vector["id"])
def test_vectors_alone_in_noise_and_with_wake_up_bytes(vector: dict[str, object], feeding: Feeding) -> None:
    wire = bytes.fromhex(str(vector["hex"]))
    expected = [wire] if vector.get("valid", True) else []
    for before, after in [
        (b"", b""),
        (b"\xfe" * 4, b""),
        (b"\x00\xff\x16\x68", b"\x68"),
        (b"\x68\x68\x68", b"\x16\x00"),
    ]:
        # A lone 68H before a frame may claim its first bytes; the gap, or the search behind the start byte, gives them back.
        assert heard(feeding(before + wire + after)) == expected, (before.hex(), after.hex())


@pytest.mark.parametrize("feeding", [whole, byte_by_byte, random_cuts])
def test_two_frames_back_to_back(feeding: Feeding) -> None:
    assert heard(feeding(REPLY + OTHER)) == [REPLY, OTHER]


@given(st.lists(frames, max_size=4), st.randoms(use_true_random=False))
def test_any_chunking_gives_the_same_frames(sent: list[Frame], dice: random.Random) -> None:
    stream = b"".join(b"\xfe" * dice.randint(0, 4) + frame.to_bytes() for frame in sent)
    framer, found = Framer(), []
    while stream:
        size = dice.randint(1, 40)
        found += [item.frame for item in framer.receive(stream[:size], 0.0) if isinstance(item, Heard)]
        stream = stream[size:]
    assert found == sent


def test_start_and_end_bytes_inside_data_are_data() -> None:
    # 35H + 33H = 68H and E3H + 33H = 16H: both are legal in DATA and cut frames short in careless parsers.
    frame = Frame("000000000001", 0x91, bytes.fromhex("35 E3 CB 35 35 E3 E3 CB"))
    assert heard(byte_by_byte(frame.to_bytes())) == [frame.to_bytes()]


def test_a_damaged_frame_costs_only_its_start_byte() -> None:
    """The length byte claims the following good frame; it must be found all the same, without waiting for a gap."""
    lying = REPLY[:9] + bytes([len(OTHER) + 6]) + REPLY[10:]
    framer = Framer()
    found = framer.receive(lying + OTHER, 0.0)
    assert [item.wire for item in found if isinstance(item, Heard)] == [OTHER]
    assert isinstance(found[0], Damage)
    assert isinstance(found[0].error, BadChecksum)


def test_a_frame_hidden_behind_a_false_start_is_found_after_the_gap() -> None:
    false_start = bytes.fromhex("68 00 00 00 00 00 00 68 91 FF")
    framer = Framer(gap_s=0.5)
    assert framer.receive(false_start + REPLY, 10.0) == []
    assert framer.deadline == 10.5
    assert framer.tick(10.49) == []
    found = framer.tick(10.5)
    assert [type(item) for item in found] == [Damage, Heard]
    assert isinstance(found[0], Damage)
    assert isinstance(found[0].error, TooShort)
    assert framer.deadline is None


def test_half_a_frame_is_damage_after_the_gap_and_the_next_frame_is_whole() -> None:
    framer = Framer(gap_s=0.5)
    framer.receive(REPLY[:14], 0.0)
    assert "14 of 20 bytes" in str(next(item.error for item in framer.tick(0.5) if isinstance(item, Damage)))
    assert [item.wire for item in framer.receive(OTHER, 0.6) if isinstance(item, Heard)] == [OTHER]


def test_own_echo_is_dropped_once_and_counted() -> None:
    request = bytes.fromhex("FE FE FE FE 68 01 00 00 00 00 00 68 11 04 33 33 34 33 B3 16")
    framer = Framer()
    framer.expect_echo(request)
    assert heard(byte_by_byte(request + REPLY), framer) == [REPLY]
    assert framer.echoes == 1
    assert heard([request], framer) == [request[4:]]  # a second time it is somebody else's


def test_noise_is_counted_and_wake_up_bytes_are_not() -> None:
    framer = Framer()
    framer.receive(b"\x00\x01\xfe\xfe" + REPLY + b"\x02", 0.0)
    assert framer.noise_bytes == 3


@settings(max_examples=200)
@given(st.binary(max_size=2000), st.randoms(use_true_random=False))
def test_any_bytes_leave_at_most_one_frame_in_memory(stream: bytes, dice: random.Random) -> None:
    framer = Framer()
    while stream:
        size = dice.randint(1, 300)
        framer.receive(stream[:size], 0.0)
        stream = stream[size:]
        assert len(framer._buffer) < FRAME_SIZE_MAX

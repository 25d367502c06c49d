"""The frame shell: right frames, the one reason why a wrong one is wrong, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dlt645.frame import FRAME_SIZE_MAX, LAYOUT, Frame, address_matches
from protocols.errors import BadChecksum, BadEnd, BadLength, BadStart, EncodeError, FrameError, TooShort
from tests.vectors import constructed_vectors, dlt645_vectors

READ_TOTAL = bytes.fromhex("68 01 00 00 00 00 00 68 11 04 33 33 34 33 B3 16")

frames = st.builds(
    Frame,
    st.binary(min_size=6, max_size=6).map(lambda wire: wire.hex().upper()),
    st.integers(0, 255),
    st.binary(max_size=255),
)


def test_request_for_total_energy_both_ways() -> None:
    frame = Frame("000000000001", 0x11, bytes.fromhex("00 00 01 00"))
    assert frame.to_bytes() == READ_TOTAL
    assert Frame.from_bytes(READ_TOTAL) == frame


def test_wake_up_bytes_belong_neither_to_the_frame_nor_to_the_checksum() -> None:
    assert Frame.from_bytes(b"\xfe" * 4 + READ_TOTAL) == Frame.from_bytes(READ_TOTAL)
    assert Frame.from_bytes(READ_TOTAL).to_bytes(preamble=4) == b"\xfe" * 4 + READ_TOTAL


@given(frames)
def test_any_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert Frame.from_bytes(frame.to_bytes()) == frame
    assert len(frame.to_bytes()) <= FRAME_SIZE_MAX


@given(frames)
def test_the_declared_layout_and_the_frame_agree(frame: Frame) -> None:
    parts = LAYOUT.parse(frame.to_bytes())
    assert parts.address[::-1].hex().upper() == frame.address
    assert (parts.control, parts.length) == (frame.control, len(frame.payload))
    assert bytes((byte - 0x33) & 0xFF for byte in parts.data) == frame.payload


@given(st.binary(max_size=300))
def test_any_bytes_give_a_frame_or_a_frame_error(wire: bytes) -> None:
    try:
        frame = Frame.from_bytes(wire)
    except FrameError as error:
        assert error.wire == wire
    else:
        assert frame.to_bytes() == wire.lstrip(b"\xfe")


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"", TooShort),
        (b"\xfe\xfe", TooShort),
        (READ_TOTAL[:11], TooShort),
        (READ_TOTAL[:-1], TooShort),
        (READ_TOTAL + b"\x00", BadLength),
        (b"\x69" + READ_TOTAL[1:], BadStart),
        (READ_TOTAL[:7] + b"\x69" + READ_TOTAL[8:], BadStart),
        (READ_TOTAL[:-2] + b"\xb4\x16", BadChecksum),
        (READ_TOTAL[:-1] + b"\x17", BadEnd),
    ],
)
def test_each_damage_has_its_own_error(wire: bytes, error: type[FrameError]) -> None:
    with pytest.raises(error):
        Frame.from_bytes(wire)


def test_wrong_checksum_names_the_expected_one() -> None:
    with pytest.raises(BadChecksum, match="checksum is B4H, expected B3H") as caught:
        Frame.from_bytes(READ_TOTAL[:-2] + b"\xb4\x16")
    assert (caught.value.expected, caught.value.found) == (0xB3, 0xB4)


def test_a_payload_over_255_bytes_cannot_be_sent() -> None:
    with pytest.raises(EncodeError, match="256 bytes, expected at most 255"):
        Frame("000000000001", 0x14, bytes(256)).to_bytes()


@pytest.mark.parametrize("address", ["", "1", "00000000000G", "0000000000001"])
def test_an_address_that_is_not_six_bytes_cannot_be_sent(address: str) -> None:
    with pytest.raises(EncodeError, match="expected 12 hex digits"):
        Frame(address, 0x11, b"").to_bytes()


@pytest.mark.parametrize("vector", dlt645_vectors(), ids=lambda vector: vector["id"])
def test_vector_frames_as_given(vector: dict[str, object]) -> None:
    wire = bytes.fromhex(str(vector["hex"]))
    if not vector["valid"]:
        with pytest.raises(BadChecksum) as caught:
            Frame.from_bytes(wire)
        assert f"{caught.value.expected:02X}" == vector["expected_cs"]
        return
    frame = Frame.from_bytes(wire)
    assert frame.address == vector["addr"]
    assert f"{frame.control:02X}" == vector["c"]
    assert frame.payload.hex().upper() == vector["payload"]
    assert len(frame.payload) == vector["len"]
    parts = frame.control_parts
    assert (parts.from_meter, parts.error, parts.follow) == (vector["dir"] == "s2m", vector["error"], vector["follow"])
    assert frame.to_bytes() == wire


@pytest.mark.parametrize("vector", constructed_vectors(), ids=lambda vector: vector["id"])
def test_constructed_frames_both_ways(vector: dict[str, str]) -> None:
    wire = bytes.fromhex(vector["hex"])
    assert Frame.from_bytes(wire).to_bytes() == wire


@pytest.mark.parametrize(
    ("pattern", "address", "answers"),
    [
        ("000012345678", "000012345678", True),
        ("000012345678", "000012345679", False),
        ("AAAAAAAA5678", "000012345678", True),
        ("AAAAAAAA5678", "000012345679", False),
        ("AAAAAAAAAAAA", "000012345678", True),
        ("999999999999", "000012345678", True),
        ("AAAAAAAA5678", "AAAAAAAA5678", True),
        ("00AAAAAA5678", "001234565678", False),  # AA must go up to the highest byte
    ],
)
def test_which_addresses_answer_a_pattern(pattern: str, address: str, answers: bool) -> None:
    assert address_matches(pattern, address) is answers

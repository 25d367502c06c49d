"""Parity errors: the marks a POSIX port makes, taken out of the stream, and what they do to a frame."""

import asyncio
import os
import termios
import tty
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.clock import SystemClock
from headend.drivers.line import Line, Priority
from headend.drivers.parity import ParityMarks, Unmarking, mark_parity_errors
from headend.drivers.transport import LineUrl, connect
from headend.observability import LineCollector
from protocols.dlt645.framer import Damage, Framer, Heard
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, encode
from protocols.dlt645.session import Session
from protocols.errors import BadParity
from protocols.exchange import NoReply, Replied, Request, Silence, Timing
from tests.headend.drivers.operations_support import ADDRESS

REPLY = encode(ReadReply(di=Di("00010000"), data=bytes.fromhex("56341200")), ADDRESS).to_bytes()
ASK = Request(ADDRESS, ReadRequest(di=Di("00010000")))


def marked(stream: list[tuple[int, bool]]) -> bytes:
    """As a terminal driver hands it on: FF 00 before a damaged byte, an honest FF twice."""
    wire = b""
    for byte, is_damaged in stream:
        wire += bytes([0xFF, 0x00, byte]) if is_damaged else b"\xff\xff" if byte == 0xFF else bytes([byte])
    return wire


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_any_chunking_gives_the_bytes_and_the_places_of_the_damaged_ones(
    stream: list[tuple[int, bool]], dice: object
) -> None:
    wire = marked(stream)
    marks, found, places = ParityMarks(), b"", list[int]()
    at = 0
    while at < len(wire):
        size = dice.randint(1, 5)  # type: ignore[attr-defined]
        chunk, positions = marks.decode(wire[at : at + size])
        places += [len(found) + position for position in positions]
        found += chunk
        at += size
    assert found == bytes(byte for byte, _ in stream)
    assert places == [index for index, (_, is_damaged) in enumerate(stream) if is_damaged]


def test_a_stream_without_marks_is_handed_on_as_it_is() -> None:
    assert ParityMarks().decode(b"\x68\x00\xfe") == (b"\x68\x00\xfe", [])


@pytest.mark.parametrize("at", range(len(REPLY)))
def test_a_marked_byte_makes_the_frame_damaged_although_its_checksum_is_right(at: int) -> None:
    framer = Framer()
    found = framer.receive(REPLY, 0.0, [at]) + framer.tick(1.0)
    assert not any(isinstance(item, Heard) for item in found)
    if at >= 10:
        assert any(isinstance(item, Damage) and isinstance(item.error, BadParity) for item in found)
    assert [type(item) for item in framer.receive(REPLY, 2.0)] == [Heard]


@pytest.mark.parametrize("noise", [b"\x68", b"\x00\x68\xfe\xfe"])
def test_marked_noise_before_a_frame_does_not_damage_the_frame(noise: bytes) -> None:
    framer = Framer()
    found = framer.receive(noise, 0.0, [0]) + framer.receive(REPLY, 0.1) + framer.tick(1.0)
    assert [item.wire for item in found if isinstance(item, Heard)] == [REPLY]


@given(st.data())
def test_marks_keep_their_places_whatever_the_chunks(data: st.DataObject) -> None:
    """Three frames, the second with a mark somewhere: the first and the third are heard, in any chunking."""
    second = data.draw(st.integers(len(REPLY), 2 * len(REPLY) - 1))
    stream = REPLY * 3
    framer, found, at = Framer(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 30))
        marks = [second - at] if at <= second < at + size else []
        found += framer.receive(stream[at : at + size], 0.0, marks)
        at += size
    found += framer.tick(1.0)
    assert len([item for item in found if isinstance(item, Heard)]) == 2


def test_a_damaged_reply_ends_as_corrupt() -> None:
    session = Session(Timing(reply_timeout_s=0.5))
    session.request(ASK, 0.0)
    session.receive(REPLY, 0.1, [14])
    session.tick(0.7)
    (event,) = (event for event in session.take_events() if isinstance(event, NoReply))
    assert event.silence is Silence.CORRUPT


class Ear(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.damaged: list[int] = []

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def damaged_received(self, data: bytes, positions: Sequence[int]) -> None:
        self.damaged += [len(self.heard) + at for at in positions]
        self.heard += data


def test_marks_reach_a_protocol_that_wants_them_and_others_get_plain_bytes() -> None:
    ear = Ear()
    port = Unmarking(ear)
    port.marking = True
    for chunk in (b"\x68\xff", b"\x00\x31\xff", b"\xff\x16"):
        port.data_received(chunk)
    assert (ear.heard, ear.damaged) == (b"\x68\x31\xff\x16", [1])
    ear = Ear()
    Unmarking(ear).data_received(b"\xff\xff")
    assert ear.heard == b"\xff\xff", "a port that makes no marks doubles nothing"


@pytest.mark.skipif(os.name != "posix", reason="termios")
def test_the_kernel_doubles_ff_on_a_port_asked_to_mark_and_the_decoder_takes_it_back() -> None:
    """A pseudo-terminal makes no parity errors, but its driver does the doubling for real."""
    master, slave = os.openpty()
    try:
        tty.setraw(slave, termios.TCSANOW)
        assert mark_parity_errors(slave)
        os.write(master, b"\x68\xff\x00\xff\x16")
        wire = os.read(slave, 100)
        assert wire == b"\x68\xff\xff\x00\xff\xff\x16"
        assert ParityMarks().decode(wire) == (b"\x68\xff\x00\xff\x16", [])
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
async def test_a_real_line_counts_parity_errors_and_does_not_read_over_them() -> None:
    """The port is a pseudo-terminal; the marks, which it cannot make, are written by its other end."""
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    url = LineUrl.parse(f"serial://{os.ttyname(slave)}?baud=9600")

    async def connect_marking(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
        port = Unmarking(protocol)
        port.marking = True
        return await connect(url, port)

    line = Line("line", url, Timing(baud=9600, reply_timeout_s=0.3), connect=connect_marking, clock=SystemClock())
    try:
        await line.connect()
        began_at = line.monotonic()
        replies = [REPLY[:14] + b"\xff\x00" + REPLY[14:], REPLY]
        asyncio.get_running_loop().add_reader(master, lambda: os.read(master, 100) and os.write(master, replies.pop(0)))
        with pytest.raises(Exception, match="no right frame came"):
            await line.exchange(ASK, Priority.LIVE)
        assert line.counters.parity_errors == 1
        metrics = {metric.name: metric.samples[0].value for metric in LineCollector([line]).collect()}
        assert metrics["headend_line_parity_errors"] == 1
        replied = await line.exchange(Request(ADDRESS, ASK.message, began_at), Priority.LIVE)
        assert isinstance(replied, Replied)
        line.set_baud(4800)
        assert termios.tcgetattr(slave)[4] == termios.B4800
    finally:
        asyncio.get_running_loop().remove_reader(master)
        line.close()
        await asyncio.sleep(0.05)
        os.close(master)
        os.close(slave)

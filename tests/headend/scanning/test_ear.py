"""What is heard in one exchange, over chunks, echoes and damage."""

import asyncio
import random

from headend.drivers.transport import LineUrl
from headend.scanning.ear import Ear, Heed
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, encode
from simulators.virtual_time import VirtualClock, run

ENERGY = Di("00010000")
ASKED = encode(ReadRequest(di=ENERGY), "AAAAAAAAAA42")
FIRST = encode(ReadReply(di=ENERGY, data=bytes(4)), "000000000042").to_bytes(2)
SECOND = encode(ReadReply(di=ENERGY, data=bytes(4)), "000000000142").to_bytes(2)


class Script(asyncio.Transport):
    """Plays (seconds after the request, bytes, places with a parity error)."""

    def __init__(self, ear: Ear, *script: tuple[float, bytes, tuple[int, ...]], echo: bool = False) -> None:
        super().__init__()
        self._ear = ear
        self._script = script
        self._echo = echo

    def write(self, data: bytes | bytearray | memoryview) -> None:
        loop = asyncio.get_running_loop()
        if self._echo:
            loop.call_soon(self._ear.data_received, bytes(data))
        for at, chunk, marked in self._script:
            if marked:
                loop.call_later(at, self._ear.damaged_received, chunk, marked)
            else:
                loop.call_later(at, self._ear.data_received, chunk)

    def abort(self) -> None:
        pass


def hear(*script: tuple[float, bytes, tuple[int, ...]], echo: bool = False, until: str = "") -> tuple[Heed, float]:
    async def main(clock: VirtualClock, _: random.Random) -> tuple[Heed, float]:
        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = Script(ear, *script, echo=echo)
            protocol.connection_made(transport)
            return transport

        ear = Ear(LineUrl.parse("tcp://x:1"), connect=connect, clock=clock)
        await ear.connect()
        heed = await ear.ask(ASKED, 0.6, until=until)
        return heed, clock.monotonic()

    return run(main)


def addresses(heed: Heed) -> list[str]:
    return [frame.address for frame in heed.frames]


def test_silence_lasts_exactly_the_wait() -> None:
    heed, elapsed_s = hear()
    assert heed.is_silent
    assert elapsed_s == 0.6


def test_a_first_reply_does_not_end_the_exchange_and_a_second_is_heard() -> None:
    heed, elapsed_s = hear((0.05, FIRST, ()), (0.5, SECOND, ()))
    assert addresses(heed) == ["000000000042", "000000000142"]
    assert heed.first_s == 0.05
    assert elapsed_s == 0.6


def test_the_reply_of_the_one_address_asked_ends_the_exchange() -> None:
    heed, elapsed_s = hear((0.05, FIRST, ()), until="000000000042")
    assert addresses(heed) == ["000000000042"]
    assert elapsed_s < 0.2


def test_bytes_that_keep_coming_hold_the_exchange_until_the_frame_is_whole() -> None:
    pieces = [(0.55 + 0.02 * index, FIRST[index : index + 1], ()) for index in range(len(FIRST))]
    heed, elapsed_s = hear(*pieces)
    assert addresses(heed) == ["000000000042"]
    assert elapsed_s > 0.6


def test_a_babbling_device_cannot_hold_the_exchange_for_ever() -> None:
    heed, elapsed_s = hear(*((0.02 * index, b"\x68", ()) for index in range(1, 1000)))
    assert heed.frames == ()
    assert heed.stray > 50
    assert elapsed_s <= 0.6 + 3.0 + 0.1


def test_our_own_echo_is_nothing_heard() -> None:
    heed, _ = hear(echo=True)
    assert heed.is_silent


def test_a_foreign_request_is_a_second_master() -> None:
    foreign = encode(ReadRequest(di=ENERGY), "000000000777")
    heed, _ = hear((0.1, foreign.to_bytes(4), ()))
    assert heed.second_master == Frame.from_bytes(foreign.to_bytes())


def test_a_frame_with_a_parity_error_is_stray_bytes() -> None:
    heed, _ = hear((0.1, FIRST, (9,)))
    assert heed.frames == ()
    assert heed.parity_errors == 1
    assert heed.stray >= 12


def test_half_a_reply_is_counted_in_its_own_exchange() -> None:
    heed, _ = hear((0.1, FIRST[:12], ()))
    assert heed.stray == 10, "two wake-up bytes are not counted"

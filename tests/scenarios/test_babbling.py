"""A device that talks without being asked, 30 % of the time: requests keep their deadlines, and the line is named as babbling."""

import asyncio
import random
from typing import Any

from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.transport import LineUrl
from protocols.dlt645.frame import FRAME_SIZE_MAX, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.exchange import BITS_PER_BYTE, Timing
from simulators.virtual_time import VirtualClock, run

METER = "000000000001"
TOTAL = load("dlt645/base_2007").find(Di("00010000"))
BAUD = 2400
BYTE_S = BITS_PER_BYTE / BAUD
TIMING = Timing(baud=BAUD, reply_timeout_s=1.0)
# What a request may take beside the meter's time-out: to wait until the line is drained of the one before, to be sent, and the
# longest frame that may have begun at the end of the time-out.
BESIDE_S = TIMING.drain_s_max + 20 * BYTE_S + (FRAME_SIZE_MAX + 4) * BYTE_S
DUTY = 0.30


class Babbled(asyncio.Transport):
    """A good meter and a bad neighbour. Bursts overlap replies as they do on a wire: bytes are lost to each other."""

    def __init__(self, protocol: asyncio.Protocol, dice: random.Random) -> None:
        super().__init__()
        self.protocol = protocol
        self.dice = dice
        self.talking_until = 0.0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        size = self.dice.randint(20, 120)
        self.talking_until = loop.time() + size * BYTE_S
        for number in range(size):
            # Every other burst is full of 68H, so that it looks like frames that have begun.
            byte = 0x68 if self.dice.random() < 0.3 else self.dice.randrange(256)
            loop.call_later(number * BYTE_S, self.protocol.data_received, bytes([byte]))
        loop.call_later(size * BYTE_S / DUTY, self.start)

    def write(self, data: Any) -> None:
        frame = Frame.from_bytes(bytes(data))
        request = decode(frame)
        assert isinstance(request, ReadRequest)
        reply = encode(ReadReply(di=request.di, data=bytes(4)), frame.address).to_bytes()
        loop = asyncio.get_running_loop()
        start = loop.time() + (len(data) * BYTE_S) + 0.05
        if start + len(reply) * BYTE_S > self.talking_until:
            loop.call_at(start + len(reply) * BYTE_S, self.protocol.data_received, reply)

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False


def on_a_line(*, babbles: bool) -> tuple[list[float], list[str], str]:
    """How far reads of five minutes passed their deadlines, their outcomes, and what the line says of itself after a minute."""
    over: list[float] = []
    outcomes: list[str] = []
    diagnoses: list[str] = []

    async def main(clock: VirtualClock, dice: random.Random) -> None:
        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = Babbled(protocol, dice)
            protocol.connection_made(transport)
            if babbles:
                transport.start()
            return transport

        line = Line("line", LineUrl.parse(f"tcp://far.end:1?baud={BAUD}"), TIMING, connect=connect, clock=clock)
        await line.connect()
        driver = Dlt645Driver(line, retries=0)
        asyncio.get_running_loop().call_later(60, lambda: diagnoses.append(line.diagnosis))
        while clock.monotonic() < 300:
            began = clock.monotonic()
            deadline = began + (line.patience.timeout_s(METER) or TIMING.reply_timeout_s) + BESIDE_S
            try:
                await driver.read(METER, TOTAL, Priority.LIVE, began_at=0.0)
                outcomes.append("read")
            except DriverError as error:
                outcomes.append(error.kind)
            over.append(clock.monotonic() - deadline)
            await asyncio.sleep(1.0)
        line.close()

    run(main, seed=30)
    return over, outcomes, diagnoses[0]


def test_no_request_passes_its_deadline_and_the_line_is_named_within_a_minute() -> None:
    over, outcomes, diagnosis = on_a_line(babbles=True)
    assert max(over) <= 0.1
    assert outcomes.count("read") > 0.2 * len(outcomes)
    assert diagnosis.startswith("babbling")


def test_a_quiet_line_is_not_called_babbling() -> None:
    over, outcomes, diagnosis = on_a_line(babbles=False)
    assert set(outcomes) == {"read"}
    assert max(over) < 0
    assert diagnosis == ""

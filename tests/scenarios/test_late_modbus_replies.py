"""A Modbus RTU line on which every tenth reply is late: no block is ever filed under another meter, another block, or an older read.

RTU replies carry neither a number nor the address that was asked for, so that only what the head-end does can tell them apart. The far
end queues requests, as serial servers and concentrators do: what missed its time-out still comes, up to five time-outs later, and
what was asked meanwhile comes after it. One byte of noise goes before every reply. Every register carries who was asked, for what, and
with which asking. `--late-reads N` sets how many (full run: 1,000,000); `make bench` has pymodbus' client on such a line.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl
from protocols.modbus.adu import RtuFrame
from protocols.modbus.pdu import ReadRegisters, Registers, decode_request, encode_reply
from simulators.virtual_time import VirtualClock, run

UNITS = [str(unit) for unit in range(1, 21)]
STARTS = [0, 8, 16, 1000, 1008]
SIZES = [4, 4, 4, 4, 6]  # most blocks have one size, so that size tells nothing
TIMEOUT_S = 0.5
LATE = 0.10


class QueueingFarEnd(asyncio.Transport):
    """Answers with registers unit, start, and the number of the asking (32 bits), then more of the last."""

    def __init__(self, protocol: asyncio.Protocol, dice: random.Random) -> None:
        super().__init__()
        self.protocol = protocol
        self.dice = dice
        self.asked = 0
        self.late = 0
        self.free_at = 0.0

    def write(self, data: Any) -> None:
        frame = RtuFrame.from_bytes(bytes(data))
        request = decode_request(frame.pdu)
        assert isinstance(request, ReadRegisters)
        self.asked += 1
        words = [frame.unit, request.start, self.asked >> 16, self.asked & 0xFFFF, 0, 0][: request.count]
        content = b"".join(word.to_bytes(2, "big") for word in words)
        loop = asyncio.get_running_loop()
        delay_s = 0.05
        if self.dice.random() < LATE:
            delay_s = TIMEOUT_S * self.dice.uniform(1.01, 5)
            self.late += 1
        self.free_at = max(self.free_at, loop.time()) + delay_s
        reply = RtuFrame(frame.unit, encode_reply(Registers(request.function, content))).to_bytes()
        loop.call_at(self.free_at, self.protocol.data_received, self.dice.randbytes(1) + reply)

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False


@pytest.mark.timeout(3600)
def test_no_block_is_misattributed_and_almost_every_read_succeeds(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--late-reads")
    outcomes: Counter[str] = Counter()

    async def main(clock: VirtualClock, dice: random.Random) -> None:
        ends: list[QueueingFarEnd] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            ends.append(QueueingFarEnd(protocol, dice))
            protocol.connection_made(ends[-1])
            return ends[-1]

        url = LineUrl.parse("tcp://far.end:1")
        timing = timing_of(url, "modbus-rtu", reply_timeout_s=TIMEOUT_S)
        line = Line("line", url, timing, connect=connect, clock=clock, session=session_of("modbus-rtu"))
        await line.connect()
        driver = ModbusDriver(line, retries=4)
        for number in range(count):
            # Mostly in turn, as a poller asks; sometimes the same again at once, which is what late replies wait for.
            unit = UNITS[number % len(UNITS)] if dice.random() < 0.7 else UNITS[0]
            place = number // len(UNITS) % len(STARTS) if dice.random() < 0.7 else 0
            first_asking = ends[0].asked + 1
            try:
                content, _ = await driver.read_registers(unit, 3, STARTS[place], SIZES[place], Priority.LIVE)
            except DriverError as error:
                outcomes[error.kind] += 1
                continue
            words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, 8, 2)]
            is_own = words[:2] == [int(unit), STARTS[place]]
            is_fresh = (words[2] << 16 | words[3]) >= first_asking
            outcomes["right" if is_own and is_fresh else "misattributed"] += 1
        outcomes["late"] = ends[0].late
        outcomes["unmatched frames"] = line.counters.unmatched_frames
        line.close()

    run(main, seed=1)
    print(dict(outcomes))
    assert outcomes["misattributed"] == 0
    assert outcomes["late"] > count * LATE * 0.8
    assert outcomes["right"] >= 0.999 * count


def test_no_block_is_misattributed_over_connections_that_break_while_the_serial_server_goes_on() -> None:
    """Whoever is connected hears every reply; one may have been asked for by the connection before."""
    outcomes: Counter[str] = Counter()

    async def main(clock: VirtualClock, dice: random.Random) -> None:
        ends: list[QueueingFarEnd] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            if not ends:
                ends.append(QueueingFarEnd(protocol, dice))
            protocol.connection_made(ends[0])
            return ends[0]

        url = LineUrl.parse("tcp://far.end:1")
        timing = timing_of(url, "modbus-rtu", reply_timeout_s=TIMEOUT_S)
        line = Line("line", url, timing, connect=connect, clock=clock, session=session_of("modbus-rtu"))
        await line.connect()
        driver = ModbusDriver(line, retries=2)
        for _ in range(2000):
            if not line.is_up:
                await asyncio.sleep(dice.uniform(0.0, 1.0))
                await line.connect()
            unit, place = UNITS[0], dice.randrange(len(STARTS))
            first_asking = ends[0].asked + 1
            loss = asyncio.get_running_loop().call_later(dice.uniform(0.0, 20.0), line.close, "lost")
            try:
                content, _ = await driver.read_registers(unit, 3, STARTS[place], SIZES[place], Priority.LIVE)
            except DriverError as error:
                outcomes[error.kind] += 1
            else:
                words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, 8, 2)]
                is_own = words[:2] == [int(unit), STARTS[place]] and (words[2] << 16 | words[3]) >= first_asking
                outcomes["right" if is_own else "misattributed"] += 1
            finally:
                loss.cancel()
        line.close()

    run(main, seed=2)
    assert outcomes["misattributed"] == 0, outcomes
    assert outcomes["line-down"] > 20
    assert outcomes["right"] > 1500

"""A line on which every tenth reply is late: no value is ever filed under another meter, another item, or an older read.

The far end queues, as serial servers and concentrators do: an answer that missed its time-out still comes, up to five time-outs
later. Every value carries who was asked, for what, and with which asking, so that a wrong one is seen at once.
`--late-reads N` sets how many (full run: 1,000,000).
"""

import asyncio
import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.transport import LineUrl
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.exchange import Timing
from simulators.virtual_time import VirtualClock, run

CONTRACT = load("dlt645/base_2007")
ITEMS = [CONTRACT.find(Di(f"0001{tariff:02}00")) for tariff in range(5)]
METERS = [f"{number:012}" for number in range(1, 21)]
TIMEOUT_S = 0.5
LATE, DOUBLED, ASTRAY = 0.10, 0.05, 0.02  # shares of replies; noise comes before every one


class QueueingFarEnd(asyncio.Transport):
    """Answers with values XXYNNNNN: meter, item, and the number of the asking."""

    def __init__(self, protocol: asyncio.Protocol, dice: random.Random) -> None:
        super().__init__()
        self.protocol = protocol
        self.dice = dice
        self.asked = 0
        self.sent: Counter[str] = Counter()

    def write(self, data: Any) -> None:
        frame = Frame.from_bytes(bytes(data))
        request = decode(frame)
        assert isinstance(request, ReadRequest)
        self.asked += 1
        meter, item = int(frame.address), int(str(request.di)[2:6][2:])
        value = f"{meter:02}{item}{self.asked % 100_000:05}"
        reply = ReadReply(di=request.di, data=bytes.fromhex(value)[::-1])
        dice = self.dice
        address = f"9{dice.randrange(10**11):011}" if dice.random() < ASTRAY else frame.address
        delay_s = 0.05
        if dice.random() < LATE:
            delay_s = TIMEOUT_S * dice.uniform(1.01, 5)
            self.sent["late"] += 1
        wire = dice.randbytes(dice.randint(1, 12)) + encode(reply, address).to_bytes(dice.randint(0, 4))
        self._send(delay_s, wire)
        if dice.random() < DOUBLED:
            self.sent["doubled"] += 1
            self._send(delay_s + dice.uniform(0.0, 0.2), wire)

    def _send(self, delay_s: float, wire: bytes) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.protocol.data_received, wire)

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False


@pytest.mark.timeout(3600)
def test_no_value_is_misattributed_and_almost_every_read_succeeds(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--late-reads")
    outcomes: Counter[str] = Counter()

    async def main(clock: VirtualClock, dice: random.Random) -> None:
        ends: list[QueueingFarEnd] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            ends.append(QueueingFarEnd(protocol, dice))
            protocol.connection_made(ends[-1])
            return ends[-1]

        url = LineUrl.parse("tcp://far.end:1")
        line = Line("line", url, Timing(reply_timeout_s=TIMEOUT_S), connect=connect, clock=clock)
        await line.connect()
        driver = Dlt645Driver(line, retries=4)
        for number in range(count):
            # Mostly in turn, as a poller asks; sometimes the same again at once, which is what late replies wait for.
            meter = METERS[number % len(METERS)] if dice.random() < 0.7 else METERS[0]
            spec = ITEMS[number // len(METERS) % len(ITEMS)] if dice.random() < 0.7 else ITEMS[0]
            first_asking = ends[0].asked + 1
            try:
                reading = await driver.read(meter, spec, Priority.LIVE)
            except DriverError as error:
                outcomes[error.kind] += 1
                continue
            content = reading.values[0].content
            assert isinstance(content, Decimal)
            digits = f"{int(content * 100):08}"
            asking = int(digits[3:])
            is_own = digits[:3] == f"{int(meter):02}{int(str(spec.di)[4:6])}"
            is_fresh = (asking - first_asking) % 100_000 < 50
            outcomes["right" if is_own and is_fresh else "misattributed"] += 1
        outcomes.update(ends[0].sent)
        outcomes["unmatched frames"] = line.counters.unmatched_frames
        line.close()

    run(main, seed=645)
    print(dict(outcomes))
    assert outcomes["misattributed"] == 0
    assert outcomes["late"] > count * LATE * 0.8
    assert outcomes["right"] >= 0.999 * count

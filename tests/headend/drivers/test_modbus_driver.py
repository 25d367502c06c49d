"""The Modbus driver over simulated meters in virtual time: what is refused, and what is busy. Its relay: test_modbus_relay."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from firmware_contracts.modbus_contract import ModbusContract, load_modbus, register_point
from headend.drivers.errors import RefusedByMeter, SilentBehind
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl
from headend.quantities import plan_questions, question_of
from protocols.modbus.adu import RtuFrame
from protocols.modbus.pdu import (
    ModbusException,
    ReadRegisters,
    Registers,
    decode_request,
    encode_reply,
)
from protocols.values import MeterAddress
from simulators.faults import Fault, FaultPlan
from simulators.line import SimulatedLine
from simulators.meter import MeterModel
from simulators.modbus_bus import ModbusBus
from simulators.modbus_meter import ModbusMeter
from simulators.virtual_time import START, VirtualClock, run

URL = LineUrl.parse("tcp://far.end:1")
SDM630 = load_modbus("modbus/eastron_sdm630")
Story = Callable[[Line, ModbusBus, VirtualClock], Awaitable[None]]


def a_meter(contract: ModbusContract, unit: int = 5, **options: Any) -> ModbusMeter:
    model = MeterModel(MeterAddress(f"{unit:012}"), seed=11, clock_set_at=START, drift_ppm=0, clock_offset_s=0)
    return ModbusMeter(model, contract, unit, reply_delay_s=0.02, **options)


def on_site(story: Story, *meters: ModbusMeter, protocol: str = "modbus-rtu", faults: tuple[Fault, ...] = ()) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        bus = ModbusBus(list(meters), framing="tcp" if protocol == "modbus-tcp" else "rtu")
        bus.faults = FaultPlan(seed=1, faults=faults)
        simulated = SimulatedLine(bus, clock.world)
        line = Line(
            "line",
            URL,
            timing_of(URL, protocol, reply_timeout_s=0.5),
            connect=lambda _, protocol: simulated.connect(protocol),
            clock=clock,
            session=session_of(protocol),
        )
        await line.connect()
        await story(line, bus, clock)
        line.close()

    run(main)


@pytest.mark.parametrize("protocol", ["modbus-rtu", "modbus-tcp"])
def test_a_plan_is_read_in_few_blocks_and_every_register_is_there(protocol: str) -> None:
    quantities = ["1-0:1.8.0", "1-0:2.8.0", "1-0:32.7.0", "1-0:16.7.0", "reg:4:0x0046:float32"]

    async def story(line: Line, bus: ModbusBus, clock: VirtualClock) -> None:
        driver = ModbusDriver(line)
        questions = plan_questions(SDM630, quantities)
        assert len(questions) == 1  # 80 registers at once, holes allowed
        reading = await driver.ask("5", questions[0], Priority.LIVE)  # type: ignore[arg-type]
        found = dict(zip((one.name for one in questions[0].registers), reading.values, strict=True))
        assert set(found) == {"1-0:1.8.0", "1-0:2.8.0", "1-0:32.7.0", "1-0:16.7.0", "1-0:14.7.0"}
        voltage = found["1-0:32.7.0"].content
        assert isinstance(voltage, Decimal)
        assert 180 < voltage < 260
        assert line.counters.requests == 1

    on_site(story, a_meter(SDM630), protocol=protocol)


def test_a_block_that_is_refused_whole_is_read_point_by_point_from_then_on() -> None:
    """The contract allows holes, this meter does not, as firmware differs."""

    async def story(line: Line, bus: ModbusBus, _: VirtualClock) -> None:
        driver = ModbusDriver(line)
        (question,) = plan_questions(SDM630, ["1-0:32.7.0", "1-0:14.7.0", "1-0:1.8.0"])
        for asked in (1 + 3, 1 + 3 + 3):
            reading = await driver.ask("5", question, Priority.LIVE)  # type: ignore[arg-type]
            assert [value.name for value in reading.values] == ["voltage_l1", "frequency", "import_active_energy"]
            assert all(isinstance(value.content, Decimal) for value in reading.values)
            assert not reading.refused
            assert line.counters.requests == asked

    on_site(story, a_meter(SDM630, holes="rejected"))


def test_what_the_meter_refuses_by_itself_is_missing_and_the_rest_is_read() -> None:
    class Picky(asyncio.Transport):
        def __init__(self, protocol: asyncio.Protocol) -> None:
            super().__init__()
            self.protocol = protocol

        def write(self, data: Any) -> None:
            frame = RtuFrame.from_bytes(bytes(data))
            request = decode_request(frame.pdu)
            assert isinstance(request, ReadRegisters)
            known = range(0x0046, 0x004A)
            stretch = range(request.start, request.start + request.count)
            is_there = stretch.start in known and stretch[-1] in known
            content = bytes.fromhex("42480000" * 40)[: 2 * request.count]
            reply = Registers(4, content) if is_there else ModbusException(4, 2)
            asyncio.get_running_loop().call_later(
                0.01, self.protocol.data_received, RtuFrame(frame.unit, encode_reply(reply)).to_bytes()
            )

        def abort(self) -> None: ...

        def is_closing(self) -> bool:
            return False

    async def main(clock: VirtualClock, _: object) -> None:
        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = Picky(protocol)
            protocol.connection_made(transport)
            return transport

        line = Line(
            "line", URL, timing_of(URL, "modbus-rtu"), connect=connect, clock=clock, session=session_of("modbus-rtu")
        )
        await line.connect()
        (question,) = plan_questions(SDM630, ["1-0:32.7.0", "1-0:14.7.0", "1-0:1.8.0"])
        reading = await ModbusDriver(line).ask("5", question, Priority.LIVE)  # type: ignore[arg-type]
        assert [value.content for value in reading.values] == [None, Decimal(50), Decimal(50)]
        assert reading.refused == {0: "refused"}
        nothing = question_of(register_point("reg:4:0x0100:float32"))
        with pytest.raises(RefusedByMeter, match="exception 02H"):
            await ModbusDriver(line).ask("5", nothing, Priority.LIVE)  # type: ignore[arg-type]
        line.close()

    run(main)


@pytest.mark.parametrize(("code", "kind", "asked"), [(0x06, "refused", 3), (0x0B, "silent", 3), (0x04, "refused", 1)])
def test_a_busy_meter_and_one_that_its_concentrator_cannot_reach_are_asked_again(
    code: int, kind: str, asked: int
) -> None:
    class Refusing(asyncio.Transport):
        def __init__(self, protocol: asyncio.Protocol) -> None:
            super().__init__()
            self.protocol = protocol

        def write(self, data: Any) -> None:
            frame = RtuFrame.from_bytes(bytes(data))
            reply = RtuFrame(frame.unit, encode_reply(ModbusException(frame.pdu[0], code)))
            asyncio.get_running_loop().call_later(0.01, self.protocol.data_received, reply.to_bytes())

        def abort(self) -> None: ...

        def is_closing(self) -> bool:
            return False

    async def main(clock: VirtualClock, _: object) -> None:
        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = Refusing(protocol)
            protocol.connection_made(transport)
            return transport

        line = Line(
            "line", URL, timing_of(URL, "modbus-rtu"), connect=connect, clock=clock, session=session_of("modbus-rtu")
        )
        await line.connect()
        question = question_of(register_point("reg:3:0:uint16"))
        with pytest.raises((RefusedByMeter, SilentBehind)) as refused:
            await ModbusDriver(line, retries=2).ask("5", question, Priority.LIVE)  # type: ignore[arg-type]
        assert refused.value.kind == kind
        assert line.counters.requests == asked
        line.close()

    run(main)

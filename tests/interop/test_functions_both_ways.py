"""Every function that PyPI `dlt645` offers, in both roles: its client against our simulated meter, our driver against its server.

Where the two do not understand each other, the test says who is wrong, by DL/T 645-2007 and by frames captured from meters. The
foreign package, version 3, has these of its own: times and freeze moments high byte first; rate words in BCD of rate/300 instead of
one bit; 18H with a DI of 40000C0x and without the slot's number counted from one; 19H and 1AH with DI and password instead of
password and operator; 15H sent to the meter's own address; demand times read from the wrong end.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

os.environ.setdefault("LOGURU_LEVEL", "ERROR")

import dlt645
from dlt645.model.types.dlt645_type import Demand

from firmware_contracts.contract import load
from headend.clock import SystemClock
from headend.drivers.dialect import detect_dialect
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.dlt645_operations import Dlt645Operations, Outcome, TerminalOutput
from headend.drivers.errors import Contradicted, NotOffered, RateFixed, RefusedByMeter
from headend.drivers.line import Line, Priority
from headend.drivers.transport import LineUrl, connect
from headend.secrets import Authority
from protocols.dlt645.control import Dialect
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.items import decode as decode_item
from protocols.dlt645.messages import FreezeRequest, RateRequest, decode
from protocols.exchange import Replied, Request, Timing
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine, serve_tcp
from simulators.load_curve import Kind
from simulators.meter import MeterModel

pytestmark = pytest.mark.interop

BASE = load("dlt645/base_2007")
ADDRESS = "202512340017"
NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)
LOCAL = datetime(2025, 6, 17, 11, 30)
ON_DEMAND = Priority.ON_DEMAND


def wire_order(digits: str) -> str:
    """The foreign package takes addresses as they stand on the wire."""
    return bytes.fromhex(digits)[::-1].hex()


# ------------------------------------------------------------------------------------------------ its client, our meter


class Bench:
    """Our meter behind a socket, its client, and what crossed the wire."""

    def __init__(self, meter: Dlt645Meter, client: Any) -> None:
        self.meter = meter
        self.client = client

    async def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    def frames(self, direction: str) -> list[Frame]:
        records = getattr(self.client, f"get_captured_{direction}_messages")()
        return [Frame.from_bytes(bytes(record.data)) for record in records]

    def count(self, di: str) -> Any:
        """What the meter itself says of how often something was done."""
        return decode_item(b"".join(self.meter.items.read(Di(di), NOW)), BASE.find(Di(di)))[0].content

    def reply_control(self) -> int:
        return self.frames("rx")[-1].control


@pytest.fixture(scope="module")
def foreign_client() -> Any:
    """One for all tests: each new one copies its table of some ten thousand items, which takes seconds."""
    return dlt645.MeterClientService.new_tcp_client("127.0.0.1", 0, timeout=0.3)


@pytest.fixture
async def bench(foreign_client: Any) -> AsyncIterator[Bench]:
    model = MeterModel(
        MeterAddress(ADDRESS), seed=11, kind=Kind.FACTORY, clock_set_at=NOW, drift_ppm=0, clock_offset_s=0
    )
    meter = Dlt645Meter(model, BASE, reply_delay_s=0.0)
    line = SimulatedLine(Dlt645Bus([meter]), lambda: NOW)
    server = await serve_tcp(line, "127.0.0.1", 0)
    client = foreign_client
    client.client.port = server.sockets[0].getsockname()[1]
    client.enable_message_capture(100)
    client.clear_captured_messages()
    assert client.set_address(wire_order(ADDRESS))
    async with server:
        try:
            yield Bench(meter, client)
        finally:
            client.disconnect()
            line.close()


async def test_its_client_reads_energies_demands_variables_events_and_parameters(bench: Bench) -> None:
    for method, di in (
        ("read_00", "00010000"),
        ("read_02", "02010100"),
        ("read_04", "04000302"),
    ):
        item = await bench.ask(method, int(di, 16))
        content = BASE.find(Di(di))
        (value,) = decode_item(b"".join(bench.meter.items.read(Di(di), NOW)), content)
        assert Decimal(str(item.value)) == value.content, di
    demand = await bench.ask("read_01", 0x01010000)
    assert demand.value.value > 0
    voltage_loss = await bench.ask("read_03", 0x03010000)  # count and minutes of three phases
    assert [record.value.event for record in voltage_loss] == [("000000", "000000")] * 3
    await bench.ask("write_04", 0x04000302, "07", "02000000")
    # Read once only: the client replaces its record by the text it read, and fails over that the second time.
    (programmings,) = await bench.ask("read_03", 0x03300000)
    assert int(programmings.value) == bench.count("03300000") == 1


async def test_its_client_writes_a_parameter(bench: Bench) -> None:
    # It has no item of its own for success: a normal reply gives None, as a refusal does. The meter tells.
    await bench.ask("write_04", 0x04000302, "07", "02000000")
    assert bench.reply_control() == 0x94
    item = await bench.ask("read_04", 0x04000302)
    assert item.value == "07"
    await bench.ask("write_04", 0x04000302, "08", "02999999")
    assert bench.reply_control() == 0xD4


async def test_its_client_reads_the_address(bench: Bench) -> None:
    assert bench.client.set_address("000000000000")
    assert await bench.ask("read_address") is not None
    assert bytes(bench.client.address)[::-1].hex() == ADDRESS


async def test_its_client_writes_an_address_only_where_the_standard_sends_it(bench: Bench) -> None:
    # 15H goes to AA..AA (DL/T 645-2007 §7.5); it sends it to the meter's own address, which a meter meets with silence.
    assert await bench.ask("write_address", wire_order("202512340018")) is None
    assert bench.meter.address == ADDRESS
    bench.client.address = bytearray(b"\xaa" * 6)
    assert await bench.ask("write_address", wire_order("202512340018")) is not None
    assert bench.meter.address == "202512340018"


async def test_its_broadcast_time_is_in_the_wrong_byte_order(bench: Bench) -> None:
    bench.meter.model.set_clock(LOCAL - timedelta(minutes=3), NOW)
    assert await bench.ask("broadcast_time_sync", LOCAL)
    await asyncio.sleep(0.1)
    # Sent is YY MM DD hh mm ss; the standard has ss first, so that a meter reads second 25, minute 06 … year 00.
    assert bench.frames("tx")[-1].payload.hex(" ") == "25 06 17 11 30 00"
    assert bench.meter.model.clock(NOW) == LOCAL - timedelta(minutes=3)


async def test_its_freezes_are_taken_where_byte_order_does_not_show(bench: Bench) -> None:
    assert await bench.ask("freeze", 99, 99, 99, 99) is not None
    assert bench.meter.model.instant_freeze(1, NOW) is not None
    # MM DD hh mm, high byte first: 99 99 00 30 means month 30, day 00 to a meter.
    assert await bench.ask("freeze", 99, 99, 0, 30) is None
    assert bench.reply_control() == 0xD6
    assert await bench.ask("freeze", 99, 99, 99, 99, broadcast=True) is not None
    await asyncio.sleep(0.1)
    assert bench.meter.model.instant_freeze(2, NOW) is not None


async def test_its_rates_are_taken_where_bcd_and_one_bit_agree(bench: Bench) -> None:
    for baud, word in ((1200, 0x04), (2400, 0x08)):
        item = await bench.ask("change_baud_rate", baud)
        assert item.value == baud
        assert bench.frames("tx")[-1].payload == bytes([word])
    # 4800, 9600 and 19200 are 10H, 20H and 40H (DL/T 645-2007, annex C); it sends 16H, 32H, 64H.
    for baud in (4800, 9600, 19200):
        assert await bench.ask("change_baud_rate", baud) is None
        assert bench.reply_control() == 0xD7


async def test_its_change_of_password_names_a_slot_that_does_not_exist(bench: Bench) -> None:
    # It sends 40000C04; the slot of level 4 is 04000C05 (levels 0..9 are 04000C01..0A).
    await bench.ask("change_password", "04000000", "04111111")
    assert decode(bench.frames("tx")[-1]).di == Di("40000C04")  # type: ignore[union-attr]
    assert bench.reply_control() == 0xD8
    assert bench.meter.passwords[4] == bytes(3)


async def test_its_clearing_of_demand_has_the_password_in_the_wrong_place(bench: Bench) -> None:
    # DI and password; the standard has password and operator. The DI is taken for the password, and refused.
    assert await bench.ask("clear_demand", 0x01010000, "04000000") is None
    assert bench.reply_control() == 0xD9
    assert bench.count("03300200") == 0


async def test_its_clearing_of_the_meter_is_taken_by_accident(bench: Bench) -> None:
    # Its DI of 00000000 stands where the password belongs, and is that of level 0 as it leaves the factory.
    assert await bench.ask("clear_meter", "02000000") is not None
    assert bench.count("03300100") >= 1  # the client repeats itself when a busy machine answers late
    bench.meter.passwords[0] = b"\x01\x02\x03"
    assert await bench.ask("clear_meter", "02000000") is None
    assert bench.reply_control() == 0xDA


async def test_its_clearing_of_events_is_right(bench: Bench) -> None:
    assert await bench.ask("clear_event", "02000000", "00000000", 0xFFFFFFFF) is not None
    assert bench.count("03300300") >= 1
    assert await bench.ask("clear_event", "02999999") is None


# ------------------------------------------------------------------------------------------------ our driver, its server


class Theirs:
    """Its server and our driver on one socket."""

    def __init__(self, service: Any, line: Line) -> None:
        self.service = service
        self.line = line
        self.driver = Dlt645Driver(line, retries=1)
        self.operations = Dlt645Operations(self.driver)

    async def content(self, di: str) -> Any:
        return (await self.driver.read(ADDRESS, BASE.find(Di(di)), ON_DEMAND)).values[0].content


@pytest.fixture(scope="module")
def foreign_server() -> Iterator[tuple[Any, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = dlt645.MeterServerService.new_tcp_server("127.0.0.1", port, 3000)
    assert service.server.start()
    yield service, port
    service.server.stop()


@pytest.fixture
async def theirs(foreign_server: tuple[Any, int]) -> AsyncIterator[Theirs]:
    service, port = foreign_server
    service.set_address(wire_order(ADDRESS))
    service.time = None
    for level in range(9):  # it keeps the level with the password, and would take 00000000 for that of level 4
        service.set_password(f"{level:02}000000")
    assert service.set_00(0x00010000, 1234.56)
    assert service.set_01(0x01010000, Demand(3.25, LOCAL))
    assert service.set_02(0x02010100, 230.1)
    timing = Timing(reply_timeout_s=1.0)
    line = Line("theirs", LineUrl.parse(f"tcp://127.0.0.1:{port}"), timing, connect=connect, clock=SystemClock())
    await line.connect()
    yield Theirs(service, line)
    line.close()


AUTHORITY = Authority(Password(0x02, bytes(3)), bytes.fromhex("01020304"))


async def test_our_driver_reads_energies_demands_variables_and_parameters(theirs: Theirs) -> None:
    assert await theirs.content("00010000") == Decimal("1234.56")
    assert await theirs.content("02010100") == Decimal("230.1")
    demand = (await theirs.driver.read(ADDRESS, BASE.find(Di("01010000")), ON_DEMAND)).values[0]
    # Here, as a server, it sends the time as the standard has it: minutes first.
    assert (demand.content, demand.at) == (Decimal("3.2500"), LOCAL)
    assert theirs.service.set_04(0x04000302, "07")
    assert await theirs.content("04000302") == Decimal(7)


async def test_our_driver_reads_event_counts(theirs: Theirs) -> None:
    reading = await theirs.driver.read(ADDRESS, BASE.find(Di("03010000")), ON_DEMAND)
    assert {value.content for value in reading.values} == {Decimal(0)}


async def test_our_driver_writes_a_parameter_and_reads_it_back(theirs: Theirs) -> None:
    spec = BASE.find(Di("04000302"))
    assert await theirs.operations.write(ADDRESS, spec, Decimal(9), AUTHORITY, ON_DEMAND) is Outcome.VERIFIED
    wrong = Authority(Password(0x02, b"\x09\x09\x09"))
    with pytest.raises(RefusedByMeter, match="04H"):
        await theirs.operations.write(ADDRESS, spec, Decimal(8), wrong, ON_DEMAND)


async def test_our_driver_reads_and_writes_the_address_and_finds_the_dialect(theirs: Theirs) -> None:
    assert await theirs.driver.read_address(ON_DEMAND) == ADDRESS
    assert await theirs.operations.write_address(ADDRESS, "202512340018", ON_DEMAND) is Outcome.VERIFIED
    found = await detect_dialect(theirs.line, "AAAAAAAAAAAA")
    assert (found.dialect, found.address) == (Dialect.V2007, "202512340018")


async def test_our_time_is_read_from_the_wrong_end_by_its_server(theirs: Theirs) -> None:
    await theirs.operations.broadcast_time(lambda: datetime(2025, 6, 17, 11, 30, 12), ON_DEMAND)
    await asyncio.sleep(0.1)
    # Sent 12 30 11 17 06 25 (12 s first); it takes them for year 12, month 30: no date, and its clock stays unset.
    assert theirs.service.time is None


async def test_our_freezes_reach_its_server(theirs: Theirs) -> None:
    assert await theirs.operations.freeze(ADDRESS, FreezeRequest.daily(0, 30), ON_DEMAND) is Outcome.ACCEPTED
    assert bytes(theirs.service.last_freeze_time).hex(" ") == "30 00 99 99"
    await theirs.operations.broadcast_freeze(FreezeRequest.now(), ON_DEMAND)
    await asyncio.sleep(0.1)
    assert bytes(theirs.service.last_freeze_time).hex(" ") == "99 99 99 99"


async def test_our_rates_are_known_to_its_server_where_bcd_and_one_bit_agree(theirs: Theirs) -> None:
    with pytest.raises(RateFixed):  # a socket has no rate: the order as such is tried below
        await theirs.operations.change_rate(ADDRESS, 2400, ON_DEMAND)
    replied = await theirs.line.exchange(Request(ADDRESS, RateRequest(word=0x08)), ON_DEMAND)
    assert isinstance(replied, Replied)
    assert theirs.service.baud_rate == 2400
    # 20H is 9600 (annex C); it expects 32H and says "rate cannot be changed".
    refused = await theirs.line.exchange(Request(ADDRESS, RateRequest(word=0x20)), ON_DEMAND)
    assert isinstance(refused, Replied)
    assert refused.wire_received[-3] == 0x08 + 0x33


async def test_our_driver_changes_a_password(theirs: Theirs) -> None:
    new = Password(0x02, b"\x11\x11\x11")
    outcome = await theirs.operations.change_password(ADDRESS, AUTHORITY.password, new, ON_DEMAND)
    assert outcome is Outcome.ACCEPTED
    spec = BASE.find(Di("04000302"))
    with pytest.raises(RefusedByMeter):
        await theirs.operations.write(ADDRESS, spec, Decimal(8), AUTHORITY, ON_DEMAND)
    assert await theirs.operations.write(ADDRESS, spec, Decimal(8), Authority(new), ON_DEMAND) is Outcome.VERIFIED


async def test_our_clearing_is_understood_for_events_and_not_for_demand_and_meter(theirs: Theirs) -> None:
    operations = theirs.operations
    assert await operations.clear_events(ADDRESS, AUTHORITY, ON_DEMAND) is Outcome.ACCEPTED
    # 19H and 1AH carry password and operator. It takes the password for a DI, and refuses: other error.
    for clear in (operations.clear_demand, operations.clear_meter):
        with pytest.raises(RefusedByMeter, match="01H"):
            await clear(ADDRESS, AUTHORITY, ON_DEMAND)


@pytest.mark.parametrize(
    "ask",
    [
        lambda theirs: theirs.operations.set_terminal(ADDRESS, TerminalOutput.SECOND_PULSE, ON_DEMAND),
        lambda theirs: theirs.operations.secure(ADDRESS, Di("070002FF"), b"", bytes(4), ON_DEMAND),
        lambda theirs: theirs.content("05060101"),
        lambda theirs: theirs.driver.read_load_record(ADDRESS, BASE.find(Di("06010002")), ON_DEMAND),
    ],
)
async def test_what_its_server_lacks_it_refuses(ask: Callable[[Theirs], Awaitable[Any]], theirs: Theirs) -> None:
    """No terminal, no security function, no freezes, no load records."""
    with pytest.raises((RefusedByMeter, NotOffered, Contradicted)):
        await ask(theirs)

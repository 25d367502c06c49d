"""The switch of Modbus meters over RTU and TCP: one write, a status elsewhere, and how each fault ends. In virtual time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import firmware_contracts
from firmware_contracts.modbus_contract import load_modbus
from headend.commands.model import Kind, State
from headend.drivers.errors import LineDown, MeterSwapped, NoAnswer, NoFinalReading, NotOffered, StopOrder
from headend.drivers.line import Priority
from headend.drivers.modbus_relay import ModbusSwitch
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.relay import BadSwitchAddress, Expected, SwitchUnconfirmed
from headend.drivers.transport import LineUrl
from protocols.exchange import Request
from protocols.modbus.adu import RtuFrame
from protocols.modbus.pdu import ModbusException, ReadBits, ReadRegisters, decode_request
from simulators.faults import FaultKind as K
from simulators.modbus_bus import ModbusBus
from simulators.modbus_meter import ModbusMeter
from simulators.virtual_time import VirtualClock, run
from tests.headend.drivers.relay_support import Site, Story, Wire, a_line, a_model, a_record, amperes, fault, plan

CONTRACT = "modbus/generic_relay_meter"
PROTOCOLS = ("modbus-rtu", "modbus-tcp")


def on_site(
    story: Story,
    *faults: Any,
    protocol: str = "modbus-rtu",
    contract: str = CONTRACT,
    address: str = "5",
    meter: dict[str, Any] | None = None,
    bus_options: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        simulated = ModbusMeter(a_model(), load_modbus(contract), 5, reply_delay_s=0.02, **(meter or {}))
        bus = ModbusBus([simulated], framing="tcp" if protocol == "modbus-tcp" else "rtu", **(bus_options or {}))
        bus.faults = plan(*faults)
        wire = Wire(bus, clock)
        timing = timing_of(LineUrl.parse("tcp://far.end:1"), protocol, reply_timeout_s=0.5)
        given = {name: getattr(timing, name) for name in ("quiet_s", "preamble", "reply_bytes_max", "reply_timeout_s")}
        line = await a_line(wire, clock, session=session_of(protocol), **given)
        switch = ModbusSwitch(line, clock=clock, **options)
        site = Site(switch, line, wire, bus, clock, a_record(contract, address=address, protocol=protocol))
        await story(site)
        line.close()

    run(main)


def sent_words(site: Site, protocol: str) -> list[str]:
    return [frame.pdu.hex(" ").upper() for frame in site.wire.writes(protocol)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_open_and_close_are_one_write_each_and_proven_by_contact_and_load(protocol: str) -> None:
    async def story(site: Site) -> None:
        sent, found = await site.whole(Kind.OPEN)
        assert (found.state, sent.acknowledged) == (State.VERIFIED, True)
        assert amperes(sent.before) > 1
        assert (found.evidence["contact"], found.evidence["current"]) == ("open", "0.000 A")
        assert found.evidence["identity_number"] == "not known: the contract does not offer it"
        assert sent.register is not None
        assert (sent.register.obis, sent.register.unit) == ("1-0:1.8.0", "kWh")
        assert site.ready[0].wire == "unit 5, PDU 05 00 00 00 00"
        _, found = await site.whole(Kind.CLOSE)
        assert found.state is State.VERIFIED
        assert "current flows" in found.evidence["because"]
        assert sent_words(site, protocol) == ["05 00 00 00 00", "05 00 00 FF 00"]
        assert {frame.unit for frame in site.wire.writes(protocol)} == {5}

    on_site(story, protocol=protocol, meter={"relay_delay_s": 1.0})


U, C, V = State.UNCONFIRMED, State.CONTRADICTED, State.VERIFIED


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("name", "faults", "state", "evidence"),
    [
        ("stuck, sensed", [K.STUCK_RELAY], C, {"reply": "acknowledged", "contact": "closed"}),
        ("stuck, not sensed", [fault(K.STUCK_RELAY, senses=False)], C, {"because": "cut, but consuming"}),
        ("acknowledged, not switched", [K.ACK_WITHOUT_SWITCH], C, {"reply": "acknowledged", "contact": "closed"}),
        ("reply lost", [K.LOST_ACKNOWLEDGEMENT], V, {"reply": "none: silent", "contact": "open"}),
        ("never heard", [fault(K.LOST_ACKNOWLEDGEMENT, obeys=False)], C, {"reply": "none: silent"}),
        ("silent after", [fault(K.SILENT_AFTER_ORDER, for_s=60.0)], U, {"because": "nobody could look back"}),
        ("silent for a moment", [fault(K.SILENT_AFTER_ORDER, for_s=3.0)], V, {"contact": "open"}),
        ("protected meter", [K.PROTECTED_METER], C, {"reply": "none: exception 04H", "contact": "closed"}),
        ("slow contact", [fault(K.SLOW_CONTACT, after_s=3.0)], V, {"contact": "open"}),
    ],
)
def test_each_fault_ends_in_its_own_verdict_with_evidence_and_one_write(
    protocol: str, name: str, faults: list[Any], state: State, evidence: dict[str, str]
) -> None:
    async def story(site: Site) -> None:
        _, found = await site.whole(Kind.OPEN)
        assert found.state is state, (name, found)
        assert sent_words(site, protocol) == ["05 00 00 00 00"]
        for key, text in evidence.items():
            assert text in found.evidence[key], (key, found.evidence)

    on_site(story, *faults, protocol=protocol)


def with_number(folder: Path) -> str:
    """The relay meter with a serial number, as makers put it in a pair of registers."""
    file = folder / "numbered.toml"
    file.write_text(
        f"""
[contract]
protocol = "modbus"
extends = "{CONTRACT}"
maker = "generic"
model = "relay meter with a number"
firmware = "any"

[[rows]]
function = 3
word_order = "big"
access = "r"
source = "constructed"

[rows.points]
serial_number = {{ address = 0x0030, type = "uint32", scale = "1", unit = "" }}
"""
    )
    return str(file)


@pytest.mark.parametrize("told", [17, 0])
def test_a_serial_number_is_read_back_where_the_contract_has_one(told: int, tmp_path: Path) -> None:
    contract = with_number(tmp_path)

    async def story(site: Site) -> None:
        image = site.bus.meters[0].image
        point = next(point for point in image.contract.points if point.name == "serial_number")
        image._settings[point] = (44556677 if told else 12345).to_bytes(4, "big")
        if told:
            sent = await site.order(Kind.OPEN)
            assert sent.identity is not None
            assert (sent.identity.told.number, sent.identity.is_proven) == ("44556677", True)
        else:
            with pytest.raises(MeterSwapped, match="expected meter number 44556677, it tells 12345"):
                await site.order(Kind.OPEN)
            assert sent_words(site, "modbus-rtu") == []

    on_site(story, contract=contract, expected=lambda _: Expected(number="44556677"))


@pytest.mark.parametrize("has_register", [True, False])
def test_a_meter_that_gives_no_register_is_closed_and_never_opened(has_register: bool, tmp_path: Path) -> None:
    """Marked as not measured, or not in the contract at all: what was used up to the cut could not be billed."""
    contract = CONTRACT
    if not has_register:
        whole = (Path(firmware_contracts.__file__).parent / f"{CONTRACT}.toml").read_text(encoding="utf-8")
        file = tmp_path / "unmeasured.toml"
        file.write_text("".join(line for line in whole.splitlines(keepends=True) if "1-0:1.8.0" not in line))
        contract = str(file)

    async def story(site: Site) -> None:
        image = site.bus.meters[0].image
        content = image.content
        image.content = lambda point, measured: (
            b"\xff" * 4 if point.name == "import_active_energy" else content(point, measured)
        )
        with pytest.raises(NoFinalReading, match="marks it as not measured"):
            await site.order(Kind.OPEN)
        assert (sent_words(site, "modbus-rtu"), site.ready) == ([], [])
        sent = await site.order(Kind.CLOSE)
        assert (sent.acknowledged, sent.register) == (True, None)

    on_site(story, contract=contract)


@pytest.mark.parametrize("kind", [Kind.PERMIT_CLOSE, Kind.PROTECT, Kind.UNPROTECT, Kind.STATUS])
def test_what_modbus_has_no_word_for_is_not_sent(kind: Kind) -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NotOffered, match=f"knows no {kind.value}"):
            await site.order(kind)
        assert site.wire.passed == []

    on_site(story)


def test_a_contract_without_a_relay_is_not_switched() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NotOffered, match="names no relay"):
            await site.order(Kind.OPEN)
        assert site.wire.passed == []

    on_site(story, contract="modbus/acrel_ddsy1352")


@pytest.mark.parametrize("address", ["0", "248", "255", "05", "-1", "AAAAAAAAAAAA", "x", "", "५"])
def test_unit_0_and_what_is_no_unit_cannot_be_said(address: str) -> None:
    async def story(site: Site) -> None:
        with pytest.raises(BadSwitchAddress, match="1 to 247"):
            await site.order(Kind.OPEN)
        assert site.wire.passed == []

    on_site(story, address=address)


@pytest.mark.parametrize(
    ("code", "refused"), [(0x02, True), (0x03, True), (0x06, True), (0x04, False), (0x05, False), (0x0B, False)]
)
def test_an_exception_that_says_at_work_is_no_refusal_of_the_order(code: int, refused: bool) -> None:
    """05 is "accepted, still at work", 0B a gateway that got no reply: who took those for a no would think that the supply is on."""

    async def story(site: Site) -> None:
        meter = site.bus.meters[0]
        answer = meter.answer

        def excepting(request: Any, now: Any) -> Any:
            if isinstance(request, ReadBits | ReadRegisters):
                return answer(request, now)
            return ModbusException(5, code)

        meter.answer = excepting
        if refused:
            sent = await site.order(Kind.OPEN)
            assert sent.refused.startswith(f"exception {code:02X}H")
        else:
            with pytest.raises(SwitchUnconfirmed) as unknown:
                await site.order(Kind.OPEN)
            assert f"exception {code:02X}H" in unknown.value.sent.silence
        assert len(site.wire.writes("modbus-rtu")) == 1

    on_site(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_last_look_stops_the_write(protocol: str) -> None:
    async def story(site: Site) -> None:
        def no() -> None:
            raise StopOrder("the stop switch is on")

        site.look_says = no
        with pytest.raises(StopOrder):
            await site.order(Kind.OPEN)
        assert len(site.ready) == 1
        assert site.wire.writes(protocol) == []

    on_site(story, protocol=protocol)


def test_a_write_that_the_far_end_did_not_take_is_thrown_away_with_the_connection() -> None:
    """A Modbus frame has no end of its own: what lies in a buffer would be obeyed whenever it gets through."""

    async def story(site: Site) -> None:
        transport = site.line._transport
        assert transport is not None
        stuck: list[bytes] = []
        write: Callable[[Any], None] = transport.write

        def stall(data: Any) -> None:
            is_order = decode_request(RtuFrame.from_bytes(bytes(data)).pdu)
            if isinstance(is_order, ReadBits | ReadRegisters):
                write(data)
            else:
                stuck.append(bytes(data))

        transport.write = stall  # type: ignore[method-assign]
        transport.get_write_buffer_size = lambda: sum(map(len, stuck))  # type: ignore[method-assign]
        with pytest.raises(SwitchUnconfirmed) as unknown:
            await site.order(Kind.OPEN)
        assert unknown.value.sent.silence == "silent"
        assert not site.line.is_up
        assert transport.is_closing()
        assert "thrown away" in site.line.problem

    on_site(story)


def test_a_silent_meter_and_a_line_that_is_down_are_sent_nothing() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NoAnswer):
            await site.order(Kind.OPEN)
        site.line.close()
        with pytest.raises(LineDown):
            await site.order(Kind.CLOSE)
        assert site.wire.writes("modbus-rtu") == []
        assert site.ready == []

    on_site(story, K.SILENCE)


def test_reads_of_others_wait_and_never_come_between_the_exchanges_of_an_order() -> None:
    async def story(site: Site) -> None:
        async def poll() -> None:
            while True:
                await site.line.exchange(Request("5", ReadRegisters(3, 0x0010, 2)), Priority.LIVE)

        polling = [asyncio.create_task(poll()) for _ in range(3)]
        await asyncio.sleep(0.2)
        before = len(site.wire.passed)
        await site.order(Kind.OPEN)
        frames = [decode_request(RtuFrame.from_bytes(chunk).pdu) for _, chunk in site.wire.passed[before:]]
        order = next(at for at, one in enumerate(frames) if not isinstance(one, ReadBits | ReadRegisters))
        start = next(at for at, one in enumerate(frames) if isinstance(one, ReadBits))
        polls = [one for one in frames[start:order] if one == ReadRegisters(3, 0x0010, 2)]
        assert len(polls) == 1  # the order's own look at the register
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)

    on_site(story)

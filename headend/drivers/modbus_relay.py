"""The supply switch of Modbus meters, as their contracts describe it: one write, and a status elsewhere. Nothing else writes it.

The echo of a write proves nothing: several meters send it before the contact has moved. Modbus has no word for who orders, none
for until when, and none for permitting: an order ends with its deadline here, and what a far end has not taken by then is thrown
away with the connection. Whether another meter hangs there is told by a serial number only where the contract has one.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

import structlog
from msgspec.structs import replace

from firmware_contracts.errors import UnknownItem
from firmware_contracts.modbus_contract import ModbusContract
from firmware_contracts.modbus_relay import ModbusRelay
from headend.clock import Clock
from headend.commands.model import CapturedRegister, Kind
from headend.drivers.errors import BadReply, NotIdentified, NotOffered, RefusedByMeter
from headend.drivers.hold import HOLD_S_MAX
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import BlockQuestion, ModbusDriver, exception_text
from headend.drivers.reading import Value
from headend.drivers.relay import (
    CURRENTS,
    ENERGY,
    VOLTAGES,
    Expected,
    Identity,
    Look,
    OnSending,
    Ready,
    Sent,
    SwitchAddress,
    SwitchUnconfirmed,
    Told,
    Witness,
    check_identity,
    lane_of,
    nobody_expected,
    register_before,
)
from headend.drivers.relay_leave import READ_BACK, Deadline, leave, refused
from headend.model import MeterRecord
from headend.quantities import AnyContract, load_contract, question_of
from protocols.errors import WireError
from protocols.exchange import Replied, Request
from protocols.modbus.pdu import Bits, ModbusException, Registers, encode_request
from protocols.modbus.points import Point
from protocols.values import Obis

__all__ = ["ModbusSwitch"]

RETRIES = 1
TIMEOUTS_PER_HOLD = 16
NUMBER_POINTS = ("serial_number", "meter_number")  # names in contracts; a number without scale and unit
# Failed while at it, still at it: such an order may have been obeyed, or will be. A gateway that got no reply knows no more.
_UNKNOWN = (0x04, 0x05, 0x0A, 0x0B)

log = structlog.get_logger(__name__)


class ModbusSwitch:
    """Switches of the Modbus meters of one line, RTU or TCP. See `headend.drivers.relay.Switch`.

    Knows open and close. expected: what the records say of a meter's numbers.
    """

    def __init__(
        self,
        line: Line,
        *,
        clock: Clock,
        expected: Callable[[MeterRecord], Expected] = nobody_expected,
        contract_of: Callable[[str], AnyContract] = load_contract,
    ) -> None:
        self._line = line
        self._driver = ModbusDriver(line, retries=RETRIES)
        self._clock = clock
        self._expected = expected
        self._contract_of = contract_of

    async def prepare(self, meter: MeterRecord) -> Identity:
        return await self._identify(meter, self._contract(meter)[0], Kind.STATUS)

    async def order(
        self,
        meter: MeterRecord,
        kind: Kind,
        *,
        expires_at: datetime,
        operator: bytes | str,
        look: Look,
        command_id: str,
        on_sending: OnSending,
        hurry: asyncio.Event | None = None,
    ) -> Sent:
        """operator: for the journal only; the meter is not told. hurry: not heeded, a line waits no longer than its reply timeout."""
        address = SwitchAddress(meter.address, is_unit=True)
        contract, relay = self._contract(meter)
        if kind not in (Kind.OPEN, Kind.CLOSE):
            raise NotOffered(
                f"meter {meter.id}: a Modbus relay opens and closes, and knows no {kind.value}; order open or close"
            )
        deadline = Deadline(expires_at, self._clock)
        request = relay.command(closed=kind is Kind.CLOSE)
        longest_s = max(HOLD_S_MAX, TIMEOUTS_PER_HOLD * self._line.timing.reply_timeout_s)
        async with self._line.hold(lane_of(kind), at_most_s=longest_s) as hold:
            identity = await self._identify(meter, contract, kind)
            before = await self._witness(meter, contract, relay, kind)
            register = await register_before(meter, kind, self._register(meter, contract, kind))
            replied, sent = await leave(
                self._line,
                hold,
                Request(address.text, request),
                Ready(
                    wire=f"unit {address.text}, PDU {encode_request(request).hex(' ').upper()}",
                    identity=identity,
                    before=before,
                    register=register,
                ),
                order=f"{kind.value} (function {relay.write_function:02X}H)",
                look=look,
                on_sending=on_sending,
                deadline=deadline,
                clock=self._clock,
                show=lambda wire: wire.hex(" ").upper(),
            )
        message = replied.message
        if isinstance(message, ModbusException):
            words = exception_text(message.code)
            log.info("an order was refused", line=self._line.name, meter=meter.id, command=command_id, words=words)
            if message.code in _UNKNOWN:
                unknown = replace(sent, acknowledged=False, silence=words)
                raise SwitchUnconfirmed(address.text, kind.value, f"it answered {words}; {READ_BACK}", unknown)
            return refused(sent, words)
        return sent

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        contract, relay = self._contract(meter)
        return await self._witness(meter, contract, relay, kind)

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        return await self._register(meter, self._contract(meter)[0], kind)

    # -------------------------------------------------------------------------------------------- who answers

    async def _identify(self, meter: MeterRecord, contract: ModbusContract, kind: Kind) -> Identity:
        missing = {"asset": "Modbus contracts have none"}
        point = next((point for point in contract.points if point.name in NUMBER_POINTS), None)
        if point is None:
            missing["number"] = "the contract does not offer it"
            return check_identity(meter, Told(), self._expected(meter), missing)
        try:
            value = (await self._values(meter, (point,), kind))[0]
        except (RefusedByMeter, BadReply) as error:
            missing["number"] = str(error)
            number = ""
        else:
            number = "" if value.content is None else str(value.content)
        identity = check_identity(meter, Told(number=number), self._expected(meter), missing)
        if kind is Kind.OPEN and not identity.is_proven:
            raise NotIdentified(meter.id, missing.get("number", "it tells none"))
        return identity

    # -------------------------------------------------------------------------------------------- what is

    async def _witness(self, meter: MeterRecord, contract: ModbusContract, relay: ModbusRelay, kind: Kind) -> Witness:
        problems: dict[str, str] = {}
        closed, status = await self._is_closed(meter, relay, lane_of(kind))
        current = await self._greatest(meter, contract, CURRENTS, "current", kind, problems)
        voltage = await self._greatest(meter, contract, VOLTAGES, "voltage", kind, problems)
        return Witness(
            contact="closed" if closed else "open",
            at=self._clock.now(),
            current_a=current,
            voltage_v=voltage,
            status=status,
            problems=problems | {"events": "Modbus contracts have none"},
        )

    async def _is_closed(self, meter: MeterRecord, relay: ModbusRelay, priority: Priority) -> tuple[bool, str]:
        replied: Replied = await self._driver.exchange(Request(meter.address, relay.status.request()), priority)
        message = replied.message
        if not isinstance(message, Bits | Registers):
            problem = WireError("a status reply without bits or registers", replied.wire_received)
            raise BadReply(replied.address, problem, replied.wire_sent, replied.wire_received)
        told = f"{int(message.bits[0])}" if isinstance(message, Bits) else message.content[:2].hex().upper()
        return relay.status.is_closed(message), told

    async def _greatest(
        self,
        meter: MeterRecord,
        contract: ModbusContract,
        codes: tuple[str, ...],
        name: str,
        kind: Kind,
        problems: dict[str, str],
    ) -> Decimal | None:
        points = [point for code in codes if (point := _point(contract, code)) is not None]
        if not points:
            problems[name] = "the contract does not offer it"
            return None
        try:
            values = await self._values(meter, tuple(points), kind)
        except (RefusedByMeter, BadReply) as error:
            problems[name] = str(error)
            return None
        amounts = [abs(value.content) for value in values if isinstance(value.content, Decimal)]
        if not amounts:
            problems[name] = "the meter marks it as not measured"
        return max(amounts, default=None)

    async def _values(self, meter: MeterRecord, points: tuple[Point, ...], kind: Kind) -> list[Value]:
        contract = self._contract(meter)[0]
        values: list[Value] = []
        for block in contract.plan(points):
            values += (await self._driver.ask(meter.address, BlockQuestion(block), lane_of(kind))).values
        wanted = {point.name for point in points}
        return [value for value in values if value.name in wanted]

    async def _register(self, meter: MeterRecord, contract: ModbusContract, kind: Kind) -> CapturedRegister | None:
        point = _point(contract, ENERGY)
        if point is None:
            return None
        question = question_of(point)
        assert isinstance(question, BlockQuestion)
        value = (await self._driver.ask(meter.address, question, lane_of(kind))).values[0]
        if not isinstance(value.content, Decimal):
            return None
        return CapturedRegister(obis=ENERGY, amount=value.content, unit=point.unit.value, read_at=self._clock.now())

    def _contract(self, meter: MeterRecord) -> tuple[ModbusContract, ModbusRelay]:
        """Raises NotOffered."""
        contract = self._contract_of(meter.contract)
        if not isinstance(contract, ModbusContract) or contract.relay is None:
            raise NotOffered(
                f"meter {meter.id}: contract {meter.contract} names no relay that can be reached over Modbus"
            )
        return contract, contract.relay


@lru_cache(maxsize=1024)
def _point(contract: ModbusContract, code: str) -> Point | None:
    try:
        point = contract.find_obis(Obis(code))
    except UnknownItem:
        return None
    return point if "r" in point.access else None

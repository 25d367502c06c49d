"""Replies of Modbus made wrong: another unit's, or with a wrong CRC; and which faults cannot happen there."""

from collections.abc import Mapping, Sequence

import msgspec

from firmware_contracts.modbus_contract import ModbusRelay
from protocols.errors import MessageError
from protocols.modbus.pdu import WriteCoil, WriteCoils, WriteRegister, WriteRegisters, decode_request
from simulators.faults import UNITS, BadFaults, FaultKind, FaultPlan, Strike
from simulators.modbus_meter import ModbusFrame

__all__ = ["ModbusReplies"]

REFUSED = 0x80  # in the function of an exception reply
UNIT_MAX = 247
_MEANINGLESS = {
    FaultKind.WRONG_DI: "a Modbus reply does not say what was asked; "
    "late-reply and duplicate-reply make one that can be taken for another",
    FaultKind.WRONG_OPERATOR: "a Modbus order does not say who gives it",
    FaultKind.CUSTOMERS_BUTTON: "a Modbus order closes, or does not; it cannot permit",
}
_MEANINGLESS_ON_TCP = {
    FaultKind.BAD_CHECKSUM: "Modbus TCP has no checksum; bit-flip spoils the content",
    FaultKind.BABBLE: "nobody else speaks on a TCP connection; noise-before and noise-after spoil the stream",
}


class ModbusReplies:
    """See `fault_target.ReplyAdapter`. relays: by unit."""

    def __init__(self, relays: Mapping[int, ModbusRelay], *, over_tcp: bool) -> None:
        self._relays = relays
        self._meaningless = _MEANINGLESS | (_MEANINGLESS_ON_TCP if over_tcp else {})

    def check(self, plan: FaultPlan) -> None:
        for fault in plan.faults:
            UNITS.check(fault.title, fault.meters)
            if fault.kind is FaultKind.WRONG_ADDRESS and (unit := fault.get("address")):
                UNITS.check(fault.title, [unit])
            if (why := self._meaningless.get(fault.kind)) is not None:
                raise BadFaults(f"{fault.title}: {fault.kind.value} cannot happen here: {why}")

    def is_relay_order(self, request: ModbusFrame) -> bool:
        relay = self._relays.get(request.unit)
        if relay is None:
            return False
        try:
            message = decode_request(request.pdu)
        except MessageError:
            return False
        match message:
            case WriteCoil(address) | WriteCoils(address):
                return relay.kind == "coil" and address == relay.address
            case WriteRegister(address) | WriteRegisters(address):
                return relay.kind == "holding" and address == relay.address
        return False

    def is_accepted(self, reply: ModbusFrame) -> bool:
        return not reply.pdu[0] & REFUSED

    def with_address(self, reply: ModbusFrame, address: str, others: Sequence[str], strike: Strike) -> ModbusFrame:
        unit = int(address or (others[strike.number(0, len(others))] if others else 0))
        if not address and not others:
            unit = (reply.unit + strike.number(0, UNIT_MAX - 1)) % UNIT_MAX + 1
        return msgspec.structs.replace(reply, unit=unit)

    def with_other_item(self, reply: ModbusFrame, strike: Strike) -> ModbusFrame | None:
        return None

    def bad_checksum(self, wire: bytes, strike: Strike) -> bytes:
        spoilt = bytearray(wire)
        spoilt[-1] = (spoilt[-1] + 1 + strike.number(0, 255)) & 0xFF
        return bytes(spoilt)

    def lead(self, wire: bytes) -> int:
        return 0

"""Replies of DL/T 645 made wrong: address, item, checksum."""

import re
from collections.abc import Sequence

from protocols.dlt645.control import ERROR, Function1997, Function2007
from protocols.dlt645.frame import PREAMBLE, Frame
from simulators.faults import METER_ADDRESSES, BadFaults, FaultKind, FaultPlan, Strike

__all__ = ["Dlt645Replies"]

_OPERATOR = re.compile(r"[0-9A-Fa-f]{8}")
_WITH_DI = {0x80 | function for function in (Function2007.READ, Function2007.FOLLOW_UP)}
_WITH_DI |= {0xA0 | function for function in (Function2007.READ, Function2007.FOLLOW_UP)}
_WITH_SHORT_DI = {0x80 | function for function in (Function1997.READ, Function1997.FOLLOW_UP)}
_WITH_SHORT_DI |= {0xA0 | function for function in (Function1997.READ, Function1997.FOLLOW_UP)}


class Dlt645Replies:
    """See `fault_target.ReplyAdapter`."""

    def check(self, plan: FaultPlan) -> None:
        for fault in plan.faults:
            METER_ADDRESSES.check(fault.title, fault.meters)
            if fault.kind is FaultKind.WRONG_ADDRESS and (address := fault.get("address")):
                METER_ADDRESSES.check(fault.title, [address])
            if fault.kind is FaultKind.WRONG_OPERATOR and not _OPERATOR.fullmatch(code := fault.get("code")):
                raise BadFaults(f"{fault.title}: code {code!r}, expected 8 hex digits, C0 to C3 as sent")

    def is_relay_order(self, request: Frame) -> bool:
        return request.control == Function2007.RELAY

    def is_accepted(self, reply: Frame) -> bool:
        return not reply.control & ERROR

    def with_address(self, reply: Frame, address: str, others: Sequence[str], strike: Strike) -> Frame:
        own = reply.address
        if not address and others:
            address = others[strike.number(0, len(others))]
        elif not address:
            place = strike.number(0, 12)
            digit = (int(own[place]) + 1 + strike.number(1, 8)) % 10
            address = f"{own[:place]}{digit}{own[place + 1 :]}"
        return Frame(address, reply.control, reply.payload)

    def with_other_item(self, reply: Frame, strike: Strike) -> Frame | None:
        size = 4 if reply.control in _WITH_DI else 2 if reply.control in _WITH_SHORT_DI else 0
        if not size:
            return None
        di = bytearray(reply.payload[:size])
        di[strike.number(0, size)] ^= 1 << strike.number(1, 4)
        given = bytes.fromhex(strike.fault.get("di"))[::-1]
        return Frame(reply.address, reply.control, (given or bytes(di)) + reply.payload[size:])

    def bad_checksum(self, wire: bytes, strike: Strike) -> bytes:
        spoilt = bytearray(wire)
        spoilt[-2] = (spoilt[-2] + 1 + strike.number(0, 255)) & 0xFF
        return bytes(spoilt)

    def lead(self, wire: bytes) -> int:
        return len(wire) - len(wire.lstrip(bytes([PREAMBLE])))

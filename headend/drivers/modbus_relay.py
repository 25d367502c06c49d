"""The relay of a Modbus meter, as its contract describes it: one write, and reading back until the contact has followed.

The echo of a write proves nothing. What the contact does stands in the status that the contract names; several meters answer before
it has moved. After the write has left, silence means that nobody knows: the status is read, and an order is never sent a second time.

Whether a supply may be switched at all is decided elsewhere, before this is called.
"""

import asyncio

from msgspec import Struct

from firmware_contracts.modbus_relay import ModbusRelay
from headend.drivers.errors import BadReply, Contradicted, DriverError, LineDown, RefusedByMeter, Unconfirmed
from headend.drivers.line import Priority
from headend.drivers.modbus import ModbusDriver
from protocols.errors import WireError
from protocols.exchange import Replied, Request
from protocols.modbus.pdu import Bits, Registers

__all__ = ["ModbusRelayDriver", "Switched"]

SETTLE_S = 3.0  # a latching relay moves within 0.1 s; meters update their status once a second
LOOK_EVERY_S = 0.5
_BEGUN = (0x04, 0x05)  # failed while it was at it, still at it: an order so answered may have been obeyed, or will be
READ_BACK = "read the relay's status before anything is sent again"


class Switched(Struct, frozen=True, kw_only=True):
    """The proof of one order. echoed: the meter's reply to the write came; the status says `closed` either way."""

    closed: bool
    echoed: bool
    wire_sent: bytes
    wire_received: bytes


class ModbusRelayDriver:
    """settle_s: how long the contact may take to follow."""

    def __init__(self, driver: ModbusDriver, *, settle_s: float = SETTLE_S) -> None:
        self._driver = driver
        self._settle_s = settle_s

    async def is_closed(self, address: str, relay: ModbusRelay, priority: Priority) -> bool:
        """What the status says now. Raises as `ModbusDriver.ask` does."""
        replied = await self._driver.exchange(Request(address, relay.status.request()), priority)
        return self._closed(relay, replied)

    async def switch(self, address: str, relay: ModbusRelay, priority: Priority, *, closed: bool) -> Switched:
        """Write once, then look until the status agrees.

        Raises RefusedByMeter when the meter says no; Contradicted when the status stays contrary for settle_s; Unconfirmed when it
        cannot be read. Where nothing was sent, LineDown or LineQueueFull.
        """
        order = "close" if closed else "open"
        sent, received, echoed = b"", b"", False
        try:
            replied = await self._driver.exchange_once(Request(address, relay.command(closed=closed)), priority)
        except DriverError as error:
            is_refused = isinstance(error, RefusedByMeter) and error.word not in _BEGUN
            if is_refused or not error.wire_sent:
                raise
            sent, received = error.wire_sent, error.wire_received  # it may have been obeyed: look
        else:
            sent, received, echoed = replied.wire_sent, replied.wire_received, True
        looked = self._driver.line.monotonic()
        while True:
            try:
                found = await self.is_closed(address, relay, priority)
            except DriverError as error:
                advice = f"its status could not be read ({error}); {READ_BACK}"
                if isinstance(error, LineDown):
                    advice = f"the line went down; {READ_BACK}"
                raise Unconfirmed(address, order, advice, wire_sent=sent, wire_received=received) from error
            if found is closed:
                return Switched(closed=found, echoed=echoed, wire_sent=sent, wire_received=received)
            if self._driver.line.monotonic() - looked >= self._settle_s:
                raise Contradicted(address, order, _told(closed), _told(found))
            await asyncio.sleep(LOOK_EVERY_S)

    @staticmethod
    def _closed(relay: ModbusRelay, replied: Replied) -> bool:
        message = replied.message
        if not isinstance(message, Bits | Registers):
            problem = WireError("a status reply without bits or registers", replied.wire_received)
            raise BadReply(replied.address, problem, replied.wire_sent, replied.wire_received)
        return relay.status.is_closed(message)


def _told(closed: bool) -> str:
    return "a closed contact" if closed else "an open contact"

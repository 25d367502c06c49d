"""The meter's end of Modbus: what it does with each request, and with what it refuses one.

A refusal is an exception: 01 for a function that this meter has not, 02 for an address, 03 for a count, an odd block or a value
that it does not take, 04 for an order that the relay does not obey now. Nothing is half done: a write is taken whole or refused.

Relay: the contract says whether a coil or a holding register switches it, and where its state can be read. A coil tells what was
ordered, the place of the status where the contact is; with a `relay_delay_s` the second follows the first only later.
"""

import random
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from firmware_contracts.modbus_contract import ModbusContract
from protocols.errors import BadMessage, UnknownFunction
from protocols.modbus import pdu as p
from protocols.modbus.adu import RtuFrame, TcpFrame
from simulators.meter import MeterModel
from simulators.modbus_image import Exc, Holes, ModbusRefused, RegisterImage
from simulators.relay import RelayRefused

__all__ = ["Exc", "ModbusFrame", "ModbusMeter"]

ModbusFrame = RtuFrame | TcpFrame
COIL_ON, COIL_OFF = 0xFF00, 0x0000
SWITCHES_WAITING_MAX = 8  # orders that the relay has not followed yet; a mechanism that slow loses the oldest


class ModbusMeter:
    """One meter behind a unit number.

    ct, pt: ratios of the transformers before it; the model is the secondary side. holes: instead of what the contract says.
    reply_delay_s: from the model's seed between 10 and 100 ms when not given, most of them short.
    relay_delay_s: how long the contact needs to follow an order that was accepted.
    pretends: the next relay order is acknowledged and not done. refused: exceptions so far.
    """

    def __init__(
        self,
        model: MeterModel,
        contract: ModbusContract,
        unit: int,
        *,
        ct: Decimal = Decimal(1),
        pt: Decimal = Decimal(1),
        holes: Holes | None = None,
        reply_delay_s: float | None = None,
        relay_delay_s: float = 0.0,
    ) -> None:
        if not 1 <= unit <= 247:
            raise ValueError(f"unit {unit}, expected 1 to 247")
        self.model = model
        self.contract = contract
        self.unit = unit
        self.image = RegisterImage(model, contract, ct=ct, pt=pt, holes=holes)
        # Cubed, because most meters answer at once and a few take their time.
        seeded_s = 0.01 + 0.09 * random.Random(f"{model.seed}/reply delay").random() ** 3
        self.reply_delay_s = seeded_s if reply_delay_s is None else reply_delay_s
        self.relay_delay_s = relay_delay_s
        self.pretends = False
        self.refused = 0
        self._switches: deque[tuple[datetime, bool]] = deque(maxlen=SWITCHES_WAITING_MAX)
        self._ordered_closed = True
        self._functions = _functions(contract)

    @property
    def address(self) -> str:
        return str(self.unit)

    def to_wire(self, reply: ModbusFrame) -> bytes:
        return reply.to_bytes()

    def replacement(self, seed: int, now: datetime) -> "ModbusMeter":
        """Another meter of the same kind and unit, as somebody may put in its place: its registers are its own."""
        own = self.model
        model = MeterModel(
            own.address,
            seed=seed,
            kind=own.curve.kind,
            timezone=own.timezone,
            clock_set_at=now,
            number=f"{900_000_000_000 + seed:012}",
        )
        return ModbusMeter(
            model,
            self.contract,
            self.unit,
            ct=self.image.ct,
            pt=self.image.pt,
            holes=self.image.holes,
            relay_delay_s=self.relay_delay_s,
        )

    def receive(self, frame: ModbusFrame, now: datetime) -> ModbusFrame | None:
        """The reply, in a frame like that of the request. `now`: true time, aware UTC."""
        reply = self._pdu(frame.pdu, now)
        return None if reply is None else msgspec.structs.replace(frame, pdu=reply)

    def answer(self, request: p.Request, now: datetime) -> p.Reply:
        """Do what is asked; the reply, which may be an exception."""
        self.settle(now)
        handler, function = _HANDLERS[type(request)], _function_of(request)
        try:
            if function not in self._functions:
                raise ModbusRefused(Exc.FUNCTION)
            reply: p.Reply = handler(self, request, now)
        except ModbusRefused as refusal:
            self.refused += 1
            return p.ModbusException(function, refusal.code)
        return reply

    def settle(self, now: datetime) -> None:
        """Let the contact follow the orders that are due."""
        while self._switches and self._switches[0][0] <= now:
            at, to_close = self._switches.popleft()
            self._switch(to_close, at)

    @property
    def next_change(self) -> datetime | None:
        """When the contact follows an order next."""
        return self._switches[0][0] if self._switches else None

    def _pdu(self, pdu: bytes, now: datetime) -> bytes | None:
        try:
            request = p.decode_request(pdu)
        except UnknownFunction:
            self.refused += 1
            function = pdu[0] & 0x7F
            return p.encode_reply(p.ModbusException(function, Exc.FUNCTION)) if function else None
        except BadMessage:
            self.refused += 1
            if not pdu:
                return None
            known = pdu[0] in self._functions
            return p.encode_reply(p.ModbusException(pdu[0], Exc.VALUE if known else Exc.FUNCTION))
        return p.encode_reply(self.answer(request, now))

    # ------------------------------------------------------------------------------------------ reading

    def _read_registers(self, request: p.ReadRegisters, now: datetime) -> p.Reply:
        relay = self._relay_words(request.function, now)
        if request.start in relay and not self.image.has(request.function, request.start):
            content = self._read_relay(request, relay)
        else:
            content = self.image.read(request.function, request.start, request.count, now)
        return p.Registers(request.function, content)

    def _read_relay(self, request: p.ReadRegisters, relay: dict[int, int]) -> bytes:
        words = [relay.get(request.start + at) for at in range(request.count)]
        if None in words:
            raise ModbusRefused(Exc.ADDRESS)
        return b"".join((word or 0).to_bytes(2, "big") for word in words)

    def _read_bits(self, request: p.ReadBits, now: datetime) -> p.Reply:
        known = self._relay_bits(request.function, now)
        if any(address not in known for address in range(request.start, request.start + request.count)):
            raise ModbusRefused(Exc.ADDRESS)
        return p.Bits(request.function, tuple(known[request.start + at] for at in range(request.count)))

    def _relay_bits(self, function: int, now: datetime) -> dict[int, bool]:
        """What the relay shows among the coils (function 1) or discrete inputs (2)."""
        relay = self.contract.relay
        found: dict[int, bool] = {}
        if relay is None:
            return found
        kind = "coil" if function == 1 else "discrete"
        if relay.kind == kind:
            found[relay.address] = self._ordered_closed is (relay.on == COIL_ON)
        if relay.status.kind == kind:
            found[relay.status.address] = self._contact_closed(now) is bool(relay.status.on)
        return found

    def _relay_words(self, function: int, now: datetime) -> dict[int, int]:
        """The same among the holding registers (3) and input registers (4)."""
        relay = self.contract.relay
        found: dict[int, int] = {}
        if relay is None:
            return found
        kind, status = "holding" if function == 3 else "input", relay.status
        if relay.kind == kind:
            found[relay.address] = relay.on if self._ordered_closed else relay.off
        if status.kind == kind:
            found[status.address] = status.on if self._contact_closed(now) else status.on ^ status.mask
        return found

    def _contact_closed(self, now: datetime) -> bool:
        self.model.relay_open(now)  # what was due by now has happened
        return not self.model.relay.shows_open

    # ------------------------------------------------------------------------------------------ writing

    def _write_coil(self, request: p.WriteCoil, now: datetime) -> p.Reply:
        self._order_coils(request.address, (request.on,), now)
        return p.Written(5, request.address, COIL_ON if request.on else COIL_OFF)

    def _write_coils(self, request: p.WriteCoils, now: datetime) -> p.Reply:
        self._order_coils(request.start, request.bits, now)
        return p.Written(15, request.start, len(request.bits))

    def _write_register(self, request: p.WriteRegister, now: datetime) -> p.Reply:
        self._write_words(request.address, (request.word,), now)
        return p.Written(6, request.address, request.word)

    def _write_registers(self, request: p.WriteRegisters, now: datetime) -> p.Reply:
        self._write_words(request.start, request.words, now)
        return p.Written(16, request.start, len(request.words))

    def _order_coils(self, start: int, bits: tuple[bool, ...], now: datetime) -> None:
        relay = self.contract.relay
        if relay is None or relay.kind != "coil" or start != relay.address or len(bits) != 1:
            raise ModbusRefused(Exc.ADDRESS)
        self._order(bits[0] is (relay.on == COIL_ON), now)

    def _write_words(self, start: int, words: tuple[int, ...], now: datetime) -> None:
        relay = self.contract.relay
        if relay is None or relay.kind != "holding" or start != relay.address:
            self.image.write(start, words)
            return
        if len(words) != 1 or words[0] not in (relay.on, relay.off):
            raise ModbusRefused(Exc.VALUE)
        self._order(words[0] == relay.on, now)

    def _order(self, to_close: bool, now: datetime) -> None:
        if self.pretends:
            return
        if self.model.relay.protected and not to_close:
            raise ModbusRefused(Exc.FAILURE)
        self._ordered_closed = to_close
        if self.relay_delay_s:
            self._switches.append((now + timedelta(seconds=self.relay_delay_s), to_close))
        else:
            self._switch(to_close, now)

    def _switch(self, to_close: bool, at: datetime) -> None:
        if to_close:
            self.model.close_relay(at)
            return
        try:
            self.model.open_relay(at)
        except RelayRefused:  # protected since the order came
            self._ordered_closed = True


_HANDLERS: dict[type, Callable[[Any, Any, datetime], p.Reply]] = {
    p.ReadBits: ModbusMeter._read_bits,
    p.ReadRegisters: ModbusMeter._read_registers,
    p.WriteCoil: ModbusMeter._write_coil,
    p.WriteCoils: ModbusMeter._write_coils,
    p.WriteRegister: ModbusMeter._write_register,
    p.WriteRegisters: ModbusMeter._write_registers,
}
_WRITE_FUNCTIONS = {p.WriteCoil: 5, p.WriteRegister: 6, p.WriteCoils: 15, p.WriteRegisters: 16}
_SWITCHED_BY = {"coil": {1, 5, 15}, "holding": {3, 6, 16}}
_SHOWN_BY = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def _function_of(request: p.Request) -> int:
    if isinstance(request, p.ReadBits | p.ReadRegisters):
        return request.function
    return _WRITE_FUNCTIONS[type(request)]


def _functions(contract: ModbusContract) -> frozenset[int]:
    """What the contract lists; else what its points, its settings and its relay need."""
    limits = contract.limits
    if limits.functions:
        return frozenset(limits.functions)
    found = {point.function for point in contract.points}
    if limits.either_function:
        found |= {3, 4}
    if any("w" in point.access for point in contract.points):
        found |= {6, 16}
    if contract.relay is not None:
        found |= _SWITCHED_BY[contract.relay.kind] | {_SHOWN_BY[contract.relay.status.kind]}
    return frozenset(found)

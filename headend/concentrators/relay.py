"""The supply switch of meters behind MQTT concentrators: their commands open, permit-close and close.

A concentrator switches in its own time, so an order carries its end with it, and the concentrator looks again before it obeys.
What its `done` is worth differs: some read the relay back first, others have only passed the order on. Where it forwards frames and the
meter speaks DL/T 645, who answers and what became of it is asked of the meter itself, through the concentrator; where it does not, its
own reads and its own word are all there is, and the evidence says so.

No family of concentrators tells a meter's number in its answers. So an open goes only to a meter that has told its number itself,
through forwarded frames, seconds before; behind any other concentrator a supply can be given back, and not be opened.

A concentrator may take minutes to answer. A supply that is paid for meanwhile does not wait for that: nobody waits for the open's
answer any more, what it did is unknown, and the close goes out behind it. A broker keeps the order of one sender's messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from firmware_contracts.errors import ContractError
from headend.clock import Clock
from headend.commands.model import CLOSES, CapturedRegister, Kind
from headend.concentrators.errors import ConcentratorError
from headend.drivers.errors import DriverError, LineDown, NotIdentified, NotOffered, SendingTooOld
from headend.drivers.relay import (
    CURRENTS,
    ENERGY,
    VOLTAGES,
    Contact,
    Expected,
    Identity,
    Look,
    OnSending,
    Ready,
    Sent,
    Switch,
    SwitchAddress,
    SwitchUnconfirmed,
    Told,
    Witness,
    check_age,
    check_identity,
    nobody_expected,
    register_before,
)
from headend.drivers.relay_leave import READ_BACK, Deadline
from headend.model import MeterRecord
from headend.quantities import AnyContract, load_contract
from protocols.concentrator.messages import Command, CommandAnswer, Op, Outgoing, PushedValue, Status
from protocols.values import Obis, Unit

__all__ = ["ConcentratorSwitch", "NotTaken"]

ORDER_LIFE_S = (
    60.0  # a concentrator asks its meters one after the other; what it has not begun by then it must not begin
)
READ_S = 30.0
IDENTITY_AGE_S_MAX = (
    15.0  # between the number that was read back and the last look of an open: nobody exchanges a meter in less
)
SAID_AGE_S_MAX = (
    60.0  # what a concentrator has said of a contact is evidence of the order that it answered, and of no later day
)
HURRIED = "not waited for: something more urgent came"
_OPS = {Kind.OPEN: Op.OPEN, Kind.PERMIT_CLOSE: Op.PERMIT_CLOSE, Kind.CLOSE: Op.CLOSE}
_DONE: dict[Kind, Contact] = {Kind.OPEN: "open", Kind.PERMIT_CLOSE: "permitted", Kind.CLOSE: "closed"}

log = structlog.get_logger(__name__)


class NotTaken(DriverError):
    """The concentrator, or its broker, did not take an order: nothing was done. kind and retryable: as its own error says."""

    def __init__(self, error: ConcentratorError) -> None:
        super().__init__(str(error))
        self.kind = error.kind
        self.retryable = getattr(error, "retryable", False)


class Commands(Protocol):
    """What is needed of a `ConcentratorPark`."""

    def send(
        self,
        concentrator: str,
        command: Command,
        *,
        on_sending: Callable[[Outgoing], Awaitable[None]] | None = None,
        look: Callable[[], None] | None = None,
    ) -> Coroutine[Any, Any, CommandAnswer]: ...

    def offers(self, concentrator: str, op: Op) -> bool: ...
    def confirms(self, concentrator: str) -> bool: ...


class _Said(Struct, frozen=True):
    """heard: monotonic."""

    contact: Contact
    at: datetime
    heard: float


class _Left(Struct, frozen=True):
    """An open whose answer nobody waited for. until: monotonic; what the concentrator has not begun by then it does not begin."""

    identity: Identity
    until: float


class ConcentratorSwitch:
    """Switches behind one concentrator. See `headend.drivers.relay.Switch`.

    behind: over the line of forwarded frames, for the meters whose contract it serves; None where nothing is forwarded. forwards: a
    meter whose frames the concentrator passes on. new_id: of commands that may be given twice; an open goes under its own id, so
    that a concentrator which has had it does it once.
    """

    def __init__(
        self,
        concentrator: str,
        park: Commands,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        behind: Switch | None = None,
        forwards: Callable[[MeterRecord], bool] = lambda meter: meter.contract.startswith("dlt645/"),
        expected: Callable[[MeterRecord], Expected] = nobody_expected,
    ) -> None:
        self._name = concentrator
        self._park = park
        self._clock = clock
        self._new_id = new_id
        self._behind = behind
        self._forwards = forwards
        self._expected = expected
        self._left: dict[str, _Left] = {}  # by asset number
        self._said: dict[str, _Said] = {}  # by asset number, what a confirming concentrator has said last

    async def prepare(self, meter: MeterRecord) -> Identity:
        if (behind := self._meter_itself(meter)) is not None:
            return await behind.prepare(meter)
        missing = dict.fromkeys(("number", "asset"), "its concentrator does not pass on questions to the meter itself")
        return check_identity(meter, Told(), self._expected(meter), missing)

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
        """operator: for the journal, and for meters that are reached themselves; a concentrator is not told."""
        address = SwitchAddress(meter.address, is_name=True)
        op = _OPS.get(kind)
        if op is None or not self._park.offers(self._name, op):
            behind = self._meter_itself(meter)
            if behind is None or kind is Kind.OPEN:  # between a look and a forwarded frame there is a queue
                raise NotOffered(f"meter {meter.id}: concentrator {self._name} has no command {kind.value}")
            return await behind.order(
                meter,
                kind,
                expires_at=expires_at,
                operator=operator,
                look=look,
                command_id=command_id,
                on_sending=on_sending,
                hurry=hurry,
            )
        deadline = Deadline(expires_at, self._clock)
        identity, before, register = await self._what_is(meter, kind)
        known_at = self._clock.monotonic()
        command = Command(
            id=command_id if kind is Kind.OPEN else self._new_id(),
            meter=address.text,
            op=op,
            params={},
            expires_at=min(expires_at, self._clock.now() + timedelta(seconds=ORDER_LIFE_S)),
        )
        wires: list[str] = []
        durable_at: list[float] = []
        left_at: list[tuple[datetime, float, float]] = []
        left = asyncio.Event()

        async def sending(message: Outgoing) -> None:
            wires.append(f"{message.topic} {message.payload.decode(errors='replace')}")
            deadline.check()
            await on_sending(Ready(wire=wires[0], identity=identity, before=before, register=register))
            durable_at.append(self._clock.monotonic())

        def last_step() -> None:
            looked_at = self._clock.monotonic()
            if kind is Kind.OPEN and looked_at - known_at > IDENTITY_AGE_S_MAX:
                raise SendingTooOld(self._name, looked_at - known_at, IDENTITY_AGE_S_MAX)
            check_age(self._name, looked_at - durable_at[0])
            deadline.check()
            look()
            now = self._clock.monotonic()
            check_age(self._name, now - durable_at[0])
            deadline.check()
            left_at.append((self._clock.now(), now - looked_at, now - durable_at[0]))
            left.set()

        began = self._clock.monotonic()
        try:
            answer = await _until_hurried(
                self._park.send(self._name, command, on_sending=sending, look=last_step), left, hurry
            )
        except ConcentratorError as error:
            raise _not_left(self._name, error) from error
        at, look_s, sending_s = left_at[0]
        sent = Sent(
            acknowledged=answer is not None and answer.status == Status.DONE,
            at=at,
            said="" if answer is None else _said(answer),
            wire_sent=wires[0],
            wire_received="" if answer is None else _told(answer),
            look_to_wire_s=look_s,
            sending_to_wire_s=sending_s,
            elapsed_s=self._clock.monotonic() - began,
            identity=identity,
            before=before,
            register=register,
        )
        if answer is None:
            self._said.pop(meter.id, None)
            if kind is Kind.OPEN:
                until = self._clock.monotonic() + (command.expires_at - self._clock.now()).total_seconds()
                self._left[meter.id] = _Left(identity, until)
            raise SwitchUnconfirmed(address.text, kind.value, f"{HURRIED}; {READ_BACK}", replace(sent, silence=HURRIED))
        self._remember(meter, kind, answer)
        if answer.status == Status.FAILED:
            return replace(sent, refused=_said(answer), said="")
        if answer.status == Status.UNCONFIRMED:
            silence = "silent" if answer.code == "no-answer" else f"unconfirmed by the concentrator: {_said(answer)}"
            unknown = replace(sent, silence=silence, said="")
            raise SwitchUnconfirmed(address.text, kind.value, f"{silence}; {READ_BACK}", unknown)
        return sent

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        if (behind := self._meter_itself(meter)) is not None:
            return await behind.look_back(meter, kind=kind)
        problems: dict[str, str] = {}
        values = await self._read(meter, _load_codes(meter.contract), problems)
        said = self._said.get(meter.id)
        if said is not None and self._clock.monotonic() - said.heard > SAID_AGE_S_MAX:
            del self._said[meter.id]
            said = None
        if said is None:
            problems["status"] = f"concentrator {self._name} does not read relays back, or has not been asked to"
        else:
            problems["status"] = f"as the concentrator said at {said.at.isoformat(timespec='seconds')}"
        return Witness(
            contact="unknown" if said is None else said.contact,
            at=self._clock.now(),
            current_a=_greatest(values, CURRENTS, Unit.A),
            voltage_v=_greatest(values, VOLTAGES, Unit.V),
            problems=problems,
        )

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        if (behind := self._meter_itself(meter)) is not None:
            return await behind.register(meter, kind=kind)
        value = (await self._read(meter, (ENERGY,), {})).get(ENERGY)
        if value is None or value.amount is None:
            return None
        return CapturedRegister(obis=ENERGY, amount=value.amount, unit=value.unit.value, read_at=self._clock.now())

    # -------------------------------------------------------------------------------------------- inside

    def _meter_itself(self, meter: MeterRecord) -> Switch | None:
        return self._behind if self._behind is not None and self._forwards(meter) else None

    async def _what_is(
        self, meter: MeterRecord, kind: Kind
    ) -> tuple[Identity, Witness | None, CapturedRegister | None]:
        """An open needs to know who and what is there. A supply is brought back also where the way to ask is broken.

        Who answers is asked last: it must be true when the order leaves. Behind an open that nobody waits for any more nothing is
        asked: its meter has told who it is, and a concentrator that is silent would keep the close waiting for half a minute.
        """
        left = self._left.pop(meter.id, None)
        if kind in CLOSES and left is not None and self._clock.monotonic() < left.until:
            return left.identity, None, None
        if kind is Kind.OPEN and self._meter_itself(meter) is None:
            raise NotIdentified(
                meter.id,
                f"concentrator {self._name} does not pass on questions to the meter itself, so it can be closed through it and not be "
                f"opened",
            )
        try:
            before = await self.look_back(meter, kind=kind)
            register = await register_before(meter, kind, self.register(meter, kind=kind))
            identity = await self.prepare(meter)
        except DriverError as error:
            if kind is Kind.OPEN or not getattr(error, "retryable", False):
                raise
            log.warning("a meter could not be asked before it is switched on", meter=meter.id, problem=str(error))
            missing = dict.fromkeys(("number", "asset"), str(error))
            return Identity(told=Told(), is_proven=False, missing=missing), None, None
        if kind is Kind.OPEN and not identity.is_proven:
            raise NotIdentified(meter.id, "; ".join(identity.missing.values()) or "it tells none")
        return identity, before, register

    async def _read(
        self, meter: MeterRecord, codes: tuple[str, ...], problems: dict[str, str]
    ) -> dict[str, PushedValue]:
        if not self._park.offers(self._name, Op.READ):
            problems["read"] = f"concentrator {self._name} has no command read"
            return {}
        command = Command(
            id=self._new_id(),
            meter=meter.address,
            op=Op.READ,
            params={"quantities": list(codes)},
            expires_at=self._clock.now() + timedelta(seconds=READ_S),
        )
        try:
            answer = await self._park.send(self._name, command)
        except ConcentratorError as error:
            raise _not_left(self._name, error) from error
        if answer.status != Status.DONE:
            problems["read"] = _said(answer)
        of_meter = [data for data in answer.values if data.meter in ("", meter.address)]
        return {str(value.obis): value for data in of_meter for value in data.values if value.obis is not None}

    def _remember(self, meter: MeterRecord, kind: Kind, answer: CommandAnswer) -> None:
        """The contact as the concentrator has read it back; nothing where it only passes orders on."""
        self._said.pop(meter.id, None)
        if not self._park.confirms(self._name):
            return
        contact: Contact
        if answer.status == Status.DONE:
            contact = _DONE[kind]
        elif answer.code == "relay-differs":
            contact = "closed" if kind is Kind.OPEN else "open"
        else:
            return
        self._said[meter.id] = _Said(contact, self._clock.now(), self._clock.monotonic())


async def _until_hurried(
    sending: Coroutine[Any, Any, CommandAnswer], left: asyncio.Event, hurry: asyncio.Event | None
) -> CommandAnswer | None:
    """The answer; None when it has left, and something more urgent came before it was answered."""
    if hurry is None:
        return await sending

    async def hurried() -> None:
        await left.wait()
        await hurry.wait()

    answered, urgent = asyncio.ensure_future(sending), asyncio.ensure_future(hurried())
    try:
        await asyncio.wait((answered, urgent), return_when=asyncio.FIRST_COMPLETED)
        return answered.result() if answered.done() else None
    finally:
        answered.cancel()
        urgent.cancel()
        await asyncio.gather(answered, urgent, return_exceptions=True)


@lru_cache(maxsize=256)
def _load_codes(contract: str) -> tuple[str, ...]:
    """What of currents and voltages the meter's contract knows; all of them where it knows none, or cannot be read."""
    try:
        found = load_contract(contract)
        known = tuple(code for code in (*CURRENTS, *VOLTAGES) if _knows(found, code))
    except ContractError:
        known = ()
    return known or (*CURRENTS, *VOLTAGES)


def _knows(contract: AnyContract, code: str) -> bool:
    try:
        contract.find_obis(Obis(code))
    except ContractError:
        return False
    return True


def _not_left(concentrator: str, error: ConcentratorError) -> DriverError:
    """Its words are the driver's, and all of them mean that nothing has left."""
    if error.kind == "line-down":
        return LineDown(concentrator, str(error))
    return NotTaken(error)


def _said(answer: CommandAnswer) -> str:
    return " ".join(str(part) for part in (answer.status, answer.code, answer.detail) if part)


def _told(answer: CommandAnswer) -> str:
    return "" if answer.code == "no-answer" else f"{answer.id} {_said(answer)}".strip()


def _greatest(values: Mapping[str, PushedValue], codes: tuple[str, ...], unit: Unit) -> Decimal | None:
    amounts = [
        abs(values[code].amount or Decimal(0))
        for code in codes
        if code in values and values[code].amount is not None and values[code].unit is unit
    ]
    return max(amounts, default=None)

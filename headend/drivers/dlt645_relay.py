"""The supply switch of DL/T 645 meters: function 1CH, in the plain class and in the secure one. Nothing else in the head-end sends it.

The frame carries its own end, N3..N8, which meters compare with their clock: a few minutes after it was made a delayed or
recorded order is refused wherever it turns up. So the end is written as this meter's clock will show it: its clock is read
under the same hold, because one that is an hour fast would refuse every reconnection as out of date.

Status word 3 tells the order (bit 6) and the contact (bit 4) apart. Layouts and words: DL/T 645-2007 with the grid companies' addenda.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache

import structlog
from msgspec import Struct
from msgspec.structs import replace

from firmware_contracts.contract import Contract
from firmware_contracts.errors import UnknownItem
from headend.clock import Clock
from headend.commands.model import CLOSES, CapturedRegister, Kind
from headend.drivers.dlt645 import Dlt645Driver, refusal
from headend.drivers.errors import BadReply, NotIdentified, NotOffered, RefusedByMeter
from headend.drivers.hold import HOLD_S_MAX
from headend.drivers.line import Line, Priority
from headend.drivers.relay import (
    ENERGY,
    Contact,
    Expected,
    Identity,
    Look,
    OnSending,
    OperatorCodes,
    Ready,
    Sent,
    SwitchAddress,
    Told,
    Witness,
    check_identity,
    lane_of,
    nobody_expected,
    register_before,
)
from headend.drivers.relay_leave import Deadline, leave, refused
from headend.model import MeterRecord
from headend.quantities import AnyContract, load_contract
from headend.secrets import Authority, BadSecret
from protocols.dlt645.control import Dialect, Function2007, RelayOrder, error_phrases, function_name
from protocols.dlt645.fields import Password
from protocols.dlt645.items import Di, ItemSpec
from protocols.dlt645.masking import mask
from protocols.dlt645.messages import Refused, RelayReply, RelayRequest, SecurityReply, SecurityRequest, encode
from protocols.dlt645.security import AUTHENTICATE, Authenticated, SecurityModule
from protocols.errors import WireError
from protocols.exchange import Replied, Request
from protocols.values import Obis

__all__ = ["FRAME_LIFE_S", "Dlt645Switch"]

FRAME_LIFE_S = 300.0  # of N3..N8; the reply comes within seconds, and what comes later must not be obeyed
RETRIES = 1
TIMEOUTS_PER_HOLD = 24  # a dozen exchanges, each asked twice
SECURE_LEVELS = (0x98, 0x96)  # PA of the two grid companies' secure classes
WANTS_WORD = 0x01  # P2 of the secure class: a state word in the reply

ORDERS = {
    Kind.OPEN: RelayOrder.TRIP,
    Kind.PERMIT_CLOSE: RelayOrder.PERMIT_CLOSE,
    Kind.CLOSE: RelayOrder.CLOSE,
    Kind.PROTECT: RelayOrder.PROTECT,
    Kind.UNPROTECT: RelayOrder.PROTECT_OFF,
}
# Bits of status words 1 and 3.
RELAY_FAULT = 1 << 8
CONTACT_OPEN, ORDERED_OPEN, TRIP_ALARM, IS_PROTECTED = 1 << 4, 1 << 6, 1 << 7, 1 << 12

_NUMBER, _ASSET, _ADDRESS = Di("04000402"), Di("04000403"), Di("04000401")
_WORDS, _WORD_1, _WORD_3 = Di("040005FF"), Di("04000501"), Di("04000503")
_TRIPS, _CLOSES = Di("1D000001"), Di("1E000001")
_CURRENTS, _VOLTAGES = Di("0202FF00"), Di("0201FF00")
_CLOCK = Di("0400010C")
_ACCEPTED_WORDS = (
    *("closed", "close permitted", "tripped", "trip delayed by the delay time", "trip with automatic restoring"),
    *("trip delayed by a large current", "", "", "protected", "protection released", "alarm", "alarm released"),
)

log = structlog.get_logger(__name__)


class _Words(Struct, frozen=True):
    """Status words 1 and 3; the first is None where only the other can be read."""

    first: int | None
    third: int


class Dlt645Switch:
    """Switches of the DL/T 645 meters of one line. See `headend.drivers.relay.Switch`.

    zone: of the meters' clocks. authority: password and operator code of a meter, by asset number. operators: who may be named
    instead of a code. expected: what the records say of a meter's numbers. clock_offset_s: how far a meter's clock is known to be
    fast, for meters whose clock cannot be read; None: not known. security: makes the secure class possible, and is preferred.
    """

    def __init__(
        self,
        line: Line,
        *,
        zone: tzinfo,
        clock: Clock,
        authority: Callable[[str], Authority],
        operators: OperatorCodes | None = None,
        expected: Callable[[MeterRecord], Expected] = nobody_expected,
        clock_offset_s: Callable[[str], float | None] = lambda meter: None,
        security: SecurityModule | None = None,
        contract_of: Callable[[str], AnyContract] = load_contract,
    ) -> None:
        self._line = line
        self._driver = Dlt645Driver(line, retries=RETRIES)
        self._zone = zone
        self._clock = clock
        self._authority = authority
        self._operators = operators or OperatorCodes({})
        self._expected = expected
        self._clock_offset_s = clock_offset_s
        self._security = security
        self._contract_of = contract_of

    # -------------------------------------------------------------------------------------------- see `Switch`

    async def prepare(self, meter: MeterRecord) -> Identity:
        return await self._identify(meter, self._contract(meter), Kind.STATUS)

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
        """hurry: not heeded; a line waits for one reply, and no longer than its reply timeout."""
        address = SwitchAddress(meter.address)
        contract = self._contract(meter)
        if kind not in ORDERS:
            raise NotOffered(f"{kind.value} switches nothing; look back instead")
        is_secure = self._is_secure(meter, contract)
        authority, code = self._authority_of(meter), self._operators.code_of(operator, kind)
        deadline = Deadline(expires_at, self._clock)
        name = f"{function_name(Dialect.V2007, Function2007.RELAY)} {ORDERS[kind]:02X}H ({kind.value})"
        longest_s = max(HOLD_S_MAX, TIMEOUTS_PER_HOLD * self._line.timing.reply_timeout_s)
        async with self._line.hold(lane_of(kind), at_most_s=longest_s) as hold:
            identity = await self._identify(meter, contract, kind)
            # Nothing that a close does is judged by the load before it, and others wait for theirs.
            before = await self._witness(meter, contract, kind, with_load=kind not in CLOSES)
            register = await register_before(meter, kind, self._register(meter, contract, kind))
            until = self._meter_deadline(deadline, await self._offset_s(meter, contract, kind))
            if is_secure:
                message = await self._secure_request(address, authority, code, kind, until)
            else:
                message = RelayRequest(
                    password=authority.password, operator=code, order=ORDERS[kind], expires=f"{until:%y%m%d%H%M%S}"
                )
            wire = mask(encode(message, address.text).to_bytes(self._line.timing.preamble))
            replied, sent = await leave(
                self._line,
                hold,
                Request(address.text, message),
                Ready(wire=wire, identity=identity, before=before, register=register),
                order=name,
                look=look,
                on_sending=on_sending,
                deadline=deadline,
                clock=self._clock,
                show=mask,
            )
        if isinstance(replied.message, Refused):
            words = _refusal_words(replied, replied.message, contract, authority, before)
            log.info("an order was refused", line=self._line.name, meter=meter.id, command=command_id, words=words)
            return refused(sent, words)
        return replace(sent, said=_accepted_words(replied.message)) if isinstance(replied.message, RelayReply) else sent

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        contract = self._contract(meter)
        if kind not in CLOSES:
            return await self._witness(meter, contract, kind)
        async with self._line.hold(Priority.READ_BACK):
            return await self._witness(meter, contract, kind)

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        return await self._register(meter, self._contract(meter), kind)

    # -------------------------------------------------------------------------------------------- who answers

    async def _identify(self, meter: MeterRecord, contract: Contract, kind: Kind) -> Identity:
        """The address only where there is nothing better: whoever answers at all has answered from it."""
        found: dict[str, str] = {}
        missing: dict[str, str] = {}
        offered = [(name, di) for name, di in (("number", _NUMBER), ("asset", _ASSET)) if _spec(contract, di)]
        for name, di in offered or [("address", _ADDRESS)]:
            spec = _spec(contract, di)
            if spec is None:
                missing[name] = "the contract does not offer it"
                continue
            try:
                values = (await self._driver.read(meter.address, spec, lane_of(kind))).values
            except (RefusedByMeter, BadReply) as error:
                missing[name] = str(error)
                continue
            found[name] = "" if values[0].content is None else str(values[0].content).strip(" \x00")
        missing |= {
            name: "the contract does not offer it" for name in ("number", "asset") if name not in found | missing
        }
        expected = self._expected(meter)
        identity = check_identity(meter, Told(**found), expected, missing)
        # A contract that offers neither is opened by its address, unless another meter here has the same.
        if kind is Kind.OPEN and not identity.is_proven and (offered or expected.is_address_shared):
            raise NotIdentified(meter.id, "; ".join(missing.values()) or "it tells none")
        return identity

    # -------------------------------------------------------------------------------------------- what is

    async def _witness(self, meter: MeterRecord, contract: Contract, kind: Kind, *, with_load: bool = True) -> Witness:
        """Silence ends it: NoAnswer. What the meter has not, or refuses, is told among the problems."""
        problems: dict[str, str] = {}
        words = await self._words(meter, contract, lane_of(kind), problems)
        trips = closes = None
        if kind in (Kind.OPEN, Kind.STATUS):
            trips = await self._count(meter, contract, _TRIPS, "trips", kind, problems)
        if kind is not Kind.OPEN:
            closes = await self._count(meter, contract, _CLOSES, "closes", kind, problems)
        current = voltage = None
        if with_load:
            current = await self._greatest(meter, contract, _CURRENTS, "current", kind, problems)
            voltage = await self._greatest(meter, contract, _VOLTAGES, "voltage", kind, problems)
        first = None if words is None else words.first
        third = None if words is None else words.third
        return Witness(
            contact=_contact(third),
            at=self._clock.now(),
            trips=trips,
            closes=closes,
            current_a=current,
            voltage_v=voltage,
            protected=None if third is None else bool(third & IS_PROTECTED),
            alarm=None if third is None else bool(third & TRIP_ALARM),
            faulty=None if first is None else bool(first & RELAY_FAULT),
            status="" if third is None else f"{third:04X}",
            problems=problems,
        )

    async def _words(
        self, meter: MeterRecord, contract: Contract, priority: Priority, problems: dict[str, str]
    ) -> _Words | None:
        """In one block where the meter has it, else word 3 alone."""
        for di in (_WORDS, _WORD_3):
            spec = _spec(contract, di)
            if spec is None:
                problems.setdefault("status", "the contract does not offer it")
                continue
            try:
                values = (await self._driver.read(meter.address, spec, priority)).values
            except (RefusedByMeter, BadReply) as error:
                problems["status"] = str(error)
                continue
            by_name = {member.di: value for member, value in zip(spec.members or (spec,), values, strict=False)}
            third = by_name.get(_WORD_3)
            if third is None or third.content is None:
                problems["status"] = f"{di} does not hold status word 3"
                continue
            problems.pop("status", None)
            first = by_name.get(_WORD_1)
            return _Words(
                None if first is None or first.content is None else int(str(first.content), 16),
                int(str(third.content), 16),
            )
        return None

    async def _count(
        self, meter: MeterRecord, contract: Contract, di: Di, name: str, kind: Kind, problems: dict[str, str]
    ) -> int | None:
        amounts = await self._amounts(meter, contract, di, name, kind, problems)
        return int(amounts[0]) if amounts else None

    async def _greatest(
        self, meter: MeterRecord, contract: Contract, di: Di, name: str, kind: Kind, problems: dict[str, str]
    ) -> Decimal | None:
        """Of the phases, without sign: reversed wiring makes no current harmless."""
        amounts = await self._amounts(meter, contract, di, name, kind, problems)
        return max(map(abs, amounts), default=None)

    async def _amounts(
        self, meter: MeterRecord, contract: Contract, di: Di, name: str, kind: Kind, problems: dict[str, str]
    ) -> list[Decimal]:
        spec = _spec(contract, di)
        if spec is None:
            problems[name] = "the contract does not offer it"
            return []
        try:
            values = (await self._driver.read(meter.address, spec, lane_of(kind))).values
        except (RefusedByMeter, BadReply) as error:
            problems[name] = str(error)
            return []
        amounts = [value.content for value in values if isinstance(value.content, Decimal)]
        if not amounts:
            problems[name] = "the meter marks it as not measured"
        return amounts

    async def _register(self, meter: MeterRecord, contract: Contract, kind: Kind) -> CapturedRegister | None:
        spec = _energy_spec(contract)
        if spec is None:
            return None
        value = (await self._driver.read(meter.address, spec, lane_of(kind))).values[0]
        if not isinstance(value.content, Decimal):
            return None
        return CapturedRegister(obis=ENERGY, amount=value.content, unit=spec.unit.value, read_at=self._clock.now())

    # -------------------------------------------------------------------------------------------- what is sent

    async def _offset_s(self, meter: MeterRecord, contract: Contract, kind: Kind) -> float:
        """How far the meter's clock is fast now."""
        spec = _spec(contract, _CLOCK)
        if spec is not None:
            try:
                shown = (await self._driver.read(meter.address, spec, lane_of(kind))).values[0].at
            except (RefusedByMeter, BadReply) as error:
                log.warning("a meter's clock was not read", line=self._line.name, meter=meter.id, problem=str(error))
            else:
                if shown is not None:
                    return (shown.replace(tzinfo=None) - self._local(self._clock.now())).total_seconds()
        return self._clock_offset_s(meter.id) or 0.0

    def _meter_deadline(self, deadline: Deadline, offset_s: float) -> datetime:
        """The end of the order as this meter's clock will show it, whole seconds, without zone."""
        until = min(deadline.expires_at, self._clock.now() + timedelta(seconds=FRAME_LIFE_S))
        return self._local(until) + timedelta(seconds=offset_s)

    def _local(self, at: datetime) -> datetime:
        return at.astimezone(self._zone).replace(tzinfo=None)

    async def _secure_request(
        self, address: SwitchAddress, authority: Authority, code: bytes, kind: Kind, until: datetime
    ) -> RelayRequest:
        """R1..R8 enciphered, with their MAC, behind a fresh authentication. R3..R8 go year first."""
        assert self._security is not None
        asking = SecurityRequest(di=AUTHENTICATE, operator=code, data=self._security.challenge(address.text).to_data())
        replied = await self._line.exchange(Request(address.text, asking), lane_of(kind))
        if not isinstance(replied, Replied):
            raise AssertionError("an authentication is answered or times out")
        if isinstance(replied.message, Refused):
            raise refusal(replied, replied.message)
        if not isinstance(replied.message, SecurityReply):
            raise AssertionError(f"the session matched {replied.message!r} to an authentication")
        try:
            number = Authenticated.from_data(replied.message.data).random
        except WireError as error:
            raise BadReply(address.text, error, replied.wire_sent, replied.wire_received) from error
        plain = bytes([ORDERS[kind], 0]) + bytes.fromhex(f"{until:%y%m%d%H%M%S}")
        hidden = self._security.encipher(address.text, number, plain)
        level = authority.password.level if authority.password.level in SECURE_LEVELS else SECURE_LEVELS[0]
        return RelayRequest(
            password=Password(level, bytes([0, 0, WANTS_WORD])),
            operator=code,
            order=hidden[0],
            delay=hidden[1],
            expires=hidden[2:8][::-1].hex(),  # as sent: the layout turns it round once more
            secure=hidden[8:],
        )

    def _is_secure(self, meter: MeterRecord, contract: Contract) -> bool:
        """Raises NotOffered."""
        if contract.relay.secure and self._security is not None:
            return True
        if contract.relay.plain:
            return False
        if contract.relay.secure:
            raise NotOffered(
                f"meter {meter.id} takes orders of the secure class only, and no security module is installed"
            )
        raise NotOffered(f"meter {meter.id}: contract {contract.name} has no relay that can be reached from outside")

    def _authority_of(self, meter: MeterRecord) -> Authority:
        """Raises NotOffered: without its password a meter is asked nothing."""
        try:
            return self._authority(meter.id)
        except BadSecret as error:
            raise NotOffered(f"meter {meter.id} cannot be switched: {error}") from error

    def _contract(self, meter: MeterRecord) -> Contract:
        contract = self._contract_of(meter.contract)
        if not isinstance(contract, Contract) or contract.protocol != Dialect.V2007.protocol:
            raise NotOffered(
                f"meter {meter.id}: {meter.contract} is no DL/T 645-2007 contract; 1997 has no relay orders"
            )
        return contract


@lru_cache(maxsize=1024)  # a contract that does not know an item looks for similar ones first, which takes long
def _spec(contract: Contract, di: Di) -> ItemSpec | None:
    """None where the contract does not offer it for reading."""
    try:
        spec = contract.find(di)
    except UnknownItem:
        return None
    return spec if contract.has(di) and "r" in spec.access else None


@lru_cache(maxsize=256)
def _energy_spec(contract: Contract) -> ItemSpec | None:
    try:
        return contract.find_obis(Obis(ENERGY))
    except UnknownItem:
        return None


def _contact(word_3: int | None) -> Contact:
    if word_3 is None:
        return "unknown"
    if not word_3 & CONTACT_OPEN:
        return "closed"
    return "open" if word_3 & ORDERED_OPEN else "permitted"


def _refusal_words(
    replied: Replied, refused_: Refused, contract: Contract, authority: Authority, before: Witness
) -> str:
    """The meter's word, and what it may stand for: in the plain class one bit says four things."""
    phrases = ", ".join(error_phrases(refused_.dialect, refused_.function, refused_.word, refused_.size))
    said = f"error word {refused_.word:0{2 * refused_.size}X}H ({phrases})"
    hints: list[str] = []
    if before.protected:
        hints.append("its status says that the supply is protected (保电)")
    if refused_.size == 1 and authority.password.level > contract.quirks.relay_level:
        hints.append(
            f"password level {authority.password.level:02X}H was used, the contract asks for "
            f"{contract.quirks.relay_level:02X}H or higher"
        )
    if refused_.size == 1 and not hints:
        hints.append("this word stands for password, operator, expiry and protection alike")
    return f"{said}; {'; '.join(hints)}" if hints else said


def _accepted_words(reply: RelayReply) -> str:
    """What the state word of the secure class says; "" where there is none. It is the meter's claim, no proof."""
    if reply.state_word is None:
        return ""
    named = [words for bit, words in enumerate(_ACCEPTED_WORDS) if reply.state_word >> bit & 1 and words]
    return ", ".join(named) or f"state word {reply.state_word:04X}H"

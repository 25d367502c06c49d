"""What changes a DL/T 645 meter, one method for each function. The relay function 1CH is not among them, on purpose: it belongs to the
command flow, which journals, checks and verifies around every byte.

Silence after an order is no refusal: the meter may have obeyed, and its reply got lost. Orders that do the same when they
arrive twice are repeated; the others end as Unconfirmed. What can be read back is read back, and `Outcome` says how far the proof goes.
"""

import asyncio
import enum
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from headend.drivers.dlt645 import RETRYABLE, Dlt645Driver, refusal
from headend.drivers.errors import (
    Contradicted,
    DriverError,
    LineDown,
    NotOffered,
    RefusedByMeter,
    Unconfirmed,
    WrongMeter,
)
from headend.drivers.line import Priority
from headend.secrets import Authority
from protocols.dlt645.control import RATES, Dialect, Function1997, Function2007, function_name
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import BROADCAST, FRAME_SIZE_MIN, WILDCARD
from protocols.dlt645.items import Di, Encodable, ItemSpec, encode
from protocols.dlt645.messages import (
    ClearRequest,
    FreezeRequest,
    Message,
    PasswordReply,
    PasswordRequest,
    RateReply,
    RateRequest,
    Refused,
    SecurityReply,
    SecurityRequest,
    TerminalReply,
    TerminalRequest,
    TimeSync,
    WriteAddressRequest,
    WriteRequest,
)
from protocols.dlt645.security import AUTHENTICATE, Authenticated, Challenge
from protocols.dlt645.session import DOUBLE_S_MAX
from protocols.exchange import Replied, Request, Sent

__all__ = ["ALL_EVENTS", "Dlt645Operations", "Outcome", "TerminalOutput"]

F07 = Function2007
V07, V97 = Dialect.V2007, Dialect.V1997
ALL_EVENTS = Di("FFFFFFFF")
TIME_SYNC_SIZE = 6
PASSWORD_ITEMS = ("04000C", "C212")
ADDRESS_ITEMS = ("04000401", "C032")
NO_RATE_1997 = 0xFF
READ_BACK = "read back what it should have changed before it is sent again"

log = structlog.get_logger(__name__)


class Outcome(enum.Enum):
    """How much is known of an order that was not refused."""

    SENT = "sent"  # nobody answers this; it has left
    ACCEPTED = "accepted"  # the meter's normal reply, which proves no more than that it understood
    VERIFIED = "verified"  # read back, and it is as ordered


class TerminalOutput(enum.IntEnum):
    """What the multi-function terminal gives, 1DH."""

    SECOND_PULSE = 0
    DEMAND_PERIOD = 1
    TARIFF_SWITCH = 2


class Dlt645Operations:
    """Orders to the meters of one line, through the driver that reads it.

    Every method raises RefusedByMeter, Unconfirmed (it left, and nothing is known), and LineDown, LineQueueFull or NoAnswer when
    nothing has changed for sure. `dialect` is the edition the meter speaks where no DI tells it.
    """

    def __init__(self, driver: Dlt645Driver) -> None:
        self._driver = driver
        self._line = driver.line
        self._answered_at: dict[tuple[str, int], float] = {}  # by address and function, monotonic seconds

    # -------------------------------------------------------------------------------------------- data

    async def write(
        self,
        address: str,
        spec: ItemSpec,
        values: Encodable | Sequence[Any],
        authority: Authority,
        priority: Priority,
        *,
        verify: bool = True,
    ) -> Outcome:
        """Write one item, 14H or 04H, and read it back where that is possible.

        values: as `items.encode` takes them. verify: False for what moves on by itself, such as the clock. Raises NotOffered,
        EncodeError, Contradicted.
        """
        if "w" not in spec.access:
            raise NotOffered(f"DI {spec.di} ({spec.name}) can be read but not written")
        if spec.di.text.startswith(PASSWORD_ITEMS):
            raise NotOffered(f"DI {spec.di} ({spec.name}) holds a password: change_password changes it, and hides it")
        if spec.di.text in ADDRESS_ITEMS:
            raise NotOffered(
                f"DI {spec.di} ({spec.name}) is the address itself: write_address changes it, and checks it"
            )
        data = encode(values, spec)
        request = WriteRequest(di=spec.di, data=data, password=authority.password, operator=authority.operator)
        order = f"{spec.di} {spec.name}"
        outcome = Outcome.ACCEPTED
        try:
            await self._order(address, request, priority, repeatable=True)
        except Unconfirmed:
            if not verify or "r" not in spec.access:
                raise
            outcome = Outcome.SENT
        if not verify or "r" not in spec.access:
            return outcome
        try:
            came = await self._driver.read_data(address, spec.di, priority)
        except DriverError as error:
            raise Unconfirmed(address, f"writing {order}", f"reading it back failed: {error}") from error
        if came != data:
            raise Contradicted(address, f"writing {order}", data.hex(" ").upper(), came.hex(" ").upper())
        return Outcome.VERIFIED

    async def write_address(self, current: str, new: str, priority: Priority, *, dialect: Dialect = V07) -> Outcome:
        """Give the only meter on the line another address, 15H or 0AH.

        The order goes to everybody who hears it, so that first the line is asked who is there: it must be `current` alone. A line
        with two meters of which one is much louder can deceive this. Raises WrongMeter, Contradicted.
        """
        there = await self._driver.read_address(priority, dialect=dialect)
        if there != current:
            raise WrongMeter(current, there)
        to = WILDCARD if dialect is V07 else BROADCAST
        try:
            await self._order(to, WriteAddressRequest(address=new, dialect=dialect), priority)
        except Unconfirmed as error:
            # Without the programming key a meter stays silent: only asking again tells the two apart.
            there = await self._driver.read_address(priority, dialect=dialect)
            if there != new:
                raise NotOffered(
                    f"{there} did not take the address {new}: it stays silent unless its programming key is pressed"
                ) from error
            return Outcome.VERIFIED
        there = await self._driver.read_address(priority, dialect=dialect)
        if there != new:
            raise Contradicted(current, "a new address", new, there)
        return Outcome.VERIFIED

    # -------------------------------------------------------------------------------------------- time and freezes

    async def time_sync(self, address: str, local_now: Callable[[], datetime], priority: Priority) -> Outcome:
        """Set a clock that is off by at most five minutes, 08H; the meter takes it once a day.

        local_now: wall time at the site, without zone; asked at the moment of sending, because a line's queue may be long.
        Some meters stay silent although they have obeyed: that is SENT. 1997 meters listen to the broadcast only.
        """
        try:
            await self._order(address, lambda: TimeSync(at=self._on_arrival(local_now)), priority)
        except Unconfirmed:
            return Outcome.SENT
        return Outcome.ACCEPTED

    async def broadcast_time(self, local_now: Callable[[], datetime], priority: Priority) -> Outcome:
        """Set all clocks of the line, see `time_sync`. Nobody answers."""
        await self._order(BROADCAST, lambda: TimeSync(at=self._on_arrival(local_now)), priority)
        return Outcome.SENT

    async def freeze(self, address: str, moment: FreezeRequest, priority: Priority) -> Outcome:
        """Order a freeze, 16H: `FreezeRequest.now()`, `.hourly(…)`, `.daily(…)`, `.monthly(…)`. 2007 only."""
        await self._order(address, moment, priority, repeatable=moment != FreezeRequest.now())
        return Outcome.ACCEPTED

    async def broadcast_freeze(self, moment: FreezeRequest, priority: Priority) -> Outcome:
        await self._order(BROADCAST, moment, priority)
        return Outcome.SENT

    # -------------------------------------------------------------------------------------------- rate and password

    async def change_rate(self, address: str, baud: int, priority: Priority, *, dialect: Dialect = V07) -> Outcome:
        """Change the meter's rate and, when it has confirmed, the line's own, 17H or 0CH.

        For a line whose only meter this is, or whose meters all change. 2007 meters keep the rate: the configuration has to
        follow. 1997 meters fall back when the session ends; then `line.set_baud` goes back, too. If the meter is not heard at
        the new rate, the line returns to the old one. Raises NotOffered, RateFixed, Unconfirmed.
        """
        words = {rate: word for word, rate in RATES[dialect].items()}
        if baud not in words:
            raise NotOffered(
                f"{baud} baud is no rate of DL/T 645-{dialect.value}: there are {', '.join(map(str, words))}"
            )
        old = self._line.check_baud(baud)
        replied = await self._order(address, RateRequest(word=words[baud], dialect=dialect), priority)
        reply = _replied(replied).message
        if not isinstance(reply, RateReply) or reply.word == NO_RATE_1997:
            raise NotOffered(f"{address} does not change to {baud} baud")
        if reply.word != words[baud]:
            raise Contradicted(address, "a new rate", f"{words[baud]:02X}H", f"{reply.word:02X}H")
        self._line.set_baud(baud)
        try:
            await self._driver.read_data(address, Di("00010000" if dialect is V07 else "9010"), priority)
        except RefusedByMeter:
            pass  # heard, and that is all that was asked
        except DriverError as error:
            self._line.set_baud(old)
            advice = f"it is not heard at {baud} baud, and the line is back at {old}: {error}"
            raise Unconfirmed(address, f"the change to {baud} baud", advice) from error
        log.info("line changed its rate", line=self._line.name, baud=baud, was=old)
        return Outcome.VERIFIED

    async def change_password(
        self, address: str, old: Password, new: Password, priority: Priority, *, dialect: Dialect = V07
    ) -> Outcome:
        """Change the password of `new.level`, 18H or 0FH; `old` is that level's own or a higher one's.

        A 1997 meter refuses by silence, which then is Unconfirmed. Raises Contradicted.
        """
        slot = Di(f"04000C{new.level + 1:02X}") if dialect is V07 else None
        replied = await self._order(address, PasswordRequest(di=slot, old=old, new=new), priority)
        reply = _replied(replied).message
        if not isinstance(reply, PasswordReply) or reply.new != new:
            raise Contradicted(address, "a new password", "the same", "another one")
        return Outcome.ACCEPTED

    # -------------------------------------------------------------------------------------------- clearing

    async def clear_demand(
        self, address: str, authority: Authority | None, priority: Priority, *, dialect: Dialect = V07
    ) -> Outcome:
        """Start maximum demands anew, 19H or 10H. A 1997 meter needs no authority and may stay silent: that is SENT."""
        if dialect is V97:
            try:
                await self._order(address, ClearRequest(function=Function1997.CLEAR_DEMAND), priority)
            except Unconfirmed:
                return Outcome.SENT
            return Outcome.ACCEPTED
        return await self._clear(address, F07.CLEAR_DEMAND, authority, None, priority)

    async def clear_meter(self, address: str, authority: Authority, priority: Priority) -> Outcome:
        """Start all registers from nothing, 1AH. The meter keeps what it had in its record of clearings. 2007 only."""
        return await self._clear(address, F07.CLEAR_METER, authority, None, priority)

    async def clear_events(
        self, address: str, authority: Authority, priority: Priority, *, events: Di = ALL_EVENTS
    ) -> Outcome:
        """Forget event records, 1BH: all of them, or one family `xxxxxxFF`. 2007 only."""
        if events.wire[0] != 0xFF:
            raise NotOffered(f"event family {events}: expected FFFFFFFF, or a DI that ends in FF")
        return await self._clear(address, F07.CLEAR_EVENTS, authority, events, priority)

    async def _clear(
        self, address: str, function: Function2007, authority: Authority | None, events: Di | None, priority: Priority
    ) -> Outcome:
        if authority is None:
            raise NotOffered(f"{function_name(V07, function)} of DL/T 645-2007 needs a password")
        request = ClearRequest(
            function=function, password=authority.password, operator=authority.operator, events=events
        )
        await self._order(address, request, priority)
        return Outcome.ACCEPTED

    # -------------------------------------------------------------------------------------------- terminal and security

    async def set_terminal(self, address: str, output: TerminalOutput, priority: Priority) -> Outcome:
        """Choose what the multi-function terminal gives, 1DH. Raises Contradicted."""
        replied = _replied(await self._order(address, TerminalRequest(output), priority, repeatable=True))
        if replied.message != TerminalReply(output):
            raise Contradicted(address, "a terminal output", f"{output:02X}H", repr(replied.message))
        return Outcome.ACCEPTED

    async def authenticate(
        self, address: str, challenge: Challenge, operator: bytes, priority: Priority
    ) -> Authenticated:
        """Identity authentication, 03H 070000FF, with a challenge from a SecurityModule. Raises BadMessage."""
        return Authenticated.from_data(
            await self.secure(address, AUTHENTICATE, challenge.to_data(), operator, priority)
        )

    async def secure(self, address: str, di: Di, data: bytes, operator: bytes, priority: Priority) -> bytes:
        """Any other security function of 03H: DATA there and back behind the DI."""
        replied = _replied(await self._order(address, SecurityRequest(di=di, operator=operator, data=data), priority))
        if not isinstance(replied.message, SecurityReply):
            raise AssertionError(f"the session matched {replied.message!r} to a security request")
        return replied.message.data

    # -------------------------------------------------------------------------------------------- inside

    async def _order(
        self, address: str, message: Message | Callable[[], Message], priority: Priority, *, repeatable: bool = False
    ) -> Replied | Sent:
        """Send, and say truly what is known afterwards: RefusedByMeter, Unconfirmed, or an error that came before any byte."""
        has_left: list[Message] = []

        def prepare() -> Request:
            has_left.append(message() if callable(message) else message)
            return Request(address, has_left[-1])

        attempts = 1 + (self._driver.retries if repeatable else 0)
        while True:
            attempts -= 1
            await self._be_unmistakable(address, message)
            try:
                found = await self._line.exchange(prepare, priority)
            except DriverError as error:
                if not has_left:
                    raise
                if attempts and error.kind in RETRYABLE:
                    continue
                order = function_name(_dialect_of(has_left[-1]), has_left[-1].control.function)
                advice = f"{error}; {READ_BACK}" if not isinstance(error, LineDown) else f"{error.reason}; {READ_BACK}"
                raise Unconfirmed(
                    address, order, advice, wire_sent=error.wire_sent, wire_received=error.wire_received
                ) from error
            if isinstance(found, Replied):
                self._answered_at[address, has_left[-1].control.function] = self._line.monotonic()
                if isinstance(found.message, Refused):
                    raise refusal(found, found.message)
            return found

    async def _be_unmistakable(self, address: str, message: Message | Callable[[], Message]) -> None:
        """Wait until no reply to an order like this one can still come, late or doubled: replies to orders carry nothing that
        would tell them apart, and what the session cannot tell apart it does not deliver."""
        if callable(message):
            return
        answered_at = self._answered_at.get((address, message.control.function))
        doubled_s = 0.0 if answered_at is None else answered_at + DOUBLE_S_MAX - self._line.monotonic()
        wait_s = max(doubled_s, self._line.owed_s(Request(address, message)))
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _on_arrival(self, local_now: Callable[[], datetime]) -> str:
        """The time it will be when the meter has heard the whole frame."""
        timing = self._line.timing
        size = timing.preamble + FRAME_SIZE_MIN + TIME_SYNC_SIZE
        at = local_now()
        if at.tzinfo is not None:
            raise ValueError("meter time has no zone; give the wall time of the site")
        return f"{at + timedelta(seconds=timing.wire_time_s(size) + 0.5):%y%m%d%H%M%S}"


def _replied(found: Replied | Sent) -> Replied:
    if not isinstance(found, Replied):
        raise AssertionError("this function is always answered or times out")
    return found


def _dialect_of(message: Message) -> Dialect:
    return V97 if isinstance(message.control.function, Function1997) else V07

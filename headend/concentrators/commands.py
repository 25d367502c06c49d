"""Commands to concentrators: sent once, never twice, and answered by what the concentrator said, or by *unconfirmed*.

A command carries its own end four times: here, where it is looked at last thing before it leaves; in the message's expiry (MQTT 5);
in the payload; and at the concentrator, which must look again, because a message that is on its way is not expired by any broker.
A command that is not answered is not sent again: what it does may have been done.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.concentrators.broker import MaybeLeft
from headend.concentrators.errors import CommandExpired, CommandNotOffered, ConcentratorBusy
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Command, CommandAnswer, Outgoing, Status
from protocols.errors import EncodeError

__all__ = ["CommandCounters", "ConcentratorCommands"]

PENDING_MAX = 100  # per concentrator; they are carried out one after the other anyway
GRACE_S = 5.0  # after a command's end: an answer may be on its way
ACCEPTED_S = 60.0  # more time for one that was accepted: a relay and its read-back on a slow line
LATE_S = 5.0  # where answers have no id: how long one may still come that belongs to the command before
ANSWERED_MAX = 1000  # ids remembered, so that a repeated answer is told from one that nobody asked for

log = structlog.get_logger(__name__)


class CommandCounters(Struct):
    """Since the start. unanswered: unconfirmed, because no answer came. stray_answers: repeated, late, or asked for by nobody."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    not_sent: int = 0
    repeated_answers: int = 0
    stray_answers: int = 0


class _Pending(Struct):
    command: Command
    answer: asyncio.Future[CommandAnswer]
    is_accepted: bool = False


class ConcentratorCommands:
    """One concentrator's. publish: gives the message to the broker, see `BrokerConnection.publish`. room: returns when the next message
    that is given to it leaves at once. Asked before `on_sending`, whose word soon is too old to be sent on, and again before the last
    look, so that nothing has to wait behind it.
    """

    def __init__(
        self,
        concentrator: str,
        contract: ConcentratorContract,
        *,
        publish: Callable[[Outgoing], Awaitable[None]],
        clock: Clock,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.counters = CommandCounters()
        self._concentrator = concentrator
        self.contract = contract
        self._publish = publish
        self._room = room or _always
        self._clock = clock
        self._pending: dict[str, _Pending] = {}  # by answer id; "" where answers have none
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._waiting = 0
        self._turn = asyncio.Lock()  # where answers have no id, there is one command at a time
        self._quiet_until = 0.0  # monotonic
        self._log = log.bind(concentrator=concentrator)

    async def send(
        self,
        command: Command,
        *,
        on_sending: Callable[[Outgoing], Awaitable[None]] | None = None,
        look: Callable[[], None] | None = None,
    ) -> CommandAnswer:
        """Send the command once; its final answer. `unconfirmed` with code "no-answer" when none came: nobody knows what was done.

        on_sending: awaited when it is this command's turn, with the message that is to leave. look: called in the step of the loop
        that hands it to the broker. What either raises stops it: nothing was done.
        Raises CommandExpired, CommandNotOffered, ConcentratorBusy, BrokerDown, CommandNotTaken: then nothing was done. A caller
        that is cancelled leaves a command behind that may be carried out: its answer is not waited for, and never taken for the next
        one's.
        """
        began, left_s = self._clock.monotonic(), (command.expires_at - self._clock.now()).total_seconds()
        if self._waiting >= PENDING_MAX:
            raise ConcentratorBusy(self._concentrator, self._waiting)
        self._waiting += 1
        try:
            if not self.contract.one_at_a_time:
                return await self._exchange(command, began + left_s, on_sending, look)
            async with self._turn:
                await self._settle()
                return await self._exchange(command, began + left_s, on_sending, look)
        finally:
            self._waiting -= 1

    def received(self, answer: CommandAnswer) -> bool:
        """False for an answer that nobody waits for: repeated, late, or to somebody else's command."""
        pending = self._pending.get(answer.id)
        if pending is None or pending.answer.done() or not self.contract.is_answer(pending.command, answer):
            if answer.id and answer.id in self._answered:
                self.counters.repeated_answers += 1
            else:
                self.counters.stray_answers += 1
                self._log.warning("an answer that nobody waits for", command=answer.id[:64], status=answer.status)
            return False
        if answer.is_final:
            pending.answer.set_result(answer)
        else:
            pending.is_accepted = True
        return True

    async def _exchange(
        self,
        command: Command,
        until: float,
        on_sending: Callable[[Outgoing], Awaitable[None]] | None,
        look: Callable[[], None] | None,
    ) -> CommandAnswer:
        """until: the command's end by the monotonic clock, which no correction of the wall clock moves."""
        identity = self._identity(command)
        if identity in self._pending or (identity and identity in self._answered):
            raise CommandNotOffered(
                f"command {command.id!r} was sent before; a command is sent once, give a new one a new id"
            )
        pending = _Pending(command, asyncio.get_running_loop().create_future())
        self._pending[identity] = pending
        may_have_left = False
        try:
            self._look_last(command, until)
            await self._room()
            self._look_last(command, until)
            message = self._encoded(command)
            if on_sending is not None:
                await on_sending(message)
            await self._room()
            if look is not None:
                look()
            self._look_last(command, until)
            may_have_left = True
            await self._hand_over(message, command)
            self.counters.sent += 1
            return await self._answer(pending, until)
        except asyncio.CancelledError:
            if may_have_left:
                self._give_up(command)
            raise
        except Exception:
            self.counters.not_sent += 1
            raise
        finally:
            del self._pending[identity]

    async def _hand_over(self, message: Outgoing, command: Command) -> None:
        try:
            await self._publish(message)
        except MaybeLeft as error:
            self._log.warning("a command may have left", command=command.id, problem=str(error))

    def _identity(self, command: Command) -> str:
        try:
            return self.contract.answer_id(command)
        except EncodeError as error:
            raise CommandNotOffered(f"concentrator {self._concentrator}: {error}") from error

    def _encoded(self, command: Command) -> Outgoing:
        try:
            return self.contract.encode_command(self._concentrator, command, now=self._clock.now())
        except EncodeError as error:
            raise CommandNotOffered(f"concentrator {self._concentrator}: {error}") from error

    def _look_last(self, command: Command, until: float) -> None:
        late_s = max(
            (self._clock.now() - command.expires_at).total_seconds(),
            self._clock.monotonic() - until,
        )
        if late_s >= 0:
            raise CommandExpired(self._concentrator, command.id, late_s)

    async def _answer(self, pending: _Pending, until: float) -> CommandAnswer:
        until += GRACE_S
        while True:
            wait_s = until - self._clock.monotonic()
            done, _ = await asyncio.wait((pending.answer,), timeout=max(0.0, wait_s))
            if done:
                self.counters.answered += 1
                self._remember(pending.command)
                return pending.answer.result()
            if not pending.is_accepted:
                break
            pending.is_accepted = False  # the extra time is given once
            until += ACCEPTED_S
        self._give_up(pending.command)
        self._log.warning("a command was not answered", command=pending.command.id, op=pending.command.op.value)
        return CommandAnswer.to(self._concentrator, pending.command, Status.UNCONFIRMED, code="no-answer")

    def _give_up(self, command: Command) -> None:
        """It may have left, and its answer is not waited for any more."""
        self.counters.unanswered += 1
        self._remember(command)
        self._quiet_until = self._clock.monotonic() + LATE_S

    def _remember(self, command: Command) -> None:
        if identity := self.contract.answer_id(command):
            self._answered[identity] = None
            while len(self._answered) > ANSWERED_MAX:
                self._answered.popitem(last=False)

    async def _settle(self) -> None:
        """After a command without an answer: one that comes now has no id, and must not be taken for the next one's."""
        if (wait_s := self._quiet_until - self._clock.monotonic()) > 0:
            await asyncio.sleep(wait_s)


async def _always() -> None:
    """There is room."""

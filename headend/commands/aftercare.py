"""What is looked at again after a command has ended: those of which nobody knows what they did, and customers with a button.

It only looks. An unconfirmed command is settled by what is read later, as long as no newer command has touched the meter.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from math import inf
from typing import Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.clock import Clock
from headend.commands.carry import Carrier, Lines
from headend.commands.events import reminder_event
from headend.commands.journal import Journal, Page
from headend.commands.model import SWITCHES, Command, State
from headend.commands.obligations import pause_s
from headend.commands.verification import flows, verdict
from headend.drivers.errors import DriverError
from headend.drivers.relay import Witness
from headend.errors import StoreUnavailable
from headend.store import commands as rows

__all__ = ["Aftercare", "ReminderHook"]

DOUBT_S = (30.0, 3600.0)  # first and longest between two looks at an unconfirmed command
DOUBT_MAX = timedelta(hours=24)  # after it nobody looks any more; a `status` still settles it
BUTTON_S = (30.0, 900.0)  # the same, at a customer who is to press the button
REMINDERS = (timedelta(hours=1), timedelta(hours=4), timedelta(hours=12))  # after closing was permitted
AT_ONCE = 8  # looks under way
IDLE_S = 3600.0

log = structlog.get_logger(__name__)


class ReminderHook(Protocol):
    """A customer may have their power by pressing the button, and has not done so. number: of the reminder, from 1."""

    def __call__(self, command: Command, number: int, /) -> None: ...


class _Watched(Struct):
    """due: monotonic. pause_s: before the look after the next. is_over: a newer command was carried out, nobody waits any more."""

    command: Command
    due: float
    pause_s: float
    reminded: int = 0
    is_over: bool = False


class Aftercare:
    """`load` first, then `run` in a task until cancelled. power_s: seconds from "permitted" to power seen, the last thousand."""

    def __init__(
        self,
        journal: Journal,
        carrier: Carrier,
        lines: Lines,
        *,
        clock: Clock,
        on_reminder: ReminderHook = lambda command, number: None,
        on_witness: Callable[[str, Witness], None] = lambda meter, witness: None,
    ) -> None:
        """on_witness: told of everything that is seen, for the alarms."""
        self._journal = journal
        self._carrier = carrier
        self._lines = lines
        self._clock = clock
        self._on_reminder = on_reminder
        self._on_witness = on_witness
        self._watched: dict[str, _Watched] = {}
        self._stirred = asyncio.Event()
        self.power_s: list[float] = []
        journal.listen(self._saw)

    @property
    def waiting(self) -> int:
        """Customers who are to press the button."""
        return sum(watched.command.waiting_for_customer for watched in self._watched.values())

    async def load(self) -> None:
        def work(connection: Connection) -> list[Command]:
            return rows.commands_in(connection, (State.UNCONFIRMED,)) + rows.waiting_commands(connection)

        for command in await self._journal.read(work, "loading what is to be looked at again"):
            self._watch(command)

    async def run(self) -> None:
        while True:
            now = self._clock.monotonic()
            due = [watched for watched in self._watched.values() if watched.due <= now]
            for start in range(0, len(due), AT_ONCE):
                await asyncio.gather(*(self._look(watched) for watched in due[start : start + AT_ONCE]))
            next_due = min((watched.due for watched in self._watched.values()), default=inf)
            try:
                async with asyncio.timeout(min(IDLE_S, max(0.1, next_due - self._clock.monotonic()))):
                    await self._stirred.wait()
            except TimeoutError:
                continue
            self._stirred.clear()

    async def _look(self, watched: _Watched) -> None:
        command = watched.command
        longest_s = (BUTTON_S if command.waiting_for_customer else DOUBT_S)[1]
        watched.due = self._clock.monotonic() + watched.pause_s
        watched.pause_s = min(2 * watched.pause_s, longest_s)
        record = self._lines.record(command.meter)
        try:
            if watched.is_over:
                await self._end_waiting(command, "permission-gone", {"because": "a newer command was carried out"}, "")
                return
            if command.waiting_for_customer:
                await self._remind(watched)
            elif self._is_over(command):
                del self._watched[command.id]
                return
            if not self._lines.is_up(record.line):
                return
            witness = await self._lines.switch(command.meter).look_back(record)
            self._on_witness(command.meter, witness)
            if watched.is_over or watched is not self._watched.get(command.id):
                return  # it ended, or a newer command took over, while this was asked
            if command.waiting_for_customer:
                await self._see_power(command, witness)
            elif not self._is_over(command):
                await self._carrier.settle(command.id, verdict(command.kind, None, [witness]), witness)
        except (DriverError, StoreUnavailable) as error:
            log.debug("could not look again", command=command.id, problem=str(error))

    def _is_over(self, command: Command) -> bool:
        """A newer command has been proven since, or too much time has gone by."""
        supply = self._journal.supply(command.meter)
        is_newer = supply.at is not None and supply.at > command.changed_at and supply.by != command.id
        return is_newer or self._clock.now() - command.changed_at > DOUBT_MAX

    async def _see_power(self, command: Command, witness: Witness) -> None:
        if witness.contact == "open":
            # Somebody, or the meter itself, took the permission back: nothing to wait for any more.
            await self._end_waiting(command, "permission-gone", {"because": "the contact is open again"}, "open")
        elif witness.contact == "closed" or flows(witness):
            took_s = (witness.at - _permitted_at(command)).total_seconds()
            self.power_s = [*self.power_s[-999:], took_s]
            await self._end_waiting(command, "power-seen", {"time_to_power_s": f"{took_s:.0f}"}, "closed")

    async def _end_waiting(self, command: Command, word: str, note: dict[str, str], contact: str) -> None:
        def end(page: Page) -> None:
            if not page.command(command.id).waiting_for_customer:
                return
            page.remark(command.id, word, actor="head-end", note=note, is_waiting=False)
            if not contact or page.was_switched_since(command):
                return  # what was seen may be older than what is known by now
            page.set_supply(replace(page.supply(command.meter), contact=contact, at=page.now, by=command.id))
            if contact == "open":
                _owe_again(page, command)

        await self._journal.write(end, "recording what became of a permitted close")

    async def _remind(self, watched: _Watched) -> None:
        command, now = watched.command, self._clock.now()
        permitted_at = _permitted_at(command)
        number = sum(now - permitted_at >= after for after in REMINDERS)
        if number <= watched.reminded:
            return
        watched.reminded = number

        def remind(page: Page) -> None:
            page.remark(command.id, "reminded", actor="head-end", note={"reminders": str(number)}, is_waiting=True)
            page.items.append(reminder_event(command, permitted_at, number, page.now))

        await self._journal.write(remind, "reminding a customer")
        self._on_reminder(command, number)

    def _saw(self, page: Page) -> None:
        for command in page.commands.values():
            if command.state is State.UNCONFIRMED or command.waiting_for_customer:
                self._watch(command)
            else:
                self._watched.pop(command.id, None)
            if command.state is State.VERIFIED and command.kind in SWITCHES:
                self._forget_older(command)

    def _forget_older(self, proven: Command) -> None:
        for identity, watched in list(self._watched.items()):
            older = watched.command
            if older.meter != proven.meter or older.id == proven.id:
                continue
            if older.waiting_for_customer:
                watched.is_over, watched.due = True, self._clock.monotonic()
                self._stirred.set()
            else:
                del self._watched[identity]

    def _watch(self, command: Command) -> None:
        watched = self._watched.get(command.id)
        if watched is not None:
            watched.command = command
            return
        first_s = (BUTTON_S if command.waiting_for_customer else DOUBT_S)[0]
        reminded = int(command.detail.get("reminders", "0"))
        self._watched[command.id] = _Watched(command, self._clock.monotonic() + first_s, 2 * first_s, reminded)
        self._stirred.set()


def _owe_again(page: Page, permitted: Command) -> None:
    """A payment was met by permission, and that is gone before the customer had power: it is owed as before."""
    if not permitted.obligation or page.open_debt_of(permitted.meter) is not None:
        return
    debt = page.debt(permitted.obligation)
    if debt.ended == "permitted" and debt.cause == "payment":
        due_at = page.now + timedelta(
            seconds=pause_s(debt.tries)
        )  # some meters take it back by themselves, again and again
        problem = "the permission to close is gone"
        again = replace(debt, ended="", ended_at=None, opened_at=page.now, due_at=due_at, problem=problem)
        page.change_debt(again, "owed", tell=True)


def _permitted_at(command: Command) -> datetime:
    """When the meter was seen to permit closing."""
    seen = command.detail.get("looked_at")
    return command.changed_at if seen is None else datetime.fromisoformat(seen)

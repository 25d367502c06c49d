"""The executor: carries out what is due, on every line at once, and picks up what was in flight when the process ended.

It keeps no truth of its own: the agenda follows the journal's pages, and after a restart it is made anew from the tables. What was
found in flight is looked back at before its line does anything else for that meter.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import structlog
from sqlalchemy import Connection

from headend.clock import Clock
from headend.commands.agenda import Agenda, Job
from headend.commands.batches import Batch
from headend.commands.carry import Carrier, Lines
from headend.commands.gate import Gate
from headend.commands.intake import HEAD_END, Circumstances
from headend.commands.journal import Journal, Page
from headend.commands.machine import Event
from headend.commands.model import ACTIVE, IN_FLIGHT, UNSENT, Command, Kind, State
from headend.commands.trust import ClockTrust
from headend.commands.verification import Verdict
from headend.errors import StoreUnavailable
from headend.store import commands as rows
from headend.store.commands_lists import LIST_MAX, commands_of_list

__all__ = ["Executor"]

TICK_S = 5.0  # lines are looked at so often while one of them is down
CALM_S = 30.0  # the same, and clocks are compared, while all are up; every last look compares the clocks, too
IDLE_S = 60.0  # clocks are compared so often while there is nothing to do
STOP_S = 15.0  # an order on the wire may take its time-outs; its reply is worth waiting for
LAPSED_PER_PAGE = 100
FAILED_S = 60.0  # before a command is tried again whose carrying ended by an error of ours

log = structlog.get_logger(__name__)


class Executor:
    """Runs due commands over the lines' switches. `load` first, then `run` in a task until it is cancelled or `stop` is called."""

    def __init__(
        self,
        journal: Journal,
        gate: Gate,
        lines: Lines,
        *,
        clock: Clock,
        trust: ClockTrust,
        circumstances: Callable[[], Circumstances],
        operator_of: Callable[[Command], bytes | str] = lambda command: command.approver or command.order.requester,
    ) -> None:
        self._journal = journal
        self._lines = lines
        self._clock = clock
        self._trust = trust
        self._agenda = Agenda(clock, line_of=lambda meter: lines.record(meter).line, is_first=gate.is_first)
        self._batches: dict[str, Batch] = {}
        self._stirred = asyncio.Event()
        self._is_stopping = False
        self._up: dict[str, bool] = {}
        self._next_tick = -inf
        self._lapsed: dict[str, Job] = {}
        self._expiring: asyncio.Task[None] | None = None
        self._steps = trust.steps  # of the wall clock, that are on the record
        self.failures = 0  # carryings that ended by an error of ours, since the start
        self.carrier = Carrier(
            journal,
            gate,
            lines,
            clock=clock,
            circumstances=circumstances,
            operator_of=operator_of,
            may_go=self._may_go,
            gave_place=self._place_given,
        )
        journal.listen(self._saw)

    def __len__(self) -> int:
        """How many commands are active."""
        return len(self._agenda)

    def problem_of(self, identity: str) -> str:
        """Why an active command has not left yet; "" when nothing is in its way."""
        job = self._agenda.job(identity)
        return "" if job is None else job.problem

    async def load(self) -> None:
        """What the tables have. Commands found in flight are looked back at when `run` begins."""

        def work(connection: Connection) -> tuple[list[Command], dict[str, Batch]]:
            active = rows.commands_in(connection, ACTIVE)
            names = {command.order.batch for command in active if command.order.batch}
            lists = [commands_of_list(connection, name, limit=LIST_MAX) for name in names]
            return active, {_list_of(found[0]): Batch.of(found) for found in lists if found}

        active, self._batches = await self._journal.read(work, "loading active commands")
        for command in active:
            self._agenda.saw(command)

    async def run(self) -> None:
        recovered = [job for job in self._agenda if job.command.state in IN_FLIGHT and job.task is None]
        for job in recovered:
            self._begin(job, self._recover(job))
        try:
            while not self._is_stopping:
                self._trust.look()
                await self._record_steps()
                self._end_lapsed()
                self._begin_due()
                await self._pause()
        finally:
            await self._end_tasks()

    def stop(self) -> None:
        """Nothing new is begun; what is on the wire gets its reply."""
        self._is_stopping = True
        self._stirred.set()

    # -------------------------------------------------------------------------------------------- the loop

    def _begin_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_tick:
            are_up = [self._look_at(line) for line in self._agenda.lines()]
            self._next_tick = now + (CALM_S if all(are_up) else TICK_S)
        for line in self._agenda.ripe():
            if not self._up.get(line) and not self._look_at(line):
                self._next_tick = min(self._next_tick, now + TICK_S)
                self._agenda.put_off(line, self._next_tick)
                continue
            for job in self._agenda.due_on(line):
                stopped = self._stopped_batch(job.command)
                self._begin(job, self._cancel(job, stopped) if stopped else self.carrier.carry(job))

    def _look_at(self, line: str) -> bool:
        """Whether it is up. One that has come back is used at once, whatever its commands were waiting for."""
        is_up = self._lines.is_up(line)
        if is_up and not self._up.get(line, True):
            now = self._clock.monotonic()
            for job in self._agenda.on_line(line):
                if job.pauses:
                    job.due, job.pauses = min(job.due, now), 0
            self._agenda.touch(line)
        self._up[line] = is_up
        return is_up

    async def _record_steps(self) -> None:
        """Why opens are held back for a while stands in the log. It is tried once: closes do not wait for it."""
        steps = self._trust.steps - self._steps
        if not steps:
            return
        self._steps += steps
        data: dict[str, object] = {"steps": steps, "last_step_s": f"{self._trust.last_step_s:.1f}"}
        try:
            await self._journal.write(
                lambda page: page.record("clock-stepped", "clock", HEAD_END, data, is_needed=False),
                "recording a step of the clock",
            )
        except StoreUnavailable as error:
            log.warning("a step of the clock is not on the record", problem=str(error), **data)

    def _end_lapsed(self) -> None:
        """Beside the loop: however long the store takes nothing, closes do not wait for it."""
        for job in self._agenda.lapsed():
            job.is_lapsed = True
            self._lapsed[job.command.id] = job
        if self._lapsed and self._expiring is None:
            self._expiring = asyncio.get_running_loop().create_task(self._expire_lapsed())

    async def _expire_lapsed(self) -> None:
        try:
            while self._lapsed:
                jobs = list(self._lapsed.values())[:LAPSED_PER_PAGE]
                if not await self._expire_all(jobs) and len(jobs) > 1:
                    for job in jobs:
                        await self._expire_all([job])
                for job in jobs:
                    job.is_lapsed = False
                    del self._lapsed[job.command.id]
                    self._agenda.touch(job.line)
        finally:
            self._expiring = None
            self._stirred.set()

    async def _expire_all(self, jobs: list[Job]) -> bool:
        """False: by an error of ours nothing of it is written. Each is tried again as if it could go, and finds out that it cannot."""
        try:
            await self.carrier.insist(partial(_expire, jobs=jobs), "expiring")
        except Exception:
            self.failures += 1
            log.exception("commands that were not sent in time could not be ended", count=len(jobs))
            for job in jobs:
                job.due = max(job.due, self._clock.monotonic() + FAILED_S)
            return False
        return True

    async def _pause(self) -> None:
        now = self._clock.monotonic()
        until = min(self._next_tick, self._agenda.next_look()) if len(self._agenda) else now + IDLE_S
        try:
            async with asyncio.timeout(max(0.0, until - now)):
                await self._stirred.wait()
        except TimeoutError:
            return
        self._stirred.clear()

    def _begin(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        job.waits_for_store = False
        job.task = asyncio.get_running_loop().create_task(self._supervised(job, work))

    async def _supervised(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self.failures += 1
            job.problem = f"{type(error).__name__}: {error}"
            job.due = max(job.due, self._clock.monotonic() + FAILED_S)
            log.exception("a command could not be carried out", command=job.command.id)
            await self._leave_in_doubt(job, error)
        finally:
            job.task = None
            self._agenda.freed(job)
            self._gave_way(job.command)
            self._stirred.set()

    async def _leave_in_doubt(self, job: Job, error: Exception) -> None:
        """Its bytes may have left, and nobody would look back any more: what else is owed to its meter must not wait for that."""
        if job.command.state not in IN_FLIGHT:
            return
        because = f"an error of the head-end ended it: {type(error).__name__}"
        found = Verdict(state=State.UNCONFIRMED, evidence={"because": because})
        await self.carrier.settle(job.command.id, found, None)

    async def _recover(self, job: Job) -> None:
        """Found in flight: nobody knows whether its bytes have left. It is looked back at, and never sent again."""
        log.warning("a command was found in flight, it is read back", command=job.command.id, meter=job.command.meter)
        found: dict[str, object] = {"meter": job.command.meter, "state": job.command.state.value}
        with suppress(StoreUnavailable):  # it is looked back at all the same
            await self._journal.write(
                lambda page: page.record("recovered", job.command.id, HEAD_END, found, is_needed=False),
                "recording what was found in flight",
            )
        while not self._lines.is_up(job.line) and not job.hurry.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await job.hurry.wait()
        await self.carrier.look_back(job, None)

    async def _end_tasks(self) -> None:
        """A command that is looked back at is found in flight at the next start; one that is being ordered is waited for."""
        expiring = [] if self._expiring is None else [self._expiring]
        ordering = [job.task for job in self._agenda if job.task is not None and job.is_ordering]
        others = [job.task for job in self._agenda if job.task is not None and not job.is_ordering]
        for task in others + expiring:
            task.cancel()
        if ordering:
            await asyncio.wait(ordering, timeout=STOP_S)
        for task in ordering:
            task.cancel()
        await asyncio.gather(*ordering, *others, *expiring, return_exceptions=True)

    # -------------------------------------------------------------------------------------------- what the journal tells

    def _saw(self, page: Page) -> None:
        for command in page.commands.values():
            if (list_ := _list_of(command)) and command.kind is Kind.OPEN:
                batch = self._batches.setdefault(list_, Batch())
                batch.saw(command)
                if batch.is_over:
                    del self._batches[list_]
            self._agenda.saw(command)
        if page.commands:
            self._stirred.set()

    def _may_go(self, command: Command) -> bool:
        if not (list_ := _list_of(command)):
            return True
        batch = self._batches.setdefault(list_, Batch())
        return not batch.stopped and batch.may_go(command)

    def _gave_way(self, command: Command) -> None:
        """A canary that came back without having been sent lets another go first."""
        batch = self._batches.get(_list_of(command))
        if batch is not None and batch.canary == command.id and command.state in UNSENT:
            batch.canary = ""

    def _place_given(self, job: Job) -> None:
        self._agenda.touch(job.line)
        self._stirred.set()

    def _stopped_batch(self, command: Command) -> str:
        batch = self._batches.get(_list_of(command))
        return "" if batch is None or command.kind is not Kind.OPEN else batch.stopped

    async def _cancel(self, job: Job, why: str) -> None:
        """The rest of a batch whose first one went wrong: all of it, in one page."""
        name, list_ = job.command.order.batch, _list_of(job.command)
        rest = [
            other.command.id
            for other in self._agenda
            if _list_of(other.command) == list_ and other.command.kind is Kind.OPEN
        ]

        def cancel(page: Page) -> None:
            note = {"problem": f"its batch was stopped: {why}", "rule": "canary"}
            for identity in rest:
                if page.command(identity).state in UNSENT:
                    page.step(identity, Event.CANCELLED, actor=HEAD_END, note=note)
            page.alarm(job.command.meter, "batch-stopped", is_raised=True, detail={"batch": name, "problem": why})

        await self.carrier.insist(cancel, "stopping a batch")


def _list_of(command: Command) -> str:
    """Not its name alone: an earlier list of this name may still be settled, and says nothing about the newer one."""
    return command.list_head or command.order.batch


def _expire(page: Page, jobs: list[Job]) -> None:
    for job in jobs:
        if page.command(job.command.id).state in UNSENT:
            problem = "not sent in time" + (f": {job.problem}" if job.problem else "")
            page.step(job.command.id, Event.DEADLINE_PASSED, actor=HEAD_END, note={"problem": problem})

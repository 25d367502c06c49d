"""What is to be done, on which line, in which order. Times are monotonic seconds; the executor keeps it and does it.

Only what is active is here, at most two commands a meter. Closes go before everything else on their line and have places of their
own, which no open can take; among themselves they go protected customers first, then in the order of their debts.
"""

import asyncio
from collections.abc import Callable, Iterator

from msgspec import Struct

from headend.clock import Clock
from headend.commands.model import CLOSES, IN_FLIGHT, UNSENT, Command, Kind, State
from headend.commands.obligations import RAMP_S_MAX
from headend.commands.trust import Deadline

__all__ = ["CLOSES_PER_LINE", "OTHERS_PER_LINE", "Agenda", "Job"]

# At once on a line. It carries one frame at a time anyway; the others settle meanwhile.
CLOSES_PER_LINE = 6
OTHERS_PER_LINE = 2

_WAITS = frozenset({State.SCHEDULED, State.DUE})


class Job(Struct, kw_only=True, eq=False):
    """A command that is active. due: not before. pauses: tries in a row that failed before a byte left; problem: why, the newest.

    hurry: set when something that is more urgent waits for the end of this one.
    """

    command: Command
    line: str
    due: float
    deadline: Deadline
    rank: tuple[int, float]
    pauses: int = 0
    problem: str = ""
    task: asyncio.Task[None] | None = None
    is_ordering: bool = False
    hurry: asyncio.Event

    @property
    def is_close(self) -> bool:
        return self.command.kind in CLOSES

    @property
    def is_unsent(self) -> bool:
        return self.command.state in UNSENT

    @property
    def key(self) -> tuple[tuple[int, float], float, str]:
        return self.rank, self.due, self.command.id


class Agenda:
    """line_of: of a meter. is_first: whether its supply goes before those of others."""

    def __init__(self, clock: Clock, *, line_of: Callable[[str], str], is_first: Callable[[str], bool]) -> None:
        self._clock = clock
        self._line_of = line_of
        self._is_first = is_first
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, dict[str, Job]] = {}
        self._meters: dict[str, list[Job]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def job(self, identity: str) -> Job | None:
        return self._jobs.get(identity)

    def of_meter(self, meter: str) -> list[Job]:
        return self._meters.get(meter, [])

    def lines(self) -> list[str]:
        return list(self._lines)

    def saw(self, command: Command) -> None:
        """The command took a step."""
        job = self._jobs.get(command.id)
        if not command.is_active:
            if job is not None:
                self._drop(job)
            return
        if job is None:
            self._add(command)
        elif command.steps > job.command.steps:
            if command.due_at != job.command.due_at:
                job.due = self._instant(command)
            job.command = command

    def lapsed(self) -> list[Job]:
        """Unsent and past their deadline, on either clock."""
        wall, now = self._clock.now(), self._clock.monotonic()
        return [
            job
            for job in self._jobs.values()
            if (job.deadline.monotonic <= now or job.deadline.wall <= wall) and job.task is None and job.is_unsent
        ]

    def due_on(self, line: str) -> Iterator[Job]:
        """What may be begun on this line now, the most urgent first; as many as there are places."""
        now, wall = self._clock.monotonic(), self._clock.now()
        jobs = self._lines.get(line, {}).values()
        if all(job.due > now for job in jobs):
            return
        closes = sum(job.task is not None and job.is_close for job in jobs)
        others = sum(job.task is not None and not job.is_close for job in jobs)
        ready = [
            job
            for job in jobs
            if job.task is None and job.due <= now and job.command.state in _WAITS and not self._is_behind(job)
        ]
        for job in sorted(ready, key=lambda job: job.key):
            if job.is_close:
                closes += 1
                if closes <= CLOSES_PER_LINE:
                    yield job
            # A wall clock that was set back must not open a supply early; a close waits for nobody's calendar.
            elif job.command.due_at <= wall or job.command.kind is not Kind.OPEN:
                others += 1
                if others <= OTHERS_PER_LINE:
                    yield job

    def next_due(self, is_up: Callable[[str], bool]) -> float | None:
        """The next instant at which something may begin; None: nothing waits for time."""
        return min(
            (
                job.due
                for line, jobs in self._lines.items()
                if is_up(line)
                for job in jobs.values()
                if job.task is None and job.command.state in _WAITS and not self._is_behind(job)
            ),
            default=None,
        )

    def _is_behind(self, job: Job) -> bool:
        """Whether another command of the meter is on the wire or was there and has not ended."""
        others = self._meters[job.command.meter]
        return len(others) > 1 and any(
            other is not job and (other.task is not None or other.command.state in IN_FLIGHT) for other in others
        )

    def _add(self, command: Command) -> None:
        line = self._line_of(command.meter)
        job = Job(
            command=command,
            line=line,
            due=self._instant(command),
            deadline=Deadline.at(command.expires_at, self._clock),
            rank=self._rank(command),
            hurry=asyncio.Event(),
        )
        self._jobs[command.id] = job
        self._lines.setdefault(line, {})[command.id] = job
        others = self._meters.setdefault(command.meter, [])
        if job.is_close:
            for other in others:
                other.hurry.set()
        others.append(job)

    def _drop(self, job: Job) -> None:
        identity, meter = job.command.id, job.command.meter
        del self._jobs[identity]
        del self._lines[job.line][identity]
        if not self._lines[job.line]:
            del self._lines[job.line]
        self._meters[meter].remove(job)
        if not self._meters[meter]:
            del self._meters[meter]

    def _instant(self, command: Command) -> float:
        wait_s = max(0.0, (command.due_at - self._clock.now()).total_seconds())
        if command.kind in CLOSES and command.order.not_before is None:
            wait_s = min(wait_s, RAMP_S_MAX)  # whatever happened to the wall clock since
        return self._clock.monotonic() + wait_s

    def _rank(self, command: Command) -> tuple[int, float]:
        if command.kind in CLOSES:
            return (0 if self._is_first(command.meter) else 1), command.created_at.timestamp()
        if command.kind in (Kind.PROTECT, Kind.UNPROTECT):
            return 2, 0.0
        return (3 if command.kind is Kind.OPEN else 4), 0.0

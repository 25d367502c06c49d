"""What is to be done, on which line, in which order. Times are monotonic seconds; the executor keeps it and does it.

Only what is active is here, at most two commands a meter and a look. Closes go before everything else on their line and have places
of their own, which no open can take; among themselves they go protected customers first, then in the order of their debts.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import inf

from msgspec import Struct

from headend.clock import Clock
from headend.commands.model import CLOSES, IN_FLIGHT, UNSENT, Command, Kind, State
from headend.commands.obligations import RAMP_S_MAX
from headend.commands.trust import Deadline

__all__ = ["CLOSES_PER_LINE", "OTHERS_PER_LINE", "Agenda", "Job"]

# At once on a line. It carries one frame at a time anyway; the others settle meanwhile.
CLOSES_PER_LINE = 8
# Of those, so many that are not sent yet: one has the line, the next waits for it. More would only stand before others' read-backs.
ORDERING_PER_LINE = 2
OTHERS_PER_LINE = 2

WALL_S = 5.0  # before an open is looked at again that is due by the monotonic clock, and not by the wall's
FAR = timedelta(days=1)

_WAITS = frozenset({State.SCHEDULED, State.DUE})
_NOT_SENT = UNSENT | {State.SENDING}


class Job(Struct, kw_only=True, eq=False):
    """A command that is active. due: not before. pauses: tries in a row that failed before a byte left; problem: why, the newest.

    waits_for_store: a close whose record cannot be written now. is_lapsed: it is being ended, because its time is over. hurry: set
    when something that is more urgent waits for the end of this one.
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
    waits_for_store: bool = False
    is_lapsed: bool = False
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


class _Line(Struct, eq=False):
    """look_at: nothing can be begun here before; -inf when something has changed since it was looked at."""

    jobs: dict[str, Job]
    look_at: float = -inf


class Agenda:
    """line_of: of a meter. is_first: whether its supply goes before those of others.

    Lines with thousands of commands are asked for every step of any of them. So each remembers when it is worth looking at again, and
    the deadlines are bounded from below: an instant too early costs a look, one too late is not possible.
    """

    def __init__(self, clock: Clock, *, line_of: Callable[[str], str], is_first: Callable[[str], bool]) -> None:
        self._clock = clock
        self._line_of = line_of
        self._is_first = is_first
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, _Line] = {}
        self._meters: dict[str, list[Job]] = {}
        self._lapse: Deadline | None = None  # none is passed before; None: to be looked up

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def job(self, identity: str) -> Job | None:
        return self._jobs.get(identity)

    def lines(self) -> list[str]:
        return list(self._lines)

    def on_line(self, line: str) -> list[Job]:
        found = self._lines.get(line)
        return [] if found is None else list(found.jobs.values())

    def ripe(self) -> list[str]:
        """Lines on which something may be begun, or something has changed."""
        now = self._clock.monotonic()
        return [name for name, line in self._lines.items() if line.look_at <= now]

    def touch(self, line: str) -> None:
        """A place on the line is free again, or one of its jobs has another time."""
        if (found := self._lines.get(line)) is not None:
            found.look_at = -inf

    def freed(self, job: Job) -> None:
        """Its task has ended, and it may still be there."""
        self.touch(job.line)
        if job.is_unsent and job.deadline.is_passed(self._clock):
            self._lapse = None

    def put_off(self, line: str, until: float) -> None:
        """Nothing can be begun there before `until`: it is down."""
        self._lines[line].look_at = until

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
            was_unsent, job.command = job.is_unsent, command
            self._lines[job.line].look_at = -inf
            if job.is_unsent and not was_unsent:
                self._bound(job)

    def lapsed(self) -> list[Job]:
        """Unsent and past their deadline, on either clock."""
        if self._lapse is not None and not self._lapse.is_passed(self._clock):
            return []
        self._lapse = Deadline(self._clock.now() + FAR, inf)
        found = []
        for job in self._jobs.values():
            if not job.is_unsent:
                continue
            if not job.deadline.is_passed(self._clock):
                self._bound(job)
            elif job.task is None:  # otherwise its task finds out, or comes back
                found.append(job)
        return found

    def due_on(self, line: str) -> Iterator[Job]:
        """What may be begun on this line now, the most urgent first; as many as there are places."""
        now, wall = self._clock.monotonic(), self._clock.now()
        found = self._lines.get(line)
        if found is None:
            return
        closes = others = ordering = 0
        ready = []
        found.look_at = inf
        for job in found.jobs.values():
            if job.task is not None:
                if job.waits_for_store:
                    continue  # and the other closes do not wait for that
                closes += job.is_close
                ordering += job.is_close and job.command.state in _NOT_SENT
                others += not job.is_close
            elif job.command.state in _WAITS and not job.is_lapsed and not self._is_behind(job):
                if job.due <= now:
                    ready.append(job)
                else:
                    found.look_at = min(found.look_at, job.due)
        for job in sorted(ready, key=lambda job: job.key):
            if job.is_close:
                closes += 1
                ordering += 1
                if closes <= CLOSES_PER_LINE and ordering <= ORDERING_PER_LINE:
                    yield job
            # A wall clock that was set back must not open a supply early; a close waits for nobody's calendar.
            elif job.command.due_at <= wall or job.command.kind is not Kind.OPEN:
                others += 1
                if others <= OTHERS_PER_LINE:
                    yield job
            else:
                found.look_at = min(found.look_at, now + WALL_S)

    def next_look(self) -> float:
        """The next instant at which something may begin or end by time; inf: nothing waits for time."""
        if not self._jobs:
            return inf
        lapse = self._lapse
        if lapse is None:
            return self._clock.monotonic()
        lapses_s = min((lapse.wall - self._clock.now()).total_seconds(), lapse.monotonic - self._clock.monotonic())
        return min(min(line.look_at for line in self._lines.values()), self._clock.monotonic() + lapses_s)

    def _is_behind(self, job: Job) -> bool:
        """Whether another command of the meter is on the wire or was there and has not ended. Looking is in nobody's way."""
        others = self._meters[job.command.meter]
        if len(others) == 1 or job.command.kind is Kind.STATUS:
            return False
        return any(
            other is not job
            and other.command.kind is not Kind.STATUS
            and (other.task is not None or other.command.state in IN_FLIGHT)
            for other in others
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
        there = self._lines.get(line)
        if there is None:
            there = self._lines[line] = _Line({})
        there.jobs[command.id] = job
        there.look_at = -inf
        self._bound(job)
        others = self._meters.setdefault(command.meter, [])
        if job.is_close:
            for other in others:
                other.hurry.set()
        others.append(job)

    def _bound(self, job: Job) -> None:
        """No deadline is passed before the first one of all."""
        known, new = self._lapse, job.deadline
        if known is not None and (new.wall < known.wall or new.monotonic < known.monotonic):
            self._lapse = Deadline(min(known.wall, new.wall), min(known.monotonic, new.monotonic))

    def _drop(self, job: Job) -> None:
        identity, meter = job.command.id, job.command.meter
        del self._jobs[identity]
        line = self._lines[job.line]
        del line.jobs[identity]
        line.look_at = -inf  # what was behind it may go
        if not line.jobs:
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
        if command.obligation:  # a look at a supply that somebody has paid for
            return 2, command.created_at.timestamp()
        if command.kind in (Kind.PROTECT, Kind.UNPROTECT):
            return 3, 0.0
        return (4 if command.kind is Kind.OPEN else 5), 0.0

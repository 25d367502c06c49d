"""One owner per half-duplex line: connects, queues by priority, hands replies to who asked.

Everything between a request and its reply happens in callbacks of the event loop (`data_received` and one timer per line, armed
at the session's deadline); a task exists only to reconnect. Late, foreign and damaged frames are counted here and never
delivered.
"""

import asyncio
import enum
import heapq
import itertools
from collections import deque
from datetime import datetime
from typing import cast

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.drivers.errors import LineDown, LineQueueFull, NoAnswer
from headend.drivers.transport import Connect, LineUrl
from protocols.dlt645.session import NoReply, Replied, Request, Sent, Session, Timing, Unmatched

__all__ = ["Line", "LineCounters", "Priority"]

QUEUE_MAX = 1000  # far beyond what a line can serve in an interval; a caller that meets it gets LineQueueFull
RECONNECT_S_FIRST = 1.0
RECONNECT_S_MAX = 30.0
UNMATCHED_KEPT_MAX = 20  # the newest, for the diagnostics

log = structlog.get_logger(__name__)


class Priority(enum.IntEnum):
    """Who goes first on a line; equal ones go in the order in which they came."""

    RECONNECT = 0
    DISCONNECT = 1
    ON_DEMAND = 2
    LIVE = 3
    BACK_FILL = 4


class LineCounters(Struct):
    """Since start. Every request ends in exactly one of replied, silent, corrupt, unmatched_only, lost."""

    requests: int = 0
    replied: int = 0
    silent: int = 0
    corrupt: int = 0
    unmatched_only: int = 0
    lost: int = 0
    unmatched_frames: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    failed_connects: int = 0


class _Job(Struct, order=True):
    priority: int
    number: int
    request: Request
    done: "asyncio.Future[Replied | Sent]"


class Line(asyncio.Protocol):
    """A line and its queue.

    Run `run()` in a task; it connects, reconnects with back-off (1 s doubling to 30 s) and ends when cancelled, failing what is
    queued with LineDown. `exchange` may be called from any task of the same event loop.
    """

    def __init__(self, name: str, url: LineUrl, timing: Timing, *, connect: Connect, clock: Clock) -> None:
        self.name = name
        self.url = url
        self.timing = timing
        self.counters = LineCounters()
        self.unmatched: deque[Unmatched] = deque(maxlen=UNMATCHED_KEPT_MAX)
        self.problem = "not connected yet"  # empty while the line is up
        self.since: datetime = clock.now()  # of the present state, up or down
        self.last_reply_at: datetime | None = None
        self._clock = clock
        self._connect = connect
        self._session = Session(timing)
        self._queue: list[_Job] = []
        self._numbers = itertools.count()
        self._job: _Job | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._up = asyncio.Event()
        self._down = asyncio.Event()

    # -------------------------------------------------------------------------------------------- for callers

    @property
    def is_up(self) -> bool:
        return self._transport is not None

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def noise_bytes(self) -> int:
        return self._session.noise_bytes

    @property
    def echoes(self) -> int:
        return self._session.echoes

    async def wait_up(self) -> None:
        await self._up.wait()

    async def connect(self) -> None:
        """Connect once, without a supervisor: for one-shot commands. Raises LineDown."""
        self._down.clear()
        await self._connect(self.url, self)
        await self._up.wait()  # a serial transport announces itself a turn of the loop later

    def close(self, why: str = "closed") -> None:
        """Hang up; what is queued or in flight fails with LineDown."""
        self._drop(why)

    async def exchange(self, request: Request, priority: Priority) -> Replied | Sent:
        """Send when it is this request's turn and wait for the reply (a refusal is one).

        Raises NoAnswer (silent, corrupt or unmatched), LineDown when there is no connection or it breaks, LineQueueFull.
        A cancelled caller does not disturb the line: what has left is still waited for, and its reply dropped.
        """
        if self._transport is None:
            raise LineDown(self.url.text, self.problem)
        if len(self._queue) >= QUEUE_MAX:
            raise LineQueueFull(self.name, QUEUE_MAX)
        done: asyncio.Future[Replied | Sent] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, _Job(priority, next(self._numbers), request, done))
        self._advance(self._clock.monotonic())
        return await done

    async def run(self) -> None:
        pause_s = RECONNECT_S_FIRST
        try:
            while True:
                try:
                    await self.connect()
                except LineDown as error:
                    self.counters.failed_connects += 1
                    if self.problem != error.reason:
                        log.warning("line down", line=self.name, url=self.url.text, problem=error.reason)
                    self._set_problem(error.reason)
                else:
                    up_at = self._clock.monotonic()
                    await self._down.wait()
                    log.warning("line lost", line=self.name, url=self.url.text, problem=self.problem)
                    # A far end that accepts and hangs up at once must not be hammered: only a real stay resets the back-off.
                    if self._clock.monotonic() - up_at > RECONNECT_S_MAX:
                        pause_s = RECONNECT_S_FIRST
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S_MAX)
        finally:
            self.close("the head-end is stopping")

    # -------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.counters.connects += 1
        self._session.reset()
        self._set_problem("")
        self._up.set()
        log.info("line up", line=self.name, url=self.url.text)

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop(f"connection lost: {exc}" if exc else "connection closed by the other side")

    def data_received(self, data: bytes) -> None:
        self.counters.bytes_received += len(data)
        now = self._clock.monotonic()
        self._session.receive(data, now)
        self._advance(now)

    # -------------------------------------------------------------------------------------------- inside

    def _advance(self, now: float) -> None:
        """Hand out events, start the next request, arm the timer: after whatever happened."""
        session = self._session
        while True:
            for event in session.take_events():
                self._settle(event)
            if not session.idle or not self._queue or self._transport is None:
                break
            job = heapq.heappop(self._queue)
            if job.done.done():  # its caller went away
                continue
            self._job = job
            self.counters.requests += 1
            session.request(job.request, now)
            for wire in session.take_output():
                self.counters.bytes_sent += len(wire)
                self._transport.write(wire)
        self._arm(session.deadline, now)

    def _settle(self, event: Sent | Replied | NoReply | Unmatched) -> None:
        if isinstance(event, Unmatched):
            self.counters.unmatched_frames += 1
            self.unmatched.append(event)
            log.debug("unmatched frame", line=self.name, wire=event.wire.hex(" ").upper(), why=event.why)
            return
        job, self._job = self._job, None
        if isinstance(event, NoReply):
            counter = {"silent": "silent", "corrupt": "corrupt", "unmatched": "unmatched_only"}[event.silence.value]
            setattr(self.counters, counter, getattr(self.counters, counter) + 1)
            if job is not None and not job.done.done():
                job.done.set_exception(NoAnswer(event))
            return
        self.counters.replied += 1
        self.last_reply_at = self._clock.now()
        if job is not None and not job.done.done():
            job.done.set_result(event)

    def _arm(self, deadline: float | None, now: float) -> None:
        # A timer already set for earlier is left to ring: re-arming at every byte would cost more than one idle ring.
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        self._session.tick(now)
        self._advance(now)

    def _set_problem(self, problem: str) -> None:
        if (problem == "") != (self.problem == ""):
            self.since = self._clock.now()
        self.problem = problem

    def _drop(self, why: str) -> None:
        """No connection: everything queued or in flight fails, so that its owner can decide."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._session.reset()
        self._set_problem(why)
        self._up.clear()
        self._down.set()
        jobs = [self._job] if self._job is not None else []
        self._job = None
        for job in jobs + self._queue:
            if not job.done.done():
                self.counters.lost += 1
                job.done.set_exception(LineDown(self.url.text, why))
        self._queue.clear()

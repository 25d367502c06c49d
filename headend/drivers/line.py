"""One owner per line: connects, queues by priority, hands replies to who asked, whatever protocol its session speaks.

Everything between a request and its reply happens in callbacks of the event loop (`data_received` and one timer per line, armed
at the session's deadline); a task exists only to reconnect. Late, foreign and damaged frames are counted here and never
delivered. How many requests are under way at once is the session's affair: one on a half-duplex line, several where replies
carry a transaction number. A task may hold the line for several exchanges in a row, see `hold`.

Beyond 500 lines, because whoever asks, whoever holds and whatever breaks meets in one queue and one step, `_advance`.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast

import structlog
from msgspec.structs import replace

from headend.clock import Clock
from headend.drivers.errors import DriverError, HoldOver, LineDown, LineQueueFull, NoAnswer, RateFixed
from headend.drivers.hold import HOLD_S_MAX, Hold, Job, Prepare, Then
from headend.drivers.line_words import LineCounters, LineSession, Priority
from headend.drivers.patience import FLOOR_S, TUNNEL_FLOOR_S, Patience
from headend.drivers.stray import WINDOW_S, StrayWatch
from headend.drivers.transport import Connect, LineUrl, can_set_baud, set_baud
from protocols.dlt645.masking import mask
from protocols.dlt645.session import Session
from protocols.errors import EncodeError
from protocols.exchange import BITS_PER_BYTE, NoReply, Replied, Request, Sent, Silence, Timing, Unmatched

__all__ = ["Line", "LineCounters", "LineSession", "Priority"]

QUEUE_MAX = 1000  # far beyond what a line can serve in an interval; a caller that meets it gets LineQueueFull
RECONNECT_RESERVE = 100  # places beyond it for bringing supplies back: no number of reads keeps a close out
SILENT_IN_A_ROW_MAX = 6  # unanswered requests, to two meters at least, before a tcp connection is taken for dead
HANG_UP_AGAIN_S = 300.0  # a street without power must not make us reconnect for ever
RECONNECT_S_FIRST = 1.0
RECONNECT_S_MAX = (
    15.0  # who is owed a supply behind a line that returns has it within a minute, all of them one after the other
)
UNMATCHED_KEPT_MAX = 20  # the newest, for the diagnostics

log = structlog.get_logger(__name__)


_COUNTERS = {Silence.SILENT: "silent", Silence.CORRUPT: "corrupt", Silence.UNMATCHED: "unmatched_only"}


class Line(asyncio.Protocol):
    """A line and its queue.

    Run `run()` in a task; it connects, reconnects with back-off (1 s doubling to 15 s) and ends when cancelled, failing what is
    queued with LineDown. `exchange` may be called from any task of the same event loop.
    """

    def __init__(
        self,
        name: str,
        url: LineUrl,
        timing: Timing,
        *,
        connect: Connect,
        clock: Clock,
        session: Callable[[Timing], LineSession] = Session,
    ) -> None:
        """session: makes the protocol's own; DL/T 645 where nothing else is said."""
        self.name = name
        self.url = url
        self.timing = timing
        self.counters = LineCounters()
        self.unmatched: deque[Unmatched] = deque(maxlen=UNMATCHED_KEPT_MAX)
        self.problem = "not connected yet"  # empty while the line is up
        self.since: datetime = clock.now()  # of the present state, up or down
        self.last_reply_at: datetime | None = None
        self.patience = Patience(timing.reply_timeout_s, floor_s=FLOOR_S if url.scheme == "serial" else TUNNEL_FLOOR_S)
        self._clock = clock
        self._connect = connect
        self._session = session(timing)
        self._queue: list[Job] = []
        self._numbers = itertools.count()
        self._in_flight: dict[int, Job] = {}  # by the identity of the request that was sent
        self._next: deque[tuple[Job, Request]] = deque()  # further requests of jobs that have begun
        self._hold: Hold | None = None  # nobody but its holder is served
        self._output: list[bytes] = []
        self._is_sending_soon = False
        self._stray = StrayWatch(timing.baud / BITS_PER_BYTE if timing.baud else None)
        self._noise_noted = 0
        self._silent_in_a_row = 0
        self._silent_addresses: set[str] = set()
        self._hung_up_at = float("-inf")
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

    @property
    def diagnosis(self) -> str:
        """What is odd about a line that is up; "" when nothing is."""
        now = self._clock.monotonic()
        if not self._stray.is_babbling(now):
            return ""
        return (
            f"babbling: {self._stray.in_window(now)} bytes in {WINDOW_S} s that nobody asked for; some device on this line talks "
            f"by itself. Disconnect meters one after the other to find it"
        )

    def monotonic(self) -> float:
        """The clock that deadlines on this line go by."""
        return self._clock.monotonic()

    def check_baud(self, baud: int) -> int:
        """The present rate, if the line is able to change it to `baud`. Raises RateFixed, LineDown."""
        if self._transport is None:
            raise LineDown(self.url.text, self.problem)
        if self.timing.baud is None or not can_set_baud(self._transport):
            raise RateFixed(self.url.text, baud)
        return self.timing.baud

    def set_baud(self, baud: int) -> None:
        """Run at another rate from now on, also after a reconnect. Raises RateFixed, LineDown."""
        self.check_baud(baud)
        assert self._transport is not None
        set_baud(self._transport, self.url, baud)
        self.timing = replace(self.timing, baud=baud)
        self.url = replace(self.url, baud=baud)
        self._session.retime(self.timing)
        self._stray = StrayWatch(baud / BITS_PER_BYTE)

    async def wait_up(self) -> None:
        await self._up.wait()

    async def connect(self) -> None:
        """Connect once, without a supervisor: for one-shot commands. Raises LineDown."""
        self._down.clear()
        await self._connect(self.url, self)
        if not self._down.is_set():  # else it was lost again before we got here
            await self._up.wait()  # a serial transport announces itself a turn of the loop later

    def close(self, why: str = "closed") -> None:
        """Hang up; what is queued or in flight fails with LineDown."""
        self._drop(why)

    async def exchange(self, request: Request | Prepare, priority: Priority) -> Replied | Sent:
        """Send when it is this request's turn and wait for the reply (a refusal is one).

        A request that depends on the moment, such as a time, is given as a function that makes it when its turn has come.

        Raises NoAnswer (silent, corrupt or unmatched), LineDown when there is no connection or it breaks, LineQueueFull.
        A cancelled caller does not disturb the line: what has left is still waited for, and its reply dropped.
        """
        return (await self._queue_up(request, priority, None))[0]

    async def exchange_all(self, request: Request, priority: Priority, then: Then) -> list[Replied]:
        """An exchange of several requests that nothing may come between, such as a reply in parts.

        then: pure; given a reply, the next request, or None when it was the last. Raises as `exchange`, for any of them.
        """
        parts = await self._queue_up(request, priority, then)
        return [part for part in parts if isinstance(part, Replied)]

    @asynccontextmanager
    async def hold(self, priority: Priority, *, at_most_s: float = HOLD_S_MAX) -> AsyncIterator[Hold]:
        """Have the line to oneself: what this task asks goes out, by whatever method, and everybody else waits until the end.

        Granted when its turn has come and nothing is under way. Ends with the block, after at_most_s, or with the connection;
        `Hold.exchange` then raises. Only the task that entered the block holds: it must not ask through another one.
        Raises LineDown, LineQueueFull.
        """
        hold = Hold(self, asyncio.current_task(), at_most_s)
        granted = self._queue_up(_not_asked, priority, None, hold=hold)
        try:
            await granted
            yield hold
        finally:
            granted.cancel()  # does nothing where it was granted
            self._release(hold)

    def queue_held(self, hold: Hold, request: Prepare) -> "asyncio.Future[list[Replied | Sent]]":
        """For `Hold.exchange`: right after what the holder has asked already."""
        done: asyncio.Future[list[Replied | Sent]] = asyncio.get_running_loop().create_future()
        hold.queue.append(Job(0, next(self._numbers), request, done))
        self._advance(self._clock.monotonic())
        return done

    @property
    def unsent_bytes(self) -> int:
        """What the far end has not taken yet; 0 where nobody can know."""
        try:
            return 0 if self._transport is None else self._transport.get_write_buffer_size()
        except NotImplementedError:
            return 0

    def owed_s(self, request: Request) -> float:
        """How long a new read should wait before this request, so that no late answer to an older one can be taken for its."""
        return self._session.owed_s(request, self._clock.monotonic())

    async def wait_idle(self) -> None:
        """Until nothing is queued or in flight."""
        while waiting := [job.done for job in self._jobs()] + ([self._hold.released] if self._hold else []):
            await asyncio.wait(waiting)

    def _queue_up(
        self, request: Request | Prepare, priority: Priority, then: Then | None, *, hold: Hold | None = None
    ) -> "asyncio.Future[list[Replied | Sent]]":
        if self._transport is None:
            raise LineDown(self.url.text, self.problem)
        places = QUEUE_MAX + (RECONNECT_RESERVE if priority <= Priority.RECONNECT else 0)
        if len(self._queue) >= places:
            raise LineQueueFull(self.name, places)
        done: asyncio.Future[list[Replied | Sent]] = asyncio.get_running_loop().create_future()
        job = Job(priority, next(self._numbers), request, done, then, hold=hold)
        if self._hold is not None and self._hold.task is asyncio.current_task():
            self._hold.queue.append(job)
        else:
            heapq.heappush(self._queue, job)
        self._advance(self._clock.monotonic())
        return done

    async def run(self) -> None:
        pause_s = RECONNECT_S_FIRST
        try:
            while True:
                if self.url.scheme == "listen":
                    self._set_problem(self.url.awaited)
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
                    if self.url.scheme == "listen":  # the far end dials, and the listener bounds how often
                        continue
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
        if self._transport is None:  # we hung up ourselves, and said why
            return
        self._drop(f"connection lost: {exc}" if exc else "connection closed by the other side")

    def data_received(self, data: bytes) -> None:
        self.counters.bytes_received += len(data)
        now = self._clock.monotonic()
        self._session.receive(data, now)
        self._advance(now)
        self._note_noise(now)

    def damaged_received(self, data: bytes, positions: Sequence[int]) -> None:
        """Bytes of which the port saw some to be damaged, see `parity`; no frame goes over those."""
        self.counters.bytes_received += len(data)
        self.counters.parity_errors += len(positions)
        now = self._clock.monotonic()
        self._session.receive(data, now, positions)
        self._advance(now)
        self._note_noise(now)

    # -------------------------------------------------------------------------------------------- inside

    def _advance(self, now: float) -> None:
        """Hand out events, start the next request, arm the timer: after whatever happened."""
        session = self._session
        while True:
            silent_before = self._silent_in_a_row
            for event in session.take_events():
                self._settle(event, now)
            # Only when all of them know what became of them: several may have ended in this very moment.
            if self._silent_in_a_row > silent_before and self._is_far_end_gone(now):
                self._drop(f"{self._silent_in_a_row} requests in a row stayed unanswered; connecting anew")
                return
            if not session.idle or self._transport is None:
                break
            if self._next:
                job, request = self._next.popleft()
            elif (found := self._next_job()) is not None:
                job = found
                try:
                    request = job.request() if callable(job.request) else job.request
                except Exception as error:  # the caller's own code: its affair, and not the line's
                    job.done.set_exception(error)
                    continue
            else:
                break
            try:
                session.request(request, now, reply_timeout_s=self._timeout_s(request))
            except EncodeError as error:
                if not job.done.done():
                    job.done.set_exception(error)
                continue
            self._in_flight[id(request)] = job
            self.counters.requests += 1
            self._output += session.take_output()
        if self._output:
            # Where there may be more requests under way, those that are asked for in this turn of the loop share one system call.
            # What a holder sends leaves in this very step: between its last look and its bytes nothing may happen.
            if self._in_flight and session.idle and self._hold is None:
                self._send_soon()
            else:
                self._send()
        if session.broken:  # what comes is another protocol: nothing that follows can be trusted
            self._drop(session.broken)
            return
        self._arm(session.deadline, now)

    def _next_job(self) -> Job | None:
        """Whose turn it is; None while there is nobody, or while who is next waits for what is under way."""
        while self._hold is None and self._queue:
            job = self._queue[0]
            if job.done.done():  # its caller went away
                heapq.heappop(self._queue)
            elif job.hold is None:
                return heapq.heappop(self._queue)
            elif self._in_flight:
                return None
            else:
                heapq.heappop(self._queue)
                self._hold = job.hold
                job.hold.begin(self._held_too_long)
                job.done.set_result([])
        while self._hold is not None and self._hold.queue:
            job = self._hold.queue.popleft()
            if not job.done.done():
                return job
        return None

    def _release(self, hold: Hold, why: DriverError | None = None) -> None:
        """The line is everybody's again. What the holder still has queued is not sent."""
        hold.end(why)
        while hold.queue:
            job = hold.queue.popleft()
            if not job.done.done():
                job.done.set_exception(why or HoldOver(self.name, hold.longest_s))
        if self._hold is hold:
            self._hold = None
            self._advance(self._clock.monotonic())

    def _held_too_long(self, hold: Hold) -> None:
        log.warning("a line was held for too long", line=self.name, longest_s=hold.longest_s)
        self._release(hold, HoldOver(self.name, hold.longest_s))

    def _send_soon(self) -> None:
        if not self._is_sending_soon:
            self._is_sending_soon = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_sending_soon = False
        output, self._output = self._output, []
        if not output or self._transport is None:
            return
        wires = output[0] if len(output) == 1 else b"".join(output)
        self.counters.bytes_sent += len(wires)
        self._transport.write(wires)

    def _settle(self, event: Sent | Replied | NoReply | Unmatched, now: float) -> None:
        if isinstance(event, Unmatched):
            self._note_unmatched(event, now)
            return
        job = self._in_flight.pop(id(event.request))
        if isinstance(event, NoReply):
            counter = _COUNTERS[event.silence]
            setattr(self.counters, counter, getattr(self.counters, counter) + 1)
            if not job.done.done():
                job.done.set_exception(NoAnswer(event))
            self._watch_silence(event)
            return
        self.counters.replied += 1
        self.last_reply_at = self._clock.now()
        self._silent_in_a_row = 0
        if isinstance(event, Replied):
            if event.is_first:  # of a retry nobody knows which asking was answered (Karn's rule)
                self.patience.replied(
                    event.address, self._waited_s(event.elapsed_s, event.wire_sent, event.wire_received)
                )
            if job.then is not None:
                job.parts = [*job.parts, event]
                if (following := job.then(event)) is not None:
                    self._next.append((job, following))
                    return
        if not job.done.done():
            job.done.set_result(job.parts or [event])

    def _note_unmatched(self, event: Unmatched, now: float) -> None:
        self.counters.unmatched_frames += 1
        self.unmatched.append(event)
        self._stray.note(len(event.wire), now)
        if event.late_s is not None:
            self.counters.late_frames += 1
            self.patience.late(event.address, self._waited_s(event.late_s, b"", event.wire))
        log.debug("unmatched frame", line=self.name, wire=mask(event.wire), why=event.why)

    def _timeout_s(self, request: Request) -> float | None:
        """What the meter is given, as far as it is known; None: what the line has."""
        learnt_s = self.patience.timeout_s(request.address)
        if learnt_s is None or not getattr(request.message, "is_long", False):  # a message may say so of itself
            return learnt_s
        # A tunnel may hand over a reply when it is whole, and what is learnt has no wire time in it: long replies need theirs.
        return learnt_s + self.timing.longest_reply_s

    def _waited_s(self, elapsed_s: float, sent: bytes, received: bytes) -> float:
        """The meter's own share of an exchange, as far as the line's rate is known."""
        return max(0.0, elapsed_s - self.timing.wire_time_s(len(sent) + len(received)))

    def _watch_silence(self, event: NoReply) -> None:
        is_known = self.patience.timeout_s(event.request.address) is not None  # it has answered before
        if event.silence is not Silence.SILENT or self.url.scheme == "serial" or not is_known:
            return
        if self._silent_in_a_row == 0:
            self._silent_addresses.clear()
        self._silent_in_a_row += 1
        self._silent_addresses.add(event.request.address)

    def _is_far_end_gone(self, now: float) -> bool:
        """A far end that is gone without a word looks like silent meters: hang up and try again, now and then."""
        is_suspect = self._silent_in_a_row >= SILENT_IN_A_ROW_MAX and len(self._silent_addresses) >= 2
        if not is_suspect or now - self._hung_up_at < HANG_UP_AGAIN_S:
            return False
        self._hung_up_at = now
        return True

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
        self._note_noise(now)

    def _note_noise(self, now: float) -> None:
        noise = self._session.noise_bytes
        if noise != self._noise_noted:
            self._stray.note(noise - self._noise_noted, now)
            self._noise_noted = noise

    def _set_problem(self, problem: str) -> None:
        if (problem == "") != (self.problem == ""):
            self.since = self._clock.now()
        self.problem = problem

    def _drop(self, why: str) -> None:
        """No connection: everything queued or in flight fails, so that its owner can decide."""
        transport, self._transport = self._transport, None
        if transport is not None and not transport.is_closing():
            transport.abort()
        self._output.clear()
        self._silent_in_a_row = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = {id(event.request): event for event in self._session.interrupted_all(self._clock.monotonic())}
        self._session.reset()
        self._set_problem(why)
        self._up.clear()
        self._down.set()
        sent = {job.number: lost.get(request) for request, job in self._in_flight.items()}
        for job in self._jobs():
            if not job.done.done():
                self.counters.lost += 1
                job.done.set_exception(LineDown(self.url.text, why, sent.get(job.number)))
        self._in_flight.clear()
        self._next.clear()
        self._queue.clear()
        if (hold := self._hold) is not None:
            self._hold = None
            hold.queue.clear()
            hold.end(LineDown(self.url.text, f"{why}; it was lost while it was held"))

    def _jobs(self) -> list[Job]:
        """All that somebody waits for: on the wire, between two requests, and in the queue."""
        held = self._hold.queue if self._hold else ()
        return [*self._in_flight.values(), *(job for job, _ in self._next), *held, *self._queue]


def _not_asked() -> Request:
    raise AssertionError("who waits for the line itself asks nothing")

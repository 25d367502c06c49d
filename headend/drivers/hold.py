"""Having a line to oneself for several exchanges in a row, and what waits on a line while somebody has.

An order to a supply switch consists of several exchanges that belong together: who answers, what is, the order itself. Nothing may
come between them, and nothing may leave after the time that one holder may take. A hold is granted like a request, by priority and
when nothing is under way, so that it delays whoever is more urgent by one hold at most. It belongs to one task: what this task
asks of the line goes out at once, in whatever way it asks, and everybody else waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headend.drivers.errors import DriverError, HoldOver, LineDown
from protocols.exchange import Replied, Request, Sent

if TYPE_CHECKING:
    from headend.drivers.line import Line

__all__ = ["HOLD_S_MAX", "Hold", "Job", "Prepare", "Then"]

HOLD_S_MAX = 30.0  # an order with ten exchanges at 1200 baud, each asked twice, takes 20 s

Then = Callable[[Replied], Request | None]
Prepare = Callable[[], Request]


class Job(Struct, order=True):
    """What waits on a line. then: what to ask next, before anything else, given a reply; None ends the job.

    hold: of somebody who waits for the line itself; `request` is not used then.
    """

    priority: int
    number: int
    request: Request | Prepare
    done: "asyncio.Future[list[Replied | Sent]]"
    then: Then | None = None
    parts: list[Replied | Sent] = []
    hold: "Hold | None" = None


class Hold:
    """A line held by the task that asked for it; made by `Line.hold`.

    released: done when the line is everybody's again. When the hold is over, whatever ended it, `exchange` raises: nothing leaves
    that was prepared under it. A holder must not ask for a hold again.
    """

    def __init__(self, line: "Line", task: "asyncio.Task[Any] | None", longest_s: float) -> None:
        self.task = task
        self.longest_s = longest_s
        self.queue: deque[Job] = deque()
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line = line
        self._over: DriverError | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return self.released.done()

    def begin(self, on_too_long: Callable[["Hold"], None]) -> None:
        """The line is ours from now on."""
        self._timer = asyncio.get_running_loop().call_later(self.longest_s, on_too_long, self)

    def end(self, why: DriverError | None = None) -> None:
        """The line is nobody's. why: what the holder is told when it goes on all the same."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._over = self._over or why
        if not self.released.done():
            self.released.set_result(None)

    def check(self) -> None:
        """Raises HoldOver or LineDown when the line is not ours any more."""
        if self._over is not None:
            raise self._over
        if self.is_over:
            raise HoldOver(self._line.name, self.longest_s)

    async def exchange(self, request: Request | Prepare) -> Replied | Sent:
        """As `Line.exchange`, and never on a line that is held no more: then it raises HoldOver or LineDown, and nothing leaves.

        A function as request is called in the step of the loop in which the bytes leave; what it raises stops the request.
        """
        self.check()
        if self._line.unsent_bytes:
            raise LineDown(
                self._line.url.text, "the far end does not take what was sent before; nothing was added to it"
            )

        def prepare() -> Request:
            self.check()
            return request() if callable(request) else request

        return (await self._line.queue_held(self, prepare))[0]

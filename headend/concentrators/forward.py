"""A line that leads through a concentrator: what is written goes out as a `forward` command, the frame in its answer comes in.

So a meter behind an MQTT concentrator is read by the same session, driver and line owner as one on a serial port. Each write is one
command with one whole frame. The answers carry ids: one that comes after the next request was written is dropped, and can never be
taken for that request's reply. A command that fails is silence on the line, and a line in the log.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.concentrators.errors import BrokerDown, ConcentratorDown, ConcentratorError
from headend.drivers.errors import LineDown
from headend.drivers.transport import Connect, LineUrl
from protocols.concentrator.messages import Command, CommandAnswer, Op, Status
from protocols.dlt645.frame import Frame
from protocols.errors import ProtocolError

__all__ = ["SCHEME", "ForwardCounters", "ForwardTransport", "dlt645_meter", "forward_url", "forwarding"]

SCHEME = "mqtt"
WAKE_UP = b"\xfe"  # the concentrator sends its own
UNDER_WAY_MAX = 16  # a line has one request in flight; more are late ones that nobody waits for any more

Send = Callable[[Command], Awaitable[CommandAnswer]]
log = structlog.get_logger(__name__)


def dlt645_meter(frame: bytes) -> str:
    """Whom a DL/T 645 frame is for; "" for any other frame."""
    try:
        return str(Frame.from_bytes(frame).address)
    except ProtocolError:
        return ""


class ForwardCounters(Struct):
    """Since the line was connected. late: answers to a request that another one had followed."""

    frames: int = 0
    replies: int = 0
    failures: int = 0
    late: int = 0


class ForwardTransport(asyncio.Transport):
    """send: carries a command to the concentrator. reply_timeout_s: what the meter is given; the command ends with it.

    meter_of: whom a frame is for, since a command names its meter.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        send: Send,
        *,
        name: str,
        new_id: Callable[[], str],
        reply_timeout_s: float,
        clock: Clock,
        meter_of: Callable[[bytes], str] = dlt645_meter,
    ) -> None:
        super().__init__()
        self.counters = ForwardCounters()
        self._protocol = protocol
        self._send = send
        self._new_id = new_id
        self._reply_timeout_s = reply_timeout_s
        self._clock = clock
        self._meter_of = meter_of
        self._numbers = itertools.count(1)
        self._newest = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._log = log.bind(concentrator=name)

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        self._newest = next(self._numbers)
        self.counters.frames += 1
        if len(self._under_way) >= UNDER_WAY_MAX:
            self.counters.failures += 1
            self._log.warning("a frame was not forwarded: too many are under way", count=len(self._under_way))
            return
        task = asyncio.get_running_loop().create_task(self._forward(bytes(data), self._newest), name="forward")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def abort(self) -> None:
        """What has left is on its way; its answers are dropped."""
        self._is_closing = True
        for task in self._under_way:
            task.cancel()

    def close(self) -> None:
        self.abort()

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    async def _forward(self, wire: bytes, number: int) -> None:
        frame = wire.lstrip(WAKE_UP)
        command = Command(
            id=self._new_id(),
            meter=self._meter_of(frame),
            op=Op.FORWARD,
            params={"frame": frame.hex(), "timeout_ms": int(self._reply_timeout_s * 1000)},
            expires_at=self._clock.now() + timedelta(seconds=self._reply_timeout_s),
        )
        try:
            answer = await self._send(command)
        except (BrokerDown, ConcentratorDown) as error:
            self._hang_up(error)
            return
        except ConcentratorError as error:
            self._fail(str(error))
            return
        reply = _frame_in(answer)
        if reply is None:
            self._fail(f"the concentrator answered {answer.status} {answer.code}".strip())
        elif number != self._newest or self._is_closing:
            self.counters.late += 1
            self._log.info("a forwarded reply came too late")
        else:
            self.counters.replies += 1
            self._protocol.data_received(reply)

    def _fail(self, problem: str) -> None:
        self.counters.failures += 1
        self._log.warning("a frame brought no reply", problem=problem)

    def _hang_up(self, error: ConcentratorError) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._protocol.connection_lost(error)


def forward_url(concentrator: str) -> LineUrl:
    """The LINE of what lies behind a concentrator; only `forwarding` can connect it."""
    return LineUrl(text=f"{SCHEME}:{concentrator}", scheme=SCHEME)


def forwarding(
    name: str,
    send: Send,
    *,
    why_down: Callable[[], str],
    new_id: Callable[[], str],
    reply_timeout_s: float,
    clock: Clock,
) -> Connect:
    """A `Connect` for the line behind concentrator `name`. why_down: "" while commands can be sent."""

    async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
        if problem := why_down():
            raise LineDown(url.text, problem)
        transport = ForwardTransport(
            protocol, send, name=name, new_id=new_id, reply_timeout_s=reply_timeout_s, clock=clock
        )
        protocol.connection_made(transport)
        return transport

    return connect


def _frame_in(answer: CommandAnswer) -> bytes | None:
    """None when the answer holds no reply."""
    text = answer.detail.get("frame") if isinstance(answer.detail, Mapping) else None
    if answer.status != Status.DONE or not isinstance(text, str):
        return None
    try:
        return bytes.fromhex(text) or None
    except ValueError:
        return None

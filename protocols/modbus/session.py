"""A Modbus session: the same to its line whether frames are RTU or TCP. No I/O and no clock: `now` is monotonic seconds.

Do one of `request`, `receive`, `tick`; then take output and events; then wait for bytes or for `deadline`. `Request.address` is the
unit as text, "1".."247" (TCP: "0" and "255" as well, which is the device that was dialled itself); `Request.message` and
`Replied.message` are those of `protocols.modbus.pdu`. Nothing is broadcast: nobody would say whether it was obeyed.

RTU has one request in flight, drains the line after a time-out, and treats every frame that may answer an older question as if it did
(`rtu_session`). TCP has as many in flight as `in_flight_max` and tells them apart by number (`tcp_session`).
"""

from collections.abc import Sequence
from typing import Literal

from protocols.exchange import Event, NoReply, Request, Timing
from protocols.modbus.rtu_session import RtuSession
from protocols.modbus.tcp_session import TcpSession

__all__ = ["ModbusSession"]


class ModbusSession:
    """See the module's text. Events come out in the order in which they happened."""

    def __init__(self, timing: Timing, *, framing: Literal["rtu", "tcp"], in_flight_max: int = 1) -> None:
        """Raises ValueError for RTU with more than one request in flight, or none at all."""
        if in_flight_max < 1 or (framing == "rtu" and in_flight_max != 1):
            raise ValueError(
                f"{in_flight_max} requests in flight with framing {framing!r}: RTU has exactly 1, TCP 1 or more"
            )
        self.framing = framing
        self._inner = RtuSession(timing) if framing == "rtu" else TcpSession(timing, in_flight_max=in_flight_max)

    @property
    def timing(self) -> Timing:
        return self._inner.timing

    @property
    def idle(self) -> bool:
        """Whether `request` may be called: one more request may be sent."""
        return self._inner.idle

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest; None when there is nothing to wait for."""
        return self._inner.deadline

    @property
    def broken(self) -> str:
        """Why the connection must be closed: what comes is not Modbus TCP. "" while all is well, and always with RTU."""
        return self._inner.broken

    @property
    def noise_bytes(self) -> int:
        return self._inner.noise_bytes

    @property
    def echoes(self) -> int:
        return self._inner.echoes

    def request(self, request: Request, now: float, *, reply_timeout_s: float | None = None) -> None:
        """reply_timeout_s: instead of the line's, for a meter whose pace is known.

        Raises LineBusy unless idle, EncodeError when the message cannot be sent.
        """
        self._inner.request(request, now, reply_timeout_s=reply_timeout_s)

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> None:
        """Bytes from the line, in any chunking. marked: places in the chunk of bytes with a parity error, which TCP has not."""
        if isinstance(self._inner, RtuSession):
            self._inner.receive(chunk, now, marked)
        else:
            self._inner.receive(chunk, now)

    def tick(self, now: float) -> None:
        """Let time pass; harmless when early."""
        self._inner.tick(now)

    def interrupted(self, now: float) -> NoReply | None:
        """What the oldest request in flight has come to, for an owner whose connection broke; None when none is in flight."""
        return next(iter(self.interrupted_all(now)), None)

    def interrupted_all(self, now: float) -> list[NoReply]:
        """The same of every request in flight, oldest first."""
        return self._inner.interrupted_all(now)

    def owed_s(self, request: Request, now: float) -> float:
        """How long a frame may still come that would fit this request and answers an older one; 0 when none may, as always with TCP.

        Raises EncodeError for an address that is no unit.
        """
        return self._inner.owed_s(request, now)

    def retime(self, timing: Timing) -> None:
        """From the next request on; for a line whose rate has changed."""
        self._inner.retime(timing)

    def reset(self) -> None:
        """The connection is gone: end the requests in flight without an event; their owner knows. RTU: what is owed stays owed."""
        self._inner.reset()

    def take_output(self) -> list[bytes]:
        return self._inner.take_output()

    def take_events(self) -> list[Event]:
        return self._inner.take_events()

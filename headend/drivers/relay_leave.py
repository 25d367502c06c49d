"""The moment in which a switching order leaves, the same for every protocol of a line: durable, looked at once more, sent once.

Everything here is about the gap between what was checked and what goes out. The frame is made before; "sending" is durable before
the last look; the last look happens in the step of the event loop that hands the bytes to the transport, which must have nothing
else to send. Behind that moment there are only outcomes.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec.structs import replace

from headend.clock import Clock
from headend.drivers.errors import DriverError, StopOrder
from headend.drivers.hold import Hold
from headend.drivers.line import Line
from headend.drivers.relay import Look, OnSending, Ready, Sent, SwitchUnconfirmed, check_age
from protocols.dlt645.masking import mask_heard
from protocols.exchange import Replied, Request

__all__ = ["READ_BACK", "Deadline", "leave", "refused"]

READ_BACK = "look back at the relay before anything is decided; it is never sent again by itself"

log = structlog.get_logger(__name__)


class Deadline:
    """When an order has run out, by both clocks: no correction of the wall clock makes it live longer."""

    def __init__(self, expires_at: datetime, clock: Clock) -> None:
        self.expires_at = expires_at
        self._clock = clock
        self._until = clock.monotonic() + (expires_at - clock.now()).total_seconds()

    def check(self) -> None:
        """Raises StopOrder."""
        if self._clock.now() >= self.expires_at or self._clock.monotonic() >= self._until:
            raise StopOrder(f"the order was good until {self.expires_at.isoformat()} and is not sent any more")


async def leave(
    line: Line,
    hold: Hold,
    request: Request,
    ready: Ready,
    *,
    order: str,
    look: Look,
    on_sending: OnSending,
    deadline: Deadline,
    clock: Clock,
    show: Callable[[bytes], str],
) -> tuple[Replied, Sent]:
    """Send `request` once. The reply as it came, and the evidence; `acknowledged` and `refused` are for the caller to say.

    show: a wire as it may be shown. Raises what on_sending or look raise, StopOrder, SendingTooOld, HoldOver, LineDown: then nothing
    has left; SwitchUnconfirmed: it has, and no reply came.
    """
    deadline.check()
    await on_sending(ready)
    durable_at = clock.monotonic()
    left_at: list[tuple[datetime, float, float]] = []

    def last_step() -> Request:
        looked_at = clock.monotonic()
        check_age(line.name, looked_at - durable_at)
        deadline.check()
        look()
        now = clock.monotonic()
        check_age(line.name, now - durable_at)  # a look that takes long makes the record old, too
        deadline.check()
        left_at.append((clock.now(), now - looked_at, now - durable_at))
        return request

    try:
        replied = await hold.exchange(last_step)
    except DriverError as error:
        if not left_at:
            raise
        if line.unsent_bytes:  # it has not all left, and must not do so by and by
            line.close("an order was not taken by the far end, and was thrown away")
        at, look_s, sending_s = left_at[0]
        sent = Sent(
            acknowledged=False,
            at=at,
            silence=error.kind,
            wire_sent=ready.wire,
            wire_received=mask_heard(error.wire_received, error.wire_sent) if error.wire_received else "",
            look_to_wire_s=look_s,
            sending_to_wire_s=sending_s,
            elapsed_s=error.elapsed_s,
            identity=ready.identity,
            before=ready.before,
            register=ready.register,
        )
        log.warning("an order was not answered", line=line.name, order=order, silence=error.kind)
        raise SwitchUnconfirmed(request.address, order, READ_BACK, sent) from error
    if not isinstance(replied, Replied):
        raise AssertionError("an order is sent to one meter, which answers or times out")
    at, look_s, sending_s = left_at[0]
    sent = Sent(
        acknowledged=True,
        at=at,
        wire_sent=show(replied.wire_sent),
        wire_received=show(replied.wire_received),
        look_to_wire_s=look_s,
        sending_to_wire_s=sending_s,
        elapsed_s=replied.elapsed_s,
        identity=ready.identity,
        before=ready.before,
        register=ready.register,
    )
    return replied, sent


def refused(sent: Sent, words: str) -> Sent:
    """The same with the meter's no."""
    return replace(sent, acknowledged=False, refused=words)

"""Reading items of DL/T 645 meters over a line."""

from msgspec import Struct

from headend.drivers.errors import BadReply, DriverError, RefusedByMeter
from headend.drivers.line import Line, Priority
from protocols.dlt645.items import ItemSpec, ItemValue, decode
from protocols.dlt645.messages import FollowUpReply, FollowUpRequest, Message, ReadReply, ReadRequest, Refused
from protocols.dlt645.session import Replied, Request
from protocols.errors import ItemError

__all__ = ["Dlt645Driver", "ItemReading"]

RETRIES_DEFAULT = 2
FOLLOW_UPS_MAX = 255  # SEQ is one byte and starts at 1


class ItemReading(Struct, frozen=True, kw_only=True):
    """One item as one meter gave it: a single value, or several for a block or a record.

    address: the meter's own, also when a wildcard was asked.
    wire_sent, wire_received: every frame of the last attempt, in order; more than one when the reply came in parts.
    """

    address: str
    values: list[ItemValue]
    wire_sent: tuple[bytes, ...]
    wire_received: tuple[bytes, ...]
    elapsed_s: float


class Dlt645Driver:
    """Both editions: the DI's length decides. Silent, corrupt and unmatched are retried; a refusal is final."""

    def __init__(self, line: Line, *, retries: int = RETRIES_DEFAULT) -> None:
        self._line = line
        self._retries = retries

    async def read(self, address: str, spec: ItemSpec, priority: Priority) -> ItemReading:
        """Read one item from `address` (12 digits, or a wildcard on a point-to-point line).

        Raises NoAnswer, BadReply, RefusedByMeter, LineDown, LineQueueFull.
        """
        for attempts_left in range(self._retries, -1, -1):
            try:
                return await self._read_once(address, spec, priority)
            except DriverError as error:
                if not attempts_left or error.kind not in ("silent", "corrupt", "unmatched"):
                    raise
        raise AssertionError("the loop returns or raises")

    async def _read_once(self, address: str, spec: ItemSpec, priority: Priority) -> ItemReading:
        di = spec.di
        replied = await self._ask(address, ReadRequest(di=di), priority)
        message = replied.message
        if type(message) is not ReadReply:
            raise AssertionError(f"the session matched {message!r} to a read")
        data, sent, received, elapsed_s = message.data, [replied.wire_sent], [replied.wire_received], replied.elapsed_s
        follow, sequence = message.follow, 0
        while follow and sequence < FOLLOW_UPS_MAX:
            sequence += 1
            ask = FollowUpRequest(di=di, sequence=None if len(di.wire) == 2 else sequence)
            replied = await self._ask(address, ask, priority)
            part = replied.message
            if not isinstance(part, ReadReply | FollowUpReply):
                raise AssertionError(f"the session matched {part!r} to a follow-up")
            data += part.data
            follow = part.follow
            sent.append(replied.wire_sent)
            received.append(replied.wire_received)
            elapsed_s += replied.elapsed_s
        try:
            values = decode(data, spec)
        except ItemError as error:
            raise BadReply(replied.address, error, sent[-1], received[-1]) from error
        return ItemReading(
            address=replied.address,
            values=values,
            wire_sent=tuple(sent),
            wire_received=tuple(received),
            elapsed_s=elapsed_s,
        )

    async def _ask(self, address: str, message: Message, priority: Priority) -> Replied:
        replied = await self._line.exchange(Request(address, message), priority)
        if not isinstance(replied, Replied):
            raise AssertionError("a read is always answered or times out")
        if isinstance(replied.message, Refused):
            raise RefusedByMeter(replied.address, replied.message, replied.wire_sent, replied.wire_received)
        return replied

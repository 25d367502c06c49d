"""Reading DL/T 645 meters over a line: items, load records, addresses. What changes a meter is in `dlt645_operations`.

Three things go wrong with a read that is not simply silent. A part of a long reply gets lost: the meter's count of parts cannot be
trusted any more, so that the whole is asked for again (DL/T 645-2007: a new 11H resets it). A 1997 reply comes damaged: the meter
repeats its last reply for 03H, which is used only where that reply can be no other than the one that was damaged. And a
reply is whole, but of another page of a series, because all pages of a series have one DI: times are compared with what was asked.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct, field

from headend.drivers.errors import BadReply, DriverError, NoAnswer, RefusedByMeter
from headend.drivers.line import Line, Priority
from headend.drivers.reading import Reading, Register
from protocols.dlt645.control import Dialect, error_phrases
from protocols.dlt645.frame import BROADCAST, FRAME_SIZE_MIN, PREAMBLE_DEFAULT, WILDCARD
from protocols.dlt645.items import Di, ItemSpec, ItemValue, decode, size_range
from protocols.dlt645.load_record import LoadBlock, decode_blocks, decode_curve
from protocols.dlt645.messages import (
    AddressReply,
    FollowUpReply,
    FollowUpRequest,
    Message,
    ReadAddressRequest,
    ReadReply,
    ReadRequest,
    Refused,
    RepeatRequest,
)
from protocols.errors import BadSize, WireError
from protocols.exchange import Replied, Request

__all__ = ["BlockCount", "BlocksReading", "CurveReading", "Dlt645Driver", "ItemQuestion", "refusal", "registers_of"]

RETRIES_DEFAULT = 2
RESTARTS_MAX = 3  # of a reply in parts of which one was lost, on top of the retries
FOLLOW_UPS_MAX = 255  # SEQ is one byte and starts at 1
RETRYABLE = ("silent", "corrupt", "unmatched")
SAFE_PAGE = 9  # number of blocks N that is the same in BCD and binary; firmware differs
COUNT_MAX = {"bcd": 99, "binary": 255, None: SAFE_PAGE}
LATEST_BLOCK = 0x02  # DI0 of a first-generation load record: 00 earliest, 01 from a time, 02 latest
FROM_A_TIME = 0x01
TOTAL_ENERGY_1997 = Di("9010")

# How a meter reads N of a load record request; None: not known, pages stay below ten.
BlockCount: TypeAlias = Literal["bcd", "binary"] | None
T = TypeVar("T")


class ItemQuestion(Struct, frozen=True, cache_hash=True):
    """An item, asked for by itself. See `headend.drivers.reading`."""

    spec: ItemSpec

    @property
    def registers(self) -> tuple[Register, ...]:
        return registers_of(self.spec)

    @property
    def wire_bytes(self) -> int:
        name = len(self.spec.di.wire)
        return PREAMBLE_DEFAULT + 2 * FRAME_SIZE_MIN + name + name + size_range(self.spec)[0]


@lru_cache(maxsize=4096)  # every item that a fleet's plans name, and far more
def registers_of(spec: ItemSpec) -> tuple[Register, ...]:
    """One per value of the item: a block's members, or the item itself."""
    return tuple(
        Register(str(member.obis) if member.obis else f"di:{member.di}", member.unit, member.source)
        for member in spec.members or (spec,)
    )


class BlocksReading(Struct, frozen=True, kw_only=True):
    """First-generation load record, oldest block first, times by the meter's clock. No blocks: the meter has none there."""

    address: str
    blocks: list[LoadBlock]
    wire_sent: tuple[bytes, ...]
    wire_received: tuple[bytes, ...]
    elapsed_s: float


class CurveReading(Struct, frozen=True, kw_only=True):
    """Load curve: values in the order of the item, point by point, each with its time by the meter's clock.

    A content of None is a point that the meter did not record; a point that is not there at all is one that it does not have.
    """

    address: str
    values: list[ItemValue]
    wire_sent: tuple[bytes, ...]
    wire_received: tuple[bytes, ...]
    elapsed_s: float


class _Parts(Struct):
    """Frames of one attempt as they come."""

    address: str
    data: bytes = b""
    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    elapsed_s: float = 0.0

    def add(self, replied: Replied, data: bytes) -> None:
        self.address = replied.address
        self.data += data
        self.sent.append(replied.wire_sent)
        self.received.append(replied.wire_received)
        self.elapsed_s += replied.elapsed_s


class Dlt645Driver:
    """Both editions: the DI's length decides. Silent, corrupt and unmatched are retried; a refusal is final."""

    def __init__(self, line: Line, *, retries: int = RETRIES_DEFAULT) -> None:
        self.line = line
        self.retries = retries
        # 1997: DI of the last reply that came from a meter whole; missing where the last asking ended otherwise.
        self._last_given: dict[str, Di] = {}

    async def read(self, address: str, spec: ItemSpec, priority: Priority, *, began_at: float | None = None) -> Reading:
        """Read one item from `address` (12 digits, or a wildcard on a point-to-point line).

        began_at: when the read that this call repeats began, monotonic seconds: an answer to any asking since then will do. A
        new read waits until no late answer to an older one can come.

        Raises NoAnswer, BadReply, RefusedByMeter, LineDown, LineQueueFull.
        """
        parts, values = await self._read(
            address, ReadRequest(di=spec.di), priority, lambda data: decode(data, spec), began_at=began_at
        )
        return Reading(
            address=parts.address,
            values=values,
            wire_sent=tuple(parts.sent),
            wire_received=tuple(parts.received),
            elapsed_s=parts.elapsed_s,
        )

    async def ask(
        self, address: str, question: ItemQuestion, priority: Priority, *, began_at: float | None = None
    ) -> Reading:
        """The reader's view of `read`."""
        return await self.read(address, question.spec, priority, began_at=began_at)

    async def read_data(self, address: str, di: Di, priority: Priority) -> bytes:
        """DATA of an item as it stands on the wire, after −33H and behind the DI. Raises as `read` does."""
        _, data = await self._read(address, ReadRequest(di=di), priority, bytes)
        return data

    async def read_address(self, priority: Priority, *, dialect: Dialect = Dialect.V2007) -> str:
        """The address of the only meter on the line: 13H to AA..AA, or 01H to 99..99. Raises as `read` does."""
        if dialect is Dialect.V2007:
            replied = await self._retried(WILDCARD, ReadAddressRequest(), priority)
            if isinstance(replied.message, AddressReply) and replied.message.address == replied.address:
                return replied.address
            problem = BadSize(f"{replied.address} tells another address than it answers from", replied.wire_received)
            raise BadReply(replied.address, problem, replied.wire_sent, replied.wire_received)
        return (await self._retried(BROADCAST, ReadRequest(di=TOTAL_ENERGY_1997), priority)).address

    # -------------------------------------------------------------------------------------------- series

    async def read_load_record(
        self,
        address: str,
        spec: ItemSpec,
        priority: Priority,
        *,
        count: int = 1,
        start: datetime | None = None,
        end: datetime | None = None,
        block_count: BlockCount = None,
    ) -> BlocksReading:
        """Read a first-generation load record, 06cc00ss: earliest blocks (ss 00), from `start` on (01), the latest one (02).

        count: at most so many blocks. start, end: by the meter's clock, both included. From a time on it asks page by page,
        and ends where the meter has no more. Raises ValueError when 06cc0001 has no start, and as `read` does.
        """
        which = spec.di.wire[0]
        if (which == FROM_A_TIME) != (start is not None):
            raise ValueError(f"{spec.di}: a start time belongs to 06cc0001 and to nothing else")
        parts, blocks = _Parts(address), list[LoadBlock]()
        while len(blocks) < count:
            page = min(count - len(blocks), COUNT_MAX[block_count])
            if which == LATEST_BLOCK:
                page = 1
            request = ReadRequest(
                di=spec.di, count=_wire_count(page, block_count), start=None if start is None else f"{start:%y%m%d%H%M}"
            )
            last, found = await self._read(address, request, priority, _blocks_from(start))
            _join(parts, last)
            times = [block.at for block in found if block.at is not None]
            wanted = [block for block in found if end is None or block.at is None or block.at <= end]
            blocks += wanted[: count - len(blocks)]
            if start is None or not times or len(wanted) < len(found):
                break
            start = max(times) + timedelta(minutes=1)
        return BlocksReading(
            address=parts.address,
            blocks=blocks,
            wire_sent=tuple(parts.sent),
            wire_received=tuple(parts.received),
            elapsed_s=parts.elapsed_s,
        )

    async def read_curve(
        self,
        address: str,
        spec: ItemSpec,
        priority: Priority,
        *,
        start: datetime,
        count: int,
        period_s: int,
        block_count: BlockCount = None,
    ) -> CurveReading:
        """Read `count` points of a load curve, 0610cckk, from `start` on, page by page.

        start: by the meter's clock; the meter rounds it up to its grid. period_s: what the meter records at (04000A02..). A
        page that the meter has nothing of is passed over. Raises as `read` does.
        """
        period = timedelta(seconds=period_s)
        end = start + count * period
        parts, values = _Parts(address), list[ItemValue]()
        while start < end:
            page = min(-((start - end) // period), COUNT_MAX[block_count])
            request = ReadRequest(di=spec.di, count=_wire_count(page, block_count), start=f"{start:%y%m%d%H%M}")
            last, found = await self._read(address, request, priority, _curve_from(start, spec, period_s))
            _join(parts, last)
            values += [value for value in found if value.at is not None and value.at < end]
            newest = found[-1].at if found else None
            start = start + page * period if newest is None else newest + period
        return CurveReading(
            address=parts.address,
            values=values,
            wire_sent=tuple(parts.sent),
            wire_received=tuple(parts.received),
            elapsed_s=parts.elapsed_s,
        )

    # -------------------------------------------------------------------------------------------- one read

    async def _read(
        self,
        address: str,
        request: ReadRequest,
        priority: Priority,
        decode_data: Callable[[bytes], T],
        *,
        began_at: float | None = None,
    ) -> tuple[_Parts, T]:
        """All parts of a reply, and what they say. Retries, and restarts where a later part failed."""
        retries_left, restarts_left = self.retries, RESTARTS_MAX
        asking = Request(address, request, began_at)
        if (owed_s := self.line.owed_s(asking)) > 0:
            await asyncio.sleep(owed_s)
        again = Request(address, request, self.line.monotonic() if began_at is None else began_at)
        while True:
            parts = _Parts(address)
            try:
                await self._collect(parts, asking, request.di, priority)
                try:
                    return parts, decode_data(parts.data)
                except WireError as error:
                    raise BadReply(parts.address, error, parts.sent[-1], parts.received[-1]) from error
            except DriverError as error:
                # A refused follow-up says that the meter has lost count, not that it has no data.
                if parts.received and not isinstance(error, BadReply) and error.kind in (*RETRYABLE, "refused"):
                    restarts_left -= 1
                    if restarts_left < 0:
                        raise
                elif retries_left and error.kind in RETRYABLE:
                    retries_left -= 1
                else:
                    raise
            asking = again

    async def _collect(self, parts: _Parts, asking: Request, di: Di, priority: Priority) -> None:
        """Ask once, and for every further part; `parts` holds what came, also when this raises."""
        address = asking.address
        last_given = self._last_given.pop(address, None)
        if address.startswith("AA") or address == BROADCAST:
            self._last_given.clear()  # whoever answers this has given something else last
        try:
            await self._ask_all(parts, asking, di, priority)
        except NoAnswer as error:
            # The meter's last reply is either the damaged one or, if it never heard us, the one before. Only when that was of
            # another DI does the DI tell the two apart; else the meter might give an old value of this very item as new.
            if parts.received or error.kind != "corrupt" or last_given is None or last_given == di:
                raise
            await self._ask_all(parts, Request(address, RepeatRequest(), asking.began_at), di, priority)
            if not parts.received:
                raise
        if len(di.wire) == 2:
            self._last_given[address] = di

    async def _ask_all(self, parts: _Parts, asking: Request, di: Di, priority: Priority) -> None:
        def then(replied: Replied) -> Request | None:
            part = replied.message
            if not isinstance(part, ReadReply | FollowUpReply) or part.di != di:
                return None
            parts.add(replied, part.data)
            sequence = len(parts.received)
            if not part.follow or sequence > FOLLOW_UPS_MAX:
                return None
            ask = FollowUpRequest(di=di, sequence=None if len(di.wire) == 2 else sequence)
            return Request(asking.address, ask, asking.began_at)

        last = (await self.line.exchange_all(asking, priority, then))[-1]
        if isinstance(last.message, Refused):
            raise refusal(last, last.message)

    async def _retried(self, address: str, message: Message, priority: Priority) -> Replied:
        asking, again = Request(address, message), Request(address, message, self.line.monotonic())
        for _ in range(self.retries):
            try:
                return await self._ask(asking, priority)
            except DriverError as error:
                if error.kind not in RETRYABLE:
                    raise
            asking = again
        return await self._ask(asking, priority)

    async def _ask(self, asking: Request, priority: Priority) -> Replied:
        replied = await self.line.exchange(asking, priority)
        if not isinstance(replied, Replied):
            raise AssertionError("a read is always answered or times out")
        if isinstance(replied.message, Refused):
            raise refusal(replied, replied.message)
        return replied


def refusal(replied: Replied, refused: Refused) -> RefusedByMeter:
    phrases = ", ".join(error_phrases(refused.dialect, refused.function, refused.word, refused.size))
    said = f"error word {refused.word:0{2 * refused.size}X}H ({phrases})"
    return RefusedByMeter(replied.address, said, refused.word, replied.wire_sent, replied.wire_received)


def _wire_count(count: int, block_count: BlockCount) -> int:
    return int(str(count), 16) if block_count == "bcd" else count


def _blocks_from(start: datetime | None) -> Callable[[bytes], list[LoadBlock]]:
    def read(data: bytes) -> list[LoadBlock]:
        blocks = decode_blocks(data)
        _check_not_before(start, [block.at for block in blocks], data)
        return blocks

    return read


def _curve_from(start: datetime, spec: ItemSpec, period_s: int) -> Callable[[bytes], list[ItemValue]]:
    def read(data: bytes) -> list[ItemValue]:
        values = decode_curve(data, spec, period_s=period_s)
        _check_not_before(start, [value.at for value in values], data)
        if values and values[0].at is None:
            raise BadSize(f"{spec.di} {spec.name}: the time of the first point is no date", data)
        return values

    return read


def _check_not_before(start: datetime | None, times: list[datetime | None], data: bytes) -> None:
    first = min((at for at in times if at is not None), default=None)
    if start is not None and first is not None and first < start.replace(second=0, microsecond=0):
        raise BadSize(f"a series from {first:%y-%m-%d %H:%M} on, asked was {start:%y-%m-%d %H:%M}", data)


def _join(parts: _Parts, page: _Parts) -> None:
    parts.address = page.address
    parts.sent = parts.sent + page.sent
    parts.received = parts.received + page.received
    parts.elapsed_s += page.elapsed_s

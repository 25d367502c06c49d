"""A line held for scanning: one exchange at a time, and everything that was heard in it.

`drivers.line.Line` gives a caller the one reply that answers its request and drops the rest. A scan lives on the rest: a second
frame beside the first, the ruins of a collision, a reply that belongs to the pattern before. So the scan owns its connection
alone and takes the framer's findings as they come; it still sends nothing before the line has fallen silent.
"""

import asyncio
from collections.abc import Sequence
from typing import cast

from msgspec import Struct

from headend.clock import Clock
from headend.drivers.errors import LineDown
from headend.drivers.transport import Connect, LineUrl
from protocols.dlt645.frame import PREAMBLE, PREAMBLE_DEFAULT, Frame
from protocols.dlt645.framer import BYTE_GAP_S, Framer, Heard
from protocols.exchange import BITS_PER_BYTE

__all__ = ["Ear", "Heed", "reply_window_s"]

REPLY_DELAY_S_MAX = 0.5  # Td, DL/T 645-2007 §5.2.6
REPLY_SIZE_MAX = (
    34  # a reply to any question of a scan, with wake-up bytes: some drivers hand on nothing before its end
)
MARGIN_S = 0.1  # buffers of USB adapters (16 ms) and a busy machine
QUIET_BYTES = 4  # silence that ends an exchange; a reply's bytes follow each other without pause on the wire …
QUIET_S_MIN = 0.03  # … but not through an adapter
DRAIN_S_MAX = 3.0  # a babbling device cannot hold an exchange longer


class Heed(Struct, frozen=True, kw_only=True):
    """What came in one exchange, or while listening.

    stray: bytes in no right frame; wake-up bytes are not counted. second_master: a request that is not ours was heard.
    first_s: from the last byte sent to the end of the first right frame; None without one.
    """

    frames: tuple[Frame, ...] = ()
    stray: int = 0
    second_master: Frame | None = None
    parity_errors: int = 0
    first_s: float | None = None

    @property
    def is_silent(self) -> bool:
        return not self.frames and not self.stray and self.second_master is None


class Ear(asyncio.Protocol):
    """Connects with `connect`, asks with `ask`, ends with `close`; one task only."""

    def __init__(self, url: LineUrl, *, connect: Connect, clock: Clock) -> None:
        self.url = url
        self._connect = connect
        self._clock = clock
        self._framer = Framer(gap_s=BYTE_GAP_S)
        self._transport: asyncio.Transport | None = None
        self._up = asyncio.Event()
        self._heard = asyncio.Event()  # a right frame came, or the connection broke
        self._problem = "not connected"
        self._frames: list[tuple[Frame, float]] = []
        self._last_at = float("-inf")
        self._stray_before = 0
        self._damaged = 0  # parity errors
        self._quiet_s = max(QUIET_S_MIN, QUIET_BYTES * _byte_s(url.baud))

    async def connect(self) -> None:
        """Raises LineDown."""
        self._transport = await self._connect(self.url, self)
        await self._up.wait()  # a serial transport announces itself a turn of the loop later

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    async def ask(self, frame: Frame, wait_s: float, *, until: str = "") -> Heed:
        """Send, and hear all that comes until `wait_s` after the last byte sent, longer while bytes keep coming.

        until: a full address whose reply ends the exchange early. Raises LineDown.
        """
        if self._transport is None:
            raise LineDown(self.url.text, self._problem)
        wire = frame.to_bytes(PREAMBLE_DEFAULT)
        self._begin()
        self._framer.expect_echo(wire)
        self._transport.write(wire)
        sent_at = self._clock.monotonic() + len(wire) * _byte_s(self.url.baud)
        await self._hear_until(sent_at + wait_s, until)
        return self._heed(sent_at, wire)

    async def listen(self, seconds: float) -> Heed:
        """Say nothing. Raises LineDown."""
        if self._transport is None:
            raise LineDown(self.url.text, self._problem)
        self._begin()
        now = self._clock.monotonic()
        await self._hear_until(now + seconds, "")
        return self._heed(now, b"")

    # -------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._framer.clear()
        self._up.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._problem = f"connection lost: {exc}" if exc else "connection closed by the other side"
        self._transport = None
        self._heard.set()

    def data_received(self, data: bytes) -> None:
        self._last_at = self._clock.monotonic()
        self._take(self._framer.receive(data, self._last_at))

    def damaged_received(self, data: bytes, positions: Sequence[int]) -> None:
        """Bytes of which the port saw some to be damaged; no frame goes over those."""
        self._damaged += len(positions)
        self._last_at = self._clock.monotonic()
        self._take(self._framer.receive(data, self._last_at, positions))

    # -------------------------------------------------------------------------------------------- inside

    def _begin(self) -> None:
        self._frames.clear()
        self._damaged = 0
        self._stray_before = self._framer.noise_bytes

    def _take(self, found: Sequence[object]) -> None:
        for item in found:
            if isinstance(item, Heard):
                self._frames.append((item.frame, self._clock.monotonic()))
                self._heard.set()

    async def _hear_until(self, end: float, until: str) -> None:
        limit = end + DRAIN_S_MAX
        while self._transport is not None:
            now = self._clock.monotonic()
            self._take(self._framer.tick(now))
            if until and any(frame.address == until and _from_meter(frame) for frame, _ in self._frames):
                end = now
            quiet_at = max(end, self._last_at + self._quiet_s)
            next_at = max(quiet_at, self._framer.deadline or quiet_at)
            if now >= min(next_at, limit):
                return
            self._heard.clear()
            try:
                async with asyncio.timeout(min(next_at, limit) - now):
                    await self._heard.wait()
            except TimeoutError:
                continue
        raise LineDown(self.url.text, self._problem)

    def _heed(self, sent_at: float, wire: bytes) -> Heed:
        sent = wire.lstrip(bytes([PREAMBLE]))
        others = [frame for frame, _ in self._frames if not _from_meter(frame) and frame.to_bytes() != sent]
        replies = [(frame, at) for frame, at in self._frames if _from_meter(frame)]
        return Heed(
            frames=tuple(frame for frame, _ in replies),
            stray=self._framer.noise_bytes - self._stray_before,
            second_master=others[0] if others else None,
            parity_errors=self._damaged,
            first_s=max(0.0, replies[0][1] - sent_at) if replies else None,
        )


def reply_window_s(baud: int) -> float:
    """How long a meter that keeps to the standard may take until its reply is here, on a serial line."""
    return REPLY_DELAY_S_MAX + REPLY_SIZE_MAX * _byte_s(baud) + MARGIN_S


def _from_meter(frame: Frame) -> bool:
    return frame.control_parts.from_meter


def _byte_s(baud: int | None) -> float:
    return BITS_PER_BYTE / baud if baud else 0.0

"""Parity errors of a serial port: asking the kernel to mark them, and reading its marks.

With INPCK and PARMRK a POSIX terminal driver hands on a byte of wrong parity (or a framing error, or a break) as FF 00 byte, and
an honest FF as FF FF. Without them such a byte looks like any other, and only the frame's one-byte sum stands between a
disturbed line and a wrong number.

A pseudo-terminal has no parity and is not asked; nor does Windows offer marks. Some USB adapters check no parity at all: on
those the count stays 0, and the frame's sum is what is left.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["HearsMarks", "ParityMarks", "Unmarking", "mark_parity_errors"]

MARK = 0xFF


class ParityMarks:
    """Takes the marks out of a stream, in any chunking. Pure."""

    def __init__(self) -> None:
        self._open = b""  # a mark whose end has not come yet: FF, or FF 00

    def decode(self, chunk: bytes) -> tuple[bytes, list[int]]:
        """Bytes as they came over the wire, and the positions among them of those with an error."""
        if not self._open and MARK not in chunk:
            return chunk, []
        marked = self._open + chunk
        self._open = b""
        found = bytearray()
        positions: list[int] = []
        at = 0
        while at < len(marked):
            if marked[at] != MARK:
                found.append(marked[at])
                at += 1
                continue
            kind = marked[at + 1 : at + 2]
            if kind == b"\x00" and at + 2 < len(marked):
                positions.append(len(found))
                found.append(marked[at + 2])
                at += 3
            elif kind in (b"", b"\x00"):
                self._open = marked[at:]
                break
            elif kind == b"\xff":
                found.append(MARK)
                at += 2
            else:  # no driver sends FF before anything else; if one does, the byte is taken as it is
                found.append(MARK)
                at += 1
        return bytes(found), positions


@runtime_checkable
class HearsMarks(Protocol):
    """A protocol that wants to know which bytes came damaged."""

    def damaged_received(self, data: bytes, positions: Sequence[int]) -> None: ...


class Unmarking(asyncio.Protocol):
    """Stands between a port with marks and the protocol that wants plain bytes. marking: whether the port makes any."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self.marking = False
        self._inner = inner
        self._marks = ParityMarks()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.marking:
            self._inner.data_received(data)
            return
        chunk, positions = self._marks.decode(data)
        if positions and isinstance(self._inner, HearsMarks):
            self._inner.damaged_received(chunk, positions)
        elif chunk:
            self._inner.data_received(chunk)


def mark_parity_errors(fd: int) -> bool:
    """Have the port behind `fd` mark errors; False where the platform or the driver cannot. To be repeated after any change of
    its settings, which pyserial makes without these flags."""
    try:
        import termios
    except ImportError:  # Windows
        return False
    with contextlib.suppress(OSError, termios.error):
        attributes: list[Any] = termios.tcgetattr(fd)
        attributes[0] |= termios.INPCK | termios.PARMRK
        attributes[0] &= ~(termios.IGNPAR | termios.ISTRIP | termios.IGNBRK | termios.BRKINT)
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        return bool(termios.tcgetattr(fd)[0] & termios.PARMRK)
    return False

"""The quarantine list: callers that no line waits for. They are listed, never polled, and cost bounded memory."""

from datetime import datetime

from msgspec import Struct

__all__ = ["Quarantine", "UnknownCaller", "printable"]

SHOWN_MAX = 64  # bytes of what a caller said that are shown


class UnknownCaller(Struct):
    """What is known of a caller that nobody knows.

    dtu: the id of its registration packet; empty when it sent none. address: where it last came from, host and port.
    heard: its first bytes, printable ones as they are and others as \\xNN. bytes: of all its connects.
    is_connected: it may be adopted with effect at once.
    """

    dtu: str
    address: str
    first_seen: datetime
    last_seen: datetime
    connects: int = 0
    bytes: int = 0
    heard: str = ""
    is_connected: bool = False


class Quarantine:
    """By id, or by network address where a caller gives none. forgotten: entries dropped to make room."""

    def __init__(self, entries_max: int) -> None:
        self.forgotten = 0
        self._entries_max = entries_max
        self._entries: dict[str, UnknownCaller] = {}  # the one heard of last is the last

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, dtu: str) -> bool:
        return dtu in self._entries

    def entries(self) -> list[UnknownCaller]:
        """The one heard of last first."""
        return list(reversed(self._entries.values()))

    def enter(self, dtu: str, host: str, port: int, now: datetime, *, is_connected: bool) -> UnknownCaller:
        """A caller has connected: its entry, new or the one it has already."""
        key = dtu or f"@{host}"
        entry = self._entries.pop(key, None) or UnknownCaller(dtu=dtu, address="", first_seen=now, last_seen=now)
        entry.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        entry.last_seen = now
        entry.connects += 1
        entry.is_connected = is_connected
        self._entries[key] = entry
        if len(self._entries) > self._entries_max:
            self._forget_one()
        return entry

    def strike(self, dtu: str) -> None:
        """It is known now."""
        self._entries.pop(dtu, None)

    def _forget_one(self) -> None:
        """The one not heard of for longest, those that are connected last: adopting them is the easiest."""
        newest = next(reversed(self._entries))
        gone = next((key for key, entry in self._entries.items() if not entry.is_connected and key != newest), None)
        del self._entries[gone if gone is not None else next(iter(self._entries))]
        self.forgotten += 1


def printable(wire: bytes) -> str:
    """The first bytes, safe to show anywhere."""
    shown = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in wire[:SHOWN_MAX]
    )
    return shown + ("…" if len(wire) > SHOWN_MAX else "")

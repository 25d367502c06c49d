"""Wires as they may be shown: hex, with ** where a password or an operator code stands.

What is secret follows from the function: PW OP of 14H and 19H to 1CH, both passwords of 18H and 0FH and the one that their
replies carry back, OP of 03H, the first four bytes of what 04H writes (1997 meters want the password there, and nothing in the
frame tells whether it is one), and the content of the items that hold passwords. The level PA is no secret and stays: it is what
a refusal is about. The checksum goes too, because it would give away the sum of what is hidden.

A damaged frame is judged by what is left of it: from a header that looks like one of these functions, everything that could be
secret is hidden, up to the end of the bytes.
"""

from collections.abc import Iterable

from protocols.dlt645.control import ERROR, FROM_METER, FUNCTION, Function1997, Function2007
from protocols.dlt645.frame import CONTROL_AT, HEADER_SIZE, LENGTH_AT, SECOND_START_AT, START

__all__ = ["HIDDEN", "carries_secrets", "mask", "mask_heard", "mask_payload"]

F07 = Function2007
F97 = Function1997
HIDDEN = "**"

# (function, from the meter) -> secret stretches of DATA, [from, to). PA, the byte before a password, stays.
_SECRET: dict[tuple[int, bool], tuple[tuple[int, int], ...]] = {
    (F07.SECURITY, False): ((4, 8),),
    (F07.WRITE, False): ((5, 12),),
    (F07.CHANGE_PASSWORD, False): ((5, 8), (9, 12)),
    (F07.CHANGE_PASSWORD, True): ((1, 4),),
    (F07.CLEAR_DEMAND, False): ((1, 8),),
    (F07.CLEAR_METER, False): ((1, 8),),
    (F07.CLEAR_EVENTS, False): ((1, 8),),
    (F07.RELAY, False): ((1, 8),),
    (F97.WRITE, False): ((3, 6),),
    (F97.CHANGE_PASSWORD, False): ((1, 4), (5, 8)),
    (F97.CHANGE_PASSWORD, True): ((1, 4),),
}
# Items that hold passwords: function -> the DI's last bytes on the wire after −33H, and where the content begins.
_PASSWORD_ITEMS: dict[tuple[int, bool], tuple[slice, bytes, int]] = {
    (F07.WRITE, False): (slice(1, 4), b"\x0c\x00\x04", 12),
    (F07.READ, True): (slice(1, 4), b"\x0c\x00\x04", 4),
    (F97.WRITE, False): (slice(0, 2), b"\x12\xc2", 2),
    (F97.READ, True): (slice(0, 2), b"\x12\xc2", 2),
}


def mask(wire: bytes) -> str:
    """Spaced hex of any bytes: frames, several of them, noise between them, halves."""
    hidden = set(_hidden(wire))
    return " ".join(HIDDEN if at in hidden else f"{byte:02X}" for at, byte in enumerate(wire))


def mask_heard(heard: bytes, sent: bytes) -> str:
    """What came in answer to `sent`. A damaged echo of a request with a password must not show it: then only its size is told."""
    if carries_secrets(sent) and heard.strip(b"\xfe"):
        return f"{len(heard)} bytes (not shown, because the request carried a password)"
    return mask(heard)


def mask_payload(control: int, payload: bytes) -> str:
    """DATA after −33H, spaced hex."""
    hidden = set(_secret_places(control, payload))
    return " ".join(HIDDEN if at in hidden else f"{byte:02X}" for at, byte in enumerate(payload))


def carries_secrets(wire: bytes) -> bool:
    return next(iter(_hidden(wire)), None) is not None


def _hidden(wire: bytes) -> Iterable[int]:
    """Positions in `wire` that must not be shown."""
    start = wire.find(START)
    while start >= 0:
        if start + HEADER_SIZE <= len(wire) and wire[start + SECOND_START_AT] == START:
            data_at = start + HEADER_SIZE
            end = min(data_at + wire[start + LENGTH_AT], len(wire))
            data = bytes((byte - 0x33) & 0xFF for byte in wire[data_at:end])
            places = _secret_places(wire[start + CONTROL_AT], data)
            yield from (data_at + at for at in places)
            if places and end < len(wire):
                yield end  # the checksum
        start = wire.find(START, start + 1)


def _secret_places(control: int, data: bytes) -> list[int]:
    """Positions in DATA after −33H."""
    if control & ERROR:
        return []
    key = (control & FUNCTION, bool(control & FROM_METER))
    stretches = list(_SECRET.get(key, ()))
    if key in _PASSWORD_ITEMS:
        where, di, content_at = _PASSWORD_ITEMS[key]
        if data[where] == di:
            stretches.append((content_at, len(data)))
    return [at for first, last in stretches for at in range(first, min(last, len(data)))]

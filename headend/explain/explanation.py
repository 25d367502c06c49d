"""What an explained frame is told in, whatever its protocol; named as in protocols' vectors."""

from msgspec import Struct

__all__ = ["ByteMeaning", "ExplainedItem", "Explanation", "Meanings"]


class ExplainedItem(Struct, frozen=True):
    """value: decimal string, digits as the standard prints them, or text; None when the meter has no such measurement."""

    name: str
    obis: str | None
    value: str | None
    unit: str
    at: str | None


class ByteMeaning(Struct, frozen=True):
    """offset: in the bytes given; hex: those bytes as they came."""

    offset: int
    hex: str
    meaning: str


class Explanation(Struct, frozen=True, kw_only=True):
    """One frame, or what was no frame. Names as in design 5.2; `error` and `follow` are the control byte's flags."""

    protocol: str | None = None
    valid: bool = False
    problem: str | None = None
    dir: str | None = None
    addr: str | None = None
    c: str | None = None
    fn: str | None = None
    error: bool = False
    follow: bool = False
    len: int | None = None
    di: str | None = None
    payload: str | None = None
    items: list[ExplainedItem] = []
    bytes: list[ByteMeaning] = []


class Meanings:
    def __init__(self, offset: int) -> None:
        self.found: list[ByteMeaning] = []
        self._offset = offset

    def add(self, piece: bytes, meaning: str) -> None:
        if piece:
            self.found.append(ByteMeaning(self._offset, piece.hex(" ").upper(), meaning))
            self._offset += len(piece)

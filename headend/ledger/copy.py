"""A consumer's copy of the feed: NDJSON, one event a line, of any size, indexed once and then looked at in the order of sequences.

A copy has whole events, or only what is needed to prove them: `sequence`, `id`, `type`, `data`.
"""

import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from headend.errors import HeadendError
from headend.ledger.manifest import MANIFEST_TYPE, PART_TYPE
from headend.store.restores import Void

__all__ = ["BadCopy", "Copy", "sequence_of"]


class BadCopy(HeadendError):
    """A file that cannot be read at all."""


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def sequence_of(value: object) -> int | None:
    """None for what is no sequence: a positive decimal number, as text or not."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and not value.startswith("0"):
        return int(value) if len(value) < 19 else None
    return value if type(value) is int and 0 < value < 2**63 else None


class Copy:
    """buffer: the lines.

    By number from 1: unreadable, lines that are no event; reordered, lines with a lower sequence than one before; repeated, pairs of
    lines with one sequence, of which the first counts. sequences: ascending, each once. manifests: lines of manifests and their
    parts. voids: numbers that a restore of the head-end's store has made void, as the event behind them tells. has_envelopes: whether
    any event has more than what is needed.
    """

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        self._buffer = buffer
        self.unreadable: list[int] = []
        self.repeated: list[tuple[int, int]] = []
        self.reordered: list[int] = []
        self.has_envelopes = False
        self.manifests: list[bytes] = []
        self.manifest_sequences: list[int] = []
        self.voids: list[Void] = []
        self.sequences = array("q")  # ascending, each once
        self._places = array("q")  # where each of them begins
        self._lines = array("q")
        self._index()

    @classmethod
    def of_file(cls, path: Path) -> "Copy":
        """Raises BadCopy."""
        try:
            with path.open("rb") as file:
                empty = not path.stat().st_size
                return cls(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise BadCopy(f"{path} cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self.sequences)

    def events(self, first: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Line, sequence and event, from the `first`-th on, in the order of sequences."""
        for index in range(first, len(self.sequences)):
            yield self._lines[index], self.sequences[index], _decode(self._line(self._places[index]))

    def _line(self, place: int) -> bytes:
        end = self._buffer.find(b"\n", place)
        return self._buffer[place : len(self._buffer) if end < 0 else end]

    def _index(self) -> None:
        place, number, highest, is_sorted = 0, 0, 0, True
        while place < len(self._buffer):
            line = self._line(place)
            number += 1
            if line.strip():
                sequence = self._look(line)
                if sequence is None:
                    self.unreadable.append(number)
                else:
                    if sequence < highest:
                        self.reordered.append(number)
                    is_sorted = is_sorted and sequence > highest
                    highest = max(highest, sequence)
                    self.sequences.append(sequence)
                    self._lines.append(number)
                    self._places.append(place)
            place += len(line) + 1
        if not is_sorted:
            self._sort()

    def _sort(self) -> None:
        found = sorted(zip(self.sequences, self._lines, self._places, strict=True))
        self.sequences, self._lines, self._places = array("q"), array("q"), array("q")
        for sequence, number, place in found:
            if self.sequences and sequence == self.sequences[-1]:
                self.repeated.append((self._lines[-1], number))
                continue
            self.sequences.append(sequence)
            self._lines.append(number)
            self._places.append(place)

    def _look(self, line: bytes) -> int | None:
        try:
            event = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        sequence = sequence_of(event.get("sequence"))
        if event.get("type") in (MANIFEST_TYPE, PART_TYPE):
            self.manifests.append(line)
            self.manifest_sequences.append(sequence or 0)
        if (void := _void_before(sequence, event.get("data"))) is not None:
            self.voids.append(void)
        self.has_envelopes = self.has_envelopes or "specversion" in event
        return sequence


def _void_before(sequence: int | None, data: object) -> Void | None:
    """What an event with this number makes void. Only what lies directly before it: its own place is vouched for by manifests."""
    if not isinstance(data, dict) or data.get("kind") != "restored" or sequence is None:
        return None
    last_before, through = data.get("last_before"), data.get("void_through")
    if type(last_before) is not int or type(through) is not int or not 0 <= last_before < through == sequence - 1:
        return None
    return Void(last_before + 1, through)

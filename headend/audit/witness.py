"""Checkpoints kept where the store is not: who can change the one should not be able to change the other.

A line per checkpoint, appended and synced. It may lie on another disk, on a share that only takes new lines, or be followed by a log
collector. The newest one is looked at when the log is opened: a store that was rolled back does not know it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from headend.audit.checkpoint import CHECKPOINT_TYPE, Checkpoint, parsed

__all__ = ["WitnessFile", "checkpoints_in"]

_TAIL_BYTES = 65_536  # holds some hundred checkpoints

_decode = msgspec.json.Decoder().decode


class WitnessFile:
    """Every method may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest(self) -> Checkpoint | None:
        """None when there is none; a line that was cut by a crash does not count."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return None
        for line in reversed(lines):
            for checkpoint in checkpoints_in([line]):
                return checkpoint
        return None

    def append(self, bodies: Sequence[str]) -> None:
        """Durable at return."""
        if not bodies:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash has cut the last line; it stays as it is
                    file.write(b"\n")
            file.write("".join(f"{body}\n" for body in bodies).encode())
            file.flush()
            os.fsync(file.fileno())


def checkpoints_in(lines: Iterable[bytes]) -> Iterator[Checkpoint]:
    """Of a witness file or of a copy of the feed; other lines are left out."""
    for line in lines:
        if b'"root"' not in line:
            continue
        try:
            found = _decode(line)
            if isinstance(found, dict) and found.get("type") == CHECKPOINT_TYPE:
                found = found["data"]
            yield parsed(msgspec.json.encode(found))
        except (ValueError, LookupError, msgspec.MsgspecError, UnicodeError, RecursionError):
            continue

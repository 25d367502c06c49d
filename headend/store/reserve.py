"""Room on the disk that is kept for the last words, and the rule of who may write when there is none.

A file beside the store holds some megabytes that nobody uses. When the disk is full, reads wait in memory, which holds minutes of
them, and then the lines rest. What must be written nevertheless (a supply that is closed, its audit record, or the start of the
service itself) gives the file up and writes into its place. Reads stay away from that room: they go on only when there is
space for the file again.

The state is one word for the whole process: full or not. Every commit looks at the disk first. It is full when little is left, a
sixteenth of the reserve, whether or not SQLite could still write into room that its files have already: so it is told at once, and
the small writes of others find the little. It is full no more when there is a quarter of the reserve beside the reserve.
"""

import os
import shutil
import threading
from pathlib import Path

import structlog

from headend.database.engine import prepared_file
from headend.errors import StoreFull

__all__ = ["RESERVE_BYTES", "DiskWatch", "Reserve", "disk_of"]

RESERVE_BYTES = (
    64 << 20
)  # closes and their audit take some kilobytes each, and a write-ahead log of 16 MB may have to be moved
SHARE_OF_DISK = 16  # on a small disk the reserve is this part of it
FULL_BELOW, ROOM_AGAIN = 16, 4  # parts of the reserve: a disk that hovers about one limit must not come and go
_CHUNK = bytes(1 << 20)

log = structlog.get_logger(__name__)


class Reserve:
    """The file. bytes_wanted: None takes what suits the disk; 0 keeps none."""

    def __init__(self, path: Path, bytes_wanted: int | None = None) -> None:
        self.path = path
        total = shutil.disk_usage(path.parent).total
        self.size = min(RESERVE_BYTES, total // SHARE_OF_DISK) if bytes_wanted is None else bytes_wanted

    @property
    def is_held(self) -> bool:
        try:
            return self.path.stat().st_size >= self.size
        except OSError:
            return False

    def release(self) -> bool:
        """Give the room back to the disk; False when there was nothing to give. Nothing is written, so a full disk allows it."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def restore(self) -> bool:
        """Take the room again; False when the disk has too little, and then nothing is taken."""
        if self.is_held:
            return True
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            _fill(descriptor, self.size)
        except OSError:
            os.close(descriptor)
            self.release()
            return False
        os.close(descriptor)
        return True


class DiskWatch:
    """Any thread may call any method.

    Over a server's database there is no disk of ours to look at: then there is no DiskWatch.
    """

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._folder = reserve.path.parent
        self._lock = threading.Lock()
        self._is_full = False

    @classmethod
    def beside(cls, file: Path, bytes_wanted: int | None = None) -> "DiskWatch":
        """file: the store's, whose folder is there."""
        file = file.resolve()
        return cls(Reserve(file.with_name(f"{file.name}.reserve"), bytes_wanted))

    @property
    def is_full(self) -> bool:
        """As of the last look; see `check`."""
        return self._is_full

    @property
    def free_bytes(self) -> int:
        """Without the reserve."""
        return shutil.disk_usage(self._folder).free

    @property
    def reserve_bytes(self) -> int:
        """What the reserve holds at the moment."""
        return self._reserve.size if self._reserve.is_held else 0

    def begin(self) -> None:
        """At the start, before the store is opened: take the reserve. On a full disk it is given up, so that there is room to start."""
        with self._lock:
            if self.free_bytes >= self._room_wanted and self._reserve.restore():
                return
            released = self._reserve.release()
            self._is_full = released or self.free_bytes < self._margin
        log.error("the disk is full" if self._is_full else "the disk has no room for a reserve", **self._fields())

    def note_full(self) -> None:
        """A commit found no space."""
        with self._lock:
            was_full, self._is_full = self._is_full, True
        if not was_full:
            log.error("the disk is full", **self._fields())

    def check(self) -> None:
        """To be called before what may wait is written. Raises StoreFull while there is no room for it."""
        if not self._is_full:
            if self.free_bytes < self._reserve.size // FULL_BELOW:
                self.note_full()
            else:
                return
        with self._lock:
            enough = self.free_bytes >= self._room_wanted and self._reserve.restore()
            self._is_full = not enough
        if not enough:
            raise StoreFull(
                f"the disk of {self._folder} is full: {self.free_bytes >> 10} KB are free, expected "
                f"{max(1, self._room_wanted >> 10)} KB before reads are stored again; make room there"
            )
        log.info("the disk has room again", **self._fields())

    def use_reserve(self) -> bool:
        """For what must be written now: the reserve's room is free after this. False when it was gone already."""
        with self._lock:
            self._is_full = True
            released = self._reserve.release()
        if released:
            log.error("the reserve is being used", **self._fields())
        return released

    @property
    def _margin(self) -> int:
        return self._reserve.size // ROOM_AGAIN

    @property
    def _room_wanted(self) -> int:
        return self._margin + (0 if self._reserve.is_held else self._reserve.size)

    def _fields(self) -> dict[str, object]:
        return {"folder": str(self._folder), "free_bytes": self.free_bytes, "reserve_bytes": self.reserve_bytes}


def disk_of(url: str, bytes_wanted: int | None = None) -> DiskWatch | None:
    """The watch over the disk of the store at `url`, begun; None for a server's. Raises StoreUnavailable."""
    file = prepared_file(url)
    if file is None:
        return None
    disk = DiskWatch.beside(file, bytes_wanted)
    disk.begin()
    return disk


def _fill(descriptor: int, size: int) -> None:
    """Real blocks, not a hole. Raises OSError when they are not there."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, max(size, 1))
        return
    for at in range(0, size, len(_CHUNK)):
        os.write(descriptor, _CHUNK[: size - at])

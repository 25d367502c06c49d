"""A folder with the feed in files, one day in each: whole or not there at all.

A file holds a stretch of the feed without gaps: from where the last one ended to the first event of a later day, by the site's
own midnight and the event's `time`. It is written once its day is over. Everything goes into hidden temporary files first, which
are made durable and renamed; the manifest comes last, so a day with a manifest is complete. Names have the first sequence in them:
what is stored late, after its day was written, goes into a file of its own instead of changing one that somebody has fetched.

    luoyang-west-2026-11-21-1042.csv
    luoyang-west-2026-11-21-1042.csv.manifest.json
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from headend.feed.sinks.formats import FORMATS, Writing
from headend.feed.sinks.settings import FileSettings
from headend.feed.sinks.sink import time_of
from headend.store.cursors import Cursors

__all__ = ["DayFolder", "Manifest", "WrittenFile"]

CHUNK = 2000  # events read at once, about a megabyte
CHUNK_BYTES_MAX = 8_000_000
LEFT_OUT_MAX = 1000  # ids named in a manifest; their number is always told
HASH_CHUNK = 1 << 20
FREE_BYTES_MIN = 256 << 20


class WrittenFile(Struct, frozen=True, kw_only=True):
    """first, last: sequences of the events in it. records: lines, rows or readings; as many as events unless the format leaves some
    out."""

    name: str
    bytes: int
    sha256: str
    records: int
    first: int
    last: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What belongs to one day. count: events, last - first + 1. left_out: ids of events that the format cannot say, the first
    thousand of them; left_out_count: all of them."""

    source: str
    day: str
    timezone: str
    format: str
    count: int
    first: int
    last: int
    files: list[WrittenFile]
    left_out: list[str] = []
    left_out_count: int = 0


_manifest_of = msgspec.json.Decoder(Manifest).decode


class DayFolder:
    """Writes days. Its methods block, and may take seconds for a day of a large fleet."""

    def __init__(self, settings: FileSettings, cursors: Cursors) -> None:
        self._settings = settings
        self._cursors = cursors
        self._format = FORMATS[settings.format]
        self._stem = re.sub(r"[^\w.-]", "_", settings.name)

    def day_of(self, moment: datetime) -> date:
        return moment.astimezone(self._settings.zone).date()

    def due_at(self, day: date) -> datetime:
        """When the file of this day is to be written."""
        midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), self._settings.zone)
        return midnight + timedelta(seconds=self._settings.close_after_s)

    def tidy(self) -> None:
        """Remove what a crash left unfinished. Raises OSError."""
        self._settings.folder.mkdir(parents=True, exist_ok=True)
        for path in self._settings.folder.glob(f".{self._stem}-*{self._format.suffix}*.tmp"):
            path.unlink(missing_ok=True)

    def write_day(self, day: date, first: int, end: int) -> Manifest:
        """The day whose first event is number `first`; `end`: the last event there is. Durable at return.

        Of a day that was written already, before its cursor was, the manifest is given as it is. Raises OSError, MissingExtra,
        StoreUnavailable.
        """
        name = f"{self._stem}-{day.isoformat()}-{first}{self._format.suffix}"
        manifest_path = self._settings.folder / f"{name}.manifest.json"
        known = self._known(manifest_path)
        if known is not None and known.first == first:
            return known
        parts: list[_Part] = []
        try:
            self._write_parts(parts, name, day, first, end)
            left_out = [identity for part in parts for identity in part.writing.left_out]
            written = [part.finished() for part in parts]
            manifest = Manifest(
                source=self._settings.source,
                day=day.isoformat(),
                timezone=self._settings.zone.key,
                format=self._settings.format,
                count=written[-1].last - first + 1,
                first=first,
                last=written[-1].last,
                files=written,
                left_out=left_out[:LEFT_OUT_MAX],
                left_out_count=len(left_out),
            )
        except BaseException:
            for part in parts:
                part.discard()
            raise
        _sync_folder(self._settings.folder)
        temporary = _temporary(manifest_path)
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(manifest_path)
        _sync_folder(self._settings.folder)
        return manifest

    def _write_parts(self, parts: "list[_Part]", name: str, day: date, first: int, end: int) -> None:
        events_max = self._format.events_max
        for start, events in self._events(day, first, end):
            while events:
                if not parts or parts[-1].count == events_max:
                    if parts:
                        parts[-1].close()  # before the next is begun: a format may hold a file's events until then
                    numbered = name if events_max is None else _numbered(name, len(parts) + 1)
                    path = self._settings.folder / numbered
                    parts.append(_Part(path, self._format.begin(_temporary(path)), start))
                room = len(events) if events_max is None else events_max - parts[-1].count
                parts[-1].add(events[:room])
                start, events = start + room, events[room:]
        parts[-1].close()

    def _events(self, day: date, first: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """Sequence of the first, and events, up to the first one of a later day."""
        while first <= end:
            stretch = self._cursors.events_from(first, min(CHUNK, end - first + 1), CHUNK_BYTES_MAX)
            if stretch.first != first:
                raise OSError(f"event {first} is not kept any more; the day cannot be written whole")
            for index, event in enumerate(stretch.events):
                if self.day_of(time_of(event)) > day:
                    if index:
                        yield first, stretch.events[:index]
                    return
            yield first, stretch.events
            first += len(stretch.events)
            self._leave_room()

    def _leave_room(self) -> None:
        """The store may be on the same disk, and must not be the one that finds it full."""
        if shutil.disk_usage(self._settings.folder).free < FREE_BYTES_MIN:
            raise OSError(
                errno.ENOSPC,
                f"less than {FREE_BYTES_MIN >> 20} MB would be left on the disk",
                str(self._settings.folder),
            )

    def _known(self, path: Path) -> Manifest | None:
        """The manifest under this name, if all that it names is there as it says."""
        try:
            manifest = _manifest_of(path.read_bytes())
            is_whole = all(_digest(path.parent / file.name) == file.sha256 for file in manifest.files)
        except (OSError, msgspec.DecodeError):
            return None
        return manifest if is_whole else None


class _Part:
    """One file of a day, under its temporary name until it is whole."""

    def __init__(self, path: Path, writing: Writing, first: int) -> None:
        self.writing = writing
        self.count = 0
        self._path = path
        self._first = first
        self._records = 0
        self._is_closed = False

    def add(self, events: list[bytes]) -> None:
        self.writing.add(events)
        self.count += len(events)

    def close(self) -> None:
        if not self._is_closed:
            self._records = self.writing.close()
            self._is_closed = True

    def finished(self) -> WrittenFile:
        """Durable under its own name, as soon as the folder is."""
        temporary = _temporary(self._path)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        digest = _digest(temporary)
        temporary.replace(self._path)
        return WrittenFile(
            name=self._path.name,
            bytes=size,
            sha256=digest,
            records=self._records,
            first=self._first,
            last=self._first + self.count - 1,
        )

    def discard(self) -> None:
        with contextlib.suppress(Exception):  # it is being given up for an error of its own
            self.close()
        _temporary(self._path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _numbered(name: str, number: int) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{number:04}.{suffix}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Names are durable only with their folder. Not on Windows, which has no way to say it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

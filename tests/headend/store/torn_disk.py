"""A disk that forgets what was not synced: a VFS under SQLite, and the store's own code above it.

Everything written goes into real files, as into a page cache, and is written down beside them. `survivors` makes the folder that
is found when the power has been cut: of what was not synced each sector holds what it held at some moment since the last sync,
one write may be torn in the middle of a sector, sizes may be old, files that were made or removed since the folder was synced may
be gone or back. What SQLite relies on is kept: a write damages no byte outside its range.

`sqlite+torn:///PATH` is an SQLAlchemy URL for a file below the folder of a `TornDisk` in use. The dialect is SQLAlchemy's for
SQLite; below it stands the SQLite of apsw, because the standard library's lets nobody replace the file layer.
"""

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw
from msgspec import Struct, field
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

__all__ = ["TornDialect", "TornDisk"]

SECTOR = 512
PERSISTED = (0.0, 0.1, 0.5, 0.9, 1.0)  # share of a file's unsynced sectors that reach the disk; drawn per file
_FOLDER_SYNCED_WITH = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL

registry.register("sqlite.torn", __name__, "TornDialect")


class _Write(Struct, frozen=True):
    """offset: None of a truncation, whose size is `size`."""

    offset: int | None
    chunk: bytes
    size: int = 0


class _File(Struct):
    """synced: what is surely on the disk. pending: what has been done since, oldest first."""

    synced: bytes = b""
    pending: list[_Write] = field(default_factory=list)

    def sync(self) -> None:
        whole = bytearray(self.synced)
        for write in self.pending:
            _apply(whole, write)
        self.synced, self.pending = bytes(whole), []


class TornDisk:
    """One folder. `with` makes it known to SQLite; threads may use it.

    cut_at: after this many writes, truncations, syncs and removals the power is off, in the middle of the next: it and
    everything after it fails, and nothing more reaches the disk. None: it stays on.
    """

    def __init__(self, folder: Path, *, seed: int, cut_at: int | None = None) -> None:
        self.folder = folder
        self.steps = 0
        self.is_off = False
        self._cut_at = cut_at
        self._dice = random.Random(seed)
        self._lock = threading.RLock()
        self._there = {path.name: _File(path.read_bytes()) for path in folder.iterdir()}
        self._entries: list[dict[str, _File]] = [dict(self._there)]  # since the folder was synced, oldest first
        self._vfs: _Vfs | None = None

    def __enter__(self) -> "TornDisk":
        self._vfs = _Vfs(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._vfs is not None
        self._vfs.unregister()

    @property
    def url(self) -> str:
        return f"sqlite+torn:///{self.folder}/store.db"

    def unsynced(self, ending: str) -> int:
        """Writes to the file with this ending that no sync has followed."""
        with self._lock:
            return sum(len(file.pending) for name, file in self._there.items() if name.endswith(ending))

    def cut(self) -> None:
        with self._lock:
            self.is_off = True

    def survivors(self, folder: Path) -> None:
        """What is found after the cut."""
        with self._lock:
            for name, file in self._dice.choice(self._entries).items():
                (folder / name).write_bytes(_torn(file, self._dice))

    # what the files below tell

    def opened(self, name: str, flags: int) -> bool:
        """Whether it is a new file, whose first sync is the folder's, too."""
        with self._lock:
            if name in self._there:
                return False
            self._there[name] = _File()
            self._entries.append(dict(self._there))
            return bool(flags & _FOLDER_SYNCED_WITH)

    def wrote(self, name: str, write: _Write) -> None:
        with self._lock:
            self._step(name, write)
            self._there[name].pending.append(write)

    def synced(self, name: str, *, with_folder: bool) -> None:
        with self._lock:
            self._step()
            self._there[name].sync()
            if with_folder:
                self._entries = [dict(self._there)]

    def removed(self, name: str, *, with_folder: bool) -> None:
        with self._lock:
            self._step()
            self._there.pop(name, None)
            self._entries.append(dict(self._there))
            if with_folder:
                self._entries = [dict(self._there)]

    def _step(self, name: str = "", write: _Write | None = None) -> None:
        if not self.is_off and self.steps == self._cut_at:
            self.is_off = True
            if write is not None:  # it had begun
                self._there[name].pending.append(write)
        if self.is_off:
            raise apsw.IOError("the power is off")
        self.steps += 1


def _apply(whole: bytearray, write: _Write) -> None:
    if write.offset is None:
        del whole[write.size :]
        whole.extend(bytes(write.size - len(whole)))
        return
    whole.extend(bytes(max(0, write.offset - len(whole))))
    whole[write.offset : write.offset + len(write.chunk)] = write.chunk


def _torn(file: _File, dice: random.Random) -> bytes:
    share = dice.choice(PERSISTED)
    torn_at = dice.randrange(len(file.pending)) if file.pending and dice.random() < 0.5 else None
    if torn_at is None and dice.random() < 0.5:
        torn_at = len(file.pending) - 1
    whole = bytearray(file.synced)
    for number, write in enumerate(file.pending):
        pieces = list(_sectors(write))
        if number == torn_at and write.offset is not None:
            cut = dice.randrange(len(write.chunk))
            rubbish = dice.choice((bytes(SECTOR), dice.randbytes(SECTOR)))[: len(write.chunk) - cut]
            pieces = list(_sectors(_Write(write.offset, write.chunk[:cut] + rubbish)))
        for piece in pieces:
            if dice.random() < share:
                _apply(whole, piece)
    return bytes(whole)


def _sectors(write: _Write) -> Iterator[_Write]:
    if write.offset is None:
        yield write
        return
    at = 0
    while at < len(write.chunk):
        end = at + SECTOR - (write.offset + at) % SECTOR
        yield _Write(write.offset + at, write.chunk[at:end])
        at = end


# ---------------------------------------------------------------------------------------------------------- below SQLite


class _Vfs(apsw.VFS):
    def __init__(self, disk: TornDisk) -> None:
        self.disk = disk
        super().__init__(f"torn:{disk.folder}", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        return apsw.VFSFile("", name, flags) if path is None else _VfsFile(self.disk, Path(path).name, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.disk.removed(Path(filename).name, with_folder=syncdir)
        super().xDelete(filename, syncdir)


class _VfsFile(apsw.VFSFile):
    def __init__(self, disk: TornDisk, name: str, path: Any, flags: list[int]) -> None:
        self._disk, self._name = disk, name
        self._with_folder = disk.opened(name, flags[0])
        super().__init__("", path, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.wrote(self._name, _Write(offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.wrote(self._name, _Write(None, b"", newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.synced(self._name, with_folder=self._with_folder)
        self._with_folder = False


# ---------------------------------------------------------------------------------------------------------- above SQLite


class Error(Exception):
    pass


class DatabaseError(Error):
    pass


class OperationalError(DatabaseError):
    pass


class IntegrityError(DatabaseError):
    pass


class _Cursor:
    """DB-API over apsw. Rows are fetched at once: what the store asks for is never much."""

    arraysize = 1

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: Sequence[tuple[Any, ...]] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def execute(self, text: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> "_Cursor":
        base = self._connection.base
        before, self.description = base.total_changes(), None

        def traced(cursor: apsw.Cursor, text: str, values: Any) -> bool:
            self.description = [(*column, None, None, None, None, None) for column in cursor.get_description()] or None
            return True

        cursor = base.cursor()
        cursor.exec_trace = traced
        try:
            self._rows = list(cursor.execute(text, values or None))
        except apsw.ConstraintError as error:
            raise IntegrityError(str(error)) from error
        except apsw.Error as error:
            raise OperationalError(str(error)) from error
        self.rowcount = base.total_changes() - before if self.description is None else -1
        self.lastrowid = base.last_insert_rowid()
        return self

    def executemany(self, text: str, rows: Sequence[Any]) -> "_Cursor":
        changed = 0
        for values in rows:
            changed += max(0, self.execute(text, values).rowcount)
        self.rowcount = changed
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows[: size or self.arraysize], self._rows[size or self.arraysize :]
        return rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        self._rows = []


class _Connection:
    isolation_level: str | None = None

    def __init__(self, path: str) -> None:
        try:
            self.base = apsw.Connection(path, vfs=f"torn:{Path(path).parent}")
        except apsw.Error as error:
            raise OperationalError(str(error)) from error

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def execute(self, text: str, values: Sequence[Any] = ()) -> _Cursor:
        return self.cursor().execute(text, values)

    def create_function(self, name: str, count: int, function: Any, *, deterministic: bool = False) -> None:
        self.base.create_scalar_function(name, function, count, deterministic=deterministic)

    def commit(self) -> None:
        if self.base.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self.base.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        try:
            self.base.close()
        except apsw.Error as error:
            raise OperationalError(str(error)) from error


class _Module:
    """What SQLAlchemy asks of a DB-API module."""

    paramstyle = "qmark"
    sqlite_version_info = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    sqlite_version = apsw.sqlite_lib_version()
    Binary = bytes
    Error = Error
    DatabaseError = DatabaseError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InterfaceError = DataError = InternalError = NotSupportedError = ProgrammingError = type(
        "Unused", (DatabaseError,), {}
    )

    @staticmethod
    def connect(path: str, **options: Any) -> _Connection:
        return _Connection(path)


class TornDialect(SQLiteDialect_pysqlite):
    driver = "torn"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return _Module

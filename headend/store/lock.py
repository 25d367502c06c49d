"""One head-end per store: a second one would poll the same lines and talk into the first one's replies.

Of a SQLite file: a lock beside it that the operating system holds for the process and gives up when it ends, however it ends. The
lock's file stays: removing it could let two processes lock two files of one name. Of a server's database: see `server_hold`.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headend.database.engine import prepared_file
from headend.errors import StoreInUse, StoreUnavailable
from headend.store.server_hold import ServerHold

__all__ = ["sole_owner"]

if sys.platform == "win32":
    import msvcrt

    _LOCKED_AT = 1 << 30  # locked bytes cannot be read on Windows, and the process id must be

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def sole_owner(url: str, lost: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the store at `url` for this process; looking at it and making tokens needs no such hold.

    lost: told once, from another thread and in words for who runs it, when another head-end has a server's store now: this one must
    end. Raises StoreInUse, StoreUnavailable, ConfigError.
    """
    file = prepared_file(url)
    with ServerHold(url, lost) if file is None else _file_hold(file):
        yield


@contextmanager
def _file_hold(file: Path) -> Iterator[None]:
    path = Path(f"{file.resolve()}.lock")  # resolved: the same store by another name is the same store
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be opened: {error.strerror}; the head-end must be able to write beside its store"
        ) from error
    try:
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError) as error:  # the latter on Windows
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise StoreInUse(
                f"another head-end, process {owner}, runs on the store {file}: stop it first, or give this one another "
                f"`store` in [headend]"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be locked: {error.strerror}; put the store on a local disk"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its owner is not named
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)

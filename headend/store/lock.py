"""One head-end per store: a second one would poll the same lines and talk into the first one's replies.

A lock beside the SQLite file that the operating system holds for the process and gives up when it ends, however it ends. The file
itself stays: removing it could let two processes lock two files of one name. On PostgreSQL nothing is refused yet; there,
lines will be shared out by lease.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headend.database.engine import prepared_file
from headend.errors import StoreInUse, StoreUnavailable

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
def sole_owner(url: str) -> Iterator[None]:
    """Hold the store at `url` for this process; looking at it and making tokens needs no such hold.

    Raises StoreInUse, StoreUnavailable.
    """
    file = prepared_file(url)
    if file is None:
        yield
        return
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

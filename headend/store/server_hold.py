"""One head-end per database of a server: a lock of a session there, which the server gives up when the session's connection ends.

So it is gone, too, when the server is started anew. A thread looks after it and asks for it again. When another head-end has it by
then, this one is told that it must end. Until it is told, both may poll; neither writes what the other does not see.

A server may take `SILENCE_S` to notice that a client is gone. What such a session of our own still has is taken from it.
"""

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType

import structlog
from sqlalchemy import Connection, text

from headend.database.engine import connect, translated
from headend.database.postgresql import OWNER
from headend.errors import ConfigError, StoreInUse, StoreUnavailable

__all__ = ["ServerHold"]

log = structlog.get_logger(__name__)

LOOK_S = 5.0  # between two looks
FAREWELL_S = 2.0
_TAKE = text(f"SELECT pg_try_advisory_lock({OWNER}), pg_backend_pid()")
_LOOK = text("SELECT 1")
_OWNER = text(
    "SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
    f"AND l.granted AND l.classid = 0 AND l.objid = {OWNER} AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_END = text("SELECT pg_terminate_backend(:pid)")
# Who took the lock in it, by database and the session's process id there.
_sessions_of_this_process: dict[tuple[str, int], "ServerHold"] = {}


class ServerHold:
    """See `lock.sole_owner`."""

    def __init__(self, url: str, lost: Callable[[str], None], *, look_s: float = LOOK_S) -> None:
        self._engine = connect(url)
        place = self._engine.url
        self._name = f"{place.host}:{place.port or 5432}/{place.database}"  # and nothing of what may be secret
        self._lost = lost
        self._look_s = look_s
        self._session: Connection | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="store-hold", daemon=True)

    def __enter__(self) -> None:
        try:
            self._take()
        except BaseException:
            self._give_up()
            raise
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(FAREWELL_S)
        if not self._thread.is_alive():  # else it waits for a server that says nothing, which lets go by itself
            self._give_up()
        for key in [key for key, hold in _sessions_of_this_process.items() if hold is self]:
            del _sessions_of_this_process[key]

    def _take(self) -> None:
        """Raises StoreInUse, StoreUnavailable, ConfigError."""
        with translated(self._engine, "holding the store"):
            # In no transaction: one that lasts as long as the head-end would keep the server from tidying up.
            session = self._session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            is_ours, pid = session.execute(_TAKE).one()
            if is_ours:
                _sessions_of_this_process[self._name, pid] = self
                return
            row = session.execute(_OWNER).first()
            other, owner = (0, "unknown") if row is None else (row[0], row[1] or "unknown")
            holder = _sessions_of_this_process.get((self._name, other))
            if holder is self:
                session.execute(_END, {"pid": other})
                raise StoreUnavailable("the server had not noticed yet that the former connection is gone; it was told")
        if holder is not None:
            raise ConfigError(f"this process has the database {self._name} already: store and accounts need one each")
        raise StoreInUse(
            f"another head-end ({owner}) runs on the store {self._name}: stop it first, or give this one another `store`"
        )

    def _give_up(self) -> None:
        session, self._session = self._session, None
        with contextlib.suppress(Exception):  # a connection may be broken in any way; the server ends what is left
            if session is not None:
                session.close()
            self._engine.dispose()  # and with the connection the lock

    def _look_after(self) -> None:
        held = True
        while not self._ending.wait(self._look_s):
            try:
                if self._session is not None:
                    with translated(self._engine, "looking after the hold of the store"):
                        self._session.execute(_LOOK)
                    continue
                self._take()
                log.info("the store is held again")
                held = True
            except StoreInUse as error:
                self._give_up()
                self._lost(str(error))
                return
            except Exception as error:  # whatever it is: without this thread nobody would hold the store
                if held:
                    log.warning("the connection that holds the store is lost; it is made again", problem=str(error))
                held = False
                self._give_up()

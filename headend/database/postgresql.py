"""What a PostgreSQL server is told so that it keeps what a SQLite file promises.

One transaction writes at a time, and what it has read is still so when it writes; a reading sees one moment; a commit that is
answered is on the disk; who waits for a lock, or for a server that is gone, waits for seconds and not for ever; texts sort by
their bytes, whatever language the server's database was made for.
"""

import os
import socket
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, event, text

from headend.errors import ConfigError

__all__ = ["CONNECT", "DISK_FULL", "OWNER", "prepare", "sort_by_bytes"]

# libpq's: seconds, and milliseconds for the last.
CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": f"headend on {socket.gethostname()}, process {os.getpid()}",
}
DISK_FULL = "53100"  # SQLSTATE
# Numbers of advisory locks, which are one database's: who writes, and whose the store is. Any, as long as they stay the same.
WRITER, OWNER = 0x68656101, 0x68656102

_SETTINGS = """
SELECT set_config('lock_timeout', %s, false), set_config('TimeZone', 'UTC', false),
    set_config('tcp_keepalives_idle', '60', false), set_config('tcp_keepalives_interval', '10', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false),
    current_setting('server_encoding')
"""
_ONE_WRITER = f"SELECT pg_advisory_xact_lock({WRITER})"
_SORTED_OTHERWISE = text(
    "SELECT a.attrelid::regclass::text, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod) "
    "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_collation c ON c.oid = a.attcollation "
    "WHERE a.attrelid = to_regclass(quote_ident(:table)) AND a.attnum > 0 AND NOT a.attisdropped AND c.collname <> 'C'"
)


def prepare(engine: Engine, busy_timeout_s: float) -> None:
    """To be called before its first connection."""

    @event.listens_for(
        engine, "connect", insert=True
    )  # before SQLAlchemy looks, which an unknown encoding lets stumble
    def on_connect(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            *_, encoding = cursor.execute(_SETTINGS, (f"{int(busy_timeout_s * 1000)}ms",)).fetchone()
        connection.commit()
        if isinstance(encoding, bytes):  # where the server does not know what its texts are, psycopg does not either
            encoding = encoding.decode()
        if encoding != "UTF8":
            raise ConfigError(
                f"the store's database holds texts as {encoding}: expected UTF8; make it anew with "
                f"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        from psycopg import IsolationLevel  # an extra: not everybody has it

        raw: Any = connection.connection.dbapi_connection
        if connection.get_execution_options().get("headend_writes", False):
            # Each statement sees what is committed, and with the lock nobody else commits anything.
            raw.isolation_level = IsolationLevel.READ_COMMITTED
            connection.exec_driver_sql(_ONE_WRITER)
        else:
            raw.isolation_level = IsolationLevel.REPEATABLE_READ


def sort_by_bytes(connection: Connection, metadata: MetaData) -> None:
    """Texts of these tables, as in SQLite: pages of a list go on after the last text of the one before, whoever compares."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.tables:
        for name, column, kind in connection.execute(_SORTED_OTHERWISE, {"table": table}).all():
            connection.exec_driver_sql(f'ALTER TABLE {name} ALTER COLUMN {column} TYPE {kind} COLLATE "C"')

"""What a PostgreSQL server is told so that it keeps what a SQLite file promises.

One transaction writes at a time, and what it has read is still so when it writes; a reading sees one moment; a commit that is
answered is on the disk; who waits for a lock, or for a network that is silent, waits for seconds and not for ever; texts sort by
their bytes, whatever language the server's database was made for; and a database that was put back under us is not written to.
"""

import os
import socket
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, event, text

from headend.errors import ConfigError, StoreUnavailable

__all__ = ["CONNECT", "DISK_FULL", "OWNER", "prepare", "sort_by_bytes"]

SILENCE_S = 25  # after which either side takes the other for gone
# libpq's: seconds, and milliseconds for `tcp_user_timeout`. Of several hosts the one that may be written to.
CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENCE_S * 1000,
    "target_session_attrs": "read-write",
    "application_name": f"headend on {socket.gethostname()}, process {os.getpid()}",
}
DISK_FULL = "53100"  # SQLSTATE
# Numbers of advisory locks, which are one database's: who writes, and whose the store is. Any, as long as they stay the same.
WRITER, OWNER = 0x68656101, 0x68656102

# What the server does with a client that is gone, among others: its locks would stay.
_SETTINGS = f"""
SELECT set_config('lock_timeout', %s, false), set_config('TimeZone', 'UTC', false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '{SILENCE_S}s', false),
    set_config('idle_in_transaction_session_timeout', '120s', false),
    set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false),
    current_setting('server_encoding'),
    has_function_privilege('pg_control_system()', 'execute') AND has_function_privilege('pg_control_checkpoint()', 'execute')
"""
# Which database this is, and which of its lives: another one after a restore, and after a standby took over.
_DATABASE = "SELECT oid::text FROM pg_database WHERE datname = current_database()"
_LIFE = "SELECT system_identifier || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()"
_ONE_WRITER = f"SELECT pg_advisory_xact_lock({WRITER})"
_SORTED_OTHERWISE = text(
    "SELECT a.attrelid::regclass::text, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod) "
    "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_collation c ON c.oid = a.attcollation "
    "WHERE a.attrelid = to_regclass(quote_ident(:table)) AND a.attnum > 0 AND NOT a.attisdropped AND c.collname <> 'C'"
)


def prepare(engine: Engine, busy_timeout_s: float) -> None:
    """To be called before its first connection."""
    first: list[str] = []

    @event.listens_for(engine, "connect", insert=True)
    def on_connect(connection: Any, record: object) -> None:
        # Inserted before SQLAlchemy's own first look, which stumbles over an encoding that psycopg does not know.
        with connection.cursor() as cursor:
            *_, encoding, may_know = cursor.execute(_SETTINGS, (f"{int(busy_timeout_s * 1000)}ms",)).fetchone()
            questions = (_DATABASE, _LIFE) if may_know else (_DATABASE,)
            identity = [cursor.execute(question).fetchone()[0] for question in questions]
        connection.commit()
        if isinstance(encoding, bytes):  # where the server does not know what its texts are, psycopg does not either
            encoding = encoding.decode()
        if encoding != "UTF8":
            raise ConfigError(
                f"the store's database holds texts as {encoding}: expected UTF8; make it anew with "
                f"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        if not first:
            first.extend(identity)
        elif first != identity:
            raise StoreUnavailable(
                "the database is not the one that it was when this program began: it was put back, or a standby took over, and numbers "
                "that were given out may be missing in it. Stop the head-end, see `headend restore --restored-to`, and start it again"
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

"""Which database a test gets: a SQLite file in its folder, or one of its own on a PostgreSQL server.

What is marked `both_databases` runs on each of them; `--on-postgresql` is for those that never look into the file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import Postgres

__all__ = ["database_url", "on_server"]

_server: Postgres | None = None


def database_url(folder: Path, name: str) -> str:
    """The same each time. A server's database is there, and empty at first; a file is made by who opens it."""
    if _server is None:
        return f"sqlite:///{folder}/{name}.db"
    return _server.url(f"{name}_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}")


@contextmanager
def on_server(server: Postgres) -> Iterator[None]:
    """Databases that are asked for in this block are the server's, and end with it."""
    global _server
    _server = server
    try:
        yield
    finally:
        _server = None
        server.drop_all()

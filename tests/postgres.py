"""A real PostgreSQL for tests, on a free port, beside `brokers` and `servers`.

    with postgresql() as server:
        ...                        # server.url("name") of a database that is made when it is asked for first
        server.kill()              # as a crash; what it had acknowledged is on its disk
        server.start()             # same port, same files

It sorts texts as people do, not by their bytes: as servers of utilities do, and so that a test finds who relies on the other.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psycopg
import pytest

from tests.servers import free_port

__all__ = ["Postgres", "postgresql"]

READY_S = 60.0
USER = "postgres"
_SORTING = ("--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # the machine does not lose its power in a test
    "full_page_writes": "off",
    "timezone": "Asia/Shanghai",  # times are ours to know
}


class Postgres:
    """One server, which keeps its files in `folder`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.log = folder / "postgres.log"
        self._files = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._made: set[str] = set()
        # Who is root runs it as somebody else, as PostgreSQL demands.
        self._as = USER if os.geteuid() == 0 else None
        if self._as is not None:
            folder.chmod(0o755)
            shutil.chown(folder, self._as)
        self.log.touch()
        self._run("initdb", "-D", str(self._files), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", *_SORTING)
        lines = [f"{name} = '{value}'" for name, value in _SETTINGS.items()]
        lines += [f"port = {port}", f"unix_socket_directories = '{folder}'"]
        with (self._files / "postgresql.auto.conf").open("a") as config:
            config.write("\n".join(lines) + "\n")

    def url(self, database: str) -> str:
        """For SQLAlchemy. The database is made, empty, when it is asked for first."""
        if database not in self._made:
            with self.session() as session:
                session.execute(f'CREATE DATABASE "{database}"'.encode())
            self._made.add(database)
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def drop_all(self) -> None:
        """Also those that somebody still uses."""
        with self.session() as session:
            while self._made:
                session.execute(f'DROP DATABASE "{self._made.pop()}" WITH (FORCE)'.encode())

    @contextmanager
    def session(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        """A connection of our own, outside the program under test; every statement is its own transaction."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True) as session:
            yield session

    def dump(self, database: str) -> bytes:
        """As an operator backs it up."""
        return self._run("pg_dump", "-Fc", *self._client, "-d", database)

    def put_back(self, database: str, dump: bytes) -> None:
        """As an operator restores it: in place of what is there."""
        self._made.discard(database)
        with self.session() as session:
            session.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())
        self.url(database)
        self._run("pg_restore", "--exit-on-error", *self._client, "-d", database, given=dump)

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError with what it said when it does not come up."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", str(self._files)], stdout=log, stderr=log, user=self._as, cwd="/"
            )
        deadline = time.monotonic() + READY_S
        while True:
            try:
                with self.session():
                    return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.kill()
                    raise RuntimeError(f"postgres did not come up: {self.log.read_text()[-2000:]}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        """As a crash: every connection breaks at once."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """In order, without waiting for who is connected."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(timeout=READY_S)

    @property
    def _client(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER)

    def _run(self, program: str, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [_program(program), *arguments], input=given, capture_output=True, user=self._as, cwd="/", check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')}")
        return done.stdout


@contextmanager
def postgresql() -> Iterator[Postgres]:
    """A server that is ended with the block, and its files with it."""
    folder = Path(mkdtemp(prefix="headend-postgres-"))  # not in a test's folder: those only their owner may enter
    try:
        server = Postgres(folder, free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    """Debian has PostgreSQL's own programs outside of the path, by version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: float(one.parent.name), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found

"""One head-end per database of a server, and what becomes of the hold when the server goes."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from headend.errors import ConfigError, StoreInUse, StoreUnavailable
from headend.store.lock import sole_owner
from headend.store.server_hold import ServerHold
from tests.headend.store.test_lock import holder
from tests.postgres import Postgres, postgresql


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """One that may be killed under nobody else."""
    with postgresql() as server:
        yield server


@contextmanager
def held(url: str) -> Iterator["queue.Queue[str]"]:
    """By somebody who looks often. What it is told."""
    told: queue.Queue[str] = queue.Queue()
    with ServerHold(url, told.put, look_s=0.05):
        yield told


def holder_pid(server: Postgres, database: str) -> int | None:
    with server.session(database) as session:
        row = session.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        return None if row is None else row[0]


def is_held(server: Postgres, database: str) -> bool:
    return holder_pid(server, database) is not None


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_second_head_end_is_refused_and_told_who_holds_the_store(postgres: Postgres) -> None:
    url = postgres.url("hold_second")
    with holder(url) as process:
        for _ in range(2):
            told = rf"headend on .*, process {process.pid}.* stop it first"
            with pytest.raises(StoreInUse, match=told) as refused, held(url):
                pytest.fail("two held the store at once")
            assert "hold_second" in str(refused.value)
        with held(postgres.url("hold_other")):
            pass


def test_the_store_is_free_again_after_a_clean_end_and_after_a_kill(postgres: Postgres) -> None:
    url = postgres.url("hold_ends")
    with held(url):
        assert is_held(postgres, "hold_ends")
    until(lambda: not is_held(postgres, "hold_ends"))
    with holder(url) as process:
        process.kill()
        process.wait()
        until(lambda: not is_held(postgres, "hold_ends"))
        with held(url):
            pass


def test_store_and_accounts_need_a_database_each(postgres: Postgres) -> None:
    url = postgres.url("hold_both")
    with sole_owner(url), pytest.raises(ConfigError, match="need one each"), sole_owner(f"{url}?connect_timeout=9"):
        pytest.fail("one database for both")


def test_a_password_is_in_no_message(postgres: Postgres) -> None:
    plain = make_url(postgres.url("hold_secret"))
    with holder(plain.render_as_string()):
        for url in (plain.set(password="hunter2"), plain.set(query={"password": "hunter2"})):
            text = url.render_as_string(hide_password=False)
            with pytest.raises(StoreInUse) as refused, held(text):
                pass
            away = url.set(port=1).render_as_string(hide_password=False)
            with pytest.raises(StoreUnavailable, match=r"holding the store: .*refused") as away_too, held(away):
                pass
            for error in (refused, away_too):
                assert "hunter2" in text
                assert "hunter2" not in str(error.value)


def test_the_store_is_held_again_when_its_server_comes_back(own_server: Postgres) -> None:
    url = own_server.url("hold_back")
    with held(url) as told:
        own_server.kill()
        time.sleep(0.3)
        own_server.start()
        until(lambda: is_held(own_server, "hold_back"))
        assert told.empty()


def test_who_lost_its_store_to_another_is_told(own_server: Postgres) -> None:
    url = own_server.url("hold_lost")
    with held(url) as told, own_server.session("hold_lost") as session:
        # Another takes it in the very moment in which the connection is gone.
        session.execute(
            "SELECT pg_terminate_backend(pid), pg_advisory_lock(objid::bigint) FROM pg_locks "
            "WHERE locktype = 'advisory'"
        )
        assert "another head-end" in told.get(timeout=20)


def test_a_session_that_the_server_still_takes_for_alive_is_not_taken_for_another_head_end(postgres: Postgres) -> None:
    """The network was gone for longer than the client waits, and shorter than the server does."""
    url = make_url(postgres.url("hold_ghost"))
    with Cable(postgres.port) as cable, held(url.set(port=cable.port).render_as_string()) as told:
        first = holder_pid(postgres, "hold_ghost")
        cable.cut_at_the_client()
        until(lambda: holder_pid(postgres, "hold_ghost") not in (None, first))
        assert told.empty()


def test_a_database_that_was_put_back_under_us_is_not_held_again(postgres: Postgres) -> None:
    url = postgres.url("hold_restored")
    dump = postgres.dump("hold_restored")
    with held(url) as told:
        postgres.put_back("hold_restored", dump)
        time.sleep(0.5)  # ten looks
        assert not is_held(postgres, "hold_restored")  # so that `headend restore` can have it
        assert told.empty()


class Cable:
    """Carries bytes to a server. What is cut at the client stays connected at the server."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []

    def __enter__(self) -> "Cable":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listening, *self._clients, *self._servers):
            one.close()

    def cut_at_the_client(self) -> None:
        for one in self._clients:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._clients.append(client)
                self._servers.append(server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

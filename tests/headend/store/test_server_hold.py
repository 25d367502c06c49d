"""One head-end per database of a server, and what becomes of the hold when the server goes."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from headend.errors import StoreInUse, StoreUnavailable
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
    """With somebody who looks often. What it is told."""
    told: queue.Queue[str] = queue.Queue()
    with ServerHold(url, told.put, look_s=0.05):
        yield told


def is_held(server: Postgres, database: str) -> bool:
    with server.session(database) as session:
        found = session.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
        return found is not None and found[0] > 0


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
            with pytest.raises(StoreInUse, match=told) as refused, sole_owner(url):
                pytest.fail("two held the store at once")
            assert "hold_second" in str(refused.value)
        with sole_owner(postgres.url("hold_other")):
            pass


def test_the_store_is_free_again_after_a_clean_end_and_after_a_kill(postgres: Postgres) -> None:
    url = postgres.url("hold_ends")
    with sole_owner(url):
        assert is_held(postgres, "hold_ends")
    assert not is_held(postgres, "hold_ends")
    with holder(url) as process:
        process.kill()
        process.wait()
        until(lambda: not is_held(postgres, "hold_ends"))
        with sole_owner(url):
            pass


def test_a_password_is_in_no_message(postgres: Postgres) -> None:
    url = make_url(postgres.url("hold_secret")).set(password="hunter2").render_as_string(hide_password=False)
    with sole_owner(url), pytest.raises(StoreInUse) as refused, sole_owner(url):
        pass
    assert "hunter2" not in str(refused.value)
    away = make_url(url).set(port=1).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match=r"holding the store: .*refused") as away_too, sole_owner(away):
        pass
    assert "hunter2" not in str(away_too.value)


def test_the_store_is_held_again_when_its_server_comes_back(own_server: Postgres) -> None:
    url = own_server.url("hold_back")
    with held(url) as told:
        own_server.kill()
        time.sleep(0.3)
        own_server.start()
        until(lambda: is_held(own_server, "hold_back"))
        with pytest.raises(StoreInUse), sole_owner(url):
            pass
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

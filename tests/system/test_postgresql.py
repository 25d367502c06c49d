"""A head-end whose store is on a server: the server dies again and again, and a second head-end wants the same store."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from headend.config import load_config
from headend.database.postgresql import OWNER
from tests.brokers import mosquitto
from tests.databases import on_server
from tests.postgres import postgresql
from tests.system.processes import BIN, HeadEndProcess, eventually
from tests.system.test_mqtt import configured, numbered_readings, reads, wait_connected

DEATHS = 6


@pytest.mark.timeout(300)
def test_a_server_that_dies_again_and_again_costs_no_reading_and_gives_none_twice(tmp_path: Path) -> None:
    dice = random.Random(5)
    with (
        postgresql() as server,
        on_server(server),
        mosquitto(tmp_path, settings=["max_inflight_messages 100"]) as broker,
    ):
        config, token = configured(tmp_path, broker)
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        wait_connected(client)
        with numbered_readings(broker, per_second=200) as sent:
            for _ in range(DEATHS):
                time.sleep(dice.uniform(0.1, 0.8))
                server.kill()
                time.sleep(dice.uniform(0, 1))
                server.start()
        # Who asks meanwhile is told, and it passes by itself.
        eventually(lambda: client.get("/healthz").status_code == 200)
        eventually(lambda: len(reads(client)) >= sent[0], 120)
        found = reads(client)
        assert head_end.stop() == 0
    print(f"{DEATHS} deaths of the server, {sent[0]} readings")
    assert sorted(int(event["data"]["value"]) for event in found) == list(range(sent[0]))
    assert len({event["id"] for event in found}) == len(found)
    assert {event["data"]["revision"] for event in found} == {0}


@pytest.mark.timeout(120)
def test_a_store_that_is_away_is_told_and_a_second_head_end_is_refused(tmp_path: Path) -> None:
    with postgresql() as server, on_server(server), mosquitto(tmp_path) as broker:
        config, token = configured(tmp_path, broker)
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        second = subprocess.run([BIN / "headend", "run", config], capture_output=True, text=True, timeout=60)
        assert second.returncode not in (0, 1), second.stdout + second.stderr
        said = " ".join(second.stderr.split())
        assert f"process {head_end.process.pid}" in said
        assert "stop it first" in said
        server.stop()
        with numbered_readings(broker, per_second=50) as sent:
            eventually(lambda: client.get("/healthz").status_code == 503)
            eventually(lambda: sent[0] > 20)
            away = client.get("/healthz").text
            server.start()
        assert "Traceback" not in away
        assert "SELECT" not in away
        eventually(lambda: len(reads(client)) >= sent[0], 60)
        assert client.get("/healthz").status_code == 200
        assert head_end.stop() == 0
    assert "Traceback" not in head_end.log.read_text()


@pytest.mark.timeout(120)
def test_at_the_start_somebody_who_may_be_gone_is_waited_for(tmp_path: Path) -> None:
    """As after a power cut, of which the server hears late. And who waits can be stopped."""
    with postgresql() as server, on_server(server), mosquitto(tmp_path) as broker:
        config, token = configured(tmp_path, broker)
        with server.session(load_config(config).store.rpartition("/")[2]) as session:
            session.execute("SELECT pg_advisory_lock(%s)", (OWNER,))
            stopped = HeadEndProcess(config, token)
            eventually(lambda: "may be gone; waiting" in stopped.log.read_text())
            assert stopped.stop() == 0
            head_end = HeadEndProcess(config, token)
            eventually(lambda: stopped.log.read_text().count("may be gone; waiting") == 2)
        head_end.wait_ready()
        assert head_end.stop() == 0


@pytest.mark.timeout(120)
def test_a_head_end_whose_store_another_one_has_ends_and_says_so(tmp_path: Path) -> None:
    with postgresql() as server, on_server(server), mosquitto(tmp_path) as broker:
        config, token = configured(tmp_path, broker)
        head_end = HeadEndProcess(config, token)
        head_end.wait_ready()
        database = load_config(config).store.rpartition("/")[2]
        with server.session(database) as session:
            # Its connection is gone for a moment, and the other is quicker.
            session.execute(
                "SELECT pg_terminate_backend(pid), pg_advisory_lock(objid::bigint) FROM pg_locks "
                f"WHERE locktype = 'advisory' AND objid = {OWNER}"
            )
            assert head_end.process.wait(timeout=60) not in (0, 1)
        head_end.kill()
    said = head_end.log.read_text()
    assert "another head-end" in said
    assert "head-end has stopped" in said  # in order, with what it had in its hands stored
    assert "Traceback" not in said

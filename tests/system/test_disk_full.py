"""The disk under the running head-end is full again and again: reads wait, nothing acknowledged is lost, and it goes on by itself."""

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.small_disk import SmallDisk, small_disk
from tests.system.processes import BIN, HeadEndProcess, config_text, create_token, free_port, pull, simulated_lines

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOLD_S = 10.0  # the disk is full, and it says so
HEALED_S = 30.0  # there is room, and all is well again


@contextmanager
def consumer(folder: Path) -> Iterator[tuple[str, Path]]:
    """A webhook that keeps what it has acknowledged: its URL and its database."""
    port, database = free_port(), folder / "consumer.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.consumer", str(port), str(database), SECRET],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}/reads", database
    finally:
        process.kill()
        process.wait(timeout=10)


def received(database: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(database)) as opened:
        return {identity: json.loads(body) for identity, body in opened.execute("SELECT id, body FROM events")}


def until(client: httpx.Client, *, well: bool, within_s: float, saying: str = "") -> float:
    """Seconds until /healthz is as expected."""
    began = time.monotonic()
    text = ""
    while (took_s := time.monotonic() - began) < within_s:
        answer = client.get("/healthz")
        text = answer.text
        if answer.is_success == well and saying in text:
            return took_s
        time.sleep(0.05)
    raise AssertionError(f"after {within_s} s /healthz says {text}")


@pytest.mark.timeout(1800)
def test_a_full_disk_is_told_and_survived_and_left_behind(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fills = request.config.getoption("--disk-fills")
    dice = random.Random(11)
    served: list[dict[str, Any]] = []
    told_s, healed_s, killed = [], [], 0
    arguments = ("--listen", "tcp://127.0.0.1:0", "--meters", "800", "--lines", "8", "--seed", "3", "--baud", "9600")
    with (
        small_disk(tmp_path / "disk", 48) as disk,
        consumer(tmp_path) as (url, database),
        simulated_lines(*arguments) as lines,
    ):
        config = tmp_path / "headend.toml"
        text = config_text(disk.folder, lines, period="1m", quantities=["1-0:1.8.0", "1-0:32.7.0", "1-0:31.7.0"])
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        config.write_text(
            f'{text}\n[[sinks]]\nname = "billing"\nkind = "webhook"\nurl = "{url}"\nsecret = "file:{secret}"\n'
        )
        token = create_token(config)
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        for _ in range(fills):
            until(client, well=True, within_s=HEALED_S)
            time.sleep(dice.uniform(0, 1.0))
            disk.fill(leave=dice.choice((0, 0, 8192, 100_000)))
            told_s.append(until(client, well=False, within_s=TOLD_S, saying="disk"))
            catch_up(client, served)  # what can be pulled is pulled on a full disk, too
            disk.fill()
            if dice.random() < 0.3:
                killed += 1
                head_end.kill()
                disk.fill()
                head_end = HeadEndProcess(config, token)  # starts in the room of the reserve
                client = head_end.wait_ready()
                until(client, well=False, within_s=TOLD_S, saying="disk")
            time.sleep(dice.uniform(0, 1.0))
            disk.empty()
            healed_s.append(until(client, well=True, within_s=HEALED_S))
            catch_up(client, served)
        assert (disk.folder / "store.db.reserve").stat().st_size == 3 << 20
        wait_for_consumer(client, database)
        catch_up(client, served)
        assert head_end.stop() == 0
        events = received(database)
    assert killed
    assert [int(event["sequence"]) for event in served] == list(range(1, len(served) + 1))
    assert len({event["id"] for event in served}) == len(served) > 50 * fills
    # The consumer has got everything that was served, and what came after is from the last moments.
    assert all(events[event["id"]] == event for event in served[: len(served) - 200])
    assert all(event["data"]["reason"] for event in served if "missing" in event["data"].get("quality", ()))
    print(
        f"{fills} fills, {killed} kills, {len(served)} events, told {max(told_s):.1f} s, healed {max(healed_s):.1f} s"
    )


def catch_up(client: httpx.Client, served: list[dict[str, Any]]) -> None:
    served += pull(client, len(served))


def wait_for_consumer(client: httpx.Client, database: Path) -> None:
    end = int(client.get("/healthz").json()["last_sequence"])
    until_then = time.monotonic() + HEALED_S
    while len(received(database)) < end:
        assert time.monotonic() < until_then, f"the consumer has {len(received(database))} of {end} events"
        time.sleep(0.1)


def test_a_disk_without_room_at_the_first_start_is_a_clear_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        config = tmp_path / "headend.toml"
        lines = [{"url": "tcp://127.0.0.1:9", "meters": ["000000000001"]}]
        config.write_text(config_text(disk.folder, lines, period="1m", quantities=["1-0:1.8.0"]))
        disk.fill()
        done = run_refused(config)
        assert done.returncode == 2
        assert "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        disk.empty()
        head_end = HeadEndProcess(config, "")
        head_end.wait_ready()
        assert head_end.stop() == 0


def run_refused(config: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / "headend", "run", config], capture_output=True, text=True, timeout=60)


def fill_with_reserve_gone(disk: SmallDisk) -> None:
    (disk.folder / "store.db.reserve").unlink(missing_ok=True)
    disk.fill()


def test_a_start_on_a_full_disk_without_a_reserve_is_a_clear_error_and_harms_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        config = tmp_path / "headend.toml"
        lines = [{"url": "tcp://127.0.0.1:9", "meters": ["000000000001"]}]
        config.write_text(config_text(disk.folder, lines, period="1m", quantities=["1-0:1.8.0"]))
        token = create_token(config)
        fill_with_reserve_gone(disk)
        done = run_refused(config)
        assert done.returncode == 2
        assert "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        disk.empty()
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        assert client.get("/v1/feed", params={"after": 0}).is_success
        assert head_end.stop() == 0

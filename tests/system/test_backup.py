"""A head-end is backed up at work, its store is lost, and the backup restored: consumers notice everything and miss nothing."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.system.processes import BIN, HeadEndProcess, config_text, create_token, pull, simulated_lines


def run(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([BIN / "headend", *map(str, arguments), "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def until_behind(client: httpx.Client, sequence: int) -> list[dict[str, Any]]:
    """What is in the feed once it has come to some events behind `sequence`."""
    for _ in range(600):
        found = list(pull(client, 0))
        if found and int(found[-1]["sequence"]) >= sequence + 20:
            return found
        time.sleep(0.1)
    raise AssertionError(f"the feed does not go on behind {sequence}")


def test_a_backup_at_work_is_restored_and_no_consumer_is_misled(tmp_path: Path) -> None:
    arguments = ("--listen", "tcp://127.0.0.1:0", "--meters", "800", "--lines", "4", "--seed", "3", "--baud", "9600")
    with simulated_lines(*arguments) as lines:
        config = tmp_path / "headend.toml"
        config.write_text(config_text(tmp_path, lines, period="1h", quantities=["1-0:1.8.0", "1-0:32.7.0"]))
        token = create_token(config)
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        until_behind(client, 20)
        taken = run("backup", config, tmp_path / "backup")
        assert taken["left_out"] == []
        last = taken["last_sequence"]
        assert last >= 40
        before = until_behind(client, last)  # what a consumer has that is ahead of the backup
        refused = subprocess.run(
            [BIN / "headend", "restore", config, tmp_path / "backup"], capture_output=True, text=True, timeout=60
        )
        assert refused.returncode == 2
        assert "stop it first" in refused.stderr
        head_end.kill()
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)

        restored = run("restore", config, tmp_path / "backup")
        first = restored["first_sequence"]
        assert restored["last_before"] == last
        assert restored["replaced"] is None
        head_end = HeadEndProcess(config, token)
        client = head_end.wait_ready()
        after = until_behind(client, first)
        check_cursors_ahead(client, int(before[-1]["sequence"]), after[last])
        assert head_end.stop() == 0
        numbers = [int(event["sequence"]) for event in after]
        assert numbers == [*range(1, last + 1), *range(first, first + len(numbers) - last)]
        assert after[:last] == before[:last]
        notice, new = after[last], after[last + 1 :]
        assert notice["data"]["kind"] == "restored"
        assert notice["data"]["void_through"] == first - 1
        lost = before[last:]
        assert len(lost) >= 20
        assert not {event["id"] for event in new} & {event["id"] for event in before}
        # The intervals that were read in the lost time have been read again, as corrections of what the consumer has.
        reads = [event for event in lost if event["type"] == "headend.read.v1"]
        revisions = {place(event): event["data"]["revision"] for event in reads}
        again = [event for event in new if event["type"] == "headend.read.v1" and place(event) in revisions]
        assert again
        assert all(event["data"]["revision"] > revisions[place(event)] for event in again)


def check_cursors_ahead(client: httpx.Client, ahead: int, notice: dict[str, Any]) -> None:
    """A consumer that is ahead of the backup gets the notice first, whichever way it asks."""
    first = int(notice["sequence"])
    page = client.get("/v1/feed", params={"after": ahead, "limit": 5}).raise_for_status().json()
    assert page["events"][0] == notice
    assert page["next"] == first + 4
    lines_of = client.get("/v1/feed", params={"after": ahead}, headers={"Accept": "application/x-ndjson"})
    assert json.loads(lines_of.text.splitlines()[0]) == notice
    with client.stream("GET", "/v1/feed/stream", params={"after": ahead}) as stream:
        for line in stream.iter_lines():
            if line.startswith("id: "):
                assert line == f"id: {first}"
                break


def place(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["data"]["meter"], event["data"]["obis"], event["data"]["interval_end"]

"""The running head-end is killed (`kill -9`) at random moments; what the feed served once stays, without gap or repeat."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.processes import HeadEndProcess, config_text, create_token, pull, simulated_lines


@pytest.mark.timeout(1800)
def test_killed_at_random_moments_the_feed_has_no_gap_and_forgets_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("--kills")
    seed = 5
    dice = random.Random(seed)
    served: dict[int, dict[str, Any]] = {}
    lives_with_reads = 0
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "800", "--lines", "8", "--seed", "3") as lines:
        config = tmp_path / "headend.toml"
        config.write_text(
            config_text(tmp_path, lines, period="1m", quantities=["1-0:1.8.0", "1-0:32.7.0", "1-0:31.7.0"])
        )
        token = create_token(config)
        for _ in range(kills):
            head_end = HeadEndProcess(config, token)
            if dice.random() < 0.2:  # while it starts: migration, registration, first connections
                time.sleep(dice.uniform(0, 1.0))
            else:
                client = head_end.wait_ready()
                die_at = time.monotonic() + dice.uniform(0, 1.5)
                before = len(served)
                # Everything is asked for again at each life: what was served must come back as it was.
                consume(client, served, from_start=True)
                with contextlib.suppress(httpx.TransportError):
                    while time.monotonic() < die_at:
                        consume(client, served)
                        time.sleep(0.02)
                lives_with_reads += len(served) > before
            head_end.kill()
        head_end = HeadEndProcess(config, token)
        consume(head_end.wait_ready(), served, from_start=True)
        assert head_end.stop() == 0
    assert lives_with_reads >= kills / 3, f"too few lives read anything to prove something (seed {seed})"
    assert sorted(served) == list(range(1, len(served) + 1))
    assert len({event["id"] for event in served.values()}) == len(served)
    reads = [
        (event["data"]["meter"], event["data"]["obis"], event["data"]["interval_end"])
        for event in served.values()
        if event["type"] == "headend.read.v1"
    ]
    assert len(set(reads)) == len(reads)
    print(f"{kills} kills, {len(served)} events, {lives_with_reads} lives with new reads")


def consume(client: httpx.Client, served: dict[int, dict[str, Any]], *, from_start: bool = False) -> None:
    after = 0 if from_start else len(served)
    for number, event in enumerate(pull(client, after), start=after + 1):
        assert int(event["sequence"]) == number, f"sequence {event['sequence']} came where {number} was due"
        assert served.setdefault(number, event) == event, f"event {number} changed after it was served"

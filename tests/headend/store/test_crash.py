"""Killed at any moment, the store has every acknowledged read and a feed without gaps."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from headend.store import Store, migrate
from tests.headend.support import PERIOD, START, store_url


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_writers_lose_nothing_acknowledged_and_leave_no_gap(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    migrate(store_url(tmp_path))
    acknowledged: dict[int, tuple[str, int]] = {}
    for run in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.headend.store.crash_writer", store_url(tmp_path), str(run)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        # A moment measured in acknowledgements, not seconds: as random, and independent of the machine's speed.
        for _ in range(random_.randrange(1, 1500)):
            assert _note(process.stdout.readline(), acknowledged)
        process.kill()
        for line in process.stdout:
            _note(line, acknowledged)
        process.wait()
    store = Store(store_url(tmp_path), "luoyang-west")
    events: list[bytes] = []
    while page := store.events_after(len(events), 1000):
        events += page
    assert [int(json.loads(event)["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert len(events) == store.last_sequence()
    assert acknowledged.keys() <= set(range(1, len(events) + 1))
    for sequence, (meter, slot) in acknowledged.items():
        data = json.loads(events[sequence - 1])["data"]
        assert data["meter"] == meter
        [read] = store.reads(meter, since=START + slot * PERIOD, until=START + (slot + 1) * PERIOD)
        assert data["interval_end"] == read.interval_end.isoformat().replace("+00:00", "Z")


def _note(line: str, acknowledged: dict[int, tuple[str, int]]) -> bool:
    """False at the end of the output and for the line that the kill cut off."""
    if not line.endswith("\n"):
        return False
    sequence, meter, slot = line.split()
    assert int(sequence) not in acknowledged
    acknowledged[int(sequence)] = (meter, int(slot))
    return True

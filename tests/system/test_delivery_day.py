"""A destination that is away for a day of 1,000 meters: memory, order, and that the newest is there first. Virtual time, real store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FULL_RUN_KILLS = 200  # as many as asked for by a full run


def test_after_a_day_away_everything_arrives_once_in_order_the_newest_first_and_in_little_memory() -> None:
    told = said_by("tests.system.delivery_day", 1000)
    assert told["backlog"] == 96_000
    assert told["grown_mb"] < 50
    assert (told["missing"], told["repeats"], told["out_of_order"], told["ranges"]) == (0, 0, 0, 0)
    assert told["back_s"] <= 61  # the longest pause between two tries
    assert told["live_delay_s_max"] <= 5
    assert told["drained_s"] <= told["back_s"] + 96_000 / 2000 + 15


@pytest.mark.timeout(1800)
def test_the_whole_head_end_spends_a_day_without_upstream_and_loses_nothing(request: pytest.FixtureRequest) -> None:
    """Polling, checks, store and pushing together; for eight hours and with fewer meters than in the full run, which takes minutes."""
    meters, slots = (1000, 96) if request.config.getoption("--kills") >= FULL_RUN_KILLS else (50, 32)
    told = said_by("tests.system.delivery_street", meters, slots)
    assert told["backlog"] >= slots * meters
    assert told["grown_mb"] < 50
    assert told["begins_with_the_newest"]
    assert (told["undelivered"], told["repeats"], told["out_of_order"]) == (0, 0, 0)
    assert told["back_s"] <= 61
    assert told["newest_s"] <= 60
    assert told["drained_s"] <= told["back_s"] + told["backlog"] / 2000 + 60


def said_by(module: str, *sizes: int) -> dict[str, Any]:
    """In a process of its own, whose memory is measured."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, sizes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(told)
    return told

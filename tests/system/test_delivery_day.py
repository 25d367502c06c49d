"""A destination that is away for a day of 1,000 meters: memory, order, and that the newest is there first. Virtual time, real store."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_after_a_day_away_everything_arrives_once_in_order_the_newest_first_and_in_little_memory() -> None:
    """In a process of its own, whose memory is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.delivery_day", "1000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["backlog"] == 96_000
    assert told["grown_mb"] < 50
    assert (told["missing"], told["repeats"], told["out_of_order"], told["ranges"]) == (0, 0, 0, 0)
    assert told["back_s"] <= 61  # the longest pause between two tries
    assert told["live_delay_s_max"] <= 5
    assert told["drained_s"] <= told["back_s"] + 96_000 / 2000 + 15

"""Goal: who has paid has power soon, or may press the button, although everybody pays at once, lines are busy, and some are down.

`--commands 1000000` runs the whole fleet of 10,000 meters, as `python -m tests.bench --only reconnect` does.
"""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from simulators.virtual_time import VirtualClock, run
from tests.scenarios.reconnect import Fleet, Reconnections, reconnect_fleet, table_of

SMALL = Fleet(lines=20, meters_per_line=40, paid=80, lines_down=1)
BUTTON = Fleet(lines=8, meters_per_line=20, paid=24, lines_down=1, close="permit-close")
WHOLE = Fleet(lines=200, meters_per_line=50, paid=1000, lines_down=10)
# Early in what the simulated meters have counted: they count from the beginning when they are asked first.
START = datetime(2025, 1, 2, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(("small", "seed"), [(SMALL, 7), (BUTTON, 8)], ids=["directly", "permit-close"])
def test_a_tenth_of_a_fleet_that_pays_at_once_has_power_within_minutes(
    small: Fleet, seed: int, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = small if request.config.getoption("--commands") < 1_000_000 else replace(WHOLE, close=small.close)

    async def main(clock: VirtualClock, random_: random.Random) -> Reconnections:
        return await reconnect_fleet(tmp_path, clock, random_, fleet)

    found = run(main, start=START, seed=seed)
    with capsys.disabled():
        print(f"\n{table_of(found)}")
    assert found.missing == []
    assert len(found.took_s) + len(found.after_return_s) == fleet.paid
    assert found.after_return_s, "nobody lives on a line that was down: this proves nothing"
    assert found.took_at(0.5) <= 30
    assert found.took_at(0.95) <= 180
    assert max(found.took_s) <= 900
    assert max(found.after_return_s) <= 60
    assert found.polls_per_line_s > 1, "the lines were not busy: this proves little"

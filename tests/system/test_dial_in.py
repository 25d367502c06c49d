"""A fleet of DTUs dials in, some of them unknown: every known line is connected and read, the others are listed, memory is bounded.

The run of 2,000 within a minute is `python -m tests.bench.dial_in`; here a twentieth of it, with the same program.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

KIB_PER_DTU_MAX = 60


def dial_in(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.dial_in", *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("loop", [[], ["--plain-loop"]], ids=["uvloop", "asyncio"])
def test_100_dtus_dial_in_and_every_known_one_is_read(loop: list[str]) -> None:
    if not loop:
        pytest.importorskip("uvloop")
    told = dial_in("--known", "95", "--unknown", "5", "--ramp-s", "3", *loop)
    print(f"{told['kib_per_dtu']} KiB per idle DTU, all up after {told['all_up_s']} s")
    assert told["up"] == told["read"] == 95
    assert told["listed_unknown"]
    assert told["asked"] == 95  # of 100: nothing was ever sent to the unknown ones
    assert told["kib_per_dtu"] < KIB_PER_DTU_MAX
    assert told["counters"]["registered"] == 100
    assert told["counters"]["timed_out"] == 0

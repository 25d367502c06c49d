"""Meter reads per second through the whole way, beside the bare event loop and a foreign client."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.bench.clients import CLIENTS
from tests.bench.far_end import REPOSITORY, far_end
from tests.bench.figures import WARM_UP_S, Figure, Goal, ratio, spread
from tests.bench.prepared import DIS

__all__ = ["NAMES", "measure_reading"]

READS_MAX_PER_S = 30_000  # that many meters are configured for; if a machine is faster, the measurement ends early
CLIENT_S_MAX = 120.0
OVER_RAW = Goal(least=0.25)
OVER_FOREIGN = Goal(least=3.0)
NAMES = {"ours": "headend", "raw": "raw uvloop", "foreign": "PyPI dlt645"}


def measure_reading(
    *,
    rounds: int,
    seconds: float,
    lines: int,
    one_core: bool = False,
    reads_max_per_s: int = READS_MAX_PER_S,
    note: Callable[[str], None] = lambda _: None,
) -> list[Figure]:
    """Each round runs every client once for `seconds` over `lines` connections, in an order that rotates.

    one_core: keep all threads of a client on one core. Whether the threads of a Python process share a core changes what they
    cost each other, so this tells a cost of the code from a cost of how the system happened to place them.
    """
    meters = max(2, round(reads_max_per_s * (seconds + WARM_UP_S) / len(DIS) / lines))
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in CLIENTS}
    place = 0 if one_core else -1
    with far_end(lines * meters) as other:
        for number in range(rounds):
            kinds = list(CLIENTS)
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                note(f"reading, round {number + 1} of {rounds}: {NAMES[kind]}")
                found[kind].append(_run(kind, other.port, lines, meters, seconds, place))
    assert other.unknown == 0, f"{other.unknown} requests were not what the far end expects"
    assert other.answered >= sum(one["reads"] for several in found.values() for one in several)
    wall = {
        k: spread(f"{NAMES[k]}: reads per second", "/s", (x["reads"] / x["wall_s"] for x in found[k])) for k in found
    }
    core = {
        k: spread(f"{NAMES[k]}: reads per CPU second", "/s", (x["reads"] / x["cpu_s"] for x in found[k])) for k in found
    }
    return [
        *(figure for kind in found for figure in (wall[kind], core[kind])),
        spread(f"{NAMES['ours']}: reads waiting for the store", "", (x["waiting"] for x in found["ours"])),
        ratio(f"{NAMES['ours']} over {NAMES['raw']}, per core", core["ours"], core["raw"], OVER_RAW),
        ratio(f"{NAMES['ours']} over {NAMES['foreign']}, per core", core["ours"], core["foreign"], OVER_FOREIGN),
        ratio(f"{NAMES['ours']} over {NAMES['raw']}, wall", wall["ours"], wall["raw"]),
        ratio(f"{NAMES['ours']} over {NAMES['foreign']}, wall", wall["ours"], wall["foreign"]),
    ]


def _run(kind: str, port: int, lines: int, meters: int, seconds: float, core: int) -> dict[str, float]:
    arguments = [str(argument) for argument in (kind, port, lines, meters, seconds, core)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.clients", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=CLIENT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{kind} failed: {done.stderr[-2000:]}"
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured

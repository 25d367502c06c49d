"""Memory per idle configured meter: `headend run` with many meters and with none, both at rest, the difference shared out.

The lines lead to ports where nothing listens, the plan is a daily one: every meter is configured, planned and waiting.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.bench.figures import Figure, Goal, spread

__all__ = ["measure_memory"]

BIN = Path(sys.executable).parent
LINES = 10
PER_METER = Goal(most=2048)
REST_CPU_S = 0.02  # less than this in REST_S is rest: ten lines trying to connect cost less
REST_S = 0.2
READY_S_MAX = 60.0


def measure_memory(*, rounds: int, meters: int, note: Callable[[str], None] = lambda _: None) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name:
        empty, full = (_configure(Path(name) / str(count), count) for count in (0, meters))
        pairs = []
        for number in range(rounds):
            note(f"memory, round {number + 1} of {rounds}")
            pairs.append((_resident(empty, 0), _resident(full, meters)))
    return [
        spread("resident without meters", "MiB", (without / 2**20 for without, _ in pairs)),
        spread(f"resident with {meters} meters", "MiB", (with_them / 2**20 for _, with_them in pairs)),
        spread("per idle meter", "B", ((with_them - without) / meters for without, with_them in pairs), PER_METER),
    ]


def _configure(folder: Path, meters: int) -> Path:
    folder.mkdir()
    lines = "".join(f'[[lines]]\nname = "line-{n}"\nurl = "tcp://127.0.0.1:{n + 1}"\n' for n in range(LINES))
    table = 'meters = "meters.csv"\n' if meters else ""
    config = folder / "headend.toml"
    config.write_text(
        f'{table}[headend]\nname = "bench"\n[api]\nlisten = "127.0.0.1:0"\n{lines}'
        '[[plans]]\nname = "daily"\nperiod = "1d"\nquantities = ["1-0:1.8.0", "1-0:32.7.0"]\n',
        encoding="utf-8",
    )
    rows = [f"M{n:06},line-{n % LINES},{n:012},dlt645/base_2007,daily" for n in range(1, meters + 1)]
    (folder / "meters.csv").write_text("\n".join(["id,line,address,contract,plan", *rows]), encoding="utf-8")
    return config


def _resident(config: Path, meters: int) -> int:
    """Bytes that the process holds in memory once it has come to rest."""
    command = [str(BIN / "headend"), "run", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready, f"the head-end did not start with {config}"
            assert json.loads(ready)["meters"] == meters
            watched = psutil.Process(process.pid)
            _wait_for_rest(watched)
            resident: int = watched.memory_info().rss
            return resident
        finally:
            process.terminate()


def _wait_for_rest(process: psutil.Process) -> None:
    deadline = time.monotonic() + READY_S_MAX
    rests = 0
    while rests < 2:
        assert time.monotonic() < deadline, "the head-end does not come to rest"
        before = process.cpu_times()
        time.sleep(REST_S)
        after = process.cpu_times()
        rests = rests + 1 if after.user + after.system - before.user - before.system < REST_CPU_S else 0

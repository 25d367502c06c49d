"""Budgets of a configuration, as `headend check` prints them and the HTTP interface has them; the keys of clocks and gaps."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headend.budgets import budgets_of
from headend.config import load_config
from headend.errors import ConfigError
from headend.scheduling.clock_check import ClockPolicy
from simulators.virtual_time import run
from tests.scenarios.street import run_street

CONFIG = """
[headend]
timezone = "Asia/Shanghai"

[[lines]]
name = "full"
url = "serial:///dev/ttyUSB0?baud=1200"

[[lines]]
name = "tunnel"
url = "tcp://192.0.2.1:9001"

[[plans]]
name = "minute"
period = "1m"
quantities = ["1-0:1.8.0", "1-0:32.7.0"]
back_fill = "36h"

[[plans]]
name = "daily"
period = "1d"
quantities = ["1-0:1.8.0"]
back_fill = "off"

[clock]
correct = "broadcast"
limit_s = 30
settlements = ["0100", "1600"]
"""


def write(folder: Path, *, meters: int, text: str = CONFIG) -> Path:
    rows = ["id,line,address,plan"]
    rows += [f"M{n:06},full,{n:012},minute" for n in range(1, meters + 1)]
    rows += [f"T{n:06},tunnel,{n:012},daily" for n in range(1, 6)]
    (folder / "meters.csv").write_text("\n".join(rows), encoding="utf-8")
    path = folder / "headend.toml"
    path.write_text(f'meters = "meters.csv"\n{text}', encoding="utf-8")
    return path


def check(path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "headend"), "check", path.name, *options]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=60, check=False)


def test_keys_of_clocks_and_gaps_arrive(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, meters=1))
    assert config.clock == ClockPolicy(correct="broadcast", limit_s=30, settlements=("0100", "1600"))
    assert [plan.back_fill_s for plan in config.plans] == [36 * 3600, 0]
    default = load_config(write(tmp_path, meters=1, text=CONFIG.partition("[clock]")[0].replace('"off"', '"7d"')))
    assert default.clock == ClockPolicy()
    assert default.plans[1].back_fill_s == 7 * 86400


@pytest.mark.parametrize(
    ("good", "bad", "named"),
    [
        ('"broadcast"', '"always"', "correct"),
        ("limit_s = 30", "limit_s = 400", "limit_s"),
        ('"1600"', '"3200"', "settlements"),
    ],
)
def test_a_mistake_in_clock_stops_the_start(tmp_path: Path, good: str, bad: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(write(tmp_path, meters=1, text=CONFIG.replace(good, bad)))


def test_a_line_that_is_too_full_is_a_problem_with_advice_and_the_others_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path, meters=60)
    done = check(path)
    assert done.returncode == 2
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("line-time budget: line")]
    assert "line 'full' at 1200 baud" in problem
    assert "what would help: " in problem
    assert "tunnel" in done.stdout
    assert "9600?" in done.stdout
    told = json.loads(check(path, "--json").stdout)
    assert not told["ok"]
    assert [(budget["line"], budget["fits"], budget["baud_assumed"]) for budget in told["budget"]] == [
        ("full", False, False),
        ("tunnel", True, True),
    ]
    assert told["problems"] == [problem]


def test_a_line_with_room_is_good(tmp_path: Path) -> None:
    done = check(write(tmp_path, meters=20))
    assert done.returncode == 0
    assert "of line" in done.stdout


def test_the_budget_is_what_a_round_takes_on_the_simulated_line(tmp_path: Path) -> None:
    """With the reply delays the meters really have, to within 3 %."""
    start = datetime(2026, 3, 1, 16, tzinfo=UTC)
    street = run(
        lambda clock, _: run_street(
            tmp_path, clock, hours=1, seed=4, meters_per_line=32, quantities=["1-0:1.8.0", "1-0:32.7.0"]
        ),
        start=start,
    )
    slot = start + timedelta(minutes=45)
    received = [
        datetime.fromisoformat(data["received_at"])
        for data in street.reads()
        if datetime.fromisoformat(data["interval_end"]) == slot
    ]
    assert len(received) == 64
    took_s = (max(received) - slot).total_seconds()
    delay_s = sum(meter.reply_delay_s for meter in street.meters.values()) / len(street.meters)
    (budget,) = budgets_of(street.config)
    assert abs(budget.plans[0].round_s - took_s) < 0.5 * took_s  # with a typical reply delay
    wire_s = budget.plans[0].round_s - 64 * budget.reply_delay_s
    assert abs(wire_s + 64 * delay_s - took_s) < 0.03 * took_s

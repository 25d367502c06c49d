"""`headend scan` as it is typed: against `meter-sim` over TCP and a pseudo-terminal."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import BIN, simulated_lines

QUICK = ("--listen", "0.2")
QUICK_METERS = "23"  # the seed whose first three meters all answer within 30 ms


def scan(*arguments: str) -> tuple[int, Any, str]:
    done = subprocess.run(
        [BIN / "headend", "scan", *arguments, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_meter_behind_tcp_is_found_and_the_object_is_as_promised() -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--first-address", "000012345678") as (line,):
        code, result, errors = scan(line["url"], *QUICK, "--dialect", "2007")
    assert code == 0
    assert errors == "", "no progress where nobody watches"
    assert set(result) == {
        "line",
        "baud",
        "parity",
        "found",
        "exchanges",
        "elapsed_s",
        "settings",
        "unconfirmed",
    }
    (found,) = result["found"]
    assert set(found) == {"address", "dialect", "contract_hint", "evidence", "baud", "parity"}
    assert (found["address"], found["dialect"]) == ("000012345678", "2007")
    assert result["line"] == line["url"]
    assert result["baud"] is None
    assert result["exchanges"] == 6


def test_three_meters_on_a_pseudo_terminal_are_compared_with_the_plan(tmp_path: Path) -> None:
    plan = tmp_path / "meters.csv"
    plan.write_text(
        "id,line,address,plan\nM1,a,000000000098,p\nM2,a,000000000099,p\nM9,a,000000000200,p\n", encoding="utf-8"
    )
    state = tmp_path / "scan.json"
    restrict = ("--timeout", "0.07", "--parity", "N", "--dialect", "2007")
    with simulated_lines(
        "--pty", "--baud", "9600", "--meters", "3", "--first-address", "000000000098", "--seed", QUICK_METERS
    ) as (line,):
        code, result, errors = scan(line["url"], *QUICK, *restrict, "--plan", str(plan), "--state", str(state))
        again = subprocess.run(
            [BIN / "headend", "scan", line["url"], *QUICK, *restrict, "--plan", str(plan), "--state", str(state)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (code, errors) == (0, "")
    assert [found["address"] for found in result["found"]] == ["000000000098", "000000000099", "000000000100"]
    assert (result["baud"], result["parity"]) == (9600, "N")
    assert [meter["id"] for meter in result["plan"]["matched"]] == ["M1", "M2"]
    assert [meter["id"] for meter in result["plan"]["missing"]] == ["M9"]
    assert result["plan"]["unexpected"] == ["000000000100"]
    assert again.returncode == 0, "a finished scan tells its result again"
    assert "2 matched, 1 missing, 1 unexpected" in again.stdout
    assert "000000000200  M9" in again.stdout


def test_a_scan_that_was_killed_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "scan.json"
    arguments = (*QUICK, "--timeout", "0.07", "--dialect", "2007", "--state", str(state))
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "2", "--seed", QUICK_METERS) as (line,):
        process = subprocess.Popen([BIN / "headend", "scan", line["url"], *arguments], stdout=subprocess.DEVNULL)
        _wait_for(state, exchanges=20)
        process.kill()
        process.wait(timeout=10)
        saved = json.loads(state.read_bytes())
        assert not saved["finished"]
        code, result, _ = scan(line["url"], *arguments)
    assert code == 0
    assert [found["address"] for found in result["found"]] == ["000000000001", "000000000002"]
    assert saved["exchanges"] < result["exchanges"] <= saved["exchanges"] + 110 - 20 + 10


def test_nothing_there_is_exit_code_3() -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--dialect", "1997") as (line,):
        code, result, _ = scan(line["url"], *QUICK, "--timeout", "0.2", "--dialect", "2007")
    assert code == 3
    assert result["found"] == []
    assert [setting["verdict"] for setting in result["settings"]] == ["empty"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("tcp://127.0.0.1:1",), "is something listening"),
        (("ftp://x",), "expected serial://"),
        (("tcp://127.0.0.1:1", "--baud", "2400"), "set where the wire is"),
        (("serial:///dev/ttyUSB0", "--baud", "2401"), "expected one of 300"),
        (("serial:///dev/ttyUSB0", "--parity", "X"), "expected one of E"),
        (("serial:///dev/ttyUSB0", "--dialect", "2012"), "expected one of 2007"),
        (("serial:///dev/no-such-adapter",), "is the adapter plugged in"),
        (("tcp://127.0.0.1:1", "--timeout", "0"), "expected seconds above 0"),
        (("tcp://127.0.0.1:1", "--plan", "/no/such.csv"), "cannot be read"),
        (("tcp://127.0.0.1:1", "--state", "/no/such/folder/scan.json"), "cannot be written"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(arguments: tuple[str, ...], problem: str) -> None:
    code, result, errors = scan(*arguments)
    assert code == 2
    assert result is None
    assert problem in errors
    assert "Traceback" not in errors


def _wait_for(state: Path, exchanges: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if state.exists() and json.loads(state.read_bytes())["exchanges"] >= exchanges:
            return
        time.sleep(0.05)  # another process writes it
    raise AssertionError(f"no {exchanges} exchanges within 30 s")

"""`headend contract run` against PyPI `dlt645`'s server: what it lacks, and where it departs from the standard."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.peer_server import ADDRESS
from tests.interop.test_headend_reads_the_foreign_server import peer

pytestmark = pytest.mark.interop

HEADEND = Path(sys.executable).parent / "headend"


@pytest.fixture(scope="module")
def line() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with peer("tcp", str(port)):
        yield f"tcp://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def done(line: str, tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    folder = tmp_path_factory.mktemp("report")
    arguments = ["dlt645/base_2007", line, ADDRESS, "--json", "--html", str(folder / "report.html")]
    return subprocess.run(
        [HEADEND, "contract", "run", *arguments], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def report(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_check(report: dict[str, Any], check: str) -> dict[str, Any]:
    return next(finding for finding in report["findings"] if finding["check"] == check)


def test_the_report_names_what_the_server_lacks(report: dict[str, Any]) -> None:
    assert {"freezes", "load records", "relay"} <= set(report["lacking"])


def test_what_it_offers_passes(report: dict[str, Any]) -> None:
    for check in ("00010000", "00020000", "01010000", "02010100", "02020100", "02030000", "02800002", "power"):
        assert of_check(report, check)["verdict"] == "pass", of_check(report, check)
    assert of_check(report, "00010000")["came"] == "1234.56 kWh"
    assert report["summary"]["pass"] > 200
    assert of_check(report, "0001FF00")["verdict"] == "not offered"  # no blocks of energies


def test_what_it_does_against_the_standard_is_found(
    report: dict[str, Any], done: "subprocess.CompletedProcess[str]"
) -> None:
    """Facts about dlt645 3.2: when one of them is mended there, this test is to follow."""
    assert done.returncode == 6
    for check, came in (
        ("unknown-item", "refused with 01H"),  # bit 0, other error, where bit 1 says that the data do not exist
        ("passwords", "the password, in clear"),
        ("wildcard", "which is no address of a meter"),  # it answers from AAAAAAAA3456
        ("04000401", "asked 000000123456"),  # the communication address reads 0 whatever its own is
        ("03010101", "166 bytes, expected 131"),  # event records are rounded up field by field
        ("04000D01", "3 bytes, expected 2"),
    ):
        finding = of_check(report, check)
        assert finding["verdict"] == "fail", finding
        assert came in finding["came"]
        assert finding["frames"][0]["sent"].startswith("FE FE FE FE 68")


def test_the_password_it_gives_away_stands_nowhere_in_the_report(report: dict[str, Any]) -> None:
    (frame,) = of_check(report, "passwords")["frames"]
    assert frame["received"] == "68 56 34 12 00 00 00 68 91 08"  # up to the length, no DATA


def test_nothing_goes_unanswered(report: dict[str, Any]) -> None:
    """Refusals in a row look like doubles of each other; each must count all the same, and none cost a time-out."""
    assert [finding["check"] for finding in report["findings"] if "only frames that answer" in finding["came"]] == []
    assert max(finding["elapsed_ms"] for finding in report["findings"]) < 1000

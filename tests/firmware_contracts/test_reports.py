"""The report of a conformance run as JSON, JUnit XML and HTML."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree as Xml

import msgspec
import pytest

from firmware_contracts.contract import load
from firmware_contracts.findings import Exchange, Finding, Report, Verdict
from headend.cli.contract_html import report_html
from headend.cli.contract_report import report_json, report_junit
from tests.firmware_contracts.simulated_device import report_of


def a_finding(verdict: Verdict, family: str = "energies", di: str = "00010000", came: str = "1234.56 kWh") -> Finding:
    return Finding(
        check=di or family,
        family=family,
        title="Forward active energy, total",
        di=di,
        verdict=verdict,
        expected="4 bytes, XXXXXX.XX kWh",
        came=came,
        frames=(Exchange(bytes.fromhex("68 01 16"), b""),),
        elapsed_s=0.25,
    )


def a_report(*findings: Finding) -> Report:
    return Report(
        contract="dlt645/base_2007",
        description="Any meter",
        line="tcp://192.168.1.20:9001",
        meter="000012345678",
        began_at=datetime(2026, 1, 31, 16, 0, tzinfo=UTC),
        took=timedelta(seconds=12.5),
        findings=findings,
    )


MIXED = a_report(
    a_finding(Verdict.PASS),
    a_finding(Verdict.FAIL, di="00020000", came="BadSize: <b>&\x00\x1b[31m"),
    a_finding(Verdict.NOT_OFFERED, "freezes", "05060001", "refused with 02H"),
    a_finding(Verdict.NOT_JUDGED, "consistency", "", "no load"),
)


def test_json_holds_everything() -> None:
    report = json.loads(msgspec.json.encode(report_json(MIXED)))
    assert report["summary"] == {"pass": 1, "fail": 1, "not offered": 1, "not judged": 1}
    assert report["lacking"] == ["freezes"]
    assert (report["began_at"], report["took_s"]) == ("2026-01-31T16:00:00Z", 12.5)
    first = report["findings"][0]
    assert first == {
        "check": "00010000",
        "family": "energies",
        "title": "Forward active energy, total",
        "di": "00010000",
        "verdict": "pass",
        "expected": "4 bytes, XXXXXX.XX kWh",
        "came": "1234.56 kWh",
        "frames": [{"sent": "68 01 16", "received": ""}],
        "elapsed_ms": 250.0,
    }
    assert report["findings"][3]["di"] is None


def test_junit_counts_failures_and_skips_and_carries_the_frames() -> None:
    root = Xml.fromstring(report_junit(MIXED).encode())
    assert (root.attrib["tests"], root.attrib["failures"]) == ("4", "1")
    suites = {suite.attrib["name"]: suite.attrib for suite in root}
    assert list(suites) == ["energies", "freezes", "consistency"]
    assert (suites["energies"]["failures"], suites["energies"]["skipped"]) == ("1", "0")
    assert suites["freezes"]["skipped"] == "1"
    (failure,) = root.iter("failure")
    assert failure.text is not None
    assert "> 68 01 16\n< (nothing)" in failure.text
    assert "<b>&" in failure.attrib["message"]  # escaped on the way, whole again here; control characters are replaced
    assert [skipped.attrib["message"][:11] for skipped in root.iter("skipped")] == ["not offered", "not judged:"]


class _Outside(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action", "poster")]
        self.fetched += [value or "" for name, value in attrs if name == "href" and not (value or "").startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            continue


@pytest.mark.parametrize("report", [MIXED, report_of(load("dlt645/generic_submeter"))], ids=["made up", "of a meter"])
def test_html_fetches_nothing_and_forbids_itself_to(report: Report) -> None:
    page = report_html(report)
    outside = _Outside()
    outside.feed(page)
    assert outside.fetched == []
    assert "default-src 'none'" in page
    without_content = re.sub(r"<code>tcp://[^<]*</code>", "", page)
    assert "://" not in without_content
    assert "@import" not in page
    assert "url(" not in page


def test_html_shows_every_finding_and_treats_texts_of_a_meter_as_text() -> None:
    page = report_html(MIXED)
    assert page.count("data-verdict=") == 4 + 4  # rows and buttons
    assert "BadSize: &lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "1 of 4 checks contradict the contract. Has no freezes." in page
    assert "68 01 16" in page


def test_html_of_a_good_meter_says_so() -> None:
    assert "Keeps its contract." in report_html(a_report(a_finding(Verdict.PASS)))

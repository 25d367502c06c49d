"""A conformance report for machines: JSON and JUnit XML."""

import re
from typing import Any
from xml.etree import ElementTree as Xml

from firmware_contracts.findings import Finding, Report, Verdict
from headend.feed.envelope import iso_utc

__all__ = ["report_json", "report_junit"]

# Characters that XML 1.0 cannot carry in any form; a meter's text may hold them.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


def report_json(report: Report) -> dict[str, Any]:
    """Everything, as `headend contract run --json` prints it. Frames are spaced hex, "" where nothing came."""
    return {
        "contract": report.contract,
        "line": report.line,
        "meter": report.meter,
        "began_at": iso_utc(report.began_at),
        "took_s": round(report.took.total_seconds(), 1),
        "summary": {verdict.value: report.count(verdict) for verdict in Verdict},
        "lacking": report.lacking(),
        "findings": [
            {
                "check": finding.check,
                "family": finding.family,
                "title": finding.title,
                "di": finding.di or None,
                "verdict": finding.verdict.value,
                "expected": finding.expected,
                "came": finding.came,
                "frames": [{"sent": _hex(frame.sent), "received": _hex(frame.received)} for frame in finding.frames],
                "elapsed_ms": round(finding.elapsed_s * 1000, 1),
            }
            for finding in report.findings
        ],
    }


def report_junit(report: Report) -> str:
    """JUnit XML: a suite for each family; what is not offered or not judged counts as skipped."""
    root = Xml.Element(
        "testsuites",
        name=f"{report.contract} on {report.meter}",
        tests=str(len(report.findings)),
        failures=str(report.count(Verdict.FAIL)),
        errors="0",
        time=f"{report.took.total_seconds():.3f}",
    )
    for family in report.by_family():
        _suite(root, report, family)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _suite(root: Xml.Element, report: Report, family: str) -> None:
    findings = [finding for finding in report.findings if finding.family == family]
    failures = sum(finding.verdict is Verdict.FAIL for finding in findings)
    passes = sum(finding.verdict is Verdict.PASS for finding in findings)
    suite = Xml.SubElement(
        root,
        "testsuite",
        name=family,
        tests=str(len(findings)),
        failures=str(failures),
        errors="0",
        skipped=str(len(findings) - failures - passes),
        time=f"{sum(finding.elapsed_s for finding in findings):.3f}",
        timestamp=f"{report.began_at:%Y-%m-%dT%H:%M:%S}",
        hostname=report.meter,
    )
    for finding in findings:
        case = Xml.SubElement(
            suite,
            "testcase",
            classname=f"{report.contract}.{family}".replace(" ", "_"),
            name=_clean(f"{finding.di} {finding.title}".strip()),
            time=f"{finding.elapsed_s:.3f}",
        )
        if finding.verdict is Verdict.FAIL:
            failure = Xml.SubElement(case, "failure", message=_clean(finding.came), type="contradicts the contract")
            failure.text = _clean(f"expected: {finding.expected}\ncame: {finding.came}\n{_frames(finding)}")
        elif finding.verdict is not Verdict.PASS:
            Xml.SubElement(case, "skipped", message=_clean(f"{finding.verdict.value}: {finding.came}"))


def _frames(finding: Finding) -> str:
    lines = []
    for frame in finding.frames:
        lines.append(f"> {_hex(frame.sent)}")
        lines.append(f"< {_hex(frame.received) or '(nothing)'}")
    return "\n".join(lines)


def _hex(wire: bytes) -> str:
    return wire.hex(" ").upper()


def _clean(text: str) -> str:
    return _NOT_IN_XML.sub("�", text)

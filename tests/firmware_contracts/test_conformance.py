"""Conformance runs against simulated meters: a meter that plays its contract passes, a contract that lies is found out."""

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from firmware_contracts.conformance import ALLOWED, Check, Examination, ForbiddenRequest, checks, matching
from firmware_contracts.contract import Contract, contract_names, load
from firmware_contracts.fetching import Judged, Kit
from firmware_contracts.findings import Answer, Ask, Device, Finding, Report, Verdict
from headend.conformance import NothingToCheck
from protocols.dlt645.fields import Password
from protocols.dlt645.items import Di
from protocols.dlt645.messages import Message, ReadReply, ReadRequest, RelayRequest, WriteRequest
from simulators.dlt645_meter import Dlt645Meter
from simulators.faults import Fault, FaultKind, FaultPlan
from tests.firmware_contracts.simulated_device import ADDRESS, report_of

NOW = datetime(2025, 6, 18, 10, 20, tzinfo=UTC)
DEVICE = Device(address=ADDRESS, zone=ZoneInfo("Asia/Shanghai"))


def finding(report: Report, check: str) -> Finding:
    return next(found for found in report.findings if found.check == check)


def lying(folder: Path, text: str, extends: str = "dlt645/base_2007") -> Contract:
    path = folder / "lying.toml"
    path.write_text(f'[contract]\nprotocol = "dlt645-2007"\nextends = "{extends}"\n{text}', encoding="utf-8")
    return load(str(path))


def row(di: str, layout: str, unit: str) -> str:
    return (
        f'[[rows]]\ndi = "{di}"\nname = "Lie"\nlayout = "{layout}"\nunit = "{unit}"\naccess = "r"\nsource = "nowhere"\n'
    )


@pytest.mark.parametrize("name", contract_names())
def test_a_meter_that_plays_its_contract_passes(name: str) -> None:
    report = report_of(load(name), writes=True)
    assert [(found.check, found.came) for found in report.failures] == []
    assert report.count(Verdict.PASS) > 20
    assert report.lacking() == [] or load(name).offers is None


def test_every_finding_shows_what_was_sent_and_received() -> None:
    report = report_of(load("dlt645/generic_submeter"), only=["00010000", "energies"])
    total = finding(report, "00010000")
    (frame,) = total.frames
    assert frame.sent.hex(" ").upper() == "FE FE FE FE 68 78 56 34 12 00 00 68 11 04 33 33 34 33 C6 16"
    assert frame.received[8:14] == bytes.fromhex("91 08 33 33 34 33")
    assert total.came.endswith(" kWh")
    assert total.expected == "4 bytes, XXXXXX.XX kWh"


@pytest.mark.parametrize(
    ("text", "check", "came"),
    [
        (row("02010100", "XX.XX", "V"), "02010100", "expected 40 to 500"),
        (row("02800002", "XXX.X", "Hz"), "02800002", "expected 45 to 65"),
        (row("02010100", "XXX.XXX", "V"), "02010100", "2 bytes, expected 3"),
        (row("00010000", "XXXXXX.XXXX", "kWh"), "00010000", "4 bytes, expected 5"),
        (row("00010000", "XXXXXXX.X", "kWh"), "freeze", "now; at most"),
        (row("02030000", "XXXX.XX", "kW"), "power", "kVA from voltage and current"),
        (row("04000401", "YYMMDDhhmmss", ""), "04000401", "000012345678 is no date"),
        ('[[quirks]]\nname = "block_count"\nvalue = "binary"\nsource = "nowhere"\n', "block-count", "10 points"),
        ('[[quirks]]\nname = "repeated_follow_up"\nvalue = "same"\nsource = "no"\n', "repeated-follow-up", "refused"),
        ("[limits]\nread_data_max = 100\n", "0506FF01", "the limit is 100"),
        ("[limits]\nfollow_up = false\n", "follow-up", "a reply in several frames"),
    ],
)
def test_a_contract_that_lies_is_found_out(tmp_path: Path, text: str, check: str, came: str) -> None:
    report = report_of(lying(tmp_path, text), played=load("dlt645/base_2007"))
    found = finding(report, check)
    assert found.verdict is Verdict.FAIL
    assert came in found.came


@pytest.mark.parametrize(
    ("text", "check", "came"),
    [
        ("[limits]\ntariffs = 2\n", "0001FF00", "total and 4 tariffs, the contract says 2"),
        (
            '[[quirks]]\nname = "absent_phase"\nvalue = "zero"\nsource = "no"\n',
            "0201FF00",
            "FFH, FFH, the contract says zero",
        ),
        ('[offers]\nitems = ["00010000", "05060001"]\n', "05060001", "refused with 02H"),
    ],
)
def test_a_broken_promise_is_a_failure(tmp_path: Path, text: str, check: str, came: str) -> None:
    submeter = "dlt645/generic_submeter"
    report = report_of(lying(tmp_path, text, submeter), played=load(submeter))
    found = finding(report, check)
    assert found.verdict is Verdict.FAIL
    assert came in found.came


def test_what_is_refused_and_not_promised_is_not_offered() -> None:
    report = report_of(load("dlt645/base_2007"), played=load("dlt645/generic_submeter"))
    assert finding(report, "05060001").verdict is Verdict.NOT_OFFERED
    assert {"freezes", "load records", "max demands", "relay"} <= set(report.lacking())
    assert {found.family for found in report.findings if found.verdict is Verdict.PASS} >= {"energies", "variables"}
    assert report.failures == []


def late_clock(meter: Dlt645Meter) -> None:
    meter.model.set_clock(datetime(2025, 6, 18, 18, 10), NOW)


def test_a_clock_that_is_wrong_is_named_with_its_offset() -> None:
    found = finding(report_of(load("dlt645/base_2007"), edit=late_clock, only=["clock"]), "clock")
    assert found.verdict is Verdict.FAIL
    assert found.came == "2025-06-18 18:10:00, 600 s behind"


def test_several_meters_on_the_line_spoil_only_what_asks_all_of_them() -> None:
    """The neighbour ends on the same four digits, so that the wildcard meets both."""
    report = report_of(load("dlt645/generic_submeter"), neighbours=("000000005678",))
    assert {finding(report, "address").verdict, finding(report, "wildcard").verdict} <= {
        Verdict.PASS,
        Verdict.NOT_JUDGED,
    }
    assert report.failures == []


@pytest.mark.parametrize(
    ("fault", "retries"),
    [
        (Fault(kind=FaultKind.DUPLICATE_REPLY), 1),
        (Fault(kind=FaultKind.DUPLICATE_REPLY, probability=0.3, parameters={"gap_s": 0.2}), 1),
        (Fault(kind=FaultKind.NOISE_BEFORE), 1),
        (Fault(kind=FaultKind.BIT_FLIP, probability=0.1), 4),
        (Fault(kind=FaultKind.SILENCE, probability=0.1), 4),
    ],
    ids=["doubles", "late doubles", "noise", "bit flips", "silence"],
)
def test_a_bad_line_changes_no_verdict(fault: Fault, retries: int) -> None:
    """Refusals above all, that look the same whatever was asked: a double of one must not refuse the next item."""
    contract, submeter = load("dlt645/base_2007"), load("dlt645/generic_submeter")
    only = ["energies", "freezes", "variables", "parameters"]
    good = report_of(contract, submeter, only=only)
    bad = report_of(contract, submeter, only=only, faults=FaultPlan(seed=3, faults=(fault,)), retries=retries)
    assert [(found.check, found.verdict) for found in bad.findings] == [
        (found.check, found.verdict) for found in good.findings
    ]


def test_a_password_that_is_given_away_is_not_shown() -> None:
    secret = "11 22 33"
    (check,) = [check for check in checks(load("dlt645/base_2007")) if check.name == "passwords"]
    examination = Examination(load("dlt645/base_2007"), DEVICE, [check])
    ask = examination.ask(NOW)
    assert ask is not None
    given = ReadReply(di=Di("04000C01"), data=bytes.fromhex(f"00 {secret}"))
    wire = bytes.fromhex("68 78 56 34 12 00 00 68 91 08 34 3F 33 37 33 44 55 66 00 16")
    examination.take(Answer(message=given, address=ADDRESS, wire_received=wire))
    assert examination.ask(NOW) is None
    (found,) = examination.findings
    assert found.verdict is Verdict.FAIL
    assert found.frames[0].received.hex(" ") == "68 78 56 34 12 00 00 68 91 08"
    assert secret not in found.came


def test_no_check_sends_anything_but_reads_without_leave() -> None:
    """A device that accepts everything: all requests of a whole run are of the four reading kinds."""
    for name in contract_names():
        contract = load(name)
        examination = Examination(contract, DEVICE, checks(contract))
        while (ask := examination.ask(NOW)) is not None:
            assert isinstance(ask.message, ALLOWED)
            is_read = isinstance(ask.message, ReadRequest)
            reply = ReadReply(di=ask.message.di, data=b"\x00" * 4) if isinstance(ask.message, ReadRequest) else None
            silence = "" if is_read else "silent"
            examination.take(Answer(message=reply, address=ADDRESS, silence=silence))
        assert len(examination.findings) == examination.total


RELAY = RelayRequest(password=Password(2, b"\0\0\0"), operator=b"\0\0\0\0", order=0x1A, expires="991231235959")
WRITE = WriteRequest(di=Di("04000103"), data=b"\x15", password=Password(2, b"\0\0\0"), operator=b"\0\0\0\0")


@pytest.mark.parametrize("message", [RELAY, WRITE], ids=["relay", "write"])
@pytest.mark.parametrize("writes", [False, True])
def test_a_script_that_would_switch_or_write_is_stopped_before_anything_leaves(message: Message, writes: bool) -> None:
    def script(kit: Kit) -> Generator[Ask, Answer, Judged]:
        yield Ask(address=kit.device.address, message=message)
        return Judged(verdict=Verdict.PASS, expected="", came="")

    check = Check(name="bad", family="bad", title="bad", script=script)
    examination = Examination(load("dlt645/base_2007"), DEVICE, [check], writes=writes)
    with pytest.raises(ForbiddenRequest):
        examination.ask(NOW)


def test_patterns_choose_by_di_family_or_name() -> None:
    everything = checks(load("dlt645/base_2007"))
    assert [check.name for check in matching(everything, ["00010000"])] == ["00010000"]
    assert [check.name for check in matching(everything, ["clock"])] == ["clock"]
    assert {check.family for check in matching(everything, ["freezes"])} == {"freezes"}
    assert {check.name[:4] for check in matching(everything, ["0201*"])} == {"0201"}
    assert "02800008" in {check.name for check in matching(everything, ["battery"])}
    assert matching(everything, []) == everything
    with pytest.raises(NothingToCheck, match="xyz"):
        report_of(load("dlt645/base_2007"), only=["xyz"])


def test_checks_that_write_are_there_only_on_demand() -> None:
    contract = load("dlt645/base_2007")
    reading, writing = checks(contract), checks(contract, writes=True)
    assert {check.name for check in writing} - {check.name for check in reading} == {"time-sync", "freeze-now"}
    assert len({check.name for check in writing}) == len(writing)


def test_a_run_says_the_same_each_time() -> None:
    first, second = (report_of(load("dlt645/generic_submeter")) for _ in range(2))
    assert first == second

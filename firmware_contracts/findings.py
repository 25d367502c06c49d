"""What a conformance run is made of: requests and answers, checks, verdicts, and the report they add up to."""

import enum
from collections import Counter
from datetime import datetime, timedelta, tzinfo

from msgspec import Struct

from protocols.dlt645.messages import Message

__all__ = ["Answer", "Ask", "Device", "Exchange", "Finding", "Report", "Verdict"]


class Verdict(enum.Enum):
    """NOT_OFFERED: the meter says that it does not have the item, and the contract does not promise it.

    NOT_JUDGED: the check says nothing about this meter now, for example because it has no load to measure.
    """

    PASS = "pass"
    FAIL = "fail"
    NOT_OFFERED = "not offered"
    NOT_JUDGED = "not judged"


class Ask(Struct, frozen=True, kw_only=True):
    """A request to be sent. address: 12 digits, or a wildcard."""

    address: str
    message: Message


class Answer(Struct, frozen=True, kw_only=True):
    """What came of an Ask.

    message: the reply, a refusal included; None when none came, `silence` says how: silent, corrupt or unmatched.
    address: who answered, "" for nobody. wire_received: of the reply, or what was heard instead of one.
    """

    message: Message | None
    address: str = ""
    silence: str = ""
    wire_sent: bytes = b""
    wire_received: bytes = b""
    elapsed_s: float = 0.0


class Device(Struct, frozen=True, kw_only=True):
    """The meter under test.

    address: its 12 digits. zone: of its clock. clock_limit_s: how far its clock may be off.
    """

    address: str
    zone: tzinfo
    clock_limit_s: float = 60.0

    def local(self, now: datetime) -> datetime:
        """Wall time at the meter, without zone, as its items have it. now: aware."""
        return now.astimezone(self.zone).replace(tzinfo=None, microsecond=0)


class Exchange(Struct, frozen=True):
    """One frame each way, as on the wire; received is empty where nothing came."""

    sent: bytes
    received: bytes


class Finding(Struct, frozen=True, kw_only=True):
    """One check and how it ended.

    check: its name, stable from run to run. di: "" where the check is about no single item.
    expected, came: in words. frames: everything that was sent and received for it, in order.
    """

    check: str
    family: str
    title: str
    di: str
    verdict: Verdict
    expected: str
    came: str
    frames: tuple[Exchange, ...]
    elapsed_s: float


class Report(Struct, frozen=True, kw_only=True):
    """A whole run against one device. line: as given by the user. began_at: aware UTC."""

    contract: str
    description: str
    line: str
    meter: str
    began_at: datetime
    took: timedelta
    findings: tuple[Finding, ...]

    def count(self, verdict: Verdict) -> int:
        return sum(finding.verdict is verdict for finding in self.findings)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict is Verdict.FAIL]

    def by_family(self) -> dict[str, Counter[Verdict]]:
        """Families in the order of the run."""
        families: dict[str, Counter[Verdict]] = {}
        for finding in self.findings:
            families.setdefault(finding.family, Counter())[finding.verdict] += 1
        return families

    def lacking(self) -> list[str]:
        """Families of items of which the meter offers nothing at all."""
        given = {
            finding.family for finding in self.findings if finding.di and finding.verdict is not Verdict.NOT_OFFERED
        }
        return list(
            dict.fromkeys(finding.family for finding in self.findings if finding.di and finding.family not in given)
        )
